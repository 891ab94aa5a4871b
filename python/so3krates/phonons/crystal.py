"""The crystal at rest, and the cells that are made of it."""

from __future__ import annotations

import dataclasses

import numpy as np
from ase import Atoms, units
from matscipy.neighbours import neighbour_list

from so3krates.checks import Potential, PotentialCalculator
from so3krates.physics import relaxed_crystal, require_crystal
from so3krates.wording import counted

from .packages import PhononsError

# eV/A that a relaxation leaves: symmetry averages out the rounding of float32.
FORCE = {"float64": 1e-5, "float32": 1e-4, "tf32": 1e-3}
RESIDUAL = 0.01  # eV/A above which a crystal is not at rest
PRESSURE = 0.1  # GPa above which a stress is said
# Widths of supercells in cutoffs. Second derivatives reach further than one, as messages are passed on; where they are
# cut off, a crystal that is turned has forces, and sound is wrong.
WIDE, NARROW = 6, 2
MOST_ATOMS = {"float64": 800, "float32": 3000, "tf32": 3000}  # of the wide one
SYMPREC = 1e-5  # A, of the space group


@dataclasses.dataclass(frozen=True)
class Rest:
    """A crystal and what still acts on it."""

    crystal: Atoms  # without calculator
    energy: float  # eV, of the cell
    force: float  # eV/A, the largest
    stress: np.ndarray  # (6,) GPa, xx yy zz yz xz xy
    space_group: str
    warnings: tuple[str, ...]


def at_rest(potential: Potential, crystal: Atoms, relax: bool = True, volume: bool = True) -> Rest:
    """The crystal, relaxed with its space group kept, or as it is given.

    volume: whether a relaxation may change it. Raises PhysicsError for a crystal that the potential does not hold or
    know, PhononsError for one with forces on its atoms.
    """
    import spglib

    require_crystal(potential, crystal)
    if relax:
        atoms = relaxed_crystal(potential, crystal, FORCE[potential.precision], symmetric=True, volume=volume)
    else:
        atoms = crystal.copy()
        atoms.set_constraint()
        atoms.calc = PotentialCalculator(potential)
    if not len(neighbour_list("i", atoms, potential.cutoff)):
        raise PhononsError(f"no atom of the crystal is within {potential.cutoff:g} A of another: give a denser one")
    forces, stress = atoms.get_forces(), atoms.get_stress() / units.GPa
    lengths = np.linalg.norm(forces, axis=1)
    worst = int(lengths.argmax())
    if not lengths[worst] <= RESIDUAL:
        advice = "relax it by another potential first" if relax else "leave out --no-relax"
        raise PhononsError(
            f"the crystal is not at rest: the force on atom {worst} ({atoms.symbols[worst]}) is {lengths[worst]:.3g} "
            f"eV/A, more than {RESIDUAL:g}: {advice}"
        )
    warnings = []
    if volume and (pressure := float(np.abs(stress).max())) > PRESSURE:
        warnings.append(
            f"the crystal is under stress, up to {pressure:.2f} GPa: its phonons are those under this stress"
        )
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    group = spglib.get_spacegroup(cell, symprec=SYMPREC) or "not found"
    rest = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True, masses=crystal.get_masses())
    return Rest(rest, atoms.get_potential_energy(), float(lengths[worst]), stress, group, tuple(warnings))


def widths(cell: np.ndarray) -> np.ndarray:
    """Distances (3,) of the opposite faces of a cell, A."""
    return 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)


def repeats_for(crystal: Atoms, width: float, most: int | None = None) -> tuple[int, int, int]:
    """The least repeats of a cell that make it so wide (A) in each direction, or nearly so with `most` atoms."""
    while True:
        a, b, c = (max(1, int(n)) for n in np.ceil(width / widths(crystal.cell.array) - 1e-6))
        if most is None or a * b * c == 1 or len(crystal) * a * b * c <= most:
            return a, b, c
        width *= 0.99


def about_supercell(crystal: Atoms, repeats: tuple[int, int, int], cutoff: float, option: str) -> list[str]:
    """What is to be said of a supercell that is too small, and was given by `option`."""
    width = float((widths(crystal.cell.array) * repeats).min())
    if width >= 2 * cutoff:
        return []
    wanted = ",".join(map(str, repeats_for(crystal, 2 * cutoff)))
    atoms = counted(len(crystal) * int(np.prod(repeats)), "atom")
    return [
        f"the supercell of {atoms} is {width:.2f} A wide, less than twice the cutoff of {cutoff:g} A: an atom feels "
        f"its neighbour's image too; give {option} {wanted}"
    ]
