"""Neighbour tables: for each atom a row of its neighbours within the cutoff and the cells they lie in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms
from matscipy.neighbours import neighbour_list

from so3krates.lattice import compact_cell

# Rows are padded to multiples of this, so that frames of one material share a width.
WIDTH_STEP = 8


class NeighbourTable(NamedTuple):
    """Row i lists j with vector r_j - r_i + shift @ cell; both directions of every pair are there."""

    neighbours: np.ndarray  # (n, K) int32; slots beyond the count hold the row itself
    shifts: np.ndarray  # (n, K, 3) int16 whole numbers of lattice vectors
    counts: np.ndarray  # (n,) int32 slots in use
    pairs: np.ndarray  # (n, K) int32 number p of the unordered pair, ~p in the later of its two slots

    @property
    def used(self) -> np.ndarray:
        """Slots in use, (n, K) bool."""
        return np.arange(self.neighbours.shape[1]) < self.counts[:, None]


def near_pairs(atoms: Atoms, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs i, j (E,) within `reach` (A) in both directions, and their distances (E,) in A."""
    cell, _ = compact_cell(atoms.cell.array, atoms.pbc)
    found = neighbour_list("ijd", positions=atoms.positions, cell=cell, pbc=atoms.pbc, cutoff=reach)
    return found[0], found[1], found[2]


def directed_pairs(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs i, j (E,) within `cutoff` (A) in both directions, with the shifts (E, 3) of j in lattice vectors.

    `positions` (n, 3) in A, `cell` (3, 3) with lattice vectors as rows, `pbc` (3,); vectors of directions that
    are not periodic may be zero, and no pair is shifted along them.
    """
    pbc = np.asarray(pbc, bool)
    # The list needs an invertible cell: added vectors belong to open directions.
    short, made_by = compact_cell(cell, pbc)
    i, j, shift = neighbour_list("ijS", positions=np.asarray(positions), cell=short, pbc=pbc, cutoff=cutoff)
    shift = shift @ made_by
    # Before matscipy 1.3 an atom beyond the cell of an open direction was shifted along it, in one direction of a pair.
    shift[:, ~pbc] = 0
    return i, j, shift


def neighbour_table(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> NeighbourTable:
    """Full table within `cutoff` (A), an atom's own images included.

    `positions` (n, 3) in A, `cell` (3, 3) with lattice vectors as rows, `pbc` (3,). Cells may be smaller than
    the cutoff; vectors of directions that are not periodic may be zero. K is at least WIDTH_STEP.
    """
    n = len(positions)
    centre, other, offset = directed_pairs(positions, cell, pbc, cutoff)
    order = np.lexsort((*offset.T, other, centre))
    centre, other, offset = centre[order], other[order], offset[order]
    counts = np.bincount(centre, minlength=n).astype(np.int32)
    width = round_up(int(counts.max(initial=1)), WIDTH_STEP)
    slot = np.arange(len(centre)) - np.repeat(np.cumsum(counts) - counts, counts)
    neighbours = np.repeat(np.arange(n, dtype=np.int32)[:, None], width, axis=1)
    shifts = np.zeros((n, width, 3), np.int16)
    neighbours[centre, slot] = other
    shifts[centre, slot] = offset
    pairs = np.zeros((n, width), np.int32)
    pairs[centre, slot] = _pair_numbers(centre, other, offset)
    return NeighbourTable(neighbours, shifts, counts, pairs)


def _pair_numbers(centre: np.ndarray, other: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Number of the pair of each directed edge, in the order in which they come first; ~number where they come again.

    Edges (E,), (E,), (E, 3) are sorted by centre, other and offset, and both directions are there.
    """
    # Turned round and sorted again, the edges come in the order of their partners.
    partner = np.lexsort((*-offset.T, centre, other))
    edges = np.arange(len(centre))
    is_first = edges < partner
    numbers = np.empty(len(centre), np.int32)
    numbers[is_first] = np.arange(np.count_nonzero(is_first))
    numbers[~is_first] = ~numbers[partner[~is_first]]
    return numbers


def round_up(value: int, step: int) -> int:
    """The smallest multiple of `step` that is not below `value`."""
    return -(-value // step) * step
