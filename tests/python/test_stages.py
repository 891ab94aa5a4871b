"""The stages: equal to the composed energy and its gradient, free of scatters, of bounded memory."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from helpers import batch_of, host_inputs
from so3krates.model import Graph, ModelConfig, atom_energies, init_params, predict
from so3krates_export.ladder import Rung, default_ladder, lower_ladder
from so3krates_export.lowering import lower_text, serialise
from so3krates_export.plan import Array, Call, Plan, build_plan, weight_arrays

ENERGY = 1e-12  # eV per atom, float64
FORCE = 1e-12  # eV/A
STRAIN = 1e-10  # eV
VIRIAL = 1e-11  # eV
SIGNAL = 1e-2  # eV/A, eV: what a test must see
SMALL = ModelConfig(features=24, heads=2, layers=3, degrees=(1, 2, 3), cutoff=5.0)
ELEMENTS = {"Ga": 31, "N": 7}
RUNG = Rung(rows=64, atoms=2048, candidates=128, neighbours=64)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Most of the time would be compilation of programs that run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def params64(config: ModelConfig):
    # Larger than an initial network's, so that three layers of attention matter.
    return jax.tree.map(lambda v: 1.5 * jnp.asarray(v, jnp.float64), init_params(config, 0))


def crystal() -> Atoms:
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat((2, 2, 2))
    atoms.positions += np.random.default_rng(0).normal(0.0, 0.1, atoms.positions.shape)
    return atoms


def tiny() -> Atoms:
    atoms = bulk("GaN", "zincblende", a=4.5)
    atoms.positions += np.random.default_rng(1).normal(0.0, 0.1, atoms.positions.shape)
    return atoms


def cluster() -> Atoms:
    return Atoms("Ga4N5", positions=np.random.default_rng(2).uniform(0.0, 6.0, (9, 3)))


def specs(plan: Plan, weights: dict[str, np.ndarray], rung: Rung) -> dict[str, jax.ShapeDtypeStruct]:
    sizes = rung._asdict()
    shapes = {
        name: jax.ShapeDtypeStruct(tuple(sizes.get(d, d) for d in array.shape), array.dtype)
        for name, array in plan.arrays.items()
    }
    return shapes | {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in weights.items()}


def compiled(plan: Plan, shapes: dict[str, jax.ShapeDtypeStruct]):
    programs = {}
    for call in plan.steps:
        if isinstance(call, Call) and call.program not in programs:
            jitted = jax.jit(plan.programs[call.program], donate_argnums=plan.donated(call), keep_unused=True)
            programs[call.program] = jitted.lower(*[shapes[name] for name in call.inputs]).compile()
    return programs


@functools.cache
def staged_programs(channels: int):
    weights = weight_arrays(params64(SMALL), list(ELEMENTS.values()))
    plan = build_plan(SMALL, "float64", list(weights), channels)
    shapes = specs(plan, weights, RUNG)
    return weights, plan, shapes, compiled(plan, shapes)


def run_staged(atoms: Atoms, channels: int) -> dict[str, np.ndarray]:
    """All arrays after one pass; whatever no stage writes holds NaN."""
    weights, plan, shapes, programs = staged_programs(channels)
    inputs = host_inputs(atoms, list(ELEMENTS), SMALL.cutoff + 0.7, RUNG)
    arrays = {
        name: jnp.full(shape.shape, np.nan if np.issubdtype(shape.dtype, np.floating) else 0, shape.dtype)
        for name, shape in shapes.items()
    }
    arrays |= {name: jnp.asarray(value) for name, value in (weights | inputs).items()}
    for step in plan.steps:
        if isinstance(step, Call):
            results = programs[step.program](*[arrays[name] for name in step.inputs])
            arrays |= dict(zip(step.outputs, results, strict=True))
    return {name: np.asarray(value) for name, value in arrays.items()}


@pytest.mark.parametrize("make", [crystal, tiny, cluster])
@pytest.mark.parametrize("channels", [1, 4])
def test_staged_equals_composed(make, channels):
    params, atoms = params64(SMALL), make()
    n = len(atoms)
    staged = run_staged(atoms, channels)
    composed = jax.jit(predict, static_argnums=0)(SMALL, params, batch_of(atoms, SMALL.cutoff))
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

    jacobian = np.asarray(jax.jacrev(energies)(batch.positions))  # dU_i / dr_j
    offsets = atoms.positions[:, None] - atoms.positions[None]
    virials = np.einsum("ija,ijb->jab", offsets, jacobian)
    staged = run_staged(atoms, 4)["atom_virials"][:n]
    assert np.abs(virials).max() > SIGNAL and np.abs(virials - virials.swapaxes(1, 2)).max() > 1e-3
    np.testing.assert_allclose(staged, virials, atol=VIRIAL)


@pytest.mark.parametrize("channels", [1, 4])
def test_nothing_scatters(channels):
    weights = weight_arrays(params64(SMALL), list(ELEMENTS.values()))
    plan = build_plan(SMALL, "float64", list(weights), channels)
    shapes = specs(plan, weights, Rung(64, 512, 192, 64))
    for call in plan.steps:
        if isinstance(call, Call):
            text = lower_text(
                plan.programs[call.program], [shapes[name] for name in call.inputs], plan.donated(call), "cpu"
            )
            assert "stablehlo.gather" in text or call.program not in ("layer", "layer_adjoint")
            assert "scatter" not in text, call.program


def test_scratch_memory_does_not_grow_with_the_number_of_atoms():
    """Temporary bytes of every compiled program at 1k, 8k and 64k rows."""
    jax.config.update("jax_disable_most_optimizations", False)  # as in a bundle
    weights = {k: np.asarray(v, "float32") for k, v in weight_arrays(init_params(SMALL, 0), [31, 7]).items()}
    plan = build_plan(SMALL, "float32", list(weights))
    scratch = []
    for rows in (1024, 8192, 65536):
        programs = compiled(plan, specs(plan, weights, Rung(rows, 2 * rows, 192, 64)))
        scratch.append({name: p.memory_analysis().temp_size_in_bytes for name, p in programs.items()})
    assert scratch[0]["layer_adjoint"] > 10_000  # the blocks themselves
    for name in scratch[0]:
        assert scratch[1][name] <= scratch[0][name] + 1024 and scratch[2][name] <= scratch[0][name] + 1024, (
            name,
            scratch,
        )


def test_a_ladder_from_one_trace_equals_lowering_each_rung():
    weights = weight_arrays(params64(SMALL), [31, 7])
    plan = build_plan(SMALL, "float64", list(weights))
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
