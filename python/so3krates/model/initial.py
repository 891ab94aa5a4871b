"""Initial values of parameters: those of flax but for rounding, without a compilation for each shape."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

# Draws of one compiled program: a draw depends on the key and on its place alone, so that a shape takes the first ones.
DRAWS = 1 << 15
# Standard deviation of a standard normal variable that is cut off at -2 and 2.
TRUNCATED_STD = 0.87962566103423978


def lecun_normal(key: jax.Array, shape: tuple[int, ...], dtype: type = jnp.float32) -> jax.Array:
    """Truncated normal values of variance 1/(fan in); the last two axes are in and out, others are independent."""
    return _scaled(_truncated, key, shape, np.sqrt(np.float32(1.0 / shape[-2])) / np.float32(TRUNCATED_STD), dtype)


def embedding_normal(key: jax.Array, shape: tuple[int, ...], dtype: type = jnp.float32) -> jax.Array:
    """Normal values of variance 1/(length of a row)."""
    return _scaled(_normal, key, shape, np.sqrt(np.float32(1.0 / shape[-1])), dtype)


def _scaled(
    draw: Callable[[jax.Array, int], jax.Array], key: jax.Array, shape: tuple[int, ...], scale: np.float32, dtype: type
) -> jax.Array:
    count = int(np.prod(shape))
    draws = draw(key, DRAWS if count <= DRAWS else 1 << (count - 1).bit_length())
    if isinstance(draws, jax.core.Tracer):
        return _cut(draws, scale, shape).astype(dtype)
    # On the host nothing is compiled for a shape.
    return jnp.asarray((scale * np.asarray(draws)[:count]).reshape(shape), dtype)


@partial(jax.jit, static_argnums=1)
def _truncated(key: jax.Array, count: int) -> jax.Array:
    return jax.random.truncated_normal(key, -2, 2, (count,), jnp.float32)


@partial(jax.jit, static_argnums=1)
def _normal(key: jax.Array, count: int) -> jax.Array:
    return jax.random.normal(key, (count,), jnp.float32)


def _cut(draws: jax.Array, scale: np.float32, shape: tuple[int, ...]) -> jax.Array:
    return scale * draws[: int(np.prod(shape))].reshape(shape)
