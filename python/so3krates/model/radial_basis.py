"""Radial basis functions of the edge length (SPEC 1.2.3)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np


def phys_basis(distance: jax.Array, count: int, cutoff: float) -> jax.Array:
    """Gaussians in exp(-d) with equidistant centres (PhysNet, Unke and Meuwly 2019).

    distance: (...) in A. Returns (..., count); not multiplied by the cutoff function.
    """
    dtype = distance.dtype
    centres = jnp.asarray(np.linspace(math.exp(-cutoff), 1.0, count), dtype)
    beta = ((2.0 / count) * (1.0 - math.exp(-cutoff))) ** -2
    return jnp.exp(-beta * (jnp.exp(-distance)[..., None] - centres) ** 2)
