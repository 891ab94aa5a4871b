"""What concerns a whole structure beside its atoms: total charge and unpaired electrons, and their embedding."""

from __future__ import annotations

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .initial import embedding_normal, lecun_normal


class System(NamedTuple):
    """The structures of a batch of N atoms."""

    structure: jax.Array  # (N,) structure of each atom
    atoms: jax.Array  # (N,) atoms that a row stands for: 1, 0 for padding, or their number in a table of elements
    charges: jax.Array  # (S,) total charge, e
    unpaired: jax.Array  # (S,) unpaired electrons, multiplicity - 1

    def totals(self, values: jax.Array) -> jax.Array:
        """Sums of values of atoms (N,) over each structure, (S,)."""
        kept = jnp.where(self.atoms > 0, values * self.atoms, 0.0)
        if len(self.charges) == 1:  # without a scatter, whose order a GPU may choose
            return kept.sum(keepdims=True)
        return jax.ops.segment_sum(kept, self.structure, num_segments=len(self.charges))


class SystemEmbedding(nn.Module):
    """A number of the whole structure shared out to its atoms by their elements (docs/model.md)."""

    features: int
    embeddings: int

    @nn.compact
    def __call__(self, species: jax.Array, total: jax.Array, system: System) -> jax.Array:
        """(N, F) for species (N,) and the number (S,) of each structure; zero where that is zero."""

        def table(name: str, rows: int) -> jax.Array:
            return jnp.asarray(self.param(name, embedding_normal, (rows, self.features)), total.dtype)

        query, key, value = table("query", self.embeddings), table("key", 2), table("value", 2)
        side = jnp.where(total < 0, 1, 0)[system.structure]
        weight = jax.nn.softplus(jnp.sum(query[species] * key[side], -1) / math.sqrt(self.features))
        share = weight / jnp.maximum(system.totals(weight), jnp.finfo(total.dtype).tiny)[system.structure]
        x = (total[system.structure] * share)[:, None] * value[side]
        y = x
        for k in range(2):
            y = nn.Dense(self.features, use_bias=False, kernel_init=lecun_normal, name=f"dense_{k}")(nn.silu(y))
        return x + y
