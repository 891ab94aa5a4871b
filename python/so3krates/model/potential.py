"""Energy, forces and strain gradient of batches of structures by automatic differentiation (docs/model.md)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .config import ModelConfig
from .network import Graph, Params, atom_energies


class Pairs(NamedTuple):
    """Unordered pairs of atoms within the cutoff; P of them, of which the first `used` are in use."""

    used: jax.Array  # () int32
    ends: jax.Array  # (2, P) int32 rows i and j of the two atoms; 0 beyond `used`
    slots: jax.Array  # (N, K) int32: i <- j of pair p is p, j <- i is P + p; 2P where a row has no more neighbours
    shifts: jax.Array  # (P, 3) whole numbers of lattice vectors between i and j, as floats


class LongPairs(NamedTuple):
    """Unordered pairs of atoms within the longest cutoff, images included; P of them, of which `used` are in use."""

    ends: jax.Array  # (2, P) rows i and j; 0 beyond `used`
    shifts: jax.Array  # (P, 3) whole numbers of lattice vectors of j, as floats
    used: jax.Array  # ()


class BatchSystem(NamedTuple):
    """What a network that predicts charges reads of structures beside their atoms."""

    charges: jax.Array  # (S,) total charge, e
    unpaired: jax.Array  # (S,) unpaired electrons, multiplicity - 1
    long_pairs: LongPairs


class Batch(NamedTuple):
    """Several structures as one graph of N atoms, by rows and by pairs; lengths in A."""

    species: jax.Array  # (N,) atomic numbers, 0 for padding
    positions: jax.Array  # (N, 3)
    cells: jax.Array  # (S, 3, 3) rows are lattice vectors
    structure: jax.Array  # (N,) structure of each atom
    neighbours: jax.Array  # (N, K) rows; unused slots hold the row itself
    shifts: jax.Array  # (N, K, 3) whole numbers of lattice vectors, as floats
    mask: jax.Array  # (N, K) slots in use
    atom_mask: jax.Array  # (N,) real atoms
    pairs: Pairs | None = None  # what `so3krates.training` reads instead of the rows
    system: BatchSystem | None = None  # where the network predicts charges


class Prediction(NamedTuple):
    """What a potential says of a batch; energies without shifts."""

    energies: jax.Array  # (S,) eV
    forces: jax.Array  # (N, 3) eV/A
    strain_gradients: jax.Array  # (S, 3, 3) dE/d(strain) in eV, symmetric; stress = this / volume (ASE sign)
    atom_energies: jax.Array  # (N,) eV
    charges: jax.Array | None = None  # (N,) e, of a network that predicts them
    dipoles: jax.Array | None = None  # (S, 3) e A, sums of charge times position; of no meaning in periodic cells
    ratios: jax.Array | None = None  # (N,) Hirshfeld's, of the same networks: volumes over those of free atoms


def edge_vectors(batch: Batch, positions: jax.Array, cells: jax.Array) -> jax.Array:
    """Neighbours minus centres, (N, K, 3) in A."""
    shifts = jnp.einsum("nkc,ncb->nkb", batch.shifts, cells[batch.structure])
    return positions[batch.neighbours] - positions[:, None] + shifts


def predict(config: ModelConfig, params: Params, batch: Batch) -> Prediction:
    """Energies, forces and strain gradients in the precision of `batch.positions` and `params`.

    Strain acts on positions and cell alike: r_a <- r_a + e_ab r_b with the symmetric part of e.
    """
    structures = batch.cells.shape[0]

    def total(positions: jax.Array, strain: jax.Array) -> tuple[jax.Array, jax.Array]:
        symmetric = 0.5 * (strain + jnp.swapaxes(strain, -1, -2))
        deform = jnp.eye(3, dtype=positions.dtype) + symmetric
        positions = jnp.einsum("nab,nb->na", deform[batch.structure], positions)
        cells = jnp.einsum("sab,scb->sca", deform, batch.cells)
        vectors = edge_vectors(batch, positions, cells)
        graph = Graph(batch.species, batch.neighbours, vectors, batch.mask)
        energies = jnp.where(batch.atom_mask, atom_energies(config, params, graph), 0.0)
        return energies.sum(), energies

    strain = jnp.zeros((structures, 3, 3), batch.positions.dtype)
    (_, energies), (dpositions, dstrain) = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(
        batch.positions, strain
    )
    return Prediction(
        energies=jax.ops.segment_sum(energies, batch.structure, structures),
        forces=-dpositions,
        strain_gradients=dstrain,
        atom_energies=energies,
    )
