"""From a trained model to a bundle."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ase.data import atomic_numbers
from so3krates.files import require_place
from so3krates.model.config import ModelConfig, So3lrConfig
from so3krates.model.network import Params
from so3krates.model.reductions import is_tabulated, tabulated_config
from so3krates.model.rows import GPU_ROW_BLOCK, ROW_BLOCK
from so3krates.storage import Model
from so3krates.total_charge import State

from .bundle import require_no_other_file, write_bundle
from .committee import MOVERS, Committee, check_members, mean_shifts, shift_weights
from .cuda import KERNEL_VERSION as GPU_KERNEL_VERSION
from .cuda import check_cuda, kernel_shared_bytes, kernel_sizes
from .cuda_body import CudaBody
from .fused import KERNEL_VERSION, FusedError, check_fused, filter_rank, fused_weights, interleaved
from .fused_body import FusedBody
from .guard import baselines_entry, guard_entry
from .ladder import Rung, default_ladder, gpu_ladder, gpu_long_ladder, long_ladder, lower_ladder, sizes_key
from .lowering import STABLEHLO_VERSION
from .manifest import printable, results_of, with_sources
from .moves import MOVED_ROWS, moves_of
from .outputs import DECLARED, extra_outputs, uncertainty_weights
from .plan import VIRIAL_CHANNELS, Array, Body, Call, Plan, Reduce, build_plan, member_root
from .portable_body import PortableBody, weight_arrays
from .so3lr_body import EMBEDDINGS, ExportError, So3lrBody, checked_so3lr, electrons_entry, system_weights
from .so3lr_cuda_body import So3lrCudaBody, check_so3lr_cuda
from .so3lr_fused import check_so3lr, long_numbers, so3lr_weights
from .so3lr_fused_body import So3lrFusedBody
from .tables import GRIDS, START, TOLERANCE, TableError, choose_tables
from .term_stages import term_entries, term_stages

PLATFORMS = ("cpu", "cuda", "rocm", "oneapi")
PRECISIONS = ("float32", "float64", "tf32")
BODIES = ("auto", "fused", "xla")
TABLES = ("auto", "off")
SCHEDULES = {"forces": 1, "virials": VIRIAL_CHANNELS}  # channels of the adjoint


class Choice(NamedTuple):
    """What `export_model` chose."""

    body: str  # "fused" or "xla"
    reason: str | None  # why "auto" did not take "fused"
    tables: dict[str, float | int] | None  # as in the manifest
    config: ModelConfig
    params: Params
    terms: tuple[str, ...] = ()  # in words, and of which electrons

    def describe(self) -> str:
        """One line to print."""
        words = f"Body {self.body}" if self.reason is None else f"Body {self.body}, because {self.reason}"
        if self.tables is None:
            return words
        return (
            f"{words}; tables of {self.tables['nodes']} nodes change forces by {self.tables['force_error']:.1e} eV/A, "
            "whatever the precision (body xla with tables off: not at all)"
        )


def export_model(
    model: Model,
    path: str | Path,
    precision: str = "float32",
    platform: str = "cpu",
    ladder: list[Rung] | None = None,
    body: str = "auto",
    tables: float | str = "auto",
    others: Sequence[Model] = (),
    mover: str = "first",
    cutoff_long: float | None = None,
    electrons: State | None = None,
) -> Choice:
    """Writes `model` as a bundle (docs/bundle.md) whose network computes in `precision`.

    precision: "float32", "float64", or for platform "cuda" "tf32": float32 with matrix products of TF32.

    body: "xla", portable programs; "fused", calls of the platform's kernels; "auto", "fused" where these compute the
    network. A bundle of GPU kernels holds the portable programs too.
    tables: largest change of a force (eV/A) by tables in place of the radial filter networks; "auto", `TOLERANCE` in
    "fused", which needs them, and none in "xla", which they slow down; "off", none.
    others: further members of a committee, of the same network. mover: "first", `model` alone moves the atoms and the
    others run where `committee_forces` or members' results are asked for; "mean", all of them do.
    cutoff_long: where the interactions of a model of SO3LR end, A; None: where the model says. electrons: of the whole
    system, for such a model; None: no charge, none unpaired.
    Raises ValueError for an unknown option, WriteError where `path` cannot be written, FusedError for
    body "fused" where the kernels do not compute the network, ExportError where no body does, TableError where no table
    is fine enough, CommitteeError for members of different networks.
    """
    for name, value, known in (
        ("precision", precision, PRECISIONS),
        ("platform", platform, PLATFORMS),
        ("body", body, BODIES),
        ("mover", mover, MOVERS),
    ):
        if value not in known:
            raise ValueError(f"{name} = {value!r}: known are {', '.join(known)}")
    if precision == "tf32" and platform != "cuda":
        raise ValueError("precision = 'tf32': GPUs compute in TF32, so give platform 'cuda', or precision 'float32'")
    if not (tables in TABLES if isinstance(tables, str) else 0 < tables < math.inf):
        raise ValueError(f"tables = {tables!r}: give {', '.join(TABLES)} or the allowed change of a force in eV/A")
    path = Path(path)
    require_place(path)
    require_no_other_file(path)
    if electrons is not None or any(isinstance(member.config, So3lrConfig) for member in (model, *others)):
        model = checked_so3lr(model, others, cutoff_long)
        electrons = electrons or State(0, 1)
    elif cutoff_long is not None:
        raise ExportError(f"cutoff_long = {cutoff_long:g}: the model has no interactions of long range")
    on_gpu = platform != "cpu"
    row_block = GPU_ROW_BLOCK if on_gpu else ROW_BLOCK
    for rung in ladder or ():
        if rung.rows % row_block:
            raise ValueError(f"ladder: {rung.rows} rows: programs for {platform} take multiples of {row_block}")
    numbers = [atomic_numbers[element] for element in model.elements]
    real, products = ("float32", "tensorfloat32") if precision == "tf32" else (precision, "highest")
    models = [model, *others]
    check_members(models)
    choices = _choose_all(models, platform, real, body, tables)
    choice = choices[0]
    body, record, config = choice.body, choice.tables, choice.config
    has_long_lists = bool(model.interactions) and body == "xla"
    if ladder is None:
        if electrons is not None:
            ladder = (gpu_long_ladder if on_gpu else long_ladder)(has_long_lists)
        else:
            ladder = gpu_ladder() if on_gpu else default_ladder()
    # Positions are float64 whatever the network's precision.
    with jax.enable_x64(True):
        is_so3lr = electrons is not None
        # GPU kernels may be of another version than the runtime's; but SO3LR's portable programs read other lists.
        is_portable = body == "xla" or (on_gpu and not is_so3lr)
        weights: dict[str, np.ndarray] = {}
        rank = max(filter_rank(config, c.params) for c in choices) if body == "fused" and not is_so3lr else 0
        for number, c in enumerate(choices):
            if body == "fused" and is_so3lr:
                weights |= so3lr_weights(config, c.params, numbers, model.interactions, real)
                everything = weight_arrays(c.params, numbers)
                weights |= {name: value for name, value in everything.items() if name.startswith(EMBEDDINGS)}
            elif body == "fused":
                weights |= _of_member("weights/fused/", number, fused_weights(config, c.params, numbers, rank))
            if is_portable:
                weights |= _of_member("weights/", number, weight_arrays(c.params, numbers))
        layouts = {
            root: layout
            for root, layout, is_there in (
                ("weights/fused/", functools.partial(interleaved, config), body == "fused"),
                ("weights/", np.asarray, is_portable),
            )
            if is_there
        }
        if electrons is not None:
            weights |= system_weights(electrons)
        if model.uncertainty is not None:
            weights |= uncertainty_weights(model.uncertainty, config, layouts)
        weights = {name: np.asarray(value, real) for name, value in weights.items()}
        bodies: dict[str, list[Body]] = {}
        for schedule, channels in SCHEDULES.items():
            if electrons is not None:
                if channels == 1:  # per-atom virials have no place for what all atoms share
                    if body == "xla":
                        of_model = dataclasses.replace(model, config=config)
                        bodies[schedule] = [So3lrBody(of_model, real, list(weights), row_block)]
                    else:
                        of_so3lr = So3lrCudaBody if on_gpu else So3lrFusedBody
                        bodies[schedule] = [of_so3lr(model, config, real, list(weights))]
                continue
            if body == "fused":
                of_kernels = CudaBody if on_gpu else FusedBody
                bodies[schedule] = [
                    of_kernels(config, real, len(numbers), channels, member=n) for n in range(len(models))
                ]
                if channels == VIRIAL_CHANNELS and not on_gpu:
                    bodies[f"small_{schedule}"] = [
                        FusedBody(config, real, len(numbers), channels, member=n, small=True)
                        for n in range(len(models))
                    ]
            if is_portable:
                portable = [name for name in weights if not name.startswith("weights/fused/")]
                name = f"portable_{schedule}" if body == "fused" else schedule
                bodies[name] = [
                    PortableBody(config, real, portable, channels, row_block, n) for n in range(len(models))
                ]
        if others:
            weights |= {name: np.asarray(value, real) for name, value in shift_weights(models, mover).items()}
        plans = {}
        for name, (first, *rest) in bodies.items():
            together = Committee(len(models), mover, first.channels, first.row_block)
            more = [*term_stages(first, model.terms), *extra_outputs(first, config, weights)]
            if isinstance(first, So3lrBody | So3lrFusedBody | So3lrCudaBody):
                more += first.further_outputs()
            after = {"after": together.after} if others else {}
            plans[name] = build_plan(first, config.layers, more, rest, **after)
        moves: dict[str, list[str]] = {}
        moving = []
        if on_gpu:
            for plan in plans.values():
                moves_plan, names = moves_of(plan)
                moving.append(moves_plan)
                moves |= names
        tensors, programs = _lower([*plans.values(), *moving], weights, ladder, platform, products)
    arrays = {name: array for plan in plans.values() for name, array in plan.arrays.items()}
    manifest = {
        "producer": f"so3krates {importlib.metadata.version('so3krates')}, jax {jax.__version__}",
        "model": model.config.to_dict(),
        "elements": list(model.elements),
        "energy_shifts": list(mean_shifts(models, mover).values()),
        "cutoff": float(model.config.cutoff),
        **term_entries(model, has_long_lists),
        **({} if electrons is None else {"electrons": electrons_entry(model, electrons)}),
        "message_passing_steps": model.config.layers,
        "units": "metal",
        "precision": precision,
        "platform": platform,
        "body": body,
        **({"committee": {"members": len(models), "mover": mover}} if others else {}),
        "tables": record,
        "stablehlo_version": STABLEHLO_VERSION,
        "training": printable(model.training),
        **guard_entry(model),
        **baselines_entry(model),
        "ladder": [rung._asdict() for rung in ladder],
        "buffers": {name: {**array._asdict(), "shape": list(array.shape)} for name, array in arrays.items()},
        "programs": programs,
        "schedules": {schedule: with_sources(_steps(plan)) for schedule, plan in plans.items()},
    }
    manifest["results"] = results_of(manifest)
    given = {name for name, array in arrays.items() if array.role == "output"}
    manifest["outputs"] = {name: declared._asdict() for name, declared in DECLARED.items() if name in given}
    if body == "fused":
        manifest["kernels"] = GPU_KERNEL_VERSION if on_gpu else KERNEL_VERSION
    if body == "fused" and on_gpu:
        channels_of = [first.channels for first, *_ in bodies.values() if not isinstance(first, PortableBody)]
        long = long_numbers(model.interactions) if is_so3lr else None
        manifest["kernel_shared_bytes"] = kernel_shared_bytes(config, real, channels_of)
        manifest["kernel_sizes"] = [
            kernel_sizes(config, real, len(numbers), count, long).splitlines() for count in channels_of
        ]
    if moves:
        manifest["moves"] = {"rows": MOVED_ROWS, "programs": moves}
    write_bundle(path, manifest, weights | tensors)
    words = [part.describe() for part in model.terms] + [part.describe() for part in model.interactions]
    for part in model.baselines:
        no_style = "" if part.deck().pair_style else ", for which LAMMPS has no style: the bundle is for Python alone"
        words.append(f"What is added beside the network: {part.describe()}{no_style}")
    if electrons is not None:
        words.append(
            f"For systems with a total charge of {electrons.charge:+d} e and the multiplicity {electrons.multiplicity}"
        )
    return choice._replace(terms=tuple(words))


def _of_member(root: str, member: int, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights by the names that a member's body has for them."""
    return {member_root(root, member) + name.removeprefix(root): value for name, value in weights.items()}


def _choose_all(models: Sequence[Model], platform: str, precision: str, body: str, tables: float | str) -> list[Choice]:
    """The same body for all members of a committee, and tables as fine as the finest needs: they share programs."""
    found = [_choose(model, platform, precision, body, tables) for model in models]
    portable = [choice for choice in found if choice.body == "xla"]
    if 0 < len(portable) < len(found):
        found = [_choose(model, platform, precision, "xla", tables) for model in models]
        return [choice._replace(reason=portable[0].reason) for choice in found]
    nodes = max(int(choice.tables["nodes"]) if choice.tables else 0 for choice in found)
    return [
        _choose(model, platform, precision, body, tables, nodes)
        if choice.tables and choice.tables["nodes"] < nodes
        else choice
        for model, choice in zip(models, found, strict=True)
    ]


def _choose(
    model: Model, platform: str, precision: str, body: str, tables: float | str, least_nodes: int = 0
) -> Choice:
    """The body, and the network with tables where they are wanted, of at least so many nodes."""
    config, params = model.config, model.params
    if body == "auto":
        try:
            return _choose(model, platform, precision, "fused", tables, least_nodes)
        except FusedError as error:
            reason = _reason(error)
        except TableError as error:
            if tables != "auto":
                raise
            reason = _reason(error)
        return _choose(model, platform, precision, "xla", tables, least_nodes)._replace(reason=reason)
    is_so3lr = isinstance(config, So3lrConfig)
    check: Callable[[ModelConfig], None]
    if body == "fused" and platform not in ("cpu", "cuda"):
        raise FusedError(f"there are no kernels for platform {platform}, only for cpu and cuda: export with body 'xla'")
    if is_so3lr and platform != "cpu":
        check = functools.partial(check_so3lr_cuda, precision=precision, interactions=model.interactions)
    elif is_so3lr:
        check = functools.partial(check_so3lr, interactions=model.interactions)
    elif platform != "cpu":
        check = functools.partial(check_cuda, precision=precision)
    else:
        check = check_fused
    tolerance = TOLERANCE if tables == "auto" and body == "fused" else tables
    if isinstance(tolerance, str) or is_tabulated(config):
        if body == "fused":
            check(config)
        return Choice(body, None, None, config, params)
    if body == "fused":
        check(tabulated_config(config, GRIDS[0], START))
    found = choose_tables(config, params, model.elements, tolerance, least_nodes)
    return Choice(body, None, found.describe(), found.config, found.params)


def _reason(error: ValueError) -> str:
    """What an error says before its advice."""
    return str(error).rpartition(": ")[0]


def _lower(
    plans: Iterable[Plan], weights: dict[str, np.ndarray], ladder: list[Rung], platform: str, products: str
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Program tensors by name, and for every program the name of its tensor on each rung."""
    tensors: dict[str, np.ndarray] = {}
    programs: dict[str, list[str]] = {}
    calls = [(plan, step) for plan in plans for step in plan.steps if isinstance(step, Call)]
    for plan, call in calls:
        if call.program in programs:
            continue
        arguments = [_argument(plan, weights, name) for name in call.inputs]
        artifacts = lower_ladder(plan.programs[call.program], arguments, plan.donated(call), ladder, platform, products)
        names = {key: f"programs/{call.program}/{'-'.join(map(str, key))}" for key in artifacts}
        tensors |= {names[key]: np.frombuffer(artifact, np.uint8) for key, artifact in artifacts.items()}
        programs[call.program] = [names[sizes_key(arguments, rung)] for rung in ladder]
    return tensors, programs


def _argument(plan: Plan, weights: dict[str, np.ndarray], name: str) -> Array:
    if name in weights:
        return Array(str(weights[name].dtype), weights[name].shape, "weight")
    return plan.arrays[name]


def _steps(plan: Plan) -> list[dict[str, Any]]:
    return [
        {"run": step.program, "inputs": list(step.inputs), "outputs": list(step.outputs)}
        if isinstance(step, Call)
        else {"reduce" if isinstance(step, Reduce) else "refresh": list(step.arrays)}
        for step in plan.steps
    ]
