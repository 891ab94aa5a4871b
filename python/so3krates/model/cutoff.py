"""Cutoff functions: 1 at distance 0, exactly 0 from the cutoff on (docs/model.md)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from .config import ModelConfig


def cutoff_function(distance: jax.Array, config: ModelConfig) -> jax.Array:
    """Values of the configured cutoff function; distance: (...) in A, result of the same shape."""
    inside = distance < config.cutoff
    # Outside, a harmless distance keeps every branch and its derivative finite.
    x = jnp.where(inside, distance, 0.5 * config.cutoff) / config.cutoff
    if config.cutoff_function == "cosine":
        value = 0.5 * (1.0 + jnp.cos(math.pi * x))
    elif config.cutoff_function == "phys":
        value = _phys(x)
    elif config.cutoff_function == "polynomial":
        p = config.polynomial_order
        value = 1.0 - 0.5 * (p + 1) * (p + 2) * x**p + p * (p + 2) * x ** (p + 1) - 0.5 * p * (p + 1) * x ** (p + 2)
    else:  # exponential
        value = jnp.exp(-(x * x) / ((1.0 - x) * (1.0 + x)))
    return jnp.where(inside, value, 0.0)


def phys_cutoff(distance: jax.Array, cutoff: float) -> jax.Array:
    """The cutoff function `phys` of distances (A) up to the cutoff."""
    return _phys(distance / cutoff)


def _phys(x: jax.Array) -> jax.Array:
    return 1.0 - 6.0 * x**5 + 15.0 * x**4 - 10.0 * x**3
