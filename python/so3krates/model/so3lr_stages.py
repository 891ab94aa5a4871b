"""Stages of SO3LR beside those of every network (docs/so3lr.md): composition, heads, charges, long-range pairs.

`row_block` is that of `rows_in` where a stage takes None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .config import So3lrConfig
from .layer import MLP, applied
from .long_range import Interaction
from .network import Params
from .properties import AtomProperties, ChargeReadout, HirshfeldReadout
from .rows import ROW_BLOCK, Rows, rows_in, take
from .stages import embed
from .system import System, SystemEmbedding
from .term_stages import Lists


def count_elements(elements: int, species: jax.Array, owned: jax.Array, row_block: int | None = ROW_BLOCK) -> jax.Array:
    """How many owned atoms there are of each element, (elements,) float64. species: (N,)."""
    rows_in_use = rows_in(row_block, owned, len(species))

    def body(start: jax.Array, counts: jax.Array) -> jax.Array:
        is_of = rows_in_use.of(start, species)[:, None] == jnp.arange(elements)
        return counts + jnp.where(rows_in_use.used(start)[:, None], is_of, False).sum(0).astype(counts.dtype)

    return rows_in_use.for_each(body, jnp.zeros(elements, jnp.float64))


def system_features(
    config: So3lrConfig, params: Params, charge: jax.Array, unpaired: jax.Array, counts: jax.Array
) -> jax.Array:
    """Features of elements (S, F) in front of the first layer; counts: of elements (S,), of all ranks."""
    elements = jnp.arange(len(counts))
    table = params["embedding"]["embedding"]
    system = System(jnp.zeros_like(elements), counts.astype(table.dtype), charge[None], unpaired[None])
    module = SystemEmbedding(config.features, len(counts))
    for name, number in (("charge_embedding", system.charges), ("spin_embedding", system.unpaired)):
        table = table + applied(module, params[name], elements, number, system)
    return table / math.sqrt(3.0)


def embed_system(
    config: So3lrConfig,
    order: Sequence[int],
    params: Params,
    charge: jax.Array,
    unpaired: jax.Array,
    counts: jax.Array,
    species: jax.Array,
    count: jax.Array,
    into: tuple[jax.Array, jax.Array],
    row_block: int | None = ROW_BLOCK,
) -> tuple[jax.Array, jax.Array]:
    """`stages.embed` with features of elements that depend on the whole system; order: of the features in rows."""
    table = system_features(config, params, charge, unpaired, counts)
    return embed(table[:, jnp.asarray(order)], species, count, into, row_block)


class HeadArrays(NamedTuple):
    """Arrays that `heads` fills, float64."""

    atom_energies: jax.Array  # (N,) eV
    raw_charges: jax.Array  # (N,) e, which do not add up to the total charge yet
    hirshfeld_ratios: jax.Array  # (N,)
    forces: jax.Array  # (N, 3) set to zero


def head_values(config: So3lrConfig, params: Params, x: jax.Array, species: jax.Array) -> tuple[jax.Array, ...]:
    """Energies (eV), raw charges (e) and Hirshfeld ratios of atoms; x: (N, F), species: (N,)."""
    elements = len(params["energy_scale"])
    energies = applied(MLP((*config.readout_features, 1)), params["readout"], x)[:, 0] * params["energy_scale"][species]
    charges = applied(ChargeReadout(config.features, elements), params["charges"], x, species, method="raw")
    ratios = applied(HirshfeldReadout(config.features, elements), params["hirshfeld"], x, species)
    return energies, charges, ratios


def heads(
    config: So3lrConfig,
    params: Params,
    x: jax.Array,
    species: jax.Array,
    owned: jax.Array,
    into: HeadArrays,
    row_block: int = ROW_BLOCK,
) -> tuple[jax.Array, jax.Array, jax.Array, HeadArrays]:
    """Sums over owned atoms (2,) float64: raw charges and the atoms themselves; the network's energy, a zero strain
    gradient, and the arrays."""
    rows_in_use = Rows(row_block, owned)

    def body(start: jax.Array, carry: Any) -> Any:
        charge, energy, arrays = carry
        found = head_values(config, params, *rows_in_use.of(start, (x, species)))
        energies, charges, ratios = (values.astype(jnp.float64) for values in found)
        used = rows_in_use.used(start)
        blocks = HeadArrays(energies, charges, ratios, jnp.zeros((row_block, 3), jnp.float64))
        charge, energy = (
            total + jnp.where(used, values, 0.0).sum() for total, values in ((charge, charges), (energy, energies))
        )
        return charge, energy, rows_in_use.store(start, arrays, blocks)

    zero = jnp.zeros((), jnp.float64)
    charge, energy, arrays = rows_in_use.for_each(body, (zero, zero, into))
    return jnp.stack([charge, owned.astype(jnp.float64)]), energy, jnp.zeros((3, 3), jnp.float64), arrays


def settle_charges(
    charge: jax.Array,
    sums: jax.Array,
    raw: jax.Array,
    owned: jax.Array,
    into: jax.Array,
    row_block: int | None = ROW_BLOCK,
) -> jax.Array:
    """Charges (N,) that add up to the total charge; sums: of `heads`, over all ranks."""
    rows_in_use = rows_in(row_block, owned, len(raw))
    missing = (charge.astype(jnp.float64) - sums[0]) / jnp.maximum(sums[1], 1.0)

    def body(start: jax.Array, charges: jax.Array) -> jax.Array:
        return rows_in_use.store(start, charges, rows_in_use.of(start, raw) + missing)

    return rows_in_use.for_each(body, into)


class PairArrays(NamedTuple):
    """Arrays that `long_pairs` adds to (the first three) or fills, float64."""

    strain_gradient: jax.Array  # (3, 3) eV
    atom_energies: jax.Array  # (N,) eV
    forces: jax.Array  # (N, 3) eV/A, at fixed charges and ratios
    charge_slopes: jax.Array  # (N,) dE/dq, V
    ratio_slopes: jax.Array  # (N,) dE/dv, eV


def long_pairs(
    interactions: Sequence[Interaction],
    lists: Lists,
    properties: AtomProperties,
    into: PairArrays,
    row_block: int = ROW_BLOCK,
) -> tuple[jax.Array, jax.Array, PairArrays]:
    """Energies of the interactions (I,), the sum of the charges' slopes over owned rows (), and the arrays.

    A pair is in both of its rows' lists. With e(d, q_i, v_i, q_j, v_j) its energy: U_i = 1/2 sum_j e, and row i alone
    has F_i = sum_j de/dd u_ij, dE/dq_i = sum_j de/dq_i, dE/dv_i likewise; dE/d(strain) = 1/2 sum_ij r_ij x de/dd u_ij.
    properties: (N,) float64 of all rows in use.
    """
    rows_in_use = Rows(row_block, lists.owned_count)
    width = lists.candidates.shape[1]
    reach = max((interaction.cutoff for interaction in interactions), default=0.0)

    def body(start: jax.Array, carry: Any) -> Any:
        totals, slope_sum, arrays = carry
        used = rows_in_use.used(start)
        listed = jnp.where(used, rows_in_use.of(start, lists.candidate_count), 0)
        is_listed = jnp.arange(width) < listed[:, None]
        atoms = jnp.where(is_listed, rows_in_use.of(start, lists.candidates), 0)
        vectors = (
            take(lists.positions, atoms) - take(lists.positions, rows_in_use.of(start, lists.atom_of_row))[:, None]
        )
        squares = jnp.sum(vectors * vectors, -1)
        is_inside = is_listed & (squares < reach * reach)
        distances = jnp.sqrt(jnp.where(is_inside, squares, reach * reach))
        rows = jnp.where(is_inside, take(lists.row_of_atom, atoms), 0)
        far, far_species = take(properties, rows), take(lists.species, rows)
        own = jax.tree.map(
            lambda values: jnp.broadcast_to(rows_in_use.of(start, values)[:, None], rows.shape), properties
        )
        own_species = jnp.broadcast_to(rows_in_use.of(start, lists.species)[:, None], rows.shape)
        # Rows beyond those in use hold anything.
        own = jax.tree.map(lambda values, other: jnp.where(is_inside, values, other), own, far)
        own_species = jnp.where(is_inside, own_species, far_species)

        def energies(own: AtomProperties, distances: jax.Array) -> jax.Array:
            values = [
                interaction.pair_energy(
                    interaction.of_atoms(own_species, own), interaction.of_atoms(far_species, far), distances
                )
                for interaction in interactions
            ]
            return jnp.where(is_inside, jnp.stack(values), 0.0)

        parts, vjp = jax.vjp(energies, own, distances)
        slopes, pulls = vjp(jnp.ones_like(parts))
        half = 0.5 * parts
        pulls = jnp.where(is_inside, pulls / distances, 0.0)[..., None] * vectors
        moments = 0.5 * jnp.einsum("bsi,bsj->ij", vectors, pulls)
        of_charges, of_ratios = (jnp.where(is_inside, slope, 0.0).sum(1) for slope in slopes)
        rows_before = rows_in_use.of(start, (arrays.atom_energies, arrays.forces))
        blocks = (rows_before[0] + half.sum((0, 2)), rows_before[1] + pulls.sum(1), of_charges, of_ratios)
        arrays = PairArrays(
            arrays.strain_gradient + moments,
            *rows_in_use.store(start, tuple(arrays[1:]), blocks),
        )
        return totals + half.sum((1, 2)), slope_sum + jnp.where(used, of_charges, 0.0).sum(), arrays

    zeros = jnp.zeros(len(interactions), jnp.float64)
    return rows_in_use.for_each(body, (zeros, jnp.zeros((), jnp.float64), into))


def heads_adjoint(
    config: So3lrConfig,
    params: Params,
    x: jax.Array,
    species: jax.Array,
    slopes: tuple[jax.Array, jax.Array],
    slope_sum: jax.Array,
    sums: jax.Array,
    owned: jax.Array,
    into: tuple[jax.Array, jax.Array],
    row_block: int = ROW_BLOCK,
) -> tuple[jax.Array, jax.Array]:
    """Adjoints of the last layer's output, (N, 1, F) and zeros (N, 1, orders).

    slopes: of charges and ratios (N,). As charges are shifted evenly to their total, the adjoint of a raw one is its
    slope less the mean slope of all atoms: slope_sum and sums are those of all ranks.
    """
    rows_in_use = Rows(row_block, owned)
    mean = slope_sum / jnp.maximum(sums[1], 1.0)

    def body(start: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        own_x, own_species, (of_charges, of_ratios) = rows_in_use.of(start, (x, species, slopes))
        values, vjp = jax.vjp(lambda rows: head_values(config, params, rows, own_species), own_x)
        cotangents = (jnp.ones_like(values[0]), (of_charges - mean).astype(x.dtype), of_ratios.astype(x.dtype))
        (gradient,) = vjp(cotangents)
        zeros = jnp.zeros((row_block, *carry[1].shape[1:]), carry[1].dtype)
        return rows_in_use.store(start, carry, (gradient[:, None], zeros))

    return rows_in_use.for_each(body, into)


def add_parts(network: jax.Array, parts: jax.Array) -> jax.Array:
    """The energy () of the network and of the interactions (I,), eV."""
    return network + parts.sum()


def dipole(
    positions: jax.Array,
    atom_of_row: jax.Array,
    charges: jax.Array,
    owned: jax.Array,
    row_block: int | None = ROW_BLOCK,
) -> jax.Array:
    """Sum over owned atoms of charge times position, (3,) e A."""
    rows_in_use = rows_in(row_block, owned, len(charges))

    def body(start: jax.Array, total: jax.Array) -> jax.Array:
        own = jnp.where(rows_in_use.used(start), rows_in_use.of(start, charges), 0.0)
        return total + own @ take(positions, jnp.where(own != 0, rows_in_use.of(start, atom_of_row), 0))

    return rows_in_use.for_each(body, jnp.zeros(3, jnp.float64))
