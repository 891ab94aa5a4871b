"""Energy, forces, strain gradient and properties of one structure with its long-range interactions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .config import So3lrConfig
from .long_range import Interaction, Values
from .network import Graph, Params
from .potential import LongPairs
from .properties import AtomProperties
from .so3lr import atom_outputs
from .system import System


class Structure(NamedTuple):
    """One structure of N atoms, the padding included; lengths in A."""

    numbers: jax.Array  # (N,) atomic numbers, 0 for padding
    species: jax.Array  # (N,) indices of elements, 0 for padding
    positions: jax.Array  # (N, 3)
    cell: jax.Array  # (3, 3) rows are lattice vectors
    neighbours: jax.Array  # (N, K) rows within the network's cutoff
    shifts: jax.Array  # (N, K, 3)
    mask: jax.Array  # (N, K) slots in use
    atom_mask: jax.Array  # (N,) real atoms
    long_pairs: LongPairs
    charge: jax.Array  # () e
    unpaired: jax.Array  # () electrons


class SystemPrediction(NamedTuple):
    """What a potential says of a structure, without shifts and terms of pairs."""

    energies: dict[str, jax.Array]  # () eV, "network" and each interaction by its section
    atom_energies: jax.Array  # (N,) eV, of all of these; each atom has half of a pair's
    forces: jax.Array  # (N, 3) eV/A
    strain_gradient: jax.Array  # (3, 3) dE/d(strain), eV, symmetric
    properties: AtomProperties


@partial(jax.jit, static_argnums=(0, 1))
def predict_system(
    config: So3lrConfig, interactions: Sequence[Interaction], params: Params, structure: Structure
) -> SystemPrediction:
    """In the precision of the positions and `params`; `interactions`: a tuple.

    Strain acts on positions and cell alike: r_a <- r_a + e_ab r_b with the symmetric part of e.
    """
    s = structure

    def total(positions: jax.Array, strain: jax.Array) -> tuple[jax.Array, tuple[Any, ...]]:
        deform = jnp.eye(3, dtype=positions.dtype) + 0.5 * (strain + strain.T)
        positions, cell = positions @ deform.T, s.cell @ deform.T
        vectors = positions[s.neighbours] - positions[:, None] + s.shifts @ cell
        system = System(
            jnp.zeros_like(s.numbers), s.atom_mask.astype(positions.dtype), s.charge[None], s.unpaired[None]
        )
        found = atom_outputs(config, params, Graph(s.numbers, s.neighbours, vectors, s.mask), system)
        atom_energies = jnp.where(s.atom_mask, found.energies, 0.0)
        energies = {"network": atom_energies.sum()}
        for interaction in interactions:
            halves = 0.5 * _pair_energies(interaction, s, positions, cell, found.properties)
            energies[interaction.section] = 2.0 * halves.sum()
            atom_energies = atom_energies.at[s.long_pairs.ends].add(halves)
        return sum(energies.values(), jnp.zeros((), positions.dtype)), (energies, atom_energies, found.properties)

    gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
    (_, (energies, atom_energies, properties)), (slopes, strain) = gradients(
        s.positions, jnp.zeros((3, 3), s.positions.dtype)
    )
    return SystemPrediction(energies, atom_energies, -slopes, strain, properties)


def _pair_energies(
    interaction: Interaction, s: Structure, positions: jax.Array, cell: jax.Array, properties: AtomProperties
) -> jax.Array:
    """Energies of the long pairs, (P,)."""
    ends = s.long_pairs.ends
    vectors = positions[ends[1]] - positions[ends[0]] + s.long_pairs.shifts @ cell
    return long_energies(interaction, s.long_pairs, vectors, interaction.of_atoms(s.species, properties))


def long_energies(interaction: Interaction, pairs: LongPairs, vectors: jax.Array, values: Values) -> jax.Array:
    """Energies (eV) of pairs with these vectors (P, 3) in A, 0 beyond those in use; values: of all atoms."""
    is_used = jnp.arange(len(vectors)) < pairs.used
    beyond = jnp.asarray([2.0 * interaction.cutoff, 0.0, 0.0], vectors.dtype)
    vectors = jnp.where(is_used[:, None], vectors, beyond)
    first, second = (tuple(value[end] for value in values) for end in pairs.ends)
    return interaction.pair_energy(first, second, jnp.sqrt(jnp.sum(vectors * vectors, axis=-1)))
