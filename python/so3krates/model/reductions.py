"""Networks that are cheaper and nearly the same: radial filters as splines, the first layer by pairs of species."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .config import ModelConfig
from .harmonics import invariants
from .layer import MLP, Layer, applied
from .network import Params
from .radial_basis import radial_basis, spline_range

PIECE = 1024  # distances handled at once
FILTERS = ("feature_filter", "geometric_filter")


def is_tabulated(config: ModelConfig) -> bool:
    """Whether the radial filters are splines already."""
    return config.radial_basis == "spline" and len(config.radial_filter_features) == 1


def tabulated_config(config: ModelConfig, nodes: int, start: float) -> ModelConfig:
    """Settings of the network that `tabulated` makes."""
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    changed = {
        "radial_basis": "spline",
        "radial_functions": nodes,
        "radial_start": None,
        "spline_start": start,
        "radial_filter_features": (config.features,),
        "radial_floor": 0.0,  # the splines have it in them
    }
    return config.tabulated_type(**settings | changed)


def tabulated(config: ModelConfig, params: Params, nodes: int, start: float = 0.5) -> tuple[ModelConfig, Params]:
    """The network with its radial filter networks, functions of distance only, replaced by cubic splines in exp(-d).

    The result is a network of its own, radial_basis = "spline" with one linear layer, whose forces are the exact
    derivatives of its energy. `nodes` coefficients reach from `start` (A) to the cutoff; below `start` the filters
    are constant.
    Needs jax's x64 mode.
    """
    result = dict(params)
    coefficients = _spline_coefficients(config, params, nodes, start)
    for k in range(config.layers):
        layer = dict(params[f"layers_{k}"])
        for name, kernel in zip(FILTERS, coefficients[k], strict=True):
            dense = {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(config.features)}
            layer[name] = {**layer[name], "radial": {"dense_0": dense}}
        result[f"layers_{k}"] = layer
    return tabulated_config(config, nodes, start), result


def radial_functions(config: ModelConfig, params: Params, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All radial filter networks at `distances` (n, A), and their derivatives: (layers, filters, n, F), order FILTERS.

    Needs jax's x64 mode.
    """
    networks = [params[f"layers_{k}"][name]["radial"] for k in range(config.layers) for name in FILTERS]
    stacked = jax.tree.map(lambda *arrays: np.stack([np.asarray(a, np.float64) for a in arrays]), *networks)
    count = len(distances)
    shape = (config.layers, len(FILTERS), count, config.features)
    if is_tabulated(config):
        values, slopes = _stacked_splines(config, stacked["dense_0"], distances)
    else:
        pieces = np.resize(distances, (max(1, -(-count // PIECE)), PIECE))
        found = [_stacked_networks(config, stacked, piece) for piece in pieces]
        values, slopes = (np.concatenate(parts, axis=1)[:, :count] for parts in zip(*found, strict=True))
    return values.reshape(shape), slopes.reshape(shape)


def _stacked_splines(config: ModelConfig, dense: Params, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of splines, of which four are not zero at a distance: of thousands, a thousand times the work."""
    least, spacing = spline_range(config.radial_functions, config.cutoff, config.spline_start)
    decays = np.exp(-distances)
    t = np.clip((decays - least) / spacing, 0.0, config.radial_functions - 3.0)
    first = np.minimum(t.astype(int), config.radial_functions - 4)
    u = t - first
    weights = ((1 - u) ** 3, 4 - 6 * u**2 + 3 * u**3, 1 + 3 * u + 3 * u**2 - 3 * u**3, u**3)  # times 6
    changes = (-3 * (1 - u) ** 2, 9 * u**2 - 12 * u, 3 + 6 * u - 9 * u**2, 3 * u**2)
    inside = (t > 0) & (t < config.radial_functions - 3.0)
    per_distance = np.where(inside, -decays / spacing, 0.0)
    values = dense["bias"][:, None] + np.zeros((len(distances), 1))
    slopes = np.zeros_like(values)
    for k, (weight, change) in enumerate(zip(weights, changes, strict=True)):
        nodes = dense["kernel"][:, first + k]
        values += weight[:, None] / 6 * nodes
        slopes += (change * per_distance)[:, None] / 6 * nodes
    return values, slopes


# Unoptimised: it runs a few times. Of one number of distances, so that it is compiled once, and no more than these: a
# basis of splines is wide.
@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def _stacked_networks(config: ModelConfig, stacked: Params, distances: jax.Array) -> tuple[jax.Array, jax.Array]:
    mlp = MLP(config.radial_filter_features)

    def values(d: jax.Array) -> jax.Array:
        basis = radial_basis(d, config)
        return jax.vmap(lambda p: applied(mlp, p, basis))(stacked)

    return jax.jvp(values, (distances,), (jnp.ones_like(distances),))


def _spline_coefficients(config: ModelConfig, params: Params, nodes: int, start: float) -> np.ndarray:
    """Coefficients (layers, filters, nodes, F) of the splines that meet the radial networks at their nodes and the
    networks' slopes at both ends."""
    from scipy.linalg import solve_banded  # half a second of each start

    least, spacing = spline_range(nodes, config.cutoff, start)
    decays = least + spacing * np.arange(nodes - 2)
    values, slopes = radial_functions(config, params, -np.log(decays))
    slopes = slopes / -decays[:, None]  # with respect to exp(-d)
    # Rows: slope at the first node, value at each node, slope at the last node.
    right = np.concatenate([spacing * slopes[..., :1, :], values, spacing * slopes[..., -1:, :]], axis=-2)
    bands = np.zeros((5, nodes))  # entry [2 + row - column, column]
    bands[3, :-2], bands[2, 1:-1], bands[1, 2:] = 1 / 6, 4 / 6, 1 / 6
    bands[2, 0], bands[1, 1], bands[0, 2] = -0.5, 0.0, 0.5
    bands[4, nodes - 3], bands[3, nodes - 2], bands[2, nodes - 1] = -0.5, 0.0, 0.5
    columns = np.moveaxis(right, -2, 0)
    return np.moveaxis(solve_banded((2, 2), bands, columns.reshape(nodes, -1)).reshape(columns.shape), 0, -2)


def with_rank(config: ModelConfig, params: Params, invariants: list[np.ndarray], rank: int) -> Params:
    """The network with the last matrices of its filters' networks of the invariants, MLP_spherical, projected on the
    `rank` directions in which their results vary most.

    A network of its own: its forces are the exact derivatives of its energy.
    invariants: (n, degrees) of each layer behind the first, as `spherical` is given them; they count at these values,
    at half of them and at twice, so that neither smaller nor larger ones are met unprepared.
    """
    result = dict(params)
    for k, given in enumerate(invariants, start=1):
        inputs = np.concatenate([scale * given for scale in (0.5, 1.0, 2.0)])
        layer = dict(params[f"layers_{k}"])
        for name in FILTERS:
            spherical = layer[name]["spherical"]
            dense_0, dense_1 = (jax.tree.map(np.asarray, spherical[f"dense_{n}"]) for n in range(2))
            hidden = np.asarray(jax.nn.silu(inputs @ dense_0["kernel"] + dense_0["bias"]))
            mean = hidden.mean(axis=0)
            # The same directions as of all results, from the few numbers of a triangle.
            spread = np.linalg.qr(hidden - mean, mode="r") @ dense_1["kernel"]
            directions = np.linalg.svd(spread, full_matrices=False)[2][:rank].T
            kernel = dense_1["kernel"] @ directions @ directions.T
            bias = dense_1["bias"] + mean @ (dense_1["kernel"] - kernel)
            layer[name] = {
                **layer[name],
                "spherical": {"dense_0": spherical["dense_0"], "dense_1": {"kernel": kernel, "bias": bias}},
            }
        result[f"layers_{k}"] = layer
    return result


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
    centre, other = applied(Layer(config), layer, x, jnp.zeros((len(x), config.orders)), method="project")

    def coefficients(q: jax.Array, k: jax.Array, name: str, heads: int) -> np.ndarray:
        # Splines add up to 1, so constants join the coefficients.
        table = layer[name]["radial"]["dense_0"]["kernel"] + constant_filter(config, layer[name])
        split = (-1, heads, config.features // heads)
        rows = (np.asarray(array).reshape(split) for array in (q, k, table))
        return np.einsum("ihf,jhf,nhf->ijnh", *rows, optimize=True) / math.sqrt(split[2])

    return FirstLayer(
        values=np.asarray(other.value),
        heads=coefficients(centre.query, other.key, "feature_filter", config.heads),
        degrees=coefficients(centre.geometric_query, other.geometric_key, "geometric_filter", len(config.degrees)),
    )


def constant_filter(config: ModelConfig, params: Params) -> jax.Array:
    """What one filter adds to the spline where the Euclidean variables are zero, (F,)."""
    none = invariants(jnp.zeros(config.orders, jnp.float64), config.degrees)
    spherical = applied(MLP(config.spherical_filter_features), params["spherical"], none)
    return spherical + params["radial"]["dense_0"]["bias"]
