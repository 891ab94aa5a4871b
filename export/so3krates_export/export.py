"""From a trained model to a bundle."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ase.data import atomic_numbers
from so3krates.storage import Model

from .bundle import write_bundle
from .fused import build_fused_plan, fused_weights
from .ladder import Rung, default_ladder, lower_ladder, sizes_key
from .lowering import STABLEHLO_VERSION
from .plan import VIRIAL_CHANNELS, Array, Call, Plan, build_plan, weight_arrays
from .tables import TOLERANCE, choose_tables

PRECISIONS = ("float32", "float64")
PLATFORMS = ("cpu", "cuda")
BODIES = ("xla", "fused")
SCHEDULES = {"forces": 1, "virials": VIRIAL_CHANNELS}  # channels of the adjoint


def export_model(
    model: Model,
    path: str | Path,
    precision: str = "float32",
    platform: str = "cpu",
    ladder: list[Rung] | None = None,
    body: str = "xla",
    tables: float | None = None,
) -> None:
    """Writes `model` as a bundle (docs/bundle.md) whose network computes in `precision`.

    body: "xla", programs for any device, or "fused", calls of the CPU kernels. tables: largest change of a force (eV/A)
    for which radial filter networks may become tables; None: none in "xla", `tables.TOLERANCE` in "fused", which needs
    them.
    Raises ValueError for an unknown precision, platform or body, FusedError for a network that the kernels do not
    compute, TableError where no table is fine enough.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision = {precision!r}: known are {', '.join(PRECISIONS)}")
    if platform not in PLATFORMS:
        raise ValueError(f"platform = {platform!r}: known are {', '.join(PLATFORMS)}")
    if body not in BODIES:
        raise ValueError(f"body = {body!r}: known are {', '.join(BODIES)}")
    if body == "fused" and platform != "cpu":
        raise ValueError(f"body = 'fused' is for the platform 'cpu', not {platform!r}: take body 'xla'")
    ladder = default_ladder() if ladder is None else ladder
    numbers = [atomic_numbers[element] for element in model.elements]
    config, params, record = model.config, model.params, None
    if tables is not None or body == "fused":
        found = choose_tables(config, params, model.elements, TOLERANCE if tables is None else tables)
        config, params, record = found.config, found.params, found.describe()
    # Positions are float64 whatever the network's precision.
    with jax.enable_x64(True):
        weights = fused_weights(config, params, numbers) if body == "fused" else weight_arrays(params, numbers)
        weights = {name: np.asarray(value, precision) for name, value in weights.items()}
        plans = {
            schedule: build_fused_plan(config, precision, len(numbers), channels)
            if body == "fused"
            else build_plan(config, precision, list(weights), channels)
            for schedule, channels in SCHEDULES.items()
        }
        tensors, programs = _lower(plans.values(), weights, ladder, platform)
    arrays = {name: array for plan in plans.values() for name, array in plan.arrays.items()}
    manifest = {
        "format": "so3krates-bundle",
        "version": 1,
        "producer": f"so3krates {importlib.metadata.version('so3krates')}, jax {jax.__version__}",
        "model": model.config.to_dict(),
        "elements": list(model.elements),
        "energy_shifts": [float(model.energy_shifts.get(element, 0.0)) for element in model.elements],
        "cutoff": float(model.config.cutoff),
        "message_passing_steps": model.config.layers,
        "units": "metal",
        "precision": precision,
        "platform": platform,
        "body": body,
        "tables": record,
        "stablehlo_version": STABLEHLO_VERSION,
        "training": model.training,
        "ladder": [rung._asdict() for rung in ladder],
        "buffers": {name: {**array._asdict(), "shape": list(array.shape)} for name, array in arrays.items()},
        "programs": programs,
        "schedules": {schedule: _steps(plan) for schedule, plan in plans.items()},
    }
    write_bundle(path, manifest, weights | tensors)


def _lower(
    plans: Iterable[Plan], weights: dict[str, np.ndarray], ladder: list[Rung], platform: str
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Program tensors by name, and for every program the name of its tensor on each rung."""
    tensors: dict[str, np.ndarray] = {}
    programs: dict[str, list[str]] = {}
    calls = [(plan, step) for plan in plans for step in plan.steps if isinstance(step, Call)]
    for plan, call in calls:
        if call.program in programs:
            continue
        arguments = [_argument(plan, weights, name) for name in call.inputs]
        artifacts = lower_ladder(plan.programs[call.program], arguments, plan.donated(call), ladder, platform)
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
        else {"refresh": list(step.arrays)}
        for step in plan.steps
    ]
