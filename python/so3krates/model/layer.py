"""One message-passing layer: projections, filters, attention, exchange (docs/model.md)."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .config import ModelConfig, So3lrConfig
from .geometry import Geometry
from .harmonics import invariants, spread
from .initial import lecun_normal


class Centre(NamedTuple):
    """What an edge reads from the atom that receives the message."""

    query: jax.Array  # (..., F)
    geometric_query: jax.Array  # (..., F)
    chi: jax.Array  # (..., orders)


class Other(NamedTuple):
    """What an edge reads from the atom that sends the message."""

    key: jax.Array  # (..., F)
    value: jax.Array  # (..., F)
    geometric_key: jax.Array  # (..., F)
    chi: jax.Array  # (..., orders)


class Filters(NamedTuple):
    """Even in the direction of the edge: the two edges of a pair share them."""

    feature: jax.Array  # (..., F)
    geometric: jax.Array  # (..., F)


def applied(module: nn.Module, params: Any, *arguments: Any, method: str | None = None) -> Any:
    """What the module gives for these parameters; flax's own signature allows for changed variables too."""
    return module.apply({"params": params}, *arguments, method=method)


class MLP(nn.Module):
    """Dense layers with silu between them, none after the last."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for k, width in enumerate(self.widths):
            x = nn.Dense(width, kernel_init=lecun_normal, name=f"dense_{k}")(nn.silu(x) if k > 0 else x)
        return x


class ResidualMLP(nn.Module):
    """x + two (silu, Dense) blocks, then silu and Dense; no biases."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for k in range(2):
            y = nn.Dense(x.shape[-1], use_bias=False, kernel_init=lecun_normal, name=f"dense_{k}")(nn.silu(y))
        return nn.Dense(x.shape[-1], use_bias=False, kernel_init=lecun_normal, name="dense_2")(nn.silu(x + y))


class HeadDense(nn.Module):
    """A matrix of its own for each head, no bias: (..., F) -> (..., F) in `heads` contiguous blocks."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1] // self.heads
        kernel = self.param("kernel", lecun_normal, (self.heads, width, width))
        kernel = jnp.asarray(kernel, x.dtype)
        blocks = x.reshape(*x.shape[:-1], self.heads, width)
        return jnp.einsum("...hi,hij->...hj", blocks, kernel).reshape(x.shape)


class Filter(nn.Module):
    """w = MLP_radial(basis) + MLP_spherical(invariants) (docs/model.md)."""

    radial_widths: tuple[int, ...]
    spherical_widths: tuple[int, ...]

    def setup(self) -> None:
        self.radial = MLP(self.radial_widths)
        self.spherical = MLP(self.spherical_widths)

    def __call__(self, basis: jax.Array, edge_invariants: jax.Array) -> jax.Array:
        return self.radial(basis) + self.spherical(edge_invariants)


class Layer(nn.Module):
    """The layer's parts as methods; the composed energy and the stages call the same ones."""

    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        self.feature_filter = Filter(c.radial_filter_features, c.spherical_filter_features)
        self.geometric_filter = Filter(c.radial_filter_features, c.spherical_filter_features)
        self.feature_query = HeadDense(c.heads)
        self.feature_key = HeadDense(c.heads)
        self.feature_value = HeadDense(c.heads)
        self.geometric_query = HeadDense(len(c.degrees))
        self.geometric_key = HeadDense(len(c.degrees))
        self.exchange_dense = nn.Dense(c.features + len(c.degrees), kernel_init=lecun_normal, name="exchange")
        if c.layer_normalization:
            self.attention_norm = nn.LayerNorm()
            self.exchange_norm = nn.LayerNorm()
        if c.residual_mlp_1:
            self.residual_1 = ResidualMLP()
        if c.residual_mlp_2:
            self.residual_2 = ResidualMLP()

    def project(self, x: jax.Array, chi: jax.Array) -> tuple[Centre, Other]:
        """Queries, keys and values of atoms; x: (..., F), chi: (..., orders)."""
        if self.config.layer_normalization:
            x = self.attention_norm(x)
        return (
            Centre(self.feature_query(x), self.geometric_query(x), chi),
            Other(self.feature_key(x), self.feature_value(x), self.geometric_key(x), chi),
        )

    def filters(self, basis: jax.Array, chi_difference: jax.Array) -> Filters:
        """Both filter networks; basis: (..., K), chi_difference: (..., orders), of either sign."""
        edge_invariants = invariants(chi_difference, self.config.degrees)
        return Filters(self.feature_filter(basis, edge_invariants), self.geometric_filter(basis, edge_invariants))

    def attend(
        self, centre: Centre, other: Other, filters: Filters, cutoff: jax.Array, harmonics: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Message of one edge: feature attention (docs/model.md) and geometric attention.

        Returns (..., F) and (..., orders). No softmax and no normalisation by the number of neighbours.
        """
        c = self.config

        def coefficients(q: jax.Array, w: jax.Array, k: jax.Array, heads: int) -> jax.Array:
            width = c.features // heads
            products = (q * w * k).reshape(*w.shape[:-1], heads, width)
            return products.sum(-1) * c.message_factor(width) * cutoff[..., None]

        alpha = coefficients(centre.query, filters.feature, other.key, c.heads)
        beta = coefficients(centre.geometric_query, filters.geometric, other.geometric_key, len(c.degrees))
        values = other.value.reshape(*other.value.shape[:-1], c.heads, c.features // c.heads)
        message = (alpha[..., None] * values).reshape(*alpha.shape[:-1], c.features)
        return message, spread(beta, c.degrees) * harmonics

    def messages(self, centre: Centre, other: Other, geometry: Geometry) -> tuple[jax.Array, jax.Array]:
        """Messages of directed edges centre <- other."""
        filters = self.filters(geometry.basis, other.chi - centre.chi)
        return self.attend(centre, other, filters, geometry.cutoff, geometry.harmonics)

    def exchange(self, x: jax.Array, chi: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Exchange block (docs/model.md) on features and Euclidean variables after the attention's residual."""
        c = self.config
        if c.residual_mlp_1:
            x = self.residual_1(x)
        normalised = self.exchange_norm(x) if c.layer_normalization else x
        chi_invariants = invariants(chi, c.degrees, float32_factors=c.float32_invariants)
        output = self.exchange_dense(jnp.concatenate([normalised, chi_invariants], axis=-1))
        x = x + output[..., : c.features]
        if c.residual_mlp_2:
            x = self.residual_2(x)
        return x, chi + spread(output[..., c.features :], c.degrees) * chi

    def __call__(
        self, x: jax.Array, chi: jax.Array, neighbours: jax.Array, geometry: Geometry
    ) -> tuple[jax.Array, jax.Array]:
        """The whole layer on dense neighbour tables: x (N, F), chi (N, orders), neighbours (N, K), geometry (N, K)."""
        centre, other = self.project(x, chi)
        centre = jax.tree.map(lambda rows: rows[:, None], centre)
        other = jax.tree.map(lambda rows: rows[neighbours], other)
        dx, dchi = self.messages(centre, other, geometry)
        return self.exchange(x + dx.sum(1), chi + dchi.sum(1))


class So3lrLayer(Layer):
    """A layer that normalises the features themselves, after the attention and after the exchange."""

    config: So3lrConfig

    def setup(self) -> None:
        super().setup()
        # Means of differences: the mean of squares less the square of the mean loses digits.
        self.norm_1 = nn.LayerNorm(use_fast_variance=False)
        self.norm_2 = nn.LayerNorm(use_fast_variance=False)
        self.residual = MLP((self.config.features, self.config.features))

    def exchange(self, x: jax.Array, chi: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features and Euclidean variables of atoms after the attention's residual to those after the layer."""
        c = self.config
        x = self.norm_1(x)
        x = x + self.residual(nn.silu(x))
        output = self.exchange_dense(jnp.concatenate([x, invariants(chi, c.degrees)], axis=-1))
        x = self.norm_2(x + output[..., : c.features])
        return x, chi + spread(output[..., c.features :], c.degrees) * chi


def applied_layer(config: ModelConfig, params: Any, method: str, *arguments: Any) -> Any:
    """A method of the network's layer on a layer's parameters."""
    layer = So3lrLayer(config) if isinstance(config, So3lrConfig) else Layer(config)
    return applied(layer, params, *arguments, method=method)
