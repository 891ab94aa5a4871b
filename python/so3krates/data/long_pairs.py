"""Pairs of atoms for interactions of long range, each of them once."""

from __future__ import annotations

import numpy as np

from .neighbours import directed_pairs


def unordered_pairs(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs within `cutoff` (A), images included: ends (2, P) and the shifts (P, 3) of the second in lattice vectors.

    A cutoff of 0 has none. `positions` (n, 3) in A, `cell` (3, 3) with lattice vectors as rows, `pbc` (3,). An atom and
    an image of itself are a pair, once for an image and its opposite.
    """
    if cutoff <= 0:
        return np.zeros((2, 0), int), np.zeros((0, 3), int)
    first, second, shifts = directed_pairs(positions, cell, pbc, cutoff)
    x, y, z = shifts.T
    is_forward = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    kept = (first < second) | ((first == second) & is_forward)
    return np.stack([first[kept], second[kept]]), shifts[kept]
