"""Lattice dynamics of a potential's crystals, by phonopy and phono3py (docs/phonons.md)."""

from .packages import PhononsError, require_packages
from .report import Phonons, write_phonons
from .run import ConductivitySettings, find_phonons

__all__ = [
    "ConductivitySettings",
    "Phonons",
    "PhononsError",
    "find_phonons",
    "require_packages",
    "write_phonons",
]
