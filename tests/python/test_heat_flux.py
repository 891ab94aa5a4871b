"""Per-atom virials and the heat flux: the definition, the unfolded system, the formula that is wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from flux_model import SHIFTS, random_model, write_bundle_of
from helpers import batch_of
from so3krates._harness import Error
from so3krates.analysis import heat_flux
from so3krates.model import Graph, atom_energies
from so3krates.outputs import STANDARD
from so3krates.runtime import Runtime

pytestmark = pytest.mark.usefixtures("x64")

UNFOLDED = 1e-10  # of the largest component
SUM = 1e-11  # of the virial's sum of sizes
SAME = 1e-12  # of the largest force
BARYCENTRE = 2e-8  # of the flux, by differences in time
STEP = 0.1  # fs
WRONG = 1e-2  # of the flux: what the pairwise formula misses with 3 layers
SIGNAL = 1e-2  # eV, eV/A
FLUX_SIGNAL = 0.5  # eV A/ps
UNFOLDED_ATOMS, UNFOLDED_SLOTS = 640, 32  # room in the unfolded system
BODIES = ("xla", "fused")
SMALL = "small"  # the fused body, channels one by one


@functools.cache
def model(layers: int):
    return random_model(layers)


@pytest.fixture(scope="module")
def runtime_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Runtime]:
    """Float64 evaluators by layers, body and shifts."""
    folder = tmp_path_factory.mktemp("flux")
    cache = tmp_path_factory.getbasetemp().parent / "lammps_program_cache"  # of all workers and of the LAMMPS tests

    @functools.cache
    def runtime(layers: int, body: str = "fused", shifts: bool = True) -> Runtime:
        small, body = body == SMALL, "fused" if body == SMALL else body
        bundle = folder / f"{body}-{layers}.so3k"
        if not bundle.exists():
            write_bundle_of(model(layers), body, folder)
        return Runtime(bundle, threads=1, cache=str(cache), shifts=shifts, small_virials=small)

    return runtime


def crystal() -> Atoms:
    return displaced(bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat((2, 1, 1)), 0)


def triclinic() -> Atoms:
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19)
    strain = np.eye(3) + np.random.default_rng(1).uniform(-0.08, 0.08, (3, 3))
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    return displaced(atoms, 1)


def tiny() -> Atoms:
    """Cell vectors of 3.2 A, planes 2.6 A apart."""
    return displaced(bulk("GaN", "zincblende", a=4.5), 2)


def slab() -> Atoms:
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19)
    atoms.pbc = [True, True, False]
    return displaced(atoms, 3)


def cluster() -> Atoms:
    atoms = bulk("GaN", "zincblende", a=4.5, cubic=True).repeat((2, 1, 1))
    return Atoms(displaced(atoms, 4), cell=None, pbc=False)


def displaced(atoms: Atoms, seed: int) -> Atoms:
    """With displacements of 0.1 A and velocities of some 1000 K."""
    random = np.random.default_rng(seed)
    atoms.positions += random.normal(0.0, 0.1, atoms.positions.shape)
    thermal = np.sqrt(1000 * units.kB / atoms.get_masses())[:, None]
    atoms.set_velocities(thermal * random.normal(size=atoms.positions.shape))
    return atoms


STRUCTURES = {f.__name__: f for f in (crystal, triclinic, tiny, slab, cluster)}


class Unfolded(NamedTuple):
    """Atoms of a cell and every image within reach of one of them, without periodicity."""

    atoms: Atoms
    owner: np.ndarray  # (N,) atom of the cell; the first are the cell's own


def unfold(atoms: Atoms, reach: float) -> Unfolded:
    n = len(atoms)
    heights = 1.0 / np.linalg.norm(np.linalg.pinv(atoms.cell.array), axis=0) if atoms.pbc.any() else np.ones(3)
    scaled = atoms.positions @ np.linalg.pinv(atoms.cell.array)
    most = np.where(atoms.pbc, np.ceil(reach / heights + np.ptp(scaled, axis=0)), 0).astype(int)
    positions, owner = [atoms.positions], [np.arange(n)]
    for shift in product(*(range(-k, k + 1) for k in most)):
        if any(shift):
            images = atoms.positions + np.array(shift) @ atoms.cell.array
            near = np.linalg.norm(images[:, None] - atoms.positions, axis=2).min(axis=1) <= reach
            positions.append(images[near])
            owner.append(np.flatnonzero(near))
    owner = np.concatenate(owner)
    return Unfolded(Atoms(atoms.numbers[owner], np.concatenate(positions)), owner)


def unfolded_virials(layers: int, atoms: Atoms) -> np.ndarray:
    """W_j = dB/dr_j - r_j dU/dr_j, B = sum_i U_i r_i with r_i held fixed, summed over images; (atoms, 3, 3) eV."""
    config, params = model(layers).config, model(layers).params
    n = len(atoms)
    big = unfold(atoms, layers * config.cutoff)
    batch = batch_of(big.atoms, config.cutoff)
    # One compilation for all structures: further atoms without neighbours, slots that are not used.
    rows, slots = UNFOLDED_ATOMS - len(big.atoms), UNFOLDED_SLOTS - batch.mask.shape[1]
    graph = Graph(
        jnp.pad(batch.species, (0, rows), constant_values=7),
        jnp.pad(batch.neighbours, ((0, rows), (0, slots))),
        None,
        jnp.pad(batch.mask, ((0, rows), (0, slots))),
    )
    positions = jnp.pad(batch.positions, ((0, rows), (0, 0)))
    weights = jnp.zeros((4, UNFOLDED_ATOMS)).at[0, :n].set(1.0).at[1:, :n].set(atoms.positions.T)
    gradients = np.asarray(unfolded_gradients(config, params, graph, positions, weights))[:, : len(big.atoms)]
    images = gradients[1:].swapaxes(0, 1) - big.atoms.positions[:, :, None] * gradients[0][:, None, :]
    virials = np.zeros((n, 3, 3))
    np.add.at(virials, big.owner, images)
    return virials


@functools.partial(jax.jit, static_argnums=0)
def unfolded_gradients(config, params, graph: Graph, positions: jax.Array, weights: jax.Array) -> jax.Array:
    """Derivatives of sum_i weights_ki U_i by positions, (4, N, 3)."""

    def sums(positions: jax.Array) -> jax.Array:
        vectors = positions[graph.neighbours] - positions[:, None]
        return weights @ atom_energies(config, params, graph._replace(vectors=vectors))

    return jax.jacrev(sums)(positions)


def asymmetry(virials: np.ndarray) -> float:
    return np.abs(virials - virials.swapaxes(1, 2)).max()


@pytest.mark.parametrize(
    ("name", "layers"),
    [*((name, 3) for name in STRUCTURES), pytest.param("tiny", 2, marks=pytest.mark.torture)],
)
def test_virials_equal_those_of_the_unfolded_system(name: str, layers: int, runtime_of: Callable[..., Runtime]) -> None:
    atoms = STRUCTURES[name]()
    expected = unfolded_virials(layers, atoms)
    assert np.abs(expected).max() > SIGNAL and asymmetry(expected) > SIGNAL
    for body in (*BODIES, SMALL):
        found = runtime_of(layers, body).evaluate(atoms, ["atom_virials"])["atom_virials"]
        assert np.abs(found - expected).max() < UNFOLDED * np.abs(expected).max(), body


def test_little_memory_is_for_the_kernels(runtime_of: Callable[..., Runtime]) -> None:
    with pytest.raises(Error, match="has no programs for per-atom virials in little memory: export the model again"):
        Runtime(runtime_of(3, "xla").path, small_virials=True)


@pytest.mark.parametrize("body", [*BODIES, SMALL])
@pytest.mark.parametrize("name", STRUCTURES)
def test_virials_sum_to_the_virial_and_leave_the_rest_alone(
    name: str, body: str, runtime_of: Callable[..., Runtime]
) -> None:
    runtime, atoms = runtime_of(3, body), STRUCTURES[name]()
    before = runtime.report()
    plain, found = runtime.evaluate(atoms), runtime.evaluate(atoms, [*STANDARD, "atom_virials"])
    virials = found["atom_virials"]
    assert "atom_virials" not in plain and np.abs(plain["virial"]).max() > SIGNAL
    assert np.abs(virials.sum(axis=0) - plain["virial"]).max() < SUM * np.abs(virials).sum()
    assert np.abs(plain["forces"]).max() > SIGNAL
    for quantity in ("energies", "forces", "virial"):
        assert np.abs(found[quantity] - plain[quantity]).max() < SAME * np.abs(plain[quantity]).max(), quantity
    after = runtime.report()
    assert after["evaluations"] - before["evaluations"] == 2
    assert after["virial_evaluations"] - before["virial_evaluations"] == 1


def advanced(atoms: Atoms, runtime: Runtime, step: float) -> Atoms:
    """One step of Newton's equations by the classical Runge-Kutta method; step in ASE's unit of time."""
    masses = atoms.get_masses()[:, None]
    frame = atoms.copy()

    def slope(state: np.ndarray) -> np.ndarray:
        frame.positions = state[0]
        return np.stack([state[1], runtime.evaluate(frame)["forces"] / masses])

    start = np.stack([atoms.positions, atoms.get_velocities()])
    first = slope(start)
    second = slope(start + 0.5 * step * first)
    third = slope(start + 0.5 * step * second)
    fourth = slope(start + step * third)
    end = start + step / 6 * (first + 2 * second + 2 * third + fourth)
    frame.positions = end[0]
    frame.set_velocities(end[1])
    return frame


def barycentre(atoms: Atoms, runtime: Runtime) -> np.ndarray:
    """sum_i r_i e_i, (3,) eV A."""
    kinetic = 0.5 * atoms.get_masses() * np.square(atoms.get_velocities()).sum(axis=1)
    return (runtime.evaluate(atoms)["energies"] + kinetic) @ atoms.positions


@pytest.mark.parametrize("shifts", [True, False])
def test_flux_is_the_time_derivative_of_the_energy_barycentre(shifts: bool, runtime_of: Callable[..., Runtime]) -> None:
    runtime, now = runtime_of(3, shifts=shifts), cluster()
    found = heat_flux(now, runtime)
    assert np.abs(found.potential).min() > FLUX_SIGNAL and np.abs(found.convective).min() > FLUX_SIGNAL
    values = {}
    for sign in (-1, 1):
        frame = now
        for k in (1, 2):
            frame = advanced(frame, runtime, sign * STEP * units.fs)
            values[sign * k] = barycentre(frame, runtime)
    derivative = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * STEP * 1e-3)  # per ps
    assert np.abs(derivative - found.total).max() < BARYCENTRE * np.abs(found.total).max()


def test_shifts_move_the_convective_part_only(runtime_of: Callable[..., Runtime]) -> None:
    atoms = cluster()
    shifted, bare = (heat_flux(atoms, runtime_of(3, shifts=shifts)) for shifts in (True, False))
    constants = np.array([SHIFTS[symbol] for symbol in atoms.symbols])
    expected = constants @ atoms.get_velocities() * 1000 * units.fs
    assert np.abs(expected).min() > FLUX_SIGNAL
    np.testing.assert_array_equal(shifted.potential, bare.potential)
    np.testing.assert_allclose(shifted.convective - bare.convective, expected, rtol=1e-12)


def pairwise_flux(layers: int, atoms: Atoms) -> np.ndarray:
    """-sum over edges of r_ij (dU/dr_ij . v_j), eV A/ps: what holds for energies of one layer."""
    config, params = model(layers).config, model(layers).params
    batch = batch_of(atoms, config.cutoff)
    cell = jnp.asarray(atoms.cell.array)
    vectors = batch.positions[batch.neighbours] - batch.positions[:, None] + batch.shifts @ cell

    def energy(vectors: jax.Array) -> jax.Array:
        return atom_energies(config, params, Graph(batch.species, batch.neighbours, vectors, batch.mask)).sum()

    slopes = jnp.where(batch.mask[..., None], jax.jit(jax.grad(energy))(vectors), 0.0)
    velocities = jnp.asarray(atoms.get_velocities() * 1000 * units.fs)[batch.neighbours]
    return -np.asarray(jnp.einsum("ika,ikb,ikb->a", vectors, slopes, velocities))


@pytest.mark.parametrize("name", ["crystal", pytest.param("cluster", marks=pytest.mark.torture)])
def test_pairwise_formula_holds_for_one_layer_only(name: str, runtime_of: Callable[..., Runtime]) -> None:
    atoms = STRUCTURES[name]()
    for layers in (1, 3):
        exact, pairwise = heat_flux(atoms, runtime_of(layers)).potential, pairwise_flux(layers, atoms)
        size = np.abs(exact).max()
        assert size > FLUX_SIGNAL
        if layers == 1:
            assert np.abs(pairwise - exact).max() < UNFOLDED * size
        else:
            assert np.abs(pairwise - exact).max() > WRONG * size


def test_flux_needs_velocities(runtime_of: Callable[..., Runtime]) -> None:
    atoms = Atoms("GaN", positions=[[0, 0, 0], [0, 0, 1.95]])
    with pytest.raises(ValueError, match="no velocities"):
        heat_flux(atoms, runtime_of(3))
