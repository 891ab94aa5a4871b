"""Crystals of the elements of a potential, for want of a better structure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii, reference_states

from so3krates.total_charge import with_lowest_multiplicity

SHORTEST_BOND = 1.5  # A; with the covalent radii of hydrogen a crystal would be denser than any matter


def default_structure(elements: Sequence[str]) -> Atoms:
    """A crystal of 32 to 64 atoms of the first one or two elements."""
    crystal = perfect_crystal(elements[0], elements[min(1, len(elements) - 1)]) * (2, 2, 2)
    return with_lowest_multiplicity(crystal)


def perfect_crystal(first: str, second: str) -> Atoms:
    """The cubic cell of an element as it is found, or zincblende of two; forces and shear stress are zero in it."""
    z = atomic_numbers[first]
    state = reference_states[z]
    if first == second and state is not None and state["symmetry"] in ("fcc", "bcc", "diamond"):
        return with_lowest_multiplicity(bulk(first, cubic=True))
    bond = max(SHORTEST_BOND, covalent_radii[z] + covalent_radii[atomic_numbers[second]])
    crystal = bulk("ZnS", "zincblende", a=4 / math.sqrt(3) * bond, cubic=True)
    crystal.symbols = [first if symbol == "Zn" else second for symbol in crystal.symbols]
    return with_lowest_multiplicity(crystal)
