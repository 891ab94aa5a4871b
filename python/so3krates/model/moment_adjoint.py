"""Forces, stress and per-atom virials (docs/model.md): the stages of the way back.

A pair of atoms is in both atoms' lists, so the adjoint of row i visits i <- j and j <- i together and adds to row i
alone: nothing scatters (docs/architecture.md).

Adjoints carry C channels: 1 for forces; 4 for forces and per-atom virials, where channels 1..3 are the first moments
of channel 0 about the row's own atom. Going from atom j to atom i moves the origin: mu_a <- mu_a + r_ij,a lambda.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .config import ModelConfig
from .geometry import edge_geometry
from .harmonics import parity
from .layer import Centre, Other, applied_layer
from .network import Params
from .projections import Projections, projections_of
from .rows import ROW_BLOCK, Rows, Table, take


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

    rows_in_use = Rows(row_block, owned)

    def body(start: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        rows = rows_in_use.of(start, (x, chi))
        _, vjp = jax.vjp(lambda *rows: applied_layer(config, params, "exchange", *rows), *rows)
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

    rows_in_use = Rows(row_block, owned)

    def body(start: jax.Array, carry: tuple[jax.Array, AdjointArrays]) -> tuple[jax.Array, AdjointArrays]:
        strain, arrays = carry
        own = jax.tree.map(lambda rows: rows[:, None], (rows_in_use.of(start, centre), rows_in_use.of(start, other)))
        own_adjoint = rows_in_use.of(start, message_adjoint)

        def gather(slot: jax.Array, sums: Any) -> Any:
            row_sums, gradient_sums, strain = sums
            vectors, rows = rows_in_use.slots(config, start, slot, table)
            far_centre, far_other, far_adjoint = take((centre, other, message_adjoint), rows)

            def pair(own: tuple[Centre, Other], vectors: jax.Array) -> tuple[tuple[jax.Array, jax.Array], ...]:
                """Messages in both directions, as functions of what belongs to the row: projections and vectors."""
                geometry = edge_geometry(config, vectors)
                own_centre, own_other = own
                filters = applied_layer(config, params, "filters", geometry.basis, far_other.chi - own_centre.chi)
                to_own = (own_centre, far_other, filters, geometry.cutoff, geometry.harmonics)
                to_far = (far_centre, own_other, filters, geometry.cutoff, odd * geometry.harmonics)
                return tuple(applied_layer(config, params, "attend", *arguments) for arguments in (to_own, to_far))

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
        _, vjp = jax.vjp(lambda rows: projections_of(config, params, rows), rows_in_use.of(start, x))
        (through,) = jax.vmap(vjp, in_axes=1, out_axes=1)(Projections(*to_centre[:2], *to_other[:3]))
        adjoint_x = own_adjoint[0] + through
        adjoint_chi = own_adjoint[1] + to_centre.chi + to_other.chi
        forces = rows_in_use.of(start, arrays.forces) + gradients[:, 0]
        virials = None
        if arrays.atom_virials is not None:
            virials = rows_in_use.of(start, arrays.atom_virials) - gradients[:, 1:]
        return strain, rows_in_use.store(start, arrays, AdjointArrays(adjoint_x, adjoint_chi, forces, virials))

    return rows_in_use.for_each(body, (strain_gradient, into))


def _recentred(adjoints: tuple[jax.Array, jax.Array], vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Adjoints of neighbours with their moments about the row's atom; adjoints: (..., C, width), vectors: (..., 3)."""

    def recentre(adjoint: jax.Array) -> jax.Array:
        if adjoint.shape[-2] == 1:
            return adjoint
        moments = adjoint[..., 1:, :] + vectors[..., :, None] * adjoint[..., :1, :]
        return jnp.concatenate([adjoint[..., :1, :], moments], axis=-2)

    features, euclidean = adjoints
    return recentre(features), recentre(euclidean)
