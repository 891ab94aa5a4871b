"""Small networks, and structures as arrays for them without the package's own neighbour lists."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import primitive_neighbor_list
from so3krates.model import Batch, ModelConfig, init_params
from so3krates_export.ladder import Rung

drawn = functools.cache(init_params)
_pairs: dict[tuple[Any, ...], tuple[np.ndarray, ...]] = {}


def pairs_of(atoms: Atoms, reach: float) -> tuple[np.ndarray, ...]:
    """Centres, neighbours and shifts of all pairs within a reach, once for each structure: lists cost half a second."""
    key = (len(atoms), *(a.tobytes() for a in (atoms.pbc, atoms.cell.array, atoms.positions)), reach)
    if len(_pairs) > 100:
        _pairs.clear()
    if key not in _pairs:
        _pairs[key] = primitive_neighbor_list("ijS", atoms.pbc, atoms.cell.array, atoms.positions, reach)
    return _pairs[key]


def params64(config: ModelConfig, scale: float = 1.5) -> dict[str, Any]:
    """Parameters in float64, larger than an initial network's: forces of a size that matters, in every layer."""
    return jax.tree.map(lambda v: jnp.asarray(scale * np.asarray(v, np.float64)), drawn(config, 0))


def rattled_wurtzite(repeats: tuple[int, int, int]) -> Atoms:
    """GaN whose atoms are displaced by 0.1 A (standard deviation of every component)."""
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat(repeats)
    atoms.positions += np.random.default_rng(0).normal(0.0, 0.1, atoms.positions.shape)
    return atoms


def tiny() -> Atoms:
    """Two atoms in a cell much smaller than the cutoff."""
    atoms = bulk("GaN", "zincblende", a=4.5)
    atoms.positions += np.random.default_rng(1).normal(0.0, 0.1, atoms.positions.shape)
    return atoms


def cluster() -> Atoms:
    """Nine atoms without a cell."""
    return Atoms("Ga4N5", positions=np.random.default_rng(2).uniform(0.0, 6.0, (9, 3)))


def batch_of(atoms: Atoms, cutoff: float, dtype: str = "float64") -> Batch:
    """One structure as a batch; neighbours by ASE."""
    i, j, shifts = pairs_of(atoms, cutoff)
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
    i, j, shifts = pairs_of(atoms, reach)
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
        "atom_count": np.int32(len(positions)),
    }
