"""Structures as arrays for the network, without the package's own neighbour lists."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.neighborlist import primitive_neighbor_list
from so3krates.model import Batch
from so3krates_export.ladder import Rung


def batch_of(atoms: Atoms, cutoff: float, dtype: str = "float64") -> Batch:
    """One structure as a batch; neighbours by ASE."""
    i, j, shifts = primitive_neighbor_list("ijS", atoms.pbc, atoms.cell.array, atoms.positions, cutoff)
    n = len(atoms)
    counts = np.bincount(i, minlength=n)
    width = 16 * (1 + counts.max() // 16)  # the same shape for slightly different structures
    slot = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    neighbours = np.tile(np.arange(n, dtype=np.int32)[:, None], (1, width))
    table_shifts = np.zeros((n, width, 3))
    mask = np.zeros((n, width), bool)
    neighbours[i, slot], table_shifts[i, slot], mask[i, slot] = j, shifts, True
    return Batch(
        species=jnp.asarray(atoms.numbers, jnp.int32),
        positions=jnp.asarray(atoms.positions, dtype),
        cells=jnp.asarray(atoms.cell.array[None], dtype),
        structure=jnp.zeros(n, jnp.int32),
        neighbours=jnp.asarray(neighbours),
        shifts=jnp.asarray(table_shifts, dtype),
        mask=jnp.asarray(mask),
        atom_mask=jnp.ones(n, bool),
    )


def host_inputs(atoms: Atoms, elements: list[str], reach: float, rung: Rung) -> dict[str, np.ndarray]:
    """The inputs of the stages for one structure, images as atoms of their own; arrays padded to the rung."""
    i, j, shifts = primitive_neighbor_list("ijS", atoms.pbc, atoms.cell.array, atoms.positions, reach)
    n = len(atoms)
    positions, row_of_atom = list(atoms.positions), list(range(n))
    images: dict[tuple[int, ...], int] = {}
    lists: list[list[int]] = [[] for _ in range(n)]
    for centre, other, shift in zip(i, j, shifts, strict=True):
        key = (int(other), *map(int, shift))
        if not any(key[1:]):
            images[key] = int(other)
        elif key not in images:
            images[key] = len(positions)
            positions.append(atoms.positions[other] + shift @ atoms.cell.array)
            row_of_atom.append(int(other))
        lists[centre].append(images[key])
    rows = rung.rows
    candidates = np.zeros((rows, rung.candidates), np.int32)
    for row, entries in enumerate(lists):
        candidates[row, : len(entries)] = entries
    count = np.zeros(rows, np.int32)
    count[:n] = [len(entries) for entries in lists]
    species = np.zeros(rows, np.int32)
    species[:n] = [elements.index(s) for s in atoms.get_chemical_symbols()]
    atom_of_row = np.zeros(rows, np.int32)
    atom_of_row[:n] = np.arange(n)
    return {
        "positions": np.pad(np.array(positions), ((0, rung.atoms - len(positions)), (0, 0))),
        "row_of_atom": np.pad(np.array(row_of_atom, np.int32), (0, rung.atoms - len(row_of_atom))),
        "atom_of_row": atom_of_row,
        "species": species,
        "candidate_count": count,
        "candidates": candidates,
        "owned_count": np.int32(n),
        "row_count": np.int32(n),
    }
