"""Networks that are cheaper and nearly the same: radial filters as splines, the first layer by pairs of species."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import solve_banded

from .config import ModelConfig
from .harmonics import invariants
from .layer import MLP, Layer
from .network import Params
from .radial_basis import radial_basis, spline_range

FILTERS = ("feature_filter", "geometric_filter")


def tabulated(config: ModelConfig, params: Params, nodes: int, start: float = 0.5) -> tuple[ModelConfig, Params]:
    """The network with its radial filter networks, functions of distance only, replaced by cubic splines in exp(-d).

    The result is a network of its own, radial_basis = "spline" with one linear layer, whose forces are the exact
    derivatives of its energy. `nodes` coefficients reach from `start` (A) to the cutoff; below `start` the filters
    are constant.
    Needs jax's x64 mode.
    """
    reduced = dataclasses.replace(
        config,
        radial_basis="spline",
        radial_functions=nodes,
        spline_start=start,
        radial_filter_features=(config.features,),
    )
    result = dict(params)
    for k in range(config.layers):
        layer = dict(params[f"layers_{k}"])
        for name in FILTERS:
            kernel = _spline_coefficients(config, layer[name]["radial"], nodes, start)
            dense = {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(config.features)}
            layer[name] = {**layer[name], "radial": {"dense_0": dense}}
        result[f"layers_{k}"] = layer
    return reduced, result


def _spline_coefficients(config: ModelConfig, params: Params, nodes: int, start: float) -> np.ndarray:
    """Coefficients (nodes, F) of the spline that meets one radial network at its nodes and its slope at both ends."""
    least, spacing = spline_range(nodes, config.cutoff, start)
    mlp = MLP(config.radial_filter_features)
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)

    def network(decay: jax.Array) -> jax.Array:
        return mlp.apply({"params": params}, radial_basis(-jnp.log(decay), config))

    decays = jnp.asarray(least + spacing * np.arange(nodes - 2), jnp.float64)
    values, slopes = jax.jit(lambda s: jax.jvp(network, (s,), (jnp.ones_like(s),)))(decays)
    # Rows: slope at the first node, value at each node, slope at the last node.
    right = np.concatenate([spacing * slopes[:1], values, spacing * slopes[-1:]])
    bands = np.zeros((5, nodes))  # entry [2 + row - column, column]
    bands[3, :-2], bands[2, 1:-1], bands[1, 2:] = 1 / 6, 4 / 6, 1 / 6
    bands[2, 0], bands[1, 1], bands[0, 2] = -0.5, 0.0, 0.5
    bands[4, nodes - 3], bands[3, nodes - 2], bands[2, nodes - 1] = -0.5, 0.0, 0.5
    return solve_banded((2, 2), bands, right)


class FirstLayer(NamedTuple):
    """The first layer's attention, whose input depends on the species alone (docs/model.md)."""

    values: np.ndarray  # (S, F) what a neighbour of each species sends
    heads: np.ndarray  # (S, S, nodes, H) coefficients of alpha / phi: centre, neighbour
    degrees: np.ndarray  # (S, S, nodes, degrees) of beta / phi


def collapsed_first_layer(config: ModelConfig, params: Params, atomic_numbers: list[int]) -> FirstLayer:
    """The first layer of a tabulated network; exact. Needs jax's x64 mode."""
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)
    layer = params["layers_0"]
    x = params["embedding"]["embedding"][np.asarray(atomic_numbers)]
    centre, other = Layer(config).apply({"params": layer}, x, jnp.zeros((len(x), config.orders)), method="project")

    def coefficients(q: jax.Array, k: jax.Array, name: str, heads: int) -> np.ndarray:
        # Splines add up to 1, so constants join the coefficients.
        table = layer[name]["radial"]["dense_0"]["kernel"] + constant_filter(config, layer[name])
        split = (-1, heads, config.features // heads)
        products = jnp.einsum("ihf,jhf,nhf->ijnh", q.reshape(split), k.reshape(split), table.reshape(split))
        return np.asarray(products / math.sqrt(split[2]))

    return FirstLayer(
        values=np.asarray(other.value),
        heads=coefficients(centre.query, other.key, "feature_filter", config.heads),
        degrees=coefficients(centre.geometric_query, other.geometric_key, "geometric_filter", len(config.degrees)),
    )


def constant_filter(config: ModelConfig, params: Params) -> jax.Array:
    """What one filter adds to the spline where the Euclidean variables are zero, (F,)."""
    none = invariants(jnp.zeros(config.orders, jnp.float64), config.degrees)
    spherical = MLP(config.spherical_filter_features).apply({"params": params["spherical"]}, none)
    return spherical + params["radial"]["dense_0"]["bias"]
