"""Real spherical harmonics and the invariants of Euclidean variables (docs/model.md)."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt

import jax
import jax.numpy as jnp
import numpy as np


def spherical_harmonics(unit: jax.Array, degrees: Sequence[int]) -> jax.Array:
    """Real spherical harmonics, orthonormal on the sphere, order m = -l..l, no Condon-Shortley sign.

    unit: (..., 3) unit vectors. degrees: out of 1..4. Returns (..., sum of 2l + 1).
    """
    x, y, z = unit[..., 0], unit[..., 1], unit[..., 2]
    xx, yy, zz = x * x, y * y, z * z
    by_degree = {
        1: lambda: [sqrt(3 / (4 * pi)) * t for t in (y, z, x)],
        2: lambda: [
            0.5 * sqrt(15 / pi) * x * y,
            0.5 * sqrt(15 / pi) * y * z,
            0.25 * sqrt(5 / pi) * (3 * zz - 1),
            0.5 * sqrt(15 / pi) * x * z,
            0.25 * sqrt(15 / pi) * (xx - yy),
        ],
        3: lambda: [
            0.25 * sqrt(35 / (2 * pi)) * y * (3 * xx - yy),
            0.5 * sqrt(105 / pi) * x * y * z,
            0.25 * sqrt(21 / (2 * pi)) * y * (5 * zz - 1),
            0.25 * sqrt(7 / pi) * z * (5 * zz - 3),
            0.25 * sqrt(21 / (2 * pi)) * x * (5 * zz - 1),
            0.25 * sqrt(105 / pi) * (xx - yy) * z,
            0.25 * sqrt(35 / (2 * pi)) * x * (xx - 3 * yy),
        ],
        4: lambda: [
            0.75 * sqrt(35 / pi) * x * y * (xx - yy),
            0.75 * sqrt(35 / (2 * pi)) * y * z * (3 * xx - yy),
            0.75 * sqrt(5 / pi) * x * y * (7 * zz - 1),
            0.75 * sqrt(5 / (2 * pi)) * y * z * (7 * zz - 3),
            (3 / 16) * sqrt(1 / pi) * (35 * zz * zz - 30 * zz + 3),
            0.75 * sqrt(5 / (2 * pi)) * x * z * (7 * zz - 3),
            0.375 * sqrt(5 / pi) * (xx - yy) * (7 * zz - 1),
            0.75 * sqrt(35 / (2 * pi)) * x * z * (xx - 3 * yy),
            (3 / 16) * sqrt(35 / pi) * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)),
        ],
    }
    return jnp.stack([value for degree in degrees for value in by_degree[degree]()], axis=-1)


def parity(degrees: Sequence[int]) -> np.ndarray:
    """Signs s with Y(-u) = s * Y(u), shape (sum of 2l + 1,)."""
    return np.concatenate([np.full(2 * l + 1, (-1.0) ** l) for l in degrees])


def degree_of_order(degrees: Sequence[int]) -> np.ndarray:
    """Index into `degrees` of every component of a Euclidean variable, shape (sum of 2l + 1,)."""
    return np.repeat(np.arange(len(degrees)), [2 * l + 1 for l in degrees])


def spread(values: jax.Array, degrees: Sequence[int]) -> jax.Array:
    """One value per degree, (..., len(degrees)), repeated for its orders: (..., sum of 2l + 1)."""
    # Broadcasts, not an indexing: the transpose of an indexing is a scatter.
    pieces = [jnp.broadcast_to(values[..., k : k + 1], (*values.shape[:-1], 2 * l + 1)) for k, l in enumerate(degrees)]
    return jnp.concatenate(pieces, axis=-1)


def invariants(chi: jax.Array, degrees: Sequence[int], float32_factors: bool = False) -> jax.Array:
    """Contraction of each degree with itself to l = 0: (1 / sqrt(2l + 1)) sum_m chi_lm^2.

    chi: (..., sum of 2l + 1). Returns (..., len(degrees)). float32_factors rounds 1 / sqrt(2l + 1) to float32.
    """
    factors = np.array([1.0 / sqrt(2 * l + 1) for l in degrees])
    if float32_factors:
        factors = factors.astype(np.float32)
    select = np.where(degree_of_order(degrees)[:, None] == np.arange(len(degrees)), factors, 0.0)
    return (chi * chi) @ jnp.asarray(select, chi.dtype)
