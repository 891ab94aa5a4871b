"""The stages: equal to the composed energy and its gradient, free of scatters, of bounded memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest
from ase import Atoms
from helpers import batch_of, cluster, host_inputs, params64, rattled_wurtzite, tiny
from plans import compile_plan, run_plan, specs
from so3krates.model import Graph, ModelConfig, Prediction, atom_energies, init_params, predict
from so3krates_export.ladder import Rung, default_ladder, lower_ladder
from so3krates_export.lowering import lower_text, serialise
from so3krates_export.plan import Array, Call, Plan, build_plan
from so3krates_export.portable_body import PortableBody, weight_arrays

pytestmark = pytest.mark.usefixtures("x64")

ENERGY = 1e-12  # eV per atom, float64
FORCE = 1e-12  # eV/A
STRAIN = 1e-10  # eV
VIRIAL = 1e-11  # eV
SIGNAL = 1e-2  # eV/A, eV: what a test must see
SMALL = ModelConfig(features=24, heads=2, layers=3, degrees=(1, 2, 3), cutoff=5.0)
ELEMENTS = {"Ga": 31, "N": 7}
RUNG = Rung(rows=64, atoms=2048, candidates=128, neighbours=64)


def crystal() -> Atoms:
    return rattled_wurtzite((2, 2, 2))


def plan_of(weights: dict[str, np.ndarray], channels: int = 1, precision: str = "float64") -> Plan:
    return build_plan(PortableBody(SMALL, precision, list(weights), channels), SMALL.layers)


@functools.cache
def staged_programs(channels: int):
    weights = weight_arrays(params64(SMALL), list(ELEMENTS.values()))
    plan = plan_of(weights, channels)
    shapes = specs(plan, weights, RUNG)
    return weights, plan, shapes, compile_plan(plan, shapes)


def run_staged(atoms: Atoms, channels: int) -> dict[str, np.ndarray]:
    """All arrays after one pass."""
    weights, plan, shapes, programs = staged_programs(channels)
    inputs = host_inputs(atoms, list(ELEMENTS), SMALL.cutoff + 0.7, RUNG)
    return run_plan(plan, shapes, programs, [weights | inputs], [np.arange(len(atoms))])[0]


@functools.cache
def composed_of(make: Callable[[], Atoms]) -> Prediction:
    return jax.jit(predict, static_argnums=0)(SMALL, params64(SMALL), batch_of(make(), SMALL.cutoff))


@pytest.mark.parametrize("make", [crystal, tiny, cluster])
@pytest.mark.parametrize("channels", [1, 4])
def test_staged_equals_composed(make, channels):
    atoms, composed = make(), composed_of(make)
    n = len(atoms)
    staged = run_staged(atoms, channels)
    assert np.abs(composed.forces).max() > SIGNAL and np.abs(composed.strain_gradients).max() > SIGNAL
    assert staged["neighbours_needed"] == np.asarray(batch_of(atoms, SMALL.cutoff).mask).sum(1).max()
    np.testing.assert_allclose(staged["energy"], composed.energies[0], atol=ENERGY * n)
    np.testing.assert_allclose(staged["atom_energies"][:n], composed.atom_energies, atol=ENERGY)
    np.testing.assert_allclose(staged["forces"][:n], composed.forces, atol=FORCE)
    np.testing.assert_allclose(staged["strain_gradient"], composed.strain_gradients[0], atol=STRAIN)
    if channels == 4:
        np.testing.assert_allclose(staged["atom_virials"][:n].sum(0), -composed.strain_gradients[0], atol=STRAIN)


def test_four_channels_give_the_virials_of_the_definition():
    """W_j[a, b] = sum_i (r_i - r_j)_a dU_i/dr_j,b from the full Jacobian of an open cluster."""
    params, atoms = params64(SMALL), cluster()
    n = len(atoms)
    batch = batch_of(atoms, SMALL.cutoff)

    def energies(positions):
        vectors = positions[batch.neighbours] - positions[:, None]
        return atom_energies(SMALL, params, Graph(batch.species, batch.neighbours, vectors, batch.mask))

    jacobian = np.asarray(jax.jit(jax.jacrev(energies))(batch.positions))  # dU_i / dr_j
    offsets = atoms.positions[:, None] - atoms.positions[None]
    virials = np.einsum("ija,ijb->jab", offsets, jacobian)
    staged = run_staged(atoms, 4)["atom_virials"][:n]
    assert np.abs(virials).max() > SIGNAL and np.abs(virials - virials.swapaxes(1, 2)).max() > 1e-3
    np.testing.assert_allclose(staged, virials, atol=VIRIAL)


@pytest.mark.parametrize("channels", [1, 4])
def test_nothing_scatters(channels):
    weights = weight_arrays(params64(SMALL), list(ELEMENTS.values()))
    plan = plan_of(weights, channels)
    shapes = specs(plan, weights, Rung(64, 512, 192, 64))
    for call in plan.steps:
        if isinstance(call, Call):
            text = lower_text(
                plan.programs[call.program], [shapes[name] for name in call.inputs], plan.donated(call), "cpu"
            )
            assert "stablehlo.gather" in text or call.program not in ("layer", "layer_adjoint")
            assert "scatter" not in text, call.program


@pytest.fixture
def optimised() -> Iterator[None]:
    """Programs as a bundle's."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.long
def test_scratch_memory_does_not_grow_with_the_number_of_atoms(optimised: None) -> None:
    """Temporary bytes of every compiled program at 1k and 64k rows."""
    weights = {k: np.asarray(v, "float32") for k, v in weight_arrays(init_params(SMALL, 0), [31, 7]).items()}
    plan = plan_of(weights, precision="float32")
    scratch = []
    for rows in (1024, 65536):
        programs = compile_plan(plan, specs(plan, weights, Rung(rows, 2 * rows, 192, 64)))
        scratch.append({name: p.memory_analysis().temp_size_in_bytes for name, p in programs.items()})
    assert scratch[0]["layer_adjoint"] > 10_000  # the blocks themselves
    for name in scratch[0]:
        assert scratch[1][name] <= scratch[0][name] + 1024, (name, scratch)


def test_a_ladder_from_one_trace_equals_lowering_each_rung():
    weights = weight_arrays(params64(SMALL), [31, 7])
    plan = plan_of(weights)
    call = next(step for step in plan.steps if isinstance(step, Call) and step.program == "layer_adjoint")
    arguments = [plan.arrays.get(name) or Array("float64", weights[name].shape, "weight") for name in call.inputs]
    rungs = [Rung(256, 4608, 192, 64), Rung(1024, 6144, 384, 128)]
    artifacts = lower_ladder(plan.programs[call.program], arguments, plan.donated(call), rungs, "cpu")
    for rung in rungs:
        shapes = specs(plan, weights, rung)
        text = lower_text(
            plan.programs[call.program], [shapes[name] for name in call.inputs], plan.donated(call), "cpu"
        )
        assert artifacts[(rung.rows, rung.neighbours)] == serialise(text)


def test_ladder_rungs_are_whole_blocks_in_order():
    ladder = default_ladder()
    assert all(rung.rows % 32 == 0 and rung.neighbours % 8 == 0 for rung in ladder)
    assert ladder[0].rows == 256 and max(rung.rows for rung in ladder) >= 4_000_000
    assert len(set(ladder)) == len(ladder)
