"""The stage of a term for every body: each owned row visits its candidates and writes itself alone."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .rows import ROW_BLOCK, Rows, take
from .terms import Term, energies_and_slopes


class Lists(NamedTuple):
    """What the host gives: atoms, rows and candidates of rows (docs/bundle.md)."""

    positions: jax.Array  # (atoms, 3) float64, A
    row_of_atom: jax.Array  # (atoms,)
    atom_of_row: jax.Array  # (N,)
    candidates: jax.Array  # (N, M) atoms
    candidate_count: jax.Array  # (N,)
    species: jax.Array  # (N,) of all rows in use
    owned_count: jax.Array  # ()


class TermArrays(NamedTuple):
    """Arrays that a term adds to, float64."""

    energy: jax.Array  # () eV
    strain_gradient: jax.Array  # (3, 3) eV
    atom_energies: jax.Array  # (N,) eV
    forces: jax.Array  # (N, 3) eV/A
    atom_virials: jax.Array | None  # (N, 3, 3) eV; None unless they are asked for


def add_term(term: Term, lists: Lists, into: TermArrays, row_block: int = ROW_BLOCK) -> TermArrays:
    """Adds a term's energy and derivatives of owned rows, in float64, each pair from both of its rows.

    With e(d) the energy of a pair, u_ij the direction from i to j: U_i = 1/2 sum_j e, F_i = sum_j e' u_ij,
    dE/d(strain) = 1/2 sum_ij r_ij x e' u_ij, W_i = -1/2 sum_j r_ij x e' u_ij (docs/model.md).
    """
    rows_in_use = Rows(row_block, lists.owned_count)
    width = lists.candidates.shape[1]

    def body(start: jax.Array, arrays: TermArrays) -> TermArrays:
        listed = jnp.where(rows_in_use.used(start), rows_in_use.of(start, lists.candidate_count), 0)
        is_listed = jnp.arange(width) < listed[:, None]
        atoms = jnp.where(is_listed, rows_in_use.of(start, lists.candidates), 0)
        own = take(lists.positions, rows_in_use.of(start, lists.atom_of_row))
        vectors = take(lists.positions, atoms) - own[:, None]
        squares = jnp.sum(vectors * vectors, -1)
        is_inside = is_listed & (squares < term.cutoff * term.cutoff)
        distances = jnp.sqrt(jnp.where(is_inside, squares, term.cutoff**2))
        others = take(lists.species, take(lists.row_of_atom, atoms))
        centres = jnp.broadcast_to(rows_in_use.of(start, lists.species)[:, None], others.shape)
        energies, slopes = energies_and_slopes(term, centres, others, distances)
        energies = jnp.sum(jnp.where(is_inside, 0.5 * energies, 0.0), axis=1)
        pulls = jnp.where(is_inside, slopes / distances, 0.0)[..., None] * vectors
        moments = 0.5 * jnp.einsum("bsi,bsj->bij", vectors, pulls)
        rows = (arrays.atom_energies, arrays.forces, arrays.atom_virials)
        atom_energies, forces, virials = rows_in_use.of(start, rows)
        added = (atom_energies + energies, forces + pulls.sum(1), None if virials is None else virials - moments)
        return TermArrays(
            arrays.energy + energies.sum(),
            arrays.strain_gradient + moments.sum(0),
            *rows_in_use.store(start, rows, added),
        )

    return rows_in_use.for_each(body, into)
