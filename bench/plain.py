"""The yardstick: So3krates as a list of directed edges in JAX, segment sums, autodiff, as the original has it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from so3krates.model import ModelConfig
from so3krates.model.geometry import edge_geometry
from so3krates.model.layer import MLP, Layer
from so3krates.model.network import Params


class Edges(NamedTuple):
    """Both directions of every pair."""

    species: jax.Array  # (N,) atomic numbers
    centres: jax.Array  # (P,)
    others: jax.Array  # (P,)
    shifts: jax.Array  # (P, 3) A


def energy(config: ModelConfig, params: Params, edges: Edges, positions: jax.Array, strain: jax.Array) -> jax.Array:
    """Energy in eV of positions (N, 3) in A under a strain (3, 3)."""
    count = len(edges.species)
    vectors = positions[edges.others] - positions[edges.centres] + edges.shifts
    vectors = vectors + vectors @ strain.T
    geometry = edge_geometry(config, vectors)
    x = params["embedding"]["embedding"][edges.species]
    chi = jnp.zeros((count, config.orders), positions.dtype)
    for k in range(config.layers):

        def apply(method, *arguments, k=k):
            return Layer(config).apply({"params": params[f"layers_{k}"]}, *arguments, method=method)

        centre, other = apply("project", x, chi)
        centre = jax.tree.map(lambda rows: rows[edges.centres], centre)
        other = jax.tree.map(lambda rows: rows[edges.others], other)
        dx, dchi = apply("messages", centre, other, geometry)
        sums = [jax.ops.segment_sum(m, edges.centres, count) for m in (dx, dchi)]
        x, chi = apply("exchange", x + sums[0], chi + sums[1])
    return MLP((*config.readout_features, 1)).apply({"params": params["readout"]}, x).sum()


def energy_and_forces(config: ModelConfig, params: Params, edges: Edges, positions: jax.Array):
    """Energy in eV and forces (N, 3) in eV/A."""
    none = jnp.zeros((3, 3), positions.dtype)
    value, gradient = jax.value_and_grad(energy, argnums=3)(config, params, edges, positions, none)
    return value, -gradient


def loss_gradient(config: ModelConfig, params: Params, edges: Edges, positions: jax.Array, labels):
    """Gradient of the mean squared errors of energy, forces and strain gradient, `labels`, by the parameters."""

    def loss(params: Params) -> jax.Array:
        none = jnp.zeros((3, 3), positions.dtype)
        value, (gradient, strain) = jax.value_and_grad(energy, argnums=(3, 4))(config, params, edges, positions, none)
        errors = (value - labels[0], -gradient - labels[1], strain - labels[2])
        return sum(jnp.mean(error**2) for error in errors)

    return jax.grad(loss)(params)
