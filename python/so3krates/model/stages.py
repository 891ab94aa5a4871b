"""The way of positions down: small programs that run in order, each writing only the rows of owned atoms.

`readout` and the stages of `moment_adjoint` follow. Every array that a stage fills is handed in (`into`) and updated in
place.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .config import ModelConfig
from .geometry import edge_geometry
from .layer import applied_layer
from .network import Params
from .projections import Projections, projections_of
from .rows import ROW_BLOCK, Rows, Table, rows_in, take


def neighbours(
    cutoff: float,
    positions: jax.Array,
    row_of_atom: jax.Array,
    atom_of_row: jax.Array,
    candidates: jax.Array,
    candidate_count: jax.Array,
    owned: jax.Array,
    into: Table,
    row_block: int = ROW_BLOCK,
) -> tuple[Table, jax.Array]:
    """Edge vectors and rows of the candidates within the cutoff, in the candidates' order.

    positions: (atoms, 3) float64, A. row_of_atom: (atoms,). atom_of_row: (N,). candidates: (N, M) atoms.
    candidate_count: (N,). Vectors are formed in float64 and cast to the dtype of `into`.
    Returns the table and the largest number of neighbours of a row, which may exceed the table's K.
    """
    slots = into.neighbours.shape[1]
    width = candidates.shape[1]

    rows_in_use = Rows(row_block, owned)

    def body(start: jax.Array, carry: tuple[Table, jax.Array]) -> tuple[Table, jax.Array]:
        table, needed = carry
        listed = jnp.where(rows_in_use.used(start), rows_in_use.of(start, candidate_count), 0)
        atoms = rows_in_use.of(start, candidates)
        valid = jnp.arange(width) < listed[:, None]
        atoms = jnp.where(valid, atoms, 0)
        difference = take(positions, atoms) - take(positions, rows_in_use.of(start, atom_of_row))[:, None]
        inside = valid & (jnp.sum(difference * difference, -1) < cutoff * cutoff)
        # Running counts as a product with a triangle, exact in float32: a scan would be unrolled for every capacity.
        before = lax.broadcasted_iota(jnp.int32, (width, width), 0) <= lax.broadcasted_iota(
            jnp.int32, (width, width), 1
        )
        rank = (inside.astype(jnp.float32) @ before.astype(jnp.float32)).astype(jnp.int32)
        count = jnp.sum(inside, axis=1, dtype=jnp.int32)
        # The k-th neighbour is the candidate before which k + 1 ranks have not been reached: a search, not a scatter.
        position = jnp.sum(rank[:, None, :] <= jnp.arange(slots, dtype=jnp.int32)[:, None], axis=-1, dtype=jnp.int32)
        position = jnp.where(position < width, position, 0)
        chosen = jax.vmap(take)((difference, atoms), position)
        vectors, rows = chosen[0].astype(table.vectors.dtype), take(row_of_atom, chosen[1])
        table = rows_in_use.store(start, table, Table(vectors, rows, jnp.minimum(count, slots)))
        return table, jnp.maximum(needed, count.max())

    return rows_in_use.for_each(body, (into, jnp.zeros((), jnp.int32)))


def embed(
    embedding: jax.Array,
    species: jax.Array,
    count: jax.Array,
    into: tuple[jax.Array, jax.Array],
    row_block: int | None = ROW_BLOCK,
) -> tuple[jax.Array, jax.Array]:
    """Features and Euclidean variables before the first layer; embedding: (elements, F), species: (N,).

    row_block: None for all rows at once.
    """
    x, chi = into

    rows_in_use = rows_in(row_block, count, len(species))

    def body(start: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        rows = take(embedding, rows_in_use.of(start, species))
        return rows_in_use.store(start, carry, (rows, jnp.zeros((rows_in_use.block, chi.shape[1]), chi.dtype)))

    return rows_in_use.for_each(body, (x, chi))


def project(
    config: ModelConfig, params: Params, x: jax.Array, count: jax.Array, into: Projections, row_block: int = ROW_BLOCK
) -> Projections:
    """Projections of the first `count` rows; x: (N, F)."""

    rows_in_use = Rows(row_block, count)

    def body(start: jax.Array, carry: Projections) -> Projections:
        return rows_in_use.store(start, carry, projections_of(config, params, rows_in_use.of(start, x)))

    return rows_in_use.for_each(body, into)


def layer(
    config: ModelConfig,
    params: Params,
    x: jax.Array,
    chi: jax.Array,
    projections: Projections,
    table: Table,
    owned: jax.Array,
    into: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    row_block: int = ROW_BLOCK,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Attention and exchange of one layer.

    Returns features and Euclidean variables after the attention's residual, (N, F) and (N, orders), which
    `exchange_adjoint` needs, and after the exchange block.
    """

    centre, other = projections.ends(chi)

    rows_in_use = Rows(row_block, owned)

    def body(start: jax.Array, carry: Any) -> Any:
        own = jax.tree.map(lambda rows: rows[:, None], rows_in_use.of(start, centre))

        def gather(slot: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            vectors, rows = rows_in_use.slots(config, start, slot, table)
            messages = applied_layer(config, params, "messages", own, take(other, rows), edge_geometry(config, vectors))
            return jax.tree.map(lambda total, message: total + message.sum(1), sums, messages)

        sums = rows_in_use.for_slots(start, table, gather, rows_in_use.of(start, (x, chi)))
        return rows_in_use.store(start, carry, (*sums, *applied_layer(config, params, "exchange", *sums)))

    return rows_in_use.for_each(body, into)


def row_norms(rows: jax.Array, owned: jax.Array, into: jax.Array, row_block: int = ROW_BLOCK) -> jax.Array:
    """Euclidean norm of each of the first `owned` rows; rows: (N, F). Padding with zeros does not change it."""

    rows_in_use = Rows(row_block, owned)

    def body(start: jax.Array, norms: jax.Array) -> jax.Array:
        squares = jnp.square(rows_in_use.of(start, rows).astype(norms.dtype))
        return rows_in_use.store(start, norms, jnp.sqrt(squares.sum(axis=1)))

    return rows_in_use.for_each(body, into)
