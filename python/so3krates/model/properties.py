"""What the network says of atoms beside their energy: partial charges and Hirshfeld ratios (docs/model.md)."""

from __future__ import annotations

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .initial import embedding_normal
from .layer import MLP
from .system import System


class AtomProperties(NamedTuple):
    """Of atoms (N,)."""

    charges: jax.Array  # e; they add up to the total charge of each structure
    hirshfeld_ratios: jax.Array  # volume of the atom over that of the free one


class ChargeReadout(nn.Module):
    """q = Dense(silu(Dense(x))) + shift[Z], shifted evenly to the total charge."""

    features: int
    embeddings: int

    def setup(self) -> None:
        self.shift = self.param("shift", nn.initializers.zeros, (self.embeddings,))
        self.network = MLP((self.features, 1))

    def raw(self, x: jax.Array, species: jax.Array) -> jax.Array:
        """Charges (N,) before the shift."""
        return self.network(x)[:, 0] + jnp.asarray(self.shift, x.dtype)[species]

    def __call__(self, x: jax.Array, species: jax.Array, system: System) -> jax.Array:
        raw = self.raw(x, species)
        missing = (system.charges - system.totals(raw)) / jnp.maximum(system.totals(jnp.ones_like(raw)), 1.0)
        return jnp.where(system.atoms > 0, raw + missing[system.structure], 0.0)


class HirshfeldReadout(nn.Module):
    """v = |shift[Z] + query[Z] . Dense(silu(Dense(x))) / sqrt(width)|."""

    features: int
    embeddings: int

    @nn.compact
    def __call__(self, x: jax.Array, species: jax.Array) -> jax.Array:
        width = self.features // 2
        shift = jnp.asarray(self.param("shift", nn.initializers.ones, (self.embeddings,)), x.dtype)
        query = jnp.asarray(self.param("query", embedding_normal, (self.embeddings, width)), x.dtype)
        key = MLP((width, width), name="network")(x)
        return jnp.abs(shift[species] + jnp.sum(query[species] * key, -1) / math.sqrt(width))
