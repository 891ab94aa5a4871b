"""The stage of an atom's uncertainty: how far its environment lies from the training data (docs/uncertainty.md)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .config import ModelConfig
from .harmonics import invariants
from .rows import ROW_BLOCK, Rows


class DensityWeights(NamedTuple):
    """A `so3krates.uncertainty.Density` folded for the stage; E elements, K Gaussians, P axes."""

    features: jax.Array  # (F', P) axes of the features, in the rows' order
    invariants: jax.Array  # (degrees, P) axes of the invariants
    whitening: jax.Array  # (E, K, P, P)
    centres: jax.Array  # (E, K, P), whitened, with the mean
    floor: jax.Array  # (E,) eV/A
    slope: jax.Array  # (E,) eV/A
    power: jax.Array  # (E,)
    limit: jax.Array  # (E,)


def uncertainties(
    config: ModelConfig,
    weights: DensityWeights,
    x: jax.Array,
    chi: jax.Array,
    species: jax.Array,
    owned: jax.Array,
    into: jax.Array,
    row_block: int = ROW_BLOCK,
) -> jax.Array:
    """Of the first `owned` rows, (N,) eV/A, as `so3krates.uncertainty.Density` defines them.

    x: (N, F') features after the last layer. chi: (N, orders or more) Euclidean variables. species: (N,).
    """
    rows_in_use = Rows(row_block, owned)

    def body(start: jax.Array, found: jax.Array) -> jax.Array:
        features, euclidean, elements = rows_in_use.of(start, (x, chi, species))
        scalars = invariants(euclidean[:, : config.orders], config.degrees, config.float32_invariants)
        # Differences of large numbers: factors that are rounded to TF32 would make them several times too large.
        with jax.default_matmul_precision("highest"):
            points = features @ weights.features + scalars @ weights.invariants
            white = jnp.einsum("bp,ekpq->bekq", points, weights.whitening) - weights.centres
        squares = jnp.square(white).sum(axis=-1).min(axis=-1)  # (block, E)
        limits = jnp.square(weights.limit)
        grown = jnp.minimum(squares, limits) ** weights.power * jnp.maximum(squares / limits, 1.0)
        variances = jnp.square(weights.floor) + jnp.square(weights.slope) * grown
        own = elements[:, None] == jnp.arange(len(weights.floor))
        values = jnp.sqrt(jnp.where(own, variances, 0.0).sum(axis=1))
        return rows_in_use.store(start, found, values.astype(found.dtype))

    return rows_in_use.for_each(body, into)
