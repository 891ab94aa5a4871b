"""phonopy and phono3py, which do the lattice dynamics: whether they are there, and structures in their form."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from so3krates.hints import pip_install

if TYPE_CHECKING:
    from phonopy.structure.atoms import PhonopyAtoms

PACKAGES = ("phonopy", "phono3py", "seekpath", "spglib")


class PhononsError(ValueError):
    """A crystal or a setting that no lattice dynamics can be done with; the message says what to give instead."""


def require_packages() -> None:
    """Raises PhononsError that says how the packages are installed, where one is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PhononsError(
            f"lattice dynamics needs phonopy and phono3py, and {', '.join(missing)} is not installed: "
            f"{pip_install('so3krates[phonons]')}"
        )


def to_phonopy(atoms: Atoms) -> PhonopyAtoms:
    """A structure with its masses; periodic in three directions."""
    from phonopy.structure.atoms import PhonopyAtoms

    return PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(wrap=False),
        masses=atoms.get_masses(),
    )


def to_ase(atoms: Any) -> Atoms:
    """The way back."""
    return Atoms(atoms.symbols, cell=np.asarray(atoms.cell), positions=np.asarray(atoms.positions), pbc=True)
