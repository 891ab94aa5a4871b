"""Cells as lists of neighbours want them: of short vectors, and not collapsed."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell, minkowski_reduce

# Of the volume by the product of the edges: cells below it have so many images at hand that lists take minutes.
SKEWED = 0.1
COLLAPSED = 0.1  # A, between an atom and its own image


def compact_cell(cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Short vectors (3, 3) of the lattice of a cell (A), and the whole numbers T (3, 3) that make them: T @ cell.

    Vectors of directions that are not periodic are completed, and stay. A cell that is hardly skewed stays as it is.
    """
    pbc = np.asarray(pbc, bool)
    whole = complete_cell(np.where(pbc[:, None], cell, 0.0))
    if abs(np.linalg.det(whole)) >= SKEWED * np.linalg.norm(whole, axis=1).prod():
        return whole, np.eye(3, dtype=int)
    return minkowski_reduce(whole, pbc)


def collapsed(atoms: Atoms) -> str:
    """What to say of a cell in which atoms meet their own images, whose lists have no end; else empty."""
    if not atoms.pbc.any():
        return ""
    shortest = float(np.linalg.norm(compact_cell(atoms.cell.array, atoms.pbc)[0][atoms.pbc], axis=1).min())
    if shortest >= COLLAPSED:
        return ""
    return f"every atom is {shortest:.3g} A from its own image: look at the cell and its unit"
