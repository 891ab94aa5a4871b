"""Clusters of water with charges and dipoles by SO3LR, for the example of docs/charges.md: water.py FOLDER"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from so3krates.calculator import So3kratesCalculator

MOLECULES = 3
WIDTH = 9.0  # A, of the cube of their oxygens
NEAREST = (1.8, 4.5)  # A, between atoms of different molecules
RATTLE = 0.002  # A, of the atoms: molecules are all but rigid


def cluster(random: np.random.Generator) -> Atoms:
    """Molecules at random places and in random orientations, drawn until they are neither too near nor too far."""
    owners = np.repeat(np.arange(MOLECULES), 3)
    while True:
        atoms = Atoms()
        for _ in range(MOLECULES):
            one = molecule("H2O")
            one.rotate(random.uniform(0, 360), random.normal(size=3))
            one.translate(random.uniform(-WIDTH / 2, WIDTH / 2, 3))
            atoms += one
        others = atoms.get_all_distances()[owners[:, None] != owners]
        if NEAREST[0] < others.min() < NEAREST[1]:
            atoms.rattle(RATTLE, rng=random)
            return atoms


def labelled(atoms: Atoms, calculator: So3kratesCalculator) -> Atoms:
    """With energy, forces, charges and dipole."""
    atoms.calc = calculator
    charges, dipole = atoms.get_charges(), atoms.get_dipole_moment()
    found = calculator.results
    atoms.calc = SinglePointCalculator(
        atoms, energy=found["energy"], forces=found["forces"], charges=charges, dipole=dipole
    )
    return atoms


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where train.extxyz and valid.extxyz are written")
    parser.add_argument("--train", type=int, default=300, help="clusters that train")
    parser.add_argument("--valid", type=int, default=100, help="clusters that validate")
    arguments = parser.parse_args()
    generator, calculator = np.random.default_rng(0), So3kratesCalculator("so3lr")
    frames = [labelled(cluster(generator), calculator) for _ in range(arguments.train + arguments.valid)]
    for name, part in (("train", frames[: arguments.train]), ("valid", frames[arguments.train :])):
        write(arguments.folder / f"{name}.extxyz", part, format="extxyz")
