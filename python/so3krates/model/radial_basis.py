"""Radial basis functions of the edge length (docs/model.md)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from .config import ConfigError, ModelConfig, So3lrConfig

FLOOR_WIDTH = 0.1  # of `radial_floor`: where the basis goes over to a constant


def radial_basis(distance: jax.Array, config: ModelConfig) -> jax.Array:
    """The configured basis; distance: (...) in A. Returns (..., config.radial_functions)."""
    if config.radial_floor > 0:
        distance = floored(distance, config.radial_floor)
    if config.radial_basis == "spline":
        return spline_basis(distance, config.radial_functions, config.cutoff, config.spline_start)
    if isinstance(config, So3lrConfig):
        return bernstein_basis(distance, config.radial_functions, config.bernstein_rate)
    if config.radial_basis == "gaussian":
        return gaussian_basis(distance, config.radial_functions, config.cutoff, started(config))
    return phys_basis(distance, config.radial_functions, config.cutoff)


def started(config: ModelConfig) -> float:
    """Where (A) a basis that is uniform in d begins. Raises ConfigError where no training has said it yet."""
    if config.radial_start is None:
        raise ConfigError(
            f"radial_basis = {config.radial_basis!r} begins at radial_start, which is not given: a training takes it "
            "from its data; give a length in A, a tenth below the shortest distance"
        )
    return config.radial_start


def floored(distance: jax.Array, floor: float) -> jax.Array:
    """The distance (A) down to `floor`, constant below FLOOR_WIDTH less, with three derivatives in between."""
    width = FLOOR_WIDTH * floor
    t = jnp.clip(1.0 - (floor - distance) / width, 0.0, 1.0)
    below = floor - width * (0.5 - t**4 * (2.5 + t * (t - 3.0)))
    return jnp.where(distance < floor, below, distance)


def phys_basis(distance: jax.Array, count: int, cutoff: float) -> jax.Array:
    """Gaussians in exp(-d) with equidistant centres (PhysNet, Unke and Meuwly 2019).

    distance: (...) in A. Returns (..., count); not multiplied by the cutoff function.
    """
    dtype = distance.dtype
    centres = jnp.asarray(np.linspace(math.exp(-cutoff), 1.0, count), dtype)
    beta = ((2.0 / count) * (1.0 - math.exp(-cutoff))) ** -2
    return jnp.exp(-beta * (jnp.exp(-distance)[..., None] - centres) ** 2)


def gaussian_basis(distance: jax.Array, count: int, cutoff: float, start: float) -> jax.Array:
    """Gaussians in d with equidistant centres from `start` to the cutoff (A), exp(-(d - c)^2 / (2 spacing)^2).

    distance: (...) in A. Returns (..., count); not multiplied by the cutoff function. Far below `start` all are zero.
    """
    centres = jnp.asarray(np.linspace(start, cutoff, count), distance.dtype)
    width = 2.0 * (cutoff - start) / (count - 1)
    return jnp.exp(-jnp.square((distance[..., None] - centres) / width))


def spline_range(count: int, cutoff: float, start: float) -> tuple[float, float]:
    """Smallest value of exp(-d) and the spacing of nodes of a basis of `count` splines."""
    least = math.exp(-cutoff)
    return least, (math.exp(-start) - least) / (count - 3)


def spline_basis(distance: jax.Array, count: int, cutoff: float, start: float) -> jax.Array:
    """Cubic B-splines, uniform in exp(-d) from `start` to the cutoff, constant below `start` (lengths in A).

    distance: (...) in A. Returns (..., count), which add up to 1.
    """
    least, spacing = spline_range(count, cutoff, start)
    t = jnp.clip((jnp.exp(-distance) - least) / spacing, 0.0, count - 3.0)
    z = jnp.abs(t[..., None] - jnp.arange(-1, count - 1, dtype=distance.dtype))
    inner = (4.0 - 6.0 * z**2 + 3.0 * z**3) / 6.0
    outer = jnp.maximum(2.0 - z, 0.0) ** 3 / 6.0
    return jnp.where(z < 1.0, inner, outer)


def bernstein_basis(distance: jax.Array, count: int, rate: float) -> jax.Array:
    """Bernstein polynomials of degree count - 1 in exp(-rate d), which add up to 1 (docs/so3lr.md).

    distance: (...) in A, above 0; rate: 1/A. Returns (..., count).
    """
    degree = count - 1
    powers = np.arange(count)
    binomials = [math.lgamma(count) - math.lgamma(k + 1) - math.lgamma(count - k) for k in powers]
    decay = rate * distance[..., None]
    # By logarithms, as the coefficients of 31 are beyond what float32 adds up without loss.
    complement = jnp.log(-jnp.expm1(-decay))
    dtype = distance.dtype
    return jnp.exp(jnp.asarray(binomials, dtype) - jnp.asarray(powers, dtype) * decay + (degree - powers) * complement)
