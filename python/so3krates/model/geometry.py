"""What an edge vector contributes: length, direction, cutoff and radial basis (docs/model.md)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .config import ModelConfig
from .cutoff import cutoff_function
from .harmonics import spherical_harmonics
from .radial_basis import radial_basis


class Geometry(NamedTuple):
    """Functions of one edge vector, leading shape (...)."""

    cutoff: jax.Array  # (...) phi(d)
    basis: jax.Array  # (..., K)
    harmonics: jax.Array  # (..., orders)


def masked_vectors(vectors: jax.Array, mask: jax.Array, cutoff: float) -> jax.Array:
    """Vectors with those of unused slots replaced by one beyond the cutoff, where all is finite and phi = 0.

    vectors: (..., 3) in A; mask: (...) bool.
    """
    beyond = jnp.asarray([2.0 * cutoff, 0.0, 0.0], vectors.dtype)
    return jnp.where(mask[..., None], vectors, beyond)


def edge_geometry(config: ModelConfig, vectors: jax.Array) -> Geometry:
    """Geometry of edge vectors (..., 3) in A, neighbour minus centre, none of them zero."""
    distance = jnp.sqrt(jnp.sum(vectors * vectors, axis=-1))
    return Geometry(
        cutoff=cutoff_function(distance, config),
        basis=radial_basis(distance, config),
        harmonics=spherical_harmonics(vectors / distance[..., None], config.degrees),
    )
