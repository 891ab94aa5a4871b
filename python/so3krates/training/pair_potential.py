"""The potential on a list of pairs: the same energies, forces and strain gradients as `so3krates.model.predict`, and a
gradient of the loss that costs a fraction (docs/training.md, the training step)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from so3krates.model.config import ModelConfig, So3lrConfig
from so3krates.model.cutoff import cutoff_function
from so3krates.model.geometry import masked_vectors
from so3krates.model.harmonics import invariants, parity, spherical_harmonics, spread
from so3krates.model.layer import MLP, applied, applied_layer
from so3krates.model.long_range import Interaction, indices_of
from so3krates.model.network import Params
from so3krates.model.potential import Batch, Pairs, Prediction
from so3krates.model.radial_basis import radial_basis, started
from so3krates.model.so3lr import So3lr
from so3krates.model.system import System
from so3krates.model.system_potential import long_energies
from so3krates.model.terms import FLOOR_SHARE

from .attention import attend, gather, sum_directions, to_directions

# No distance may lie at the end of the range, where the derivative of the clip is not that of the filter.
BELOW_SHORTEST = FLOOR_SHARE
FILTERS = ("feature_filter", "geometric_filter")


def radial_points(config: ModelConfig, shortest: float) -> int | None:
    """Chebyshev points at which polynomials in `smooth_variable` meet the radial filters to float32 rounding.

    For distances from `shortest` (A) to the cutoff; None for filters that are no smooth functions.

    Chebyshev coefficients of a Gaussian of width s on an interval of length L fall from degree ~ L/s on; the filters'
    networks are smooth functions of such Gaussians (docs/training.md has the errors).
    """
    if config.radial_basis not in ("phys", "gaussian") or config.radial_floor > BELOW_SHORTEST * shortest:
        return None
    near = BELOW_SHORTEST * shortest
    if config.radial_basis == "phys":
        width = 2.0 / config.radial_functions * (1.0 - math.exp(-config.cutoff))
        return 16 * math.ceil((12 + 4 * (math.exp(-near) - math.exp(-config.cutoff)) / width) / 16)
    width = 2.0 * (config.cutoff - started(config)) / (config.radial_functions - 1)
    return 16 * math.ceil((16 + 5 * (config.cutoff - near) / width) / 16)


def smooth_variable(config: ModelConfig) -> tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]:
    """The function of the distance (A) in which the basis is uniform, and its inverse."""
    if config.radial_basis == "phys":
        return (lambda d: jnp.exp(-d)), (lambda u: -jnp.log(u))
    return (lambda d: d), (lambda u: u)


def predict_pairs(
    config: ModelConfig,
    params: Params,
    batch: Batch,
    points: int | None,
    interactions: Sequence[Interaction] = (),
) -> Prediction:
    """Energies, forces and strain gradients in the precision of `batch.positions` and `params`.

    The radial filters are computed at `points` Chebyshev points and interpolated, or for each pair where it is None.
    `interactions`: of what a network of the architecture so3lr says of atoms.
    """
    if isinstance(config, So3lrConfig):
        return _predict_system(config, params, batch, points, interactions)
    structures, pairs = len(batch.cells), _pairs(batch)
    vectors, structure = _vectors(batch, pairs.ends, pairs.shifts)

    def total(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = jnp.asarray(params["embedding"]["embedding"], vectors.dtype)[batch.species]
        x = _layered(config, params, batch, vectors, points, x)
        found = applied(MLP((*config.readout_features, 1)), params["readout"], x)[:, 0]
        energies = jnp.where(batch.atom_mask, found, 0.0)
        return energies.sum(), energies

    (_, energies), gradient = jax.value_and_grad(total, has_aux=True)(vectors)
    strain = jax.ops.segment_sum(vectors[:, :, None] * gradient[:, None], structure, structures)
    return Prediction(
        energies=jax.ops.segment_sum(energies, batch.structure, structures),
        forces=sum_directions(pairs, jnp.stack([gradient, -gradient]), 0),
        strain_gradients=0.5 * (strain + jnp.swapaxes(strain, 1, 2)),
        atom_energies=energies,
    )


def _predict_system(
    config: So3lrConfig, params: Params, batch: Batch, points: int | None, interactions: Sequence[Interaction]
) -> Prediction:
    """The same of a network of the architecture so3lr; energies of pairs are shared evenly."""
    own = batch.system
    if own is None:
        raise ValueError("a network of the architecture so3lr reads batches with total charges")
    structures, pairs, long_pairs = len(batch.cells), _pairs(batch), own.long_pairs
    system = System(batch.structure, batch.atom_mask.astype(batch.positions.dtype), own.charges, own.unpaired)
    short, of_short = _vectors(batch, pairs.ends, pairs.shifts)
    far, of_far = _vectors(batch, long_pairs.ends, long_pairs.shifts)
    network = So3lr(config)

    def total(short: jax.Array, far: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        x = applied(network, params, batch.species, system, method="initial")
        x = _layered(config, params, batch, short, points, x)
        found = applied(network, params, x, batch.species, system, method="outputs")
        energies = jnp.where(batch.atom_mask, found.energies, 0.0)
        for interaction in interactions:
            values = interaction.of_atoms(indices_of(interaction.elements, batch.species), found.properties)
            energies = energies.at[long_pairs.ends].add(0.5 * long_energies(interaction, long_pairs, far, values))
        return energies.sum(), (energies, found.properties)

    (_, (energies, (charges, ratios))), (pulls, far_pulls) = jax.value_and_grad(total, (0, 1), has_aux=True)(short, far)
    forces = sum_directions(pairs, jnp.stack([pulls, -pulls]), 0)
    forces = forces.at[long_pairs.ends].add(jnp.stack([far_pulls, -far_pulls]))
    strain = jax.ops.segment_sum(short[:, :, None] * pulls[:, None], of_short, structures)
    strain = strain + jax.ops.segment_sum(far[:, :, None] * far_pulls[:, None], of_far, structures)
    return Prediction(
        energies=jax.ops.segment_sum(energies, batch.structure, structures),
        forces=forces,
        strain_gradients=0.5 * (strain + jnp.swapaxes(strain, 1, 2)),
        atom_energies=energies,
        charges=charges,
        dipoles=jax.ops.segment_sum(charges[:, None] * batch.positions, batch.structure, structures),
        ratios=ratios,
    )


def _vectors(batch: Batch, ends: jax.Array, shifts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """From the first to the second atoms of pairs, (P, 3) in A, and the structure of each pair."""
    first, second = ends
    structure = batch.structure[first]
    vectors = batch.positions[second] - batch.positions[first]
    return vectors + jnp.einsum("pc,pcb->pb", shifts, batch.cells[structure]), structure


def _pairs(batch: Batch) -> Pairs:
    if batch.pairs is None:
        raise ValueError("the batch has no list of pairs, which so3krates.data.collate makes")
    return batch.pairs


def _layered(
    config: ModelConfig, params: Params, batch: Batch, vectors: jax.Array, points: int | None, x: jax.Array
) -> jax.Array:
    """Features (N, F) behind the last layer, from those before the first."""
    pairs, dtype = _pairs(batch), vectors.dtype
    vectors = masked_vectors(vectors, jnp.arange(len(vectors)) < pairs.used, config.cutoff)
    distances = jnp.sqrt(jnp.sum(vectors * vectors, axis=-1))
    cutoff = cutoff_function(distances, config)
    harmonics = spherical_harmonics(vectors / distances[:, None], config.degrees)
    harmonics = jnp.stack([harmonics, jnp.asarray(parity(config.degrees), dtype) * harmonics])
    radial = _radial_filters(config, params, distances, points)

    chi = jnp.zeros((len(x), config.orders), dtype)
    for k in range(config.layers):
        layer = params[f"layers_{k}"]

        def apply(method: str, *arguments: Any, layer: Params = layer) -> Any:
            return applied_layer(config, layer, method, *arguments)

        centre, other = apply("project", x, chi)
        # Before the first layer all Euclidean variables are zero: one row stands for every pair.
        ends = to_directions(pairs, chi, 0) if k > 0 else jnp.zeros((2, 1, config.orders), dtype)
        edge_invariants = invariants(ends[1] - ends[0], config.degrees)

        def coefficients(
            name: str, q: jax.Array, key: jax.Array, heads: int, k: int = k, i: jax.Array = edge_invariants
        ):
            spherical = MLP(config.spherical_filter_features)
            filters = radial[name][k] + applied(spherical, params[f"layers_{k}"][name]["spherical"], i)
            scale = config.message_factor(config.features // heads)
            return attend(pairs, q, filters, key, heads) * (scale * cutoff[:, None])

        alpha = coefficients("feature_filter", centre.query, other.key, config.heads)
        beta = coefficients("geometric_filter", centre.geometric_query, other.geometric_key, len(config.degrees))
        messages = sum_directions(pairs, spread(beta, config.degrees) * harmonics, 0)
        x, chi = apply("exchange", x + gather(pairs, alpha, other.value), chi + messages)
    return x


def _radial_filters(
    config: ModelConfig, params: Params, distances: jax.Array, points: int | None
) -> dict[str, list[jax.Array]]:
    """Radial parts of all filters, (P, F) for each layer."""
    mlp = MLP(config.radial_filter_features)

    def networks(basis: jax.Array) -> dict[str, list[jax.Array]]:
        layers = [params[f"layers_{k}"] for k in range(config.layers)]
        return {name: [applied(mlp, layer[name]["radial"], basis) for layer in layers] for name in FILTERS}

    if points is None:
        return networks(radial_basis(distances, config))
    # From the cutoff, a, to a little less than the shortest distance, b, the variable is mapped to t on [-1, 1].
    smooth, distance_of = smooth_variable(config)
    a = smooth(jnp.asarray(config.cutoff, distances.dtype))
    b = jax.lax.stop_gradient(smooth(BELOW_SHORTEST * distances.min()))
    angles = (np.arange(points) + 0.5) * np.pi / points
    nodes = 0.5 * (a + b) + 0.5 * (b - a) * jnp.asarray(np.cos(angles), distances.dtype)
    transform = 2.0 / points * np.cos(np.arange(points)[:, None] * angles)
    transform[0] *= 0.5
    t = jnp.clip((2.0 * smooth(distances) - (a + b)) / (b - a), -1.0, 1.0)
    polynomials = _chebyshev(t, points)
    values = networks(radial_basis(distance_of(nodes), config))
    return jax.tree.map(lambda v: polynomials @ (jnp.asarray(transform, v.dtype) @ v), values)


def _chebyshev(t: jax.Array, count: int) -> jax.Array:
    """Chebyshev polynomials T_0 .. T_(count - 1) of t (P,) within [-1, 1]: (P, count)."""
    values = [jnp.ones_like(t), t]
    while len(values) < count:
        values.append(2.0 * t * values[-1] - values[-2])
    return jnp.stack(values[:count], axis=-1)
