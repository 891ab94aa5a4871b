"""A switch with all derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def smooth_switch(distance: jax.Array, on: float, off: float) -> jax.Array:
    """1 up to `on`, 0 from `off` on (A), in between h(1 - c) / (h(1 - c) + h(c)) with h(u) = exp(-1/u)."""
    c = (distance - on) / (off - on)

    def h(u: jax.Array) -> jax.Array:
        # Where it is zero a harmless argument keeps the derivative finite.
        return jnp.where(u > 0, jnp.exp(-1.0 / jnp.where(u > 0, u, 1.0)), 0.0)

    return h(1.0 - c) / (h(1.0 - c) + h(c))
