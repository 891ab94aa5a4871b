"""The GPU kernels of SO3LR, compiled for the host by a stand-in of NVRTC: equal to the CPU's kernels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.data import atomic_numbers
from helpers import host_inputs
from plans import compile_plan, run_plan, specs
from so3krates.kernels import register_kernels
from so3krates.model.config import ModelConfig
from so3krates.model.network import Params
from so3krates.model.reductions import tabulated
from so3krates.storage import Model
from so3krates.total_charge import State
from so3krates_export import export
from so3krates_export.bundle import read_bundle
from so3krates_export.cuda import KERNEL_VERSION
from so3krates_export.export import export_model
from so3krates_export.ladder import Rung
from so3krates_export.plan import build_plan
from so3krates_export.portable_body import weight_arrays
from so3krates_export.so3lr_body import EMBEDDINGS, system_weights
from so3krates_export.so3lr_cuda_body import So3lrCudaBody
from so3krates_export.so3lr_fused import so3lr_weights
from so3krates_export.so3lr_fused_body import So3lrFusedBody
from so3krates_export.term_stages import term_stages

pytestmark = pytest.mark.usefixtures("x64", "stand_in")

FOLDER = Path(__file__).parents[2] / "examples" / "models" / "so3lr"
NODES = 64  # of splines, which both bodies compute
RUNG = Rung(rows=64, atoms=4096, candidates=192, neighbours=64)
BLOCK = 32  # rows that terms take at once
REACH = 12.0  # A
PARITY = 1e-10  # of the largest value, float64
SINGLE = 2e-5  # the same, float32
SIGNAL = 1e-3  # least of the largest values: eV, eV/A, e, e A, 1
RANKS = 1e-10  # of the largest value: one rank and two
OUTPUTS = (
    "energy", "atom_energies", "forces", "strain_gradient", "charges", "hirshfeld_ratios", "dipole", "energy_network",
    "energy_repulsion", "energy_electrostatics", "energy_dispersion",
)  # fmt: skip


@functools.cache
def network() -> tuple[Model, ModelConfig, Params]:
    """The published model, with splines."""
    model = Model.load(FOLDER)
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), model.params)
    return model, *tabulated(model.config, params, NODES, 0.5)


def inputs_of(atoms: Atoms) -> dict[str, np.ndarray]:
    """Lists to the network's cutoff, and atoms to that of long-range pairs, as LAMMPS gives them."""
    model, config, _ = network()
    near = host_inputs(atoms, list(model.elements), config.cutoff + 0.5, RUNG)
    far = host_inputs(atoms, list(model.elements), REACH + 0.5, RUNG._replace(candidates=4096))
    known = int(near["atom_count"])

    def places(inputs: dict[str, np.ndarray]) -> list[tuple[int, ...]]:
        count = int(inputs["atom_count"])
        return [tuple(np.rint(1e6 * position).astype(int)) for position in inputs["positions"][:count]]

    more = [k for k, place in enumerate(places(far)) if place not in set(places(near))]
    for name in ("positions", "row_of_atom"):
        near[name][known : known + len(more)] = far[name][more]
    near["atom_count"] = np.int32(known + len(more))
    return near


@functools.cache
def programs(kind: type[So3lrCudaBody] | type[So3lrFusedBody], precision: str) -> Any:
    """Plan, weights, shapes and compiled programs."""
    model, config, params = network()
    numbers = [atomic_numbers[element] for element in model.elements]
    everything = weight_arrays(params, numbers)
    weights = so3lr_weights(config, params, numbers, model.interactions, precision) | system_weights(State(1, 2))
    weights |= {name: value for name, value in everything.items() if name.startswith(EMBEDDINGS)}
    weights = {name: np.asarray(value, precision) for name, value in weights.items()}
    options = {"row_block": BLOCK} if kind is So3lrCudaBody else {}
    body = kind(model, config, precision, list(weights), **options)
    plan = build_plan(body, config.layers, [*term_stages(body, model.terms), *body.further_outputs()])
    shapes = specs(plan, weights, RUNG)
    return plan, weights, shapes, compile_plan(plan, shapes)


def run(
    kind: type[So3lrCudaBody] | type[So3lrFusedBody],
    ranks: Sequence[dict[str, np.ndarray]],
    ids: Sequence[np.ndarray],
    precision: str = "float64",
) -> list[dict[str, np.ndarray]]:
    """All arrays of every rank after one pass; sums over ranks are left out."""
    register_kernels()
    plan, weights, shapes, compiled = programs(kind, precision)
    return run_plan(plan, shapes, compiled, [weights | inputs for inputs in ranks], list(ids))


def crystal() -> Atoms:
    """Molecules in a cell that is smaller than the cutoffs, all of whose forces and stresses are there."""
    atoms = Atoms(molecule("H2O"), cell=[[4.6, 0, 0], [0.8, 4.4, 0], [-0.5, 0.3, 4.5]], pbc=True).repeat((2, 1, 1))
    atoms.rattle(0.05, seed=2)
    return atoms


def apart() -> Atoms:
    """Two molecules within reach of each other's long-range pairs alone, and one so far that cells grow."""
    atoms = molecule("H2O")
    for distance, axis in ((8.0, "x"), (5000.0, "y")):
        other = molecule("CH3OH")
        other.rotate(40.0, axis)
        other.translate([distance, 0.3 * distance, -0.1 * distance])
        atoms += other
    return atoms


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], n: int, tolerance: float) -> None:
    """tolerance: of the largest value; 0 for equal to the bit."""
    for name in OUTPUTS:
        of_rows = expected[name].shape[:1] == (RUNG.rows,)
        a, b = (values[name][:n] if of_rows else values[name] for values in (found, expected))
        largest = np.abs(b).max()
        assert largest > SIGNAL, name
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest, err_msg=name)


@pytest.mark.parametrize("make", [crystal, apart])
def test_kernels_equal_those_of_the_cpu(make: Callable[[], Atoms]) -> None:
    atoms = make()
    given, ids = [inputs_of(atoms)], [np.arange(len(atoms))]
    (expected,) = run(So3lrFusedBody, given, ids)
    (found,), (again,) = run(So3lrCudaBody, given, ids), run(So3lrCudaBody, given, ids)
    close(found, expected, len(atoms), PARITY)
    close(again, found, len(atoms), 0.0)


@pytest.mark.torture
def test_single_precision() -> None:
    atoms = apart()
    given, ids = [inputs_of(atoms)], [np.arange(len(atoms))]
    (expected,), (found,) = run(So3lrFusedBody, given, ids), run(So3lrCudaBody, given, ids, "float32")
    close(found, expected, len(atoms), SINGLE)


def test_two_ranks_are_one() -> None:
    atoms = crystal()
    n, cut = len(atoms), 4
    (expected,) = run(So3lrCudaBody, [inputs_of(atoms)], [np.arange(n)])
    ids = [np.arange(n), np.roll(np.arange(n), -cut)]
    ranks = [inputs_of(atoms[own]) | {"owned_count": np.int32(k)} for own, k in zip(ids, (cut, n - cut), strict=True)]
    found = run(So3lrCudaBody, ranks, ids)
    for name in OUTPUTS:
        if expected[name].shape[:1] == (RUNG.rows,):
            values = np.concatenate([found[0][name][:cut], found[1][name][: n - cut]])
            whole = expected[name][:n]
        else:
            values, whole = found[0][name] + found[1][name], expected[name]
        np.testing.assert_allclose(values, whole, rtol=0, atol=RANKS * np.abs(whole).max(), err_msg=name)


def test_bundles_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels alone, or portable programs with the lists that these read; programs depend on sizes by their numbers."""
    model, config, params = network()
    splines, path = dataclasses.replace(model, config=config, params=params), tmp_path / "so3lr.so3k"
    ladder = [Rung(rows=4096, atoms=32768, candidates=192, neighbours=64)]
    choice = export_model(splines, path, platform="cuda", ladder=ladder)
    manifest = read_bundle(path).manifest
    assert (choice.body, manifest["kernels"]) == ("fused", KERNEL_VERSION)
    assert {"kernel_long_pairs", "kernel_heads", "kernel_layer"} < manifest["programs"].keys()
    (sizes,) = manifest["kernel_sizes"]
    assert "#define LONG_CELLS 1024" in sizes
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(export, "_lower", lambda plans, weights, ladder, platform, products: ({}, {}))
    monkeypatch.setattr(export, "write_bundle", lambda path, manifest, tensors: written.append(manifest))
    assert export_model(splines, path, platform="rocm").body == "xla"
    (portable,) = written
    assert "kernels" not in portable and portable["ladder"][0]["rows"] == manifest["ladder"][0]["rows"]
    assert (manifest["reach"], manifest["atoms_reach"], portable["reach"]) == (config.cutoff, REACH, REACH)
    for found in (manifest, portable):
        assert list(found["schedules"]) == ["forces"]
        assert {"charges", "hirshfeld_ratios"} < found["moves"]["programs"].keys()
