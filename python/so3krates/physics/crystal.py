"""What a potential says of a crystal, to be compared with experiment or with its own method: equation of state, elastic
constants, a vacancy, phonons at Gamma, and the curves of all pairs of atoms (`so3krates physics`, docs/physics.md)."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.eos import EquationOfState
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS
from matscipy.elasticity import fit_elastic_constants
from matscipy.neighbours import neighbour_list

from so3krates.baselines import BaselineError
from so3krates.checks import Potential, PotentialCalculator
from so3krates.progress import Callback
from so3krates.sampling.crystals import exact_enough
from so3krates.sampling.harmonic import force_constants

FORCE = {"float64": 1e-4, "float32": 1e-3, "tf32": 1e-2}  # eV/A, that a relaxed structure has at most
STEPS = 500  # of a relaxation
VOLUMES = np.linspace(0.94, 1.06, 9)  # of the relaxed crystal's
STRAIN, STRAINS = 0.002, 5  # step of a strain, and how many of each
VACANCY_WIDTH, MOST_ATOMS = 9.0, 300  # A between a vacancy and its image at least, where so many atoms suffice
NEAREST, SPACING = 0.5, 0.02  # A, of the curves of pairs
FALL = 0.1  # eV by which the energy of a pair must fall towards short distances to be said
IMAGINARY = 0.05  # THz; smaller ones are rounding
TERAHERTZ = math.sqrt(units._e / (units._amu * 1e-20)) / (2 * math.pi) * 1e-12  # of a root of eV/A^2/u


class PhysicsError(ValueError):
    """A crystal that nothing can be said of; the message says what to give instead."""


@dataclasses.dataclass(frozen=True)
class PairCurve:
    """Energy of two atoms alone against their distance, less that of both far apart."""

    distances: np.ndarray  # (n,) A, rising from NEAREST to the cutoff
    energies: np.ndarray  # (n,) eV

    @property
    def well(self) -> tuple[float, float]:
        """Distance (A) and energy (eV) of the lowest point inside of which the energy rises by FALL."""
        place = self._bottom()
        return float(self.distances[place]), float(self.energies[place])

    @property
    def hole(self) -> tuple[float, float] | None:
        """Distance (A) inside of which the energy falls again, and by how much (eV); None where it does not by FALL."""
        inner = self.energies[: self._bottom() + 1]
        summit = int(np.argmax(inner))
        fall = float(inner[summit] - inner[: summit + 1].min())
        return (float(self.distances[summit]), fall) if fall > FALL else None

    def _bottom(self) -> int:
        repelled = np.maximum.accumulate(self.energies) > self.energies + FALL
        return int(np.argmin(np.where(repelled, self.energies, np.inf))) if repelled.any() else len(self.energies) - 1


@dataclasses.dataclass(frozen=True)
class VolumeCurve:
    """Energies of a crystal at several volumes, and what their fit says."""

    volumes: np.ndarray  # A^3/atom
    energies: np.ndarray  # eV/atom
    volume: float  # A^3/atom, of the minimum; nan where there is none
    bulk_modulus: float  # GPa, there
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Physics:
    """Findings for one relaxed crystal; what could not be found is None or not in its table, and is in `warnings`."""

    crystal: Atoms
    energy: float  # eV/atom
    volume: float  # A^3/atom, at the minimum of the equation of state
    bulk_modulus: float  # GPa, likewise; nan where there is no minimum
    curve: tuple[np.ndarray, np.ndarray]  # A^3/atom, eV/atom
    elastic: np.ndarray | None  # (6, 6) GPa, in the order xx yy zz yz xz xy, atoms relaxed
    vacancy: float | None  # eV: of one vacancy of an element, or of one of each atom of a formula unit, far apart
    vacancy_atoms: int  # of the supercell that it was made in
    frequencies: np.ndarray  # (3n,) THz at Gamma, rising, imaginary ones negative
    pairs: dict[str, PairCurve]
    warnings: tuple[str, ...]


def physics_of(potential: Potential, crystal: Atoms, progress: Callback | None = None) -> Physics:
    """All findings for `crystal`, periodic in three directions, relaxed first (cell and atoms).

    Elastic constants by matscipy's fit of stresses, equation of state of Birch and Murnaghan by ASE's, atoms relaxed in
    both; force constants by central differences. Raises PhysicsError for a crystal that the potential does not hold.
    """
    require_crystal(potential, crystal)
    stages = ("relaxation", "equation of state", "elastic constants", "phonons at Gamma", "vacancies", "pairs")

    def at(stage: str) -> None:
        if progress is not None:
            progress(f"physics, {stage}", stages.index(stage), len(stages))

    warnings: list[str] = []
    at("relaxation")
    relaxed = relaxed_crystal(potential, crystal)
    energy = relaxed.get_potential_energy() / len(relaxed)
    at("equation of state")
    state = equation_of_state(potential, relaxed)
    warnings += state.warnings
    at("elastic constants")
    elastic, found = elastic_constants(potential, relaxed)
    warnings += found
    at("phonons at Gamma")
    frequencies = _frequencies(relaxed)
    if (lowest := frequencies[0]) < -IMAGINARY:
        count = int(np.sum(frequencies < -IMAGINARY))
        warnings.append(
            f"{count} of {len(frequencies)} modes at Gamma are imaginary, down to {-lowest:.2f}i THz: the crystal that "
            "was relaxed is none of the potential's; displace its atoms and relax it anew, or train on such structures"
        )
    at("vacancies")
    vacancy, vacancy_atoms = _vacancy(potential, relaxed, warnings)
    at("pairs")
    pairs = {f"{a}-{b}": pair_curve(potential, a, b) for a, b in combinations_with_replacement(potential.elements, 2)}
    warnings += _about_pairs(pairs)
    if progress is not None:
        progress("physics", len(stages), len(stages))
    curve = (state.volumes, state.energies)
    return Physics(
        *(relaxed, energy, state.volume, state.bulk_modulus, curve, elastic),
        *(vacancy, vacancy_atoms, frequencies, pairs, tuple(warnings)),
    )


def pair_curve(potential: Potential, first: str, second: str) -> PairCurve:
    """Two atoms alone, from NEAREST to the cutoff."""
    distances = np.arange(NEAREST, potential.cutoff, SPACING)
    far = sum(potential(Atoms(symbol, [[0, 0, 0]])).energy for symbol in (first, second))
    energies = [potential(Atoms([first, second], [[0, 0, 0], [d, 0, 0]])).energy - far for d in distances]
    return PairCurve(distances, np.array(energies))


def crystal_of(frames: Sequence[Atoms], largest_force: float = 0.5, most_atoms: int = 128) -> Atoms | None:
    """Of labelled frames the periodic one whose largest force (eV/A) is smallest: a crystal to relax, or None.

    None where no frame of at most `most_atoms` atoms has forces below `largest_force`.
    """
    found: list[tuple[float, int, int]] = []
    for number, atoms in enumerate(frames):
        if not atoms.pbc.all() or len(atoms) > most_atoms or atoms.calc is None or "forces" not in atoms.calc.results:
            continue
        force = float(np.linalg.norm(atoms.calc.results["forces"], axis=1).max())
        if force <= largest_force:
            found.append((force, len(atoms), number))
    return frames[min(found)[2]] if found else None


def require_crystal(potential: Potential, crystal: Atoms) -> None:
    """Raises PhysicsError for elements that the potential does not know, and without three periodic directions."""
    unknown = sorted(set(crystal.get_chemical_symbols()) - set(potential.elements))
    if unknown:
        raise PhysicsError(f"the crystal has {', '.join(unknown)}; the potential knows {', '.join(potential.elements)}")
    if not crystal.pbc.all():
        raise PhysicsError("the crystal is not periodic in three directions: give one that is")


def relaxed_crystal(
    potential: Potential, crystal: Atoms, force: float | None = None, symmetric: bool = False, volume: bool = True
) -> Atoms:
    """The crystal with cell and atoms at rest, its calculator the potential's.

    force: eV/A that are left at most; None: FORCE of the potential's precision. symmetric: the space group is that of
    `crystal`, found by spglib within 0.01 A. volume: whether it may change, or only the shape. Raises PhysicsError
    where it does not come to rest, or falls apart.
    """
    atoms = crystal.copy()
    atoms.set_constraint()
    atoms.calc = PotentialCalculator(potential)
    if symmetric:
        from ase.constraints import FixSymmetry

        atoms.set_constraint(FixSymmetry(atoms))
    before = atoms.cell.volume
    at_rest = _relax(FrechetCellFilter(atoms, constant_volume=not volume), potential, force)
    atoms.set_constraint()
    change = atoms.cell.volume / before - 1
    if not at_rest or not math.isfinite(change) or not math.isfinite(atoms.get_potential_energy()):
        raise PhysicsError(
            f"the crystal has not come to rest after {STEPS} steps of relaxation (volume {100 * change:+.1f} %): "
            "give a crystal that is nearer to a minimum of the potential"
        )
    if not len(neighbour_list("i", atoms, potential.cutoff)):
        raise PhysicsError(f"no atom of the crystal is within {potential.cutoff:g} A of another: give a denser one")
    return atoms


def _relax(target: Any, potential: Potential, force: float | None = None) -> bool:
    """Whether atoms, or the filter of a cell, came to rest."""
    try:
        with exact_enough():
            return bool(LBFGS(target, logfile=os.devnull).run(fmax=force or FORCE[potential.precision], steps=STEPS))
    except RuntimeError as error:
        if "deformation gradient step" not in str(error):
            raise
        return False  # a cell that changes by a quarter at once, which FixSymmetry does not follow


def equation_of_state(potential: Potential, relaxed: Atoms) -> VolumeCurve:
    """Of crystals of other volumes and the same shape, atoms at rest; fitted by Birch and Murnaghan's formula."""
    warnings: list[str] = []
    volumes, energies = [], []
    for ratio in VOLUMES:
        atoms = relaxed.copy()
        atoms.set_cell(relaxed.cell.array * ratio ** (1 / 3), scale_atoms=True)
        atoms.calc = PotentialCalculator(potential)
        if not _relax(atoms, potential):
            warnings.append(f"at {100 * ratio:.0f} % of the volume the atoms have not come to rest after {STEPS} steps")
        volumes.append(atoms.cell.volume / len(atoms))
        energies.append(atoms.get_potential_energy() / len(atoms))
    curve = np.array(volumes), np.array(energies)
    return VolumeCurve(*curve, *_minimum(*curve, warnings), tuple(warnings))


def _minimum(volumes: np.ndarray, energies: np.ndarray, warnings: list[str]) -> tuple[float, float]:
    try:
        volume, _, modulus = EquationOfState(volumes, energies, "birchmurnaghan").fit(warn=False)
    except (ValueError, RuntimeError, np.linalg.LinAlgError) as error:
        warnings.append(f"the equation of state could not be fitted: {error}")
        return math.nan, math.nan
    if volumes[0] < volume < volumes[-1]:
        return float(volume), float(modulus / units.GPa)
    warnings.append("the equation of state has no minimum within 6 % of the relaxed volume")
    return math.nan, math.nan


def elastic_constants(potential: Potential, relaxed: Atoms) -> tuple[np.ndarray | None, list[str]]:
    """(6, 6) GPa in the order xx yy zz yz xz xy, atoms at rest, and warnings; None where they are no numbers."""
    atoms = relaxed.copy()
    atoms.calc = PotentialCalculator(potential)
    fitted, _ = fit_elastic_constants(
        atoms,
        symmetry="triclinic",
        N_steps=STRAINS,
        delta=STRAIN,
        optimizer=LBFGS,
        verbose=False,
        graphics=False,
        fmax=FORCE[potential.precision],
        steps=STEPS,
    )
    constants = np.asarray(fitted) / units.GPa
    constants = 0.5 * (constants + constants.T)
    if not np.isfinite(constants).all():
        return None, ["elastic constants are not finite numbers"]
    if (softest := np.linalg.eigvalsh(constants)[0]) <= 0:
        weak = f"the crystal is not stable against strain: the softest elastic modulus is {softest:.3g} GPa"
        return constants, [weak]
    return constants, []


def _frequencies(relaxed: Atoms) -> np.ndarray:
    weights = np.repeat(1 / np.sqrt(relaxed.get_masses()), 3)
    values = np.linalg.eigvalsh(weights[:, None] * force_constants(relaxed, relaxed.calc) * weights[None, :])
    return np.sign(values) * np.sqrt(np.abs(values)) * TERAHERTZ


def _vacancy(potential: Potential, relaxed: Atoms, warnings: list[str]) -> tuple[float | None, int]:
    """Each element's first atom is taken out of a supercell of its own: as many of each as a formula unit has."""
    heights = relaxed.cell.volume / np.linalg.norm(np.cross(relaxed.cell[[1, 2, 0]], relaxed.cell[[2, 0, 1]]), axis=1)
    repeats = np.ceil(VACANCY_WIDTH / heights).astype(int)
    while len(relaxed) * int(np.prod(repeats)) > MOST_ATOMS and repeats.max() > 1:
        repeats[int(np.argmax(repeats * heights))] -= 1
    whole = relaxed.repeat(tuple(int(n) for n in repeats))
    symbols = whole.get_chemical_symbols()
    per_atom = relaxed.get_potential_energy() / len(relaxed)
    formula = {symbol: symbols.count(symbol) for symbol in dict.fromkeys(symbols)}
    divisor = math.gcd(*formula.values())
    energy = 0.0
    for symbol, count in formula.items():
        atoms = whole.copy()
        del atoms[symbols.index(symbol)]
        atoms.calc = PotentialCalculator(potential)
        try:
            is_at_rest = _relax(atoms, potential)
        except BaselineError as error:
            warnings.append(f"no vacancy of {symbol}: {error}")
            return None, len(whole)
        if not is_at_rest:
            warnings.append(f"the vacancy of {symbol} has not come to rest after {STEPS} steps")
            return None, len(whole)
        # Atoms that are taken out of cells far apart make up formula units of the crystal.
        energy += count // divisor * (atoms.get_potential_energy() - per_atom * len(atoms))
    if energy <= 0:
        warnings.append(f"a vacancy costs {energy:.3g} eV: the potential would rather have holes")
    return energy, len(whole)


def _about_pairs(pairs: dict[str, PairCurve]) -> list[str]:
    found = []
    for name, curve in pairs.items():
        bad = ~np.isfinite(curve.energies)
        if bad.any():
            found.append(f"the energy of a pair {name} is no number at {curve.distances[bad][0]:.2f} A")
        elif (hole := curve.hole) is not None:
            found.append(
                f"a pair {name} that is nearer than {hole[0]:.2f} A attracts, by up to {hole[1]:.3g} eV: give the "
                "potential a repulsion ([terms.repulsion] in training, or export --repulsion zbl)"
            )
    return found
