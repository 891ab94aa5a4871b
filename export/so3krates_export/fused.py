"""Weights in the layout of the fused kernels (csrc/kernels/layout.h), which those for a GPU share."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from so3krates import _harness
from so3krates.model.config import ModelConfig
from so3krates.model.harmonics import invariants
from so3krates.model.network import Params
from so3krates.model.reductions import FILTERS, collapsed_first_layer, is_tabulated

_CONSTANTS: dict[str, int] = _harness.kernel_constants()
QUAD = _CONSTANTS["quad"]
ROUNDS = _CONSTANTS["rounds"]
SCHEDULE_ENTRIES = _CONSTANTS["schedule_entries"]
PADDING = _CONSTANTS["padding"]
KERNEL_VERSION = _CONSTANTS["cpu_version"]
RANK_CUT = 1e-12  # of the largest: smaller singular values are rounding
LARGEST_RANK = 0.75  # of the hidden layer: beyond it two products are more work than one
CUTOFF_NUMBERS = {name: number for number, name in enumerate(_harness.kernel_cutoff_functions())}


class FusedError(ValueError):
    """A network that the fused kernels do not compute; the message says why and what to do."""


class Widths(NamedTuple):
    """Sizes of the kernels' rows; csrc/kernels/layout.h says what they are."""

    head_features: int
    group: int
    feature_width: int
    feature_stride: int
    block_width: int
    block_stride: int
    geometric_stride: int
    order_stride: int
    hidden: int
    hidden_stride: int
    readout: int
    readout_stride: int
    row_stride: int
    message_stride: int


def widths(config: ModelConfig) -> Widths:
    """Sizes of the rows of a network that `check_fused` accepts, as the kernels themselves have them."""
    return Widths(
        **_harness.kernel_widths(
            features=config.features,
            heads=config.heads,
            degrees=list(config.degrees),
            hidden=config.spherical_filter_features[0],
            readout=config.readout_features[0],
        )
    )


def check_fused(config: ModelConfig) -> None:
    """Raises FusedError for a network that the kernels do not compute; its radial filters must be tabulated."""

    def require(condition: bool, what: str, advice: str = "body 'xla'") -> None:
        if not condition:
            raise FusedError(f"the fused kernels do not compute {what}: export with {advice}")

    require(config.cutoff_function in CUTOFF_NUMBERS, f"cutoff_function = {config.cutoff_function!r}")
    require(config.heads <= QUAD, f"heads = {config.heads} (at most {QUAD})")
    require(not config.layer_normalization, "layer_normalization")
    require(not config.residual_mlp_1 and not config.residual_mlp_2, "residual_mlp_1 or residual_mlp_2")
    require(
        len(config.spherical_filter_features) == 2,
        f"spherical_filter_features = {config.spherical_filter_features} (one hidden layer)",
    )
    require(len(config.readout_features) == 1, f"readout_features = {config.readout_features} (one hidden layer)")
    require(is_tabulated(config), "radial filter networks without tables", "tables 'auto' or body 'xla'")
    require(config.radial_floor == 0, "splines with a radial_floor")


def fused_weights(
    config: ModelConfig, params: Params, atomic_numbers: list[int], rank: int | None = None
) -> dict[str, np.ndarray]:
    """Weights of a tabulated network in the kernels' layout, float64, by their names in the plan. Needs x64 mode.

    rank: at least `filter_rank`, which it is where it is not given.
    """
    check_fused(config)
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    w = widths(config)
    first = collapsed_first_layer(config, params, atomic_numbers)
    species = len(atomic_numbers)
    lanes = np.arange(QUAD)
    table = np.zeros((species, species, config.radial_functions, 2 * QUAD))
    heads = np.zeros((*table.shape[:3], w.group))
    heads[..., : config.heads] = first.heads
    table[..., :QUAD] = heads[..., lanes % w.group]
    table[..., QUAD : QUAD + len(config.degrees)] = first.degrees
    arrays = {
        "first/embedding": interleaved(config, params["embedding"]["embedding"][np.asarray(atomic_numbers)]),
        "first/values": interleaved(config, first.values),
        "first/table": table,
    }
    rank = filter_rank(config, params) if rank is None else rank
    for k in range(config.layers):
        layer = params[f"layers_{k}"]
        names = exchange_weights(config, layer)
        if k > 0:
            names |= filter_weights(config, layer, rank) | projection_weights(config, layer)
        arrays |= {f"layers_{k}/{name}": value for name, value in names.items()}
    arrays |= {f"readout/{name}": value for name, value in _readout_weights(config, params["readout"]).items()}
    return {f"weights/fused/{name}": np.ascontiguousarray(value) for name, value in arrays.items()}


def interleaved(config: ModelConfig, x: np.ndarray) -> np.ndarray:
    """(..., F) in the model's order -> (..., feature_stride) as the kernels hold features."""
    w = widths(config)
    result = np.zeros((*x.shape[:-1], w.feature_stride))
    f = np.arange(config.features)
    result[..., f % w.head_features * w.group + f // w.head_features] = x
    return result


def _blocks(config: ModelConfig, x: np.ndarray) -> np.ndarray:
    """(..., F) -> (..., geometric_stride), each degree's features padded."""
    w = widths(config)
    blocks = x.reshape(*x.shape[:-1], len(config.degrees), w.block_width)
    padding = [(0, 0)] * (blocks.ndim - 1) + [(0, w.block_stride - w.block_width)]
    return np.pad(blocks, padding).reshape(*x.shape[:-1], w.geometric_stride)


def _invariant_factors(config: ModelConfig, float32_factors: bool = False) -> np.ndarray:
    """1 / sqrt(2l + 1) of each degree: what turns sums of squares into invariants."""
    first_orders = np.concatenate([[0], np.cumsum([2 * l + 1 for l in config.degrees])[:-1]])
    units = np.zeros((len(config.degrees), config.orders))
    units[np.arange(len(config.degrees)), first_orders] = 1.0
    return np.diag(np.asarray(invariants(jnp.asarray(units), config.degrees, float32_factors)))


def filter_rank(config: ModelConfig, params: Params) -> int:
    """Numbers through which the filters' last matrices behind the first layer are computed: their rank where that is
    less work, else the width of the hidden layer."""
    kernels = [
        params[f"layers_{k}"][name]["spherical"]["dense_1"]["kernel"]
        for k in range(1, config.layers)
        for name in FILTERS
    ]
    sizes = [np.linalg.svd(kernel, compute_uv=False) for kernel in kernels]
    rank = max((int((s > RANK_CUT * s[0]).sum()) for s in sizes), default=0)
    hidden = config.spherical_filter_features[0]
    return max(1, rank) if rank <= LARGEST_RANK * hidden else hidden


def _factors(kernel: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices whose product is `kernel`, (in, rank) and (rank, out)."""
    if rank == len(kernel):
        return np.eye(rank), kernel
    left, sizes, right = np.linalg.svd(kernel, full_matrices=False)
    return left[:, :rank] * sizes[:rank], right[:rank]


def filter_weights(config: ModelConfig, layer: Params, rank: int) -> dict[str, np.ndarray]:
    """Of a layer's filters through `rank` numbers."""
    w = widths(config)
    hidden_in = np.zeros((len(config.degrees) + 1, w.hidden_stride))
    tables, outs, reduce, expand = [], [], [], []
    for k, name in enumerate(FILTERS):
        radial, spherical = layer[name]["radial"]["dense_0"], layer[name]["spherical"]
        dense_0, dense_1 = spherical["dense_0"], spherical["dense_1"]
        own = slice(k * w.hidden, (k + 1) * w.hidden)
        hidden_in[:-1, own] = _invariant_factors(config)[:, None] * dense_0["kernel"]
        hidden_in[-1, own] = dense_0["bias"]
        # Splines add up to 1, so biases join the coefficients.
        tables.append(radial["kernel"] + radial["bias"] + dense_1["bias"])
        outs.append(dense_1["kernel"])
        into, out_of = _factors(dense_1["kernel"], rank)
        reduce.append(into)
        expand.append(out_of)

    def side_by_side(feature: np.ndarray, geometric: np.ndarray) -> np.ndarray:
        return np.concatenate([interleaved(config, feature), _blocks(config, geometric)], axis=-1)

    transposed = np.concatenate([interleaved(config, expand[0])[:, : w.feature_width], expand[1]], axis=-1).T
    return {
        "table": side_by_side(*tables),
        "hidden_in": hidden_in,
        "hidden_out": side_by_side(*outs),
        "reduce": np.concatenate(reduce),
        "expand": side_by_side(*expand),
        "expand_t": np.pad(transposed, ((0, 0), (0, -rank % PADDING))),
    }


def projection_weights(config: ModelConfig, layer: Params) -> dict[str, np.ndarray]:
    """Of a layer's queries, keys and values."""
    w = widths(config)
    # The attention's factor goes into the queries.
    scale = [config.message_factor(w.head_features), 1.0, 1.0]
    kernels = [layer[f"feature_{name}"]["kernel"] * s for name, s in zip(("query", "key", "value"), scale, strict=True)]

    def by_head(kernel: np.ndarray) -> np.ndarray:  # (H, in, out) -> (in, feature_stride)
        return interleaved(config, kernel.transpose(1, 0, 2).reshape(w.head_features, config.features))

    geometric = np.stack(
        [layer["geometric_query"]["kernel"] * config.message_factor(w.block_width), layer["geometric_key"]["kernel"]],
        axis=1,
    )  # (degrees, 2, in, out)
    padding = ((0, 0), (0, 0), (0, 0), (0, w.block_stride - w.block_width))
    return {
        "feature": np.stack([by_head(kernel) for kernel in kernels], axis=1),
        "feature_t": np.stack([by_head(kernel.transpose(0, 2, 1)) for kernel in kernels]),
        "geometric": np.pad(geometric, padding).transpose(0, 2, 1, 3),
        "geometric_t": np.pad(geometric.transpose(0, 1, 3, 2), padding),
    }


def exchange_weights(config: ModelConfig, layer: Params) -> dict[str, np.ndarray]:
    """Of a layer's exchange block."""
    w, f = widths(config), config.features
    factors = np.concatenate([np.ones(f), _invariant_factors(config, config.float32_invariants)])
    kernel = factors[:, None] * layer["exchange"]["kernel"]
    rest = ((0, 0), (0, QUAD - len(config.degrees)))

    def columns(matrix: np.ndarray) -> np.ndarray:
        return np.concatenate([interleaved(config, matrix[:, :f]), np.pad(matrix[:, f:], rest)], axis=-1)

    def rows(matrix: np.ndarray) -> np.ndarray:
        return np.concatenate([interleaved(config, matrix[:f].T).T[: w.feature_width], matrix[f:]])

    return {
        "exchange": columns(rows(kernel)),
        "exchange_bias": columns(layer["exchange"]["bias"][None])[0],
        "exchange_t": columns(rows(kernel.T)),
    }


def _readout_weights(config: ModelConfig, readout: Params) -> dict[str, np.ndarray]:
    w = widths(config)
    dense_0, dense_1 = readout["dense_0"], readout["dense_1"]
    rest = w.readout_stride - w.readout
    by_feature = interleaved(config, dense_0["kernel"].T)  # (readout, feature_stride)
    return {
        "hidden": np.pad(by_feature.T[: w.feature_width], ((0, 0), (0, rest))),
        "hidden_t": by_feature,
        "bias": np.pad(dense_0["bias"], (0, rest)),
        "out": np.pad(dense_1["kernel"][:, 0], (0, rest)),
        "out_bias": dense_1["bias"],
    }
