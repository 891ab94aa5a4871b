"""The So3krates network: species and edge vectors in, energies of atoms out (docs/model.md)."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .config import ModelConfig
from .geometry import edge_geometry, masked_vectors
from .harmonics import invariants
from .initial import embedding_normal
from .layer import MLP, Layer, applied

Params = dict[str, Any]


class Graph(NamedTuple):
    """Atoms with dense tables of their neighbours; both directions of every pair are present."""

    species: jax.Array  # (N,) atomic numbers
    neighbours: jax.Array  # (N, K) rows; unused slots may hold any valid row
    vectors: jax.Array  # (N, K, 3) neighbour minus centre, A
    mask: jax.Array  # (N, K) slots in use


class So3krates(nn.Module):
    """Parameters and forward pass; forces, stress and heat flux are derived outside."""

    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        self.embedding = nn.Embed(c.embeddings, c.features, embedding_init=embedding_normal)
        self.layers = [Layer(c) for _ in range(c.layers)]
        self.readout = MLP((*c.readout_features, 1))

    def __call__(self, graph: Graph) -> jax.Array:
        """Energies of atoms (N,) in eV, without shifts."""
        return self.readout(self.layered(graph)[0])[..., 0]

    def environments(self, graph: Graph) -> jax.Array:
        """Features and the invariants of the Euclidean variables after the last layer, (N, F + degrees)."""
        x, chi = self.layered(graph)
        return jnp.concatenate([x, invariants(chi, self.config.degrees, self.config.float32_invariants)], axis=-1)

    def layered(self, graph: Graph) -> tuple[jax.Array, jax.Array]:
        """Features (N, F) and Euclidean variables (N, orders) after the last layer."""
        c = self.config
        geometry = edge_geometry(c, masked_vectors(graph.vectors, graph.mask, c.cutoff))
        # A lookup by flax would pin the dtype to the parameters'; edges decide it here.
        x = jnp.asarray(self.embedding.embedding, graph.vectors.dtype)[graph.species]
        chi = jnp.zeros((len(graph.species), c.orders), graph.vectors.dtype)
        for layer in self.layers:
            x, chi = layer(x, chi, graph.neighbours, geometry)
        return x, chi


def init_params(config: ModelConfig, seed: int) -> Params:
    """Random parameters, float32: normal embeddings, lecun-normal kernels, zero biases.

    Returns a nested dict whose flat names are listed in docs/architecture.md.
    """
    shapes = (((1,), jnp.int32), ((1, 1), jnp.int32), ((1, 1, 3), jnp.float32), ((1, 1), bool))
    graph = Graph._make(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes)
    return So3krates(config).lazy_init(jax.random.PRNGKey(seed), graph)["params"]


def atom_energies(config: ModelConfig, params: Params, graph: Graph) -> jax.Array:
    """Energies of atoms (N,) in eV without shifts, in the precision of `graph.vectors` and `params`."""
    return applied(So3krates(config), params, graph)


def environments(config: ModelConfig, params: Params, graph: Graph) -> jax.Array:
    """Features and invariants of atoms after the last layer, (N, F + degrees), in the same precision."""
    return applied(So3krates(config), params, graph, method="environments")
