"""Symmetries, derivatives, smoothness and conservation laws, each with its bound (docs/training.md)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms, units
from ase.data import atomic_numbers, covalent_radii
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet

from so3krates._harness import StructureError
from so3krates.analysis import energy_drift
from so3krates.baselines import BaselineError
from so3krates.data import structure_faults
from so3krates.data.neighbours import directed_pairs
from so3krates.data.suspects import LARGE_FORCE
from so3krates.progress import Callback
from so3krates.storage import ModelError

from .crystals import default_structure, perfect_crystal
from .findings import Check, not_made
from .potentials import Answer, Potential, PotentialCalculator

DISPLACEMENT = 0.05  # A, of the atoms of the disturbed structure
STRAIN = 0.01  # of its cell
DIRECTIONS = 3  # random ones of each finite difference
CUTOFF_STEP = 1e-4  # A, either side of the cutoff
SHAKES = (0.05, 0.1, 0.15)  # A, displacements of the structures that are searched for abnormal forces
STIFF = 1.9  # A: atoms with shorter bonds, which are stiffer, are shaken less, in proportion
SQUEEZE = 0.97  # of the cell of such a structure
TEMPERATURE = 300.0  # K
TIME_STEP = 1.0  # fs; half of it with hydrogen
STEPS = 300
DRIFT = 1.0  # meV/atom/ps
FEWEST_ATOMS = 4  # smaller periodic cells are repeated: forces on a lone atom and its images are zero


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What rounding may do in one precision."""

    energy: float  # eV/atom
    forces: float  # eV/A
    stress: float  # eV/A^3
    derivative: float  # relative
    steps: tuple[float, ...]  # A, of finite differences; strains take a tenth of them
    cutoff: float = 1e-3  # eV/A, change of a force within 2 CUTOFF_STEP


BOUNDS = {
    "float64": Bounds(energy=1e-9, forces=1e-8, stress=1e-9, derivative=1e-5, steps=(1e-3, 1e-4)),
    "float32": Bounds(energy=1e-6, forces=1e-4, stress=2e-6, derivative=5e-3, steps=(1e-2,)),
    # With factors of all products rounded to 11 bits, GaN shows 2e-5, 9e-4, 2e-6 and 1e-2.
    "tf32": Bounds(energy=1e-4, forces=5e-3, stress=2e-5, derivative=5e-2, steps=(1e-2,)),
}


def check_potential(
    potential: Potential,
    structure: Atoms | None = None,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callback | None = None,
) -> list[Check]:
    """All checks that need no data, on a structure or on a crystal of the potential's first elements.

    Raises ModelError for elements that the potential does not know, and for atoms at one place or nowhere.
    """
    structure = default_structure(potential.elements) if structure is None else structure.copy()
    structure.calc = None
    unknown = sorted(set(structure.get_chemical_symbols()) - set(potential.elements))
    if unknown:
        raise ModelError(f"the structure has {', '.join(unknown)}, the potential knows {', '.join(potential.elements)}")
    for fault in structure_faults(structure):
        raise ModelError(f"the structure cannot be used: {fault}")
    if len(structure) < FEWEST_ATOMS and structure.pbc.any():
        structure = structure.repeat(np.where(structure.pbc, 2, 1))
    rng = np.random.default_rng(seed)
    bounds = BOUNDS[potential.precision]
    disturbed = _disturbed(structure, rng)
    parts: dict[str, Callable[[], Iterator[Check]]] = {
        "symmetries": lambda: _symmetries(potential, disturbed, bounds, rng),
        "derivatives": lambda: _derivatives(potential, disturbed, bounds, rng),
        "cutoff": lambda: _cutoff(potential, bounds),
        "crystals": lambda: _crystals(potential, bounds),
        "forces": lambda: _abnormal_forces(potential, structure, rng),
        "dynamics": lambda: _dynamics(potential, structure, steps, rng),
    }
    found: list[Check] = []
    for index, (name, part) in enumerate(parts.items()):
        if progress:
            progress(f"checks, {name}", index, len(parts))
        found += part()
    if progress:
        progress("checks", len(parts), len(parts))
    return found


def _strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    moved = atoms.copy()
    deform = np.eye(3) + strain
    moved.set_cell(atoms.cell.array @ deform)
    moved.positions = atoms.positions @ deform
    return moved


def _disturbed(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Atoms off their places and a cell off its shape, so that forces and stress are not zero."""
    strain = STRAIN * rng.uniform(-1, 1, (3, 3))
    moved = _strained(atoms, 0.5 * (strain + strain.T)) if atoms.pbc.all() else atoms.copy()
    moved.positions += rng.normal(0, DISPLACEMENT, moved.positions.shape)
    return moved


def _largest(values: np.ndarray) -> float:
    """Largest absolute value; infinite where one is not a number."""
    return float(np.abs(values).max()) if np.isfinite(values).all() else math.inf


def _far_away(potential: Potential, atoms: Atoms) -> Answer:
    """Of a structure that a check made up: no numbers where a bundle refuses it, as it does absurd energies."""
    try:
        return potential(atoms)
    except StructureError:
        none = np.full((len(atoms), 3), math.nan)
        return Answer(math.nan, none, np.full((3, 3), math.nan) if atoms.pbc.all() else None)


def _symmetries(potential: Potential, atoms: Atoms, bounds: Bounds, rng: np.random.Generator) -> Iterator[Check]:
    n = len(atoms)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    order = rng.permutation(n)
    rotated, shifted, permuted = atoms.copy(), atoms.copy(), atoms[order]
    rotated.set_cell(atoms.cell.array @ rotation)
    rotated.positions = atoms.positions @ rotation
    shifted.positions += rng.uniform(-20, 20, 3)
    before = potential(atoms)
    cases = (
        ("rotation", rotated, before.forces @ rotation),
        ("translation", shifted, before.forces),
        ("permutation", permuted, before.forces[order]),
    )
    for name, moved, forces in cases:
        after = potential(moved)
        yield Check(f"{name}, energy", _largest(np.array(after.energy - before.energy)) / n, bounds.energy, "eV/atom")
        yield Check(f"{name}, forces", _largest(after.forces - forces), bounds.forces, "eV/A")
        if name == "rotation" and before.stress is not None and after.stress is not None:
            stress = rotation.T @ before.stress @ rotation
            yield Check(f"{name}, stress", _largest(after.stress - stress), bounds.stress, "eV/A^3")


def _slope(energy: Callable[[float], float], step: float) -> float:
    """Derivative at 0 by central differences of fourth order."""
    near, far = energy(step) - energy(-step), energy(2 * step) - energy(-2 * step)
    return (8 * near - far) / (12 * step)


def _error(energy: Callable[[float], float], steps: Sequence[float], expected: float, volume: float = 1.0) -> float:
    """Of a derivative by differences with one of several steps, the one that finds least.

    A wrong derivative is wrong with all of them, a kink of the second one (where charges end to act) only with those
    that reach it.
    """
    return min((_slope(energy, step) / volume - expected for step in steps), key=abs)


def _derivatives(potential: Potential, atoms: Atoms, bounds: Bounds, rng: np.random.Generator) -> Iterator[Check]:
    answer = potential(atoms)
    # Large forces change soon, and stand out of rounding.
    steps = [step / max(1.0, float(np.linalg.norm(answer.forces))) for step in bounds.steps]
    errors = []
    for _ in range(DIRECTIONS):
        direction = rng.normal(size=atoms.positions.shape)

        def along(size: float, direction: np.ndarray = direction) -> float:
            moved = atoms.copy()
            moved.positions += size * direction
            return potential(moved).energy

        errors.append(_error(along, steps, -np.sum(answer.forces * direction)))
    yield _derivative_check("force = -dE/dx", errors, "forces", answer.forces, bounds.forces, bounds.derivative)
    if answer.stress is None:
        yield not_made("stress = dE/dstrain / V", "the structure is not periodic in three directions")
        return
    errors, volume = [], atoms.cell.volume
    for _ in range(DIRECTIONS):
        strain = rng.normal(size=(3, 3))
        strain = 0.5 * (strain + strain.T)

        def under(step: float, strain: np.ndarray = strain) -> float:
            return potential(_strained(atoms, step * strain)).energy

        errors.append(_error(under, [0.1 * step for step in bounds.steps], np.sum(answer.stress * strain), volume))
    yield _derivative_check(
        "stress = dE/dstrain / V", errors, "stress", answer.stress, bounds.stress, bounds.derivative
    )


def _derivative_check(
    name: str, errors: list[float], what: str, values: np.ndarray, rounding: float, bound: float
) -> Check:
    """The largest error relative to the norm of the values, unless rounding alone may break the bound."""
    norm = float(np.linalg.norm(values))
    if norm < rounding / bound:
        return not_made(name, f"{what} too small, {norm:.1e}: give another structure")
    worst = _largest(np.array(errors)) / norm if math.isfinite(norm) else math.inf
    return Check(name, worst, bound, f"of the {what}' norm")


def _cutoff(potential: Potential, bounds: Bounds) -> Iterator[Check]:
    """Four atoms, one of which leaves the cutoff of another: nothing may jump. Their electrons can be paired."""
    worst = 0.0
    for first, second in combinations_with_replacement(potential.elements, 2):
        bond = covalent_radii[[atomic_numbers[first], atomic_numbers[second]]].sum()
        answers = []
        for side in (-CUTOFF_STEP, CUTOFF_STEP):
            places = [[0, 0, 0], [potential.cutoff + side, 0, 0], [0.5, bond, 0.3], [0.5, -bond, 0.3]]
            answers.append(potential(Atoms([first, second, second, first], places)))
        worst = max(worst, _largest(answers[1].forces - answers[0].forces))
    yield Check("force step at the cutoff", worst, bounds.cutoff, "eV/A")


def _crystals(potential: Potential, bounds: Bounds) -> Iterator[Check]:
    forces, shear, why = 0.0, 0.0, ""
    made = 0
    for first, second in combinations_with_replacement(potential.elements, 2):
        try:
            answer = _far_away(potential, perfect_crystal(first, second))
        except BaselineError as error:  # fixed charges, of which such a crystal is not neutral
            why = str(error)
            continue
        made += 1
        forces = max(forces, _largest(answer.forces))
        assert answer.stress is not None  # of a crystal
        shear = max(shear, _largest(answer.stress - np.eye(3) * answer.stress.trace() / 3))
    names = "forces in perfect crystals", "shear stress in perfect crystals"
    if not made:
        yield from (not_made(name, why) for name in names)
        return
    yield Check(names[0], forces, bounds.forces, "eV/A")
    yield Check(names[1], shear, bounds.stress, "eV/A^3")


def _abnormal_forces(potential: Potential, atoms: Atoms, rng: np.random.Generator) -> Iterator[Check]:
    cell, positions = atoms.cell.array, atoms.positions
    first, second, shifts = directed_pairs(positions, cell, atoms.pbc, STIFF)
    distances = np.linalg.norm(positions[second] - positions[first] + shifts @ cell, axis=1)
    shortest, largest = np.full((len(atoms), 1), STIFF), 0.0
    np.minimum.at(shortest[:, 0], first, distances)
    for shake in SHAKES:
        for scale in (1.0, SQUEEZE):
            moved = _strained(atoms, (scale - 1) * np.eye(3))
            moved.positions += shortest / STIFF * rng.normal(0, shake, moved.positions.shape)
            largest = max(largest, _largest(_far_away(potential, moved).forces))
    yield Check("largest force, shaken and squeezed", largest, LARGE_FORCE, "eV/A")


def _dynamics(potential: Potential, atoms: Atoms, steps: int, rng: np.random.Generator) -> Iterator[Check]:
    names = "NVE drift", "largest force in NVE"
    if steps < 10 or len(atoms) < 2:
        why = "fewer than 10 steps wanted" if steps < 10 else "a single atom"
        yield from (not_made(name, why) for name in names)
        return
    moving = atoms.copy()
    moving.calc = PotentialCalculator(potential)
    # Half of the kinetic energy of a perfect crystal goes into its vibrations.
    spread = np.sqrt(2 * TEMPERATURE * units.kB * moving.get_masses())
    moving.set_momenta(spread[:, None] * rng.normal(size=moving.positions.shape))
    Stationary(moving)
    step = TIME_STEP * (0.5 if 1 in atoms.numbers else 1.0)
    dynamics = VelocityVerlet(moving, timestep=step * units.fs)
    energies, largest = [], 0.0
    for _ in range(steps):
        try:
            dynamics.run(1)
            energies.append(moving.get_total_energy())
            largest = max(largest, _largest(moving.get_forces()))
        except StructureError:  # a bundle refuses it
            largest = math.inf
        if not math.isfinite(largest) or not math.isfinite(energies[-1]):
            break
    if math.isfinite(largest) and math.isfinite(energies[-1]):
        drift = 1000 * abs(energy_drift(1e-3 * step * np.arange(len(energies)), np.array(energies), len(atoms)))
    else:
        drift = math.inf
    yield Check(names[0], drift, DRIFT, f"meV/atom/ps, {steps} steps of {step:g} fs")
    yield Check(names[1], largest, LARGE_FORCE, "eV/A")
