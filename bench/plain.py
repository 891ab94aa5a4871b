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


def energy_and_forces(config: ModelConfig, params: Params, edges: Edges, positions: jax.Array):
    """Energy in eV and forces (N, 3) in eV/A."""

    def energy(positions: jax.Array) -> jax.Array:
        count = len(edges.species)
        vectors = positions[edges.others] - positions[edges.centres] + edges.shifts
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

    value, gradient = jax.value_and_grad(energy)(positions)
    return value, -gradient
