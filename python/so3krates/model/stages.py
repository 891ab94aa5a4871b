"""The exported computation: small programs that run in order, each writing only the rows of owned atoms.

Rows are atoms; arrays have the capacity of a rung, programs loop over the actual counts. Every array that a stage
fills is handed in (`into`) and updated in place. A pair of atoms is in both atoms' lists, so the adjoint of row i
visits i <- j and j <- i together and adds to row i alone: nothing scatters (docs/architecture.md).

Adjoints carry C channels: 1 for forces; 4 for forces and per-atom virials, where channels 1..3 are the first moments
of channel 0 about the row's own atom (docs/model.md). Going from atom j to atom i moves the origin:
mu_a <- mu_a + r_ij,a lambda.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from .config import ModelConfig
from .geometry import edge_geometry, masked_vectors
from .harmonics import parity
from .layer import MLP, Centre, Layer, Other, applied
from .network import Params

ROW_BLOCK = 32  # rows that a loop on a CPU handles at once; every capacity of rows is a multiple
GPU_ROW_BLOCK = 4096  # the same on a GPU: enough edges to fill it, few enough to keep their arrays small
SLOT_BLOCK = 8  # neighbours of each row that a loop handles at once; every capacity of neighbours is a multiple


class Projections(NamedTuple):
    """What edges read from atoms besides their Euclidean variables, each (N, F)."""

    query: jax.Array
    geometric_query: jax.Array
    key: jax.Array
    value: jax.Array
    geometric_key: jax.Array

    def ends(self, chi: jax.Array) -> tuple[Centre, Other]:
        """The same as the two ends of an edge."""
        return Centre(self.query, self.geometric_query, chi), Other(self.key, self.value, self.geometric_key, chi)


class Table(NamedTuple):
    """Neighbours within the cutoff of owned rows."""

    vectors: jax.Array  # (N, K, 3) neighbour minus row, A
    neighbours: jax.Array  # (N, K) rows
    counts: jax.Array  # (N,) slots in use


def _take(tree: Any, rows: jax.Array) -> Any:
    """Rows by indices that are known to be in range."""
    return jax.tree.map(lambda t: t.at[rows].get(mode="promise_in_bounds"), tree)


class _Rows(NamedTuple):
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

    rows_in_use = _Rows(row_block, owned)

    def body(start: jax.Array, carry: tuple[Table, jax.Array]) -> tuple[Table, jax.Array]:
        table, needed = carry
        listed = jnp.where(rows_in_use.used(start), rows_in_use.of(start, candidate_count), 0)
        atoms = rows_in_use.of(start, candidates)
        valid = jnp.arange(width) < listed[:, None]
        atoms = jnp.where(valid, atoms, 0)
        difference = _take(positions, atoms) - _take(positions, rows_in_use.of(start, atom_of_row))[:, None]
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
        chosen = jax.vmap(_take)((difference, atoms), position)
        vectors, rows = chosen[0].astype(table.vectors.dtype), _take(row_of_atom, chosen[1])
        table = rows_in_use.store(start, table, Table(vectors, rows, jnp.minimum(count, slots)))
        return table, jnp.maximum(needed, count.max())

    return rows_in_use.for_each(body, (into, jnp.zeros((), jnp.int32)))


def embed(
    embedding: jax.Array,
    species: jax.Array,
    count: jax.Array,
    into: tuple[jax.Array, jax.Array],
    row_block: int = ROW_BLOCK,
) -> tuple[jax.Array, jax.Array]:
    """Features and Euclidean variables before the first layer; embedding: (elements, F), species: (N,)."""
    x, chi = into

    rows_in_use = _Rows(row_block, count)

    def body(start: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        rows = _take(embedding, rows_in_use.of(start, species))
        return rows_in_use.store(start, carry, (rows, jnp.zeros((row_block, chi.shape[1]), chi.dtype)))

    return rows_in_use.for_each(body, (x, chi))


def project(
    config: ModelConfig, params: Params, x: jax.Array, count: jax.Array, into: Projections, row_block: int = ROW_BLOCK
) -> Projections:
    """Projections of the first `count` rows; x: (N, F)."""

    rows_in_use = _Rows(row_block, count)

    def body(start: jax.Array, carry: Projections) -> Projections:
        return rows_in_use.store(start, carry, _projections(config, params, rows_in_use.of(start, x)))

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

    rows_in_use = _Rows(row_block, owned)

    def body(start: jax.Array, carry: Any) -> Any:
        own = jax.tree.map(lambda rows: rows[:, None], rows_in_use.of(start, centre))

        def gather(slot: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            vectors, rows = rows_in_use.slots(config, start, slot, table)
            messages = _apply(config, params, "messages", own, _take(other, rows), edge_geometry(config, vectors))
            return jax.tree.map(lambda total, message: total + message.sum(1), sums, messages)

        sums = rows_in_use.for_slots(start, table, gather, rows_in_use.of(start, (x, chi)))
        return rows_in_use.store(start, carry, (*sums, *_apply(config, params, "exchange", *sums)))

    return rows_in_use.for_each(body, into)


class ReadoutArrays(NamedTuple):
    """Arrays that `readout` fills."""

    atom_energies: jax.Array  # (N,) float64, eV
    adjoint_x: jax.Array  # (N, C, F)
    adjoint_chi: jax.Array  # (N, C, orders)
    forces: jax.Array  # (N, 3) float64, set to zero
    atom_virials: jax.Array | None  # (N, 3, 3) float64, set to zero; None unless C = 4


def readout(
    config: ModelConfig, params: Params, x: jax.Array, owned: jax.Array, into: ReadoutArrays, row_block: int = ROW_BLOCK
) -> tuple[jax.Array, jax.Array, ReadoutArrays]:
    """Energies of owned atoms, their sum (float64, eV), a zero strain gradient, adjoints of the last layer's output."""
    head = MLP((*config.readout_features, 1))

    rows_in_use = _Rows(row_block, owned)

    def body(start: jax.Array, carry: tuple[jax.Array, ReadoutArrays]) -> tuple[jax.Array, ReadoutArrays]:
        total, arrays = carry
        energies, vjp = jax.vjp(lambda rows: applied(head, params, rows)[:, 0], rows_in_use.of(start, x))
        (gradient,) = vjp(jnp.ones_like(energies))
        energies = energies.astype(jnp.float64)

        def zeros(rows: jax.Array) -> jax.Array:
            return jnp.zeros((row_block, *rows.shape[1:]), rows.dtype)

        blocks = ReadoutArrays(
            atom_energies=energies,
            adjoint_x=lax.dynamic_update_slice_in_dim(zeros(arrays.adjoint_x), gradient[:, None], 0, 1),
            adjoint_chi=zeros(arrays.adjoint_chi),
            forces=zeros(arrays.forces),
            atom_virials=None if arrays.atom_virials is None else zeros(arrays.atom_virials),
        )
        total = total + jnp.sum(jnp.where(rows_in_use.used(start), energies, 0.0))
        return total, rows_in_use.store(start, arrays, blocks)

    energy, arrays = rows_in_use.for_each(body, (jnp.zeros((), jnp.float64), into))
    return energy, jnp.zeros((3, 3), jnp.float64), arrays


def exchange_adjoint(
    config: ModelConfig,
    params: Params,
    x: jax.Array,
    chi: jax.Array,
    adjoints: tuple[jax.Array, jax.Array],
    owned: jax.Array,
    into: tuple[jax.Array, jax.Array],
    row_block: int = ROW_BLOCK,
) -> tuple[jax.Array, jax.Array]:
    """Adjoints of the exchange block's input, which are also those of the messages' sums.

    x, chi: as kept by `layer`. adjoints, into: (N, C, F) and (N, C, orders).
    """

    rows_in_use = _Rows(row_block, owned)

    def body(start: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        _, vjp = jax.vjp(lambda *rows: _apply(config, params, "exchange", *rows), *rows_in_use.of(start, (x, chi)))
        return rows_in_use.store(start, carry, jax.vmap(vjp, in_axes=1, out_axes=1)(rows_in_use.of(start, adjoints)))

    return rows_in_use.for_each(body, into)


class AdjointArrays(NamedTuple):
    """Arrays that `layer_adjoint` fills (adjoints) or adds to (the rest)."""

    adjoint_x: jax.Array  # (N, C, F) adjoints of the layer's input
    adjoint_chi: jax.Array  # (N, C, orders)
    forces: jax.Array  # (N, 3) float64, eV/A
    atom_virials: jax.Array | None  # (N, 3, 3) float64, eV; None unless C = 4


def layer_adjoint(
    config: ModelConfig,
    params: Params,
    x: jax.Array,
    chi: jax.Array,
    projections: Projections,
    message_adjoint: tuple[jax.Array, jax.Array],
    table: Table,
    owned: jax.Array,
    strain_gradient: jax.Array,
    into: AdjointArrays,
    row_block: int = ROW_BLOCK,
) -> tuple[jax.Array, AdjointArrays]:
    """Adjoint of projections and attention: adjoints of the layer's input, forces, strain gradient, virials.

    x, chi: the layer's input. message_adjoint: (N, C, F) and (N, C, orders) of all rows, from `exchange_adjoint`.
    strain_gradient: (3, 3) float64, dE/d(strain) so far.
    Per-atom virials W_i[a, b] = sum_k (r_k - r_i)_a dU_k/dr_i,b (docs/model.md).
    """
    channels = message_adjoint[0].shape[1]
    centre, other = projections.ends(chi)
    odd = jnp.asarray(parity(config.degrees), x.dtype)

    rows_in_use = _Rows(row_block, owned)

    def body(start: jax.Array, carry: tuple[jax.Array, AdjointArrays]) -> tuple[jax.Array, AdjointArrays]:
        strain, arrays = carry
        own = jax.tree.map(lambda rows: rows[:, None], (rows_in_use.of(start, centre), rows_in_use.of(start, other)))
        own_adjoint = rows_in_use.of(start, message_adjoint)

        def gather(slot: jax.Array, sums: Any) -> Any:
            row_sums, gradient_sums, strain = sums
            vectors, rows = rows_in_use.slots(config, start, slot, table)
            far_centre, far_other, far_adjoint = _take((centre, other, message_adjoint), rows)

            def pair(own: tuple[Centre, Other], vectors: jax.Array) -> tuple[tuple[jax.Array, jax.Array], ...]:
                """Messages in both directions, as functions of what belongs to the row: projections and vectors."""
                geometry = edge_geometry(config, vectors)
                own_centre, own_other = own
                filters = _apply(config, params, "filters", geometry.basis, far_other.chi - own_centre.chi)
                to_own = (own_centre, far_other, filters, geometry.cutoff, geometry.harmonics)
                to_far = (far_centre, own_other, filters, geometry.cutoff, odd * geometry.harmonics)
                return tuple(_apply(config, params, "attend", *arguments) for arguments in (to_own, to_far))

            def to_edges(tree: Any) -> Any:
                return jax.tree.map(lambda t: jnp.broadcast_to(t, (*rows.shape, *t.shape[2:])), tree)

            _, vjp = jax.vjp(pair, to_edges(own), vectors)
            cotangents = (
                to_edges(jax.tree.map(lambda t: t[:, None], own_adjoint)),
                _recentred(far_adjoint, vectors),
            )
            row_gradients, edge_gradients = jax.vmap(vjp, in_axes=2, out_axes=2)(cotangents)
            edge_gradients = edge_gradients.astype(jnp.float64)  # (rows, slots, C, 3)
            row_sums = jax.tree.map(lambda total, t: total + t.sum(1), row_sums, row_gradients)
            # Each pair comes from both of its rows, hence the half.
            strain = strain + 0.5 * jnp.einsum("bsi,bsj->ij", vectors.astype(jnp.float64), edge_gradients[:, :, 0])
            return row_sums, gradient_sums + edge_gradients.sum(1), strain

        zero_rows = jax.tree.map(lambda t: jnp.zeros((row_block, channels, t.shape[-1]), t.dtype), own)
        zero_gradients = jnp.zeros((row_block, channels, 3), jnp.float64)
        row_sums, gradients, strain = rows_in_use.for_slots(start, table, gather, (zero_rows, zero_gradients, strain))

        to_centre, to_other = row_sums
        _, vjp = jax.vjp(lambda rows: _projections(config, params, rows), rows_in_use.of(start, x))
        (through,) = jax.vmap(vjp, in_axes=1, out_axes=1)(Projections(*to_centre[:2], *to_other[:3]))
        adjoint_x = own_adjoint[0] + through
        adjoint_chi = own_adjoint[1] + to_centre.chi + to_other.chi
        forces = rows_in_use.of(start, arrays.forces) + gradients[:, 0]
        virials = None
        if arrays.atom_virials is not None:
            virials = rows_in_use.of(start, arrays.atom_virials) - gradients[:, 1:]
        return strain, rows_in_use.store(start, arrays, AdjointArrays(adjoint_x, adjoint_chi, forces, virials))

    return rows_in_use.for_each(body, (strain_gradient, into))


def row_norms(rows: jax.Array, owned: jax.Array, into: jax.Array, row_block: int = ROW_BLOCK) -> jax.Array:
    """Euclidean norm of each of the first `owned` rows; rows: (N, F). Padding with zeros does not change it."""

    rows_in_use = _Rows(row_block, owned)

    def body(start: jax.Array, norms: jax.Array) -> jax.Array:
        squares = jnp.square(rows_in_use.of(start, rows).astype(norms.dtype))
        return rows_in_use.store(start, norms, jnp.sqrt(squares.sum(axis=1)))

    return rows_in_use.for_each(body, into)


def _apply(config: ModelConfig, params: Params, method: str, *arguments: Any) -> Any:
    return applied(Layer(config), params, *arguments, method=method)


def _projections(config: ModelConfig, params: Params, x: jax.Array) -> Projections:
    centre, other = _apply(config, params, "project", x, None)
    return Projections(*centre[:2], *other[:3])


def _recentred(adjoints: tuple[jax.Array, jax.Array], vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Adjoints of neighbours with their moments about the row's atom; adjoints: (..., C, width), vectors: (..., 3)."""

    def recentre(adjoint: jax.Array) -> jax.Array:
        if adjoint.shape[-2] == 1:
            return adjoint
        moments = adjoint[..., 1:, :] + vectors[..., :, None] * adjoint[..., :1, :]
        return jnp.concatenate([adjoint[..., :1, :], moments], axis=-2)

    features, euclidean = adjoints
    return recentre(features), recentre(euclidean)
