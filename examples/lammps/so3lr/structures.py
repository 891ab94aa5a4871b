"""Structures for the decks beside it: python structures.py water.data urea.data chloride.data, or some of them."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.io import write
from ase.spacegroup import crystal
from scipy.spatial.transform import Rotation

DENSITY = 0.997  # g/cm^3, of water at 298 K
SEED = 0
ELEMENTS = {"water": ("O", "H"), "urea": ("C", "H", "N", "O"), "chloride": ("O", "H", "Cl")}  # types 1, 2, ...


def water(edge: int) -> Atoms:
    """edge^3 molecules on a cubic lattice, turned at random."""
    one = molecule("H2O")
    one.positions -= one.get_center_of_mass()
    spacing = (one.get_masses().sum() * units._amu * 1e3 / DENSITY) ** (1 / 3) * 1e8  # A
    turns = Rotation.random(edge**3, random_state=SEED)
    box = Atoms(cell=3 * [edge * spacing], pbc=True)
    for turn, site in zip(turns, np.ndindex(edge, edge, edge), strict=True):
        turned = one.copy()
        turned.positions = turn.apply(one.positions) + spacing * (np.array(site) + 0.5)
        box += turned
    return box


def urea(repeats: tuple[int, int, int]) -> Atoms:
    """The crystal at 12 K by neutrons: Swaminathan, Craven, McMullan, Acta Cryst. B 40, 300 (1984)."""
    cell = crystal(
        ("C", "O", "N", "H", "H"),
        basis=[
            (0.0, 0.5, 0.3260),
            (0.0, 0.5, 0.5953),
            (0.1459, 0.6459, 0.1766),
            (0.2575, 0.7575, 0.2827),
            (0.1441, 0.6441, -0.0380),
        ],
        spacegroup=113,
        cellpar=[5.565, 5.565, 4.684, 90, 90, 90],
    )
    return cell.repeat(repeats)


def chloride(edge: int) -> Atoms:
    """Water with one molecule replaced by Cl, which the deck's potential knows to be an ion."""
    box = water(edge)
    place = box.positions[0].copy()
    del box[:3]
    return box + Atoms("Cl", [place])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="water.data, urea.data, chloride.data")
    parser.add_argument("--edge", type=int, default=5, help="molecules of water along an edge of the box")
    parser.add_argument("--repeats", type=int, default=3, help="cells of urea along each axis")
    arguments = parser.parse_args()
    made = {
        "water": lambda: water(arguments.edge),
        "urea": lambda: urea(3 * (arguments.repeats,)),
        "chloride": lambda: chloride(arguments.edge),
    }
    for path in arguments.files:
        if path.stem not in made:
            parser.error(f"{path}: the structures are {', '.join(made)}")
        atoms = made[path.stem]()
        write(path, atoms, format="lammps-data", specorder=ELEMENTS[path.stem], masses=True, atom_style="atomic")
        print(f"{path}: {len(atoms)} atoms, box {' x '.join(f'{x:.2f}' for x in atoms.cell.lengths())} A")


if __name__ == "__main__":
    main()
