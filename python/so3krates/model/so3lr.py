"""The network of SO3LR: energies, partial charges and Hirshfeld ratios of atoms (docs/so3lr.md)."""

from __future__ import annotations

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .config import ModelConfig, So3lrConfig
from .geometry import edge_geometry, masked_vectors
from .initial import embedding_normal
from .layer import MLP, So3lrLayer, applied
from .network import Graph, Params, init_params
from .properties import AtomProperties, ChargeReadout, HirshfeldReadout
from .system import System, SystemEmbedding

# Weights with a row for each atomic number, in networks of either architecture.
TABLES = (
    "embedding/embedding",
    "charge_embedding/query",
    "spin_embedding/query",
    "energy_scale",
    "charges/shift",
    "hirshfeld/shift",
    "hirshfeld/query",
)


class AtomOutputs(NamedTuple):
    """What the network says of atoms (N,)."""

    energies: jax.Array  # eV, of the network alone, without shifts
    properties: AtomProperties


class So3lr(nn.Module):
    """Parameters and forward pass; the long-range part of the energy is made of the properties."""

    config: So3lrConfig

    def setup(self) -> None:
        c = self.config
        self.embedding = nn.Embed(c.embeddings, c.features, embedding_init=embedding_normal)
        self.charge_embedding = SystemEmbedding(c.features, c.embeddings)
        self.spin_embedding = SystemEmbedding(c.features, c.embeddings)
        self.layers = [So3lrLayer(c) for _ in range(c.layers)]
        self.readout = MLP((*c.readout_features, 1))
        self.energy_scale = self.param("energy_scale", nn.initializers.ones, (c.embeddings,))
        self.charges = ChargeReadout(c.features, c.embeddings)
        self.hirshfeld = HirshfeldReadout(c.features, c.embeddings)

    def __call__(self, graph: Graph, system: System) -> AtomOutputs:
        """Outputs of the atoms of structures with these charges and unpaired electrons."""
        c = self.config
        geometry = edge_geometry(c, masked_vectors(graph.vectors, graph.mask, c.cutoff))
        x = self.initial(graph.species, system)
        chi = jnp.zeros((len(graph.species), c.orders), x.dtype)
        for layer in self.layers:
            x, chi = layer(x, chi, graph.neighbours, geometry)
        return self.outputs(x, graph.species, system)

    def initial(self, species: jax.Array, system: System) -> jax.Array:
        """Features (N, F) before the first layer, in the precision of the charges."""
        x = jnp.asarray(self.embedding.embedding, system.charges.dtype)[species]
        x = x + self.charge_embedding(species, system.charges, system)
        return (x + self.spin_embedding(species, system.unpaired, system)) / math.sqrt(3.0)

    def outputs(self, x: jax.Array, species: jax.Array, system: System) -> AtomOutputs:
        """What features (N, F) behind the last layer say of atoms."""
        energies = self.readout(x)[..., 0] * jnp.asarray(self.energy_scale, x.dtype)[species]
        return AtomOutputs(energies, AtomProperties(self.charges(x, species, system), self.hirshfeld(x, species)))


def init_so3lr(config: So3lrConfig, seed: int) -> Params:
    """Random parameters, float32, as a nested dict."""
    shapes = (((1,), jnp.int32), ((1, 1), jnp.int32), ((1, 1, 3), jnp.float32), ((1, 1), bool))
    graph = Graph._make(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes)
    kinds = (jnp.int32, jnp.float32, jnp.float32, jnp.float32)
    system = System._make(jax.ShapeDtypeStruct((1,), dtype) for dtype in kinds)
    return So3lr(config).lazy_init(jax.random.PRNGKey(seed), graph, system)["params"]


def initial_params(config: ModelConfig, seed: int) -> Params:
    """Random parameters of a network of either architecture, float32, as a nested dict."""
    return init_so3lr(config, seed) if isinstance(config, So3lrConfig) else init_params(config, seed)


def atom_outputs(config: So3lrConfig, params: Params, graph: Graph, system: System) -> AtomOutputs:
    """Energies and properties of atoms, in the precision of `graph.vectors` and `params`."""
    return applied(So3lr(config), params, graph, system)
