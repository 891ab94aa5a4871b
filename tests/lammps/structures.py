"""Structures for the tests: one for every kind of box that LAMMPS knows."""

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from decks import in_lammps_frame

KINDS = ("crystal", "orthorhombic", "triclinic", "tiny", "cluster", "slab", "wire")


def structure(kind: str, gan_cell: Atoms) -> Atoms:
    """A displaced GaN structure: periodic, sheared, smaller than the cutoff, or open along some axes."""
    random = np.random.default_rng(KINDS.index(kind))
    if kind == "tiny":
        atoms = gan_cell.copy()
    elif kind == "orthorhombic":
        atoms = make_supercell(gan_cell, [[3, 0, 0], [1, 2, 0], [0, 0, 2]])
    elif kind in ("crystal", "triclinic"):
        atoms = gan_cell.repeat((3, 3, 2) if kind == "crystal" else (2, 2, 2))
    else:
        atoms = gan_cell.repeat((3, 3, 2))
        atoms.wrap()
    if kind == "triclinic":
        strain = np.eye(3) + random.uniform(-0.05, 0.05, (3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms = in_lammps_frame(atoms)
    if kind in ("cluster", "slab", "wire"):
        # Only boxes with right angles can be open along an axis.
        height = np.diag(atoms.cell.array)
        open_axes = {"cluster": (0, 1, 2), "slab": (2,), "wire": (0, 1)}[kind]
        if kind == "slab":
            height = height + np.array([0, 0, 12])
            atoms.set_cell(np.diag(height) + np.tril(atoms.cell.array, -1))
            atoms.positions[:, 2] += 6.0
        else:
            atoms.positions -= atoms.positions.min(axis=0)
            height = np.where([axis in open_axes for axis in range(3)], atoms.positions.max(axis=0) + 12, height)
            atoms.set_cell(np.diag(height))
            atoms.positions += np.where([axis in open_axes for axis in range(3)], 6.0, 0.0)
        atoms.pbc = [axis not in open_axes for axis in range(3)]
    atoms.positions += random.normal(0.0, 0.08, atoms.positions.shape)
    return atoms


def two_clusters(cell: Atoms) -> Atoms:
    """Two clusters of 72 atoms in a long open box, far from each other."""
    one = cell.repeat((3, 3, 2))
    one.wrap()
    one.positions -= one.positions.min(axis=0) - 6.0
    one.positions += np.random.default_rng(1).normal(0.0, 0.03, one.positions.shape)
    two = one.copy()
    two.positions[:, 0] += 30.0
    atoms = one + two
    atoms.set_cell([60, 20, 21])
    atoms.pbc = False
    return atoms
