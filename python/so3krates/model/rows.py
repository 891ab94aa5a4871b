"""Loops over rows of atoms and their neighbours, a block at a time, for as many blocks as there are.

Rows are atoms; arrays have the capacity of a rung, loops go over the actual counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from .config import ModelConfig
from .geometry import masked_vectors

ROW_BLOCK = 32  # rows that a loop on a CPU handles at once; every capacity of rows is a multiple
GPU_ROW_BLOCK = 4096  # the same on a GPU: enough edges to fill it, few enough to keep their arrays small
SLOT_BLOCK = 8  # neighbours of each row that a loop handles at once; every capacity of neighbours is a multiple


class Table(NamedTuple):
    """Neighbours within the cutoff of owned rows."""

    vectors: jax.Array  # (N, K, 3) neighbour minus row, A
    neighbours: jax.Array  # (N, K) rows
    counts: jax.Array  # (N,) slots in use


def take(tree: Any, rows: jax.Array) -> Any:
    """Rows by indices that are known to be in range."""
    return jax.tree.map(lambda t: t.at[rows].get(mode="promise_in_bounds"), tree)


class Rows(NamedTuple):
    """Owned rows, or all in use, taken a block at a time; `start` is a block's first row."""

    block: int
    rows: jax.Array

    def for_each(self, body: Callable[[jax.Array, Any], Any], carry: Any) -> Any:
        """body(start, carry) for every block of rows; rows beyond `rows` in the last block are undefined."""
        blocks = (self.rows + self.block - 1) // self.block
        return lax.fori_loop(0, blocks, lambda b, c: body(b * self.block, c), carry)

    def of(self, start: jax.Array, tree: Any) -> Any:
        return jax.tree.map(lambda rows: lax.dynamic_slice_in_dim(rows, start, self.block), tree)

    def store(self, start: jax.Array, into: Any, blocks: Any) -> Any:
        def update(rows: jax.Array, block: jax.Array) -> jax.Array:
            # XLA for GPUs would give whole arrays the order in which a product leaves a block, and copy them for it.
            row_major = with_layout_constraint(block, Layout(tuple(range(block.ndim))))
            return lax.dynamic_update_slice_in_dim(rows, row_major, start, 0)

        return jax.tree.map(update, into, blocks)

    def used(self, start: jax.Array) -> jax.Array:
        """Which rows of a block are below `rows`, (block,)."""
        return start + jnp.arange(self.block) < self.rows

    def neighbour_counts(self, start: jax.Array, table: Table) -> jax.Array:
        return jnp.where(self.used(start), self.of(start, table.counts), 0)

    def for_slots(self, start: jax.Array, table: Table, body: Callable[[jax.Array, Any], Any], carry: Any) -> Any:
        """body(first slot, carry) for every block of slots that a row of this block uses."""
        most = self.neighbour_counts(start, table).max()
        blocks = (most + SLOT_BLOCK - 1) // SLOT_BLOCK
        return lax.fori_loop(0, blocks, lambda s, c: body(s * SLOT_BLOCK, c), carry)

    def slots(
        self, config: ModelConfig, start: jax.Array, slot: jax.Array, table: Table
    ) -> tuple[jax.Array, jax.Array]:
        """Vectors and rows of one block of slots; unused slots lie beyond the cutoff and name a row that exists."""
        used = slot + jnp.arange(SLOT_BLOCK) < self.neighbour_counts(start, table)[:, None]
        vectors = lax.dynamic_slice(table.vectors, (start, slot, jnp.zeros_like(slot)), (self.block, SLOT_BLOCK, 3))
        rows = lax.dynamic_slice(table.neighbours, (start, slot), (self.block, SLOT_BLOCK))
        return masked_vectors(vectors, used, config.cutoff), jnp.where(used, rows, 0)


class WholeArrays(Rows):
    """All rows at once, whatever is in use: for arrays that are small, where a loop's passes cost more."""

    def for_each(self, body: Callable[[jax.Array, Any], Any], carry: Any) -> Any:
        return body(jnp.int32(0), carry)

    def of(self, start: jax.Array, tree: Any) -> Any:
        return tree

    def store(self, start: jax.Array, into: Any, blocks: Any) -> Any:
        return blocks


def rows_in(block: int | None, rows: jax.Array, capacity: int) -> Rows:
    """The first `rows` of arrays of `capacity` rows, a block at a time or (None) all at once."""
    return WholeArrays(capacity, rows) if block is None else Rows(block, rows)
