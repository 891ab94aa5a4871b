"""The stages as fused CPU kernels (csrc/kernels): weights in their layout, and the plan that calls them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from so3krates.model.config import CUTOFF_FUNCTIONS, ModelConfig
from so3krates.model.harmonics import invariants
from so3krates.model.network import Params
from so3krates.model.radial_basis import spline_range
from so3krates.model.reductions import FILTERS, collapsed_first_layer, is_tabulated

from .plan import VIRIAL_CHANNELS, Array, Call, Plan, Refresh, adjoint_name, evaluator_arrays

# As in csrc/kernels/layout.h and pairs.h.
PADDING = 16
QUAD = 4
ROUNDS = 8
MOST_THREADS = 256
SCHEDULE_ENTRIES = 1 + (2 * MOST_THREADS + 1) + ROUNDS + ROUNDS * MOST_THREADS
# Of the calls and of the layout of what they are given: to be raised with kVersion in csrc/kernels/layout.h.
KERNEL_VERSION = 2


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
    hidden_columns: int
    readout: int
    readout_stride: int
    row_stride: int
    message_stride: int


def widths(config: ModelConfig) -> Widths:
    """Sizes of the rows of a network that `check_fused` accepts."""

    def padded(n: int, unit: int = PADDING) -> int:
        return -(-n // unit) * unit

    group = {1: 1, 2: 2}.get(config.heads, 4)
    head_features = config.features // config.heads
    features = padded(head_features * group)
    block_width = config.features // len(config.degrees)
    geometric = padded(block_width) * len(config.degrees)
    orders = padded(config.orders)
    hidden, readout = config.spherical_filter_features[0], config.readout_features[0]
    return Widths(
        head_features=head_features,
        group=group,
        feature_width=head_features * group,
        feature_stride=features,
        block_width=block_width,
        block_stride=padded(block_width),
        geometric_stride=geometric,
        order_stride=orders,
        hidden=hidden,
        hidden_stride=padded(2 * hidden),
        hidden_columns=padded(hidden, QUAD),
        readout=readout,
        readout_stride=padded(readout),
        row_stride=3 * features + 2 * geometric + orders,
        message_stride=features + orders,
    )


def check_fused(config: ModelConfig) -> None:
    """Raises FusedError for a network that the kernels do not compute; its radial filters must be tabulated."""

    def require(condition: bool, what: str, advice: str = "body 'xla'") -> None:
        if not condition:
            raise FusedError(f"the fused kernels do not compute {what}: export with {advice}")

    require(config.heads <= QUAD, f"heads = {config.heads} (at most {QUAD})")
    require(not config.layer_normalization, "layer_normalization")
    require(not config.residual_mlp_1 and not config.residual_mlp_2, "residual_mlp_1 or residual_mlp_2")
    require(
        len(config.spherical_filter_features) == 2,
        f"spherical_filter_features = {config.spherical_filter_features} (one hidden layer)",
    )
    require(len(config.readout_features) == 1, f"readout_features = {config.readout_features} (one hidden layer)")
    require(is_tabulated(config), "radial filter networks without tables", "tables 'auto' or body 'xla'")


def fused_weights(config: ModelConfig, params: Params, atomic_numbers: list[int]) -> dict[str, np.ndarray]:
    """Weights of a tabulated network in the kernels' layout, float64, by their names in the plan. Needs x64 mode."""
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
        "first/embedding": _interleaved(config, params["embedding"]["embedding"][np.asarray(atomic_numbers)]),
        "first/values": _interleaved(config, first.values),
        "first/table": table,
    }
    for k in range(config.layers):
        layer = params[f"layers_{k}"]
        names = _exchange_weights(config, layer)
        if k > 0:
            names |= _filter_weights(config, layer) | _projection_weights(config, layer)
        arrays |= {f"layers_{k}/{name}": value for name, value in names.items()}
    arrays |= {f"readout/{name}": value for name, value in _readout_weights(config, params["readout"]).items()}
    return {f"weights/fused/{name}": np.ascontiguousarray(value) for name, value in arrays.items()}


def _interleaved(config: ModelConfig, x: np.ndarray) -> np.ndarray:
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


def _filter_weights(config: ModelConfig, layer: Params) -> dict[str, np.ndarray]:
    w = widths(config)
    hidden_in = np.zeros((len(config.degrees) + 1, w.hidden_stride))
    tables, outs = [], []
    for k, name in enumerate(FILTERS):
        radial, spherical = layer[name]["radial"]["dense_0"], layer[name]["spherical"]
        dense_0, dense_1 = spherical["dense_0"], spherical["dense_1"]
        own = slice(k * w.hidden, (k + 1) * w.hidden)
        hidden_in[:-1, own] = _invariant_factors(config)[:, None] * dense_0["kernel"]
        hidden_in[-1, own] = dense_0["bias"]
        # Splines add up to 1, so biases join the coefficients.
        tables.append(radial["kernel"] + radial["bias"] + dense_1["bias"])
        outs.append(dense_1["kernel"])

    def side_by_side(feature: np.ndarray, geometric: np.ndarray) -> np.ndarray:
        return np.concatenate([_interleaved(config, feature), _blocks(config, geometric)], axis=-1)

    transposed = np.concatenate([_interleaved(config, outs[0])[:, : w.feature_width], outs[1]], axis=-1).T
    return {
        "table": side_by_side(*tables),
        "hidden_in": hidden_in,
        "hidden_out": side_by_side(*outs),
        "hidden_out_t": np.pad(transposed, ((0, 0), (0, w.hidden_columns - w.hidden))),
    }


def _projection_weights(config: ModelConfig, layer: Params) -> dict[str, np.ndarray]:
    w = widths(config)
    # The attention's 1 / sqrt(width) goes into the queries.
    scale = [1.0 / math.sqrt(w.head_features), 1.0, 1.0]
    kernels = [layer[f"feature_{name}"]["kernel"] * s for name, s in zip(("query", "key", "value"), scale, strict=True)]

    def by_head(kernel: np.ndarray) -> np.ndarray:  # (H, in, out) -> (in, feature_stride)
        return _interleaved(config, kernel.transpose(1, 0, 2).reshape(w.head_features, config.features))

    geometric = np.stack(
        [layer["geometric_query"]["kernel"] / math.sqrt(w.block_width), layer["geometric_key"]["kernel"]], axis=1
    )  # (degrees, 2, in, out)
    padding = ((0, 0), (0, 0), (0, 0), (0, w.block_stride - w.block_width))
    return {
        "feature": np.stack([by_head(kernel) for kernel in kernels], axis=1),
        "feature_t": np.stack([by_head(kernel.transpose(0, 2, 1)) for kernel in kernels]),
        "geometric": np.pad(geometric, padding).transpose(0, 2, 1, 3),
        "geometric_t": np.pad(geometric.transpose(0, 1, 3, 2), padding),
    }


def _exchange_weights(config: ModelConfig, layer: Params) -> dict[str, np.ndarray]:
    w, f = widths(config), config.features
    factors = np.concatenate([np.ones(f), _invariant_factors(config, config.float32_invariants)])
    kernel = factors[:, None] * layer["exchange"]["kernel"]
    rest = ((0, 0), (0, QUAD - len(config.degrees)))

    def columns(matrix: np.ndarray) -> np.ndarray:
        return np.concatenate([_interleaved(config, matrix[:, :f]), np.pad(matrix[:, f:], rest)], axis=-1)

    def rows(matrix: np.ndarray) -> np.ndarray:
        return np.concatenate([_interleaved(config, matrix[:f].T).T[: w.feature_width], matrix[f:]])

    return {
        "exchange": columns(rows(kernel)),
        "exchange_bias": columns(layer["exchange"]["bias"][None])[0],
        "exchange_t": columns(rows(kernel.T)),
    }


def _readout_weights(config: ModelConfig, readout: Params) -> dict[str, np.ndarray]:
    w = widths(config)
    dense_0, dense_1 = readout["dense_0"], readout["dense_1"]
    rest = w.readout_stride - w.readout
    by_feature = _interleaved(config, dense_0["kernel"].T)  # (readout, feature_stride)
    return {
        "hidden": np.pad(by_feature.T[: w.feature_width], ((0, 0), (0, rest))),
        "hidden_t": by_feature,
        "bias": np.pad(dense_0["bias"], (0, rest)),
        "out": np.pad(dense_1["kernel"][:, 0], (0, rest)),
        "out_bias": dense_1["bias"],
    }


def build_fused_plan(config: ModelConfig, precision: str, elements: int, channels: int = 1, threads: int = 0) -> Plan:
    """The stages as custom calls; arguments as in `plan.build_plan`.

    config: of a tabulated network. elements: number of species. threads: how many share the pairs, 0: the
    client's. Every array that a call fills is handed in and updated in place.
    """
    check_fused(config)
    w, real = widths(config), precision
    virials = ["atom_virials"] if channels == VIRIAL_CHANNELS else []
    adjoints, coefficients_adjoint, projection_adjoints = (
        adjoint_name(name, channels) for name in ("adjoints", "coefficients_adjoint", "projection_adjoints")
    )
    arrays = evaluator_arrays(real, channels) | {
        "ends": Array("int32", ("rows", ROUNDS), "state"),
        "order": Array("int32", ("rows",), "state"),
        "schedule": Array("int32", (SCHEDULE_ENTRIES,), "state"),
        "coefficients": Array(real, ("rows", elements, QUAD), "state"),
        coefficients_adjoint: Array(real, ("rows", channels, elements, QUAD), "state"),
        adjoints: Array(real, ("rows", channels, w.message_stride), "state"),
    }
    for k in range(config.layers):
        arrays[f"attended_euclidean_{k}"] = Array(real, ("rows", w.order_stride), "state")
        arrays[f"exchange_scale_{k}"] = Array(real, ("rows", QUAD), "state")
        arrays[f"features_{k + 1}"] = Array(real, ("rows", w.feature_stride), "state")
        arrays[f"euclidean_{k + 1}"] = Array(real, ("rows", w.order_stride), "state")
    if config.layers > 1:
        arrays["projections"] = Array(real, ("rows", w.row_stride), "state")
        arrays[projection_adjoints] = Array(real, ("rows", channels, w.row_stride), "state")

    builder = _Builder(arrays, _attributes(config, precision, elements, threads))
    table = ["vectors", "neighbours", "ends", "order", "schedule"]
    gradients = ["forces", *virials]

    def state(k: int) -> list[str]:
        return [f"features_{k}", f"euclidean_{k}"]

    def weights(k: int, *names: str) -> list[str]:
        return [f"weights/fused/layers_{k}/{name}" for name in names]

    def after(k: int) -> list[str]:
        return [f"attended_euclidean_{k}", *state(k + 1), f"exchange_scale_{k}"]

    def project(k: int) -> None:
        names = [*weights(k, "feature", "geometric"), *state(k), "row_count"]
        builder.call("project", names, into=["projections"])

    builder.call(
        "pairs",
        ["positions", "row_of_atom", "atom_of_row", "candidates", "candidate_count", "owned_count"],
        into=table,
        last=["neighbours_needed"],
    )
    first = [f"weights/fused/first/{name}" for name in ("embedding", "values", "table")]
    builder.call(
        "first_layer",
        [*first, *weights(0, "exchange", "exchange_bias"), "species", *table, "owned_count"],
        into=["coefficients", *after(0)],
    )
    for k in range(1, config.layers):
        builder.refresh(state(k))
        project(k)
        filters = weights(k, "table", "hidden_in", "hidden_out", "exchange", "exchange_bias")
        builder.call("layer", [*filters, *state(k), "projections", *table, "owned_count"], into=after(k))
    head = [f"weights/fused/readout/{name}" for name in ("hidden", "hidden_t", "bias", "out", "out_bias")]
    builder.call(
        "readout",
        [*head, state(config.layers)[0], "owned_count"],
        first=["energy", "strain_gradient"],
        into=["atom_energies", adjoints, *gradients],
        channels=channels,
    )
    for k in reversed(range(config.layers)):
        kept = [f"attended_euclidean_{k}", f"exchange_scale_{k}"]
        inputs = [*weights(k, "exchange_t"), *kept, "owned_count"]
        builder.call("exchange_adjoint", inputs, into=[adjoints], channels=channels)
        builder.refresh([adjoints])
        if k == 0:
            builder.call(
                "first_layer_adjoint",
                [*first[1:], "species", adjoints, *table, "row_count"],
                into=["strain_gradient", coefficients_adjoint, *gradients],
                channels=channels,
            )
            break
        if k + 1 < config.layers:
            project(k)
        names = ("table", "hidden_in", "hidden_out", "hidden_out_t", "feature_t", "geometric_t")
        builder.call(
            "layer_adjoint",
            [*weights(k, *names), "projections", *table, "owned_count"],
            into=["strain_gradient", projection_adjoints, adjoints, *gradients],
            channels=channels,
        )
    return Plan(arrays, builder.programs, builder.steps)


def _attributes(config: ModelConfig, precision: str, elements: int, threads: int) -> dict[str, Any]:
    """What the kernels need to know besides their arguments."""
    least, spacing = spline_range(config.radial_functions, config.cutoff, config.spline_start)
    whole = {
        "features": config.features,
        "heads": config.heads,
        "hidden": config.spherical_filter_features[0],
        "readout": config.readout_features[0],
        "elements": elements,
        "cutoff_function": CUTOFF_FUNCTIONS.index(config.cutoff_function),
        "polynomial_order": config.polynomial_order,
        "nodes": config.radial_functions,
        "real_bytes": np.dtype(precision).itemsize,
        "threads": threads,
    }
    numbers = {"cutoff": config.cutoff, "spline_start": least, "spline_step": spacing}
    return (
        {name: np.int64(value) for name, value in whole.items()}
        | {name: np.float64(value) for name, value in numbers.items()}
        | {"degrees": np.asarray(config.degrees, np.int64)}
    )


class _Builder:
    """Collects programs of one custom call each, and the steps that run them."""

    def __init__(self, arrays: dict[str, Array], attributes: dict[str, Any]) -> None:
        self._arrays = arrays
        self._attributes = attributes
        self.programs: dict[str, Callable[..., tuple[jax.Array, ...]]] = {}
        self.steps: list[Call | Refresh] = []

    def call(
        self,
        kernel: str,
        inputs: Sequence[str],
        into: Sequence[str],
        first: Sequence[str] = (),
        last: Sequence[str] = (),
        channels: int = 1,
    ) -> None:
        """Results are `first`, `into` (updated in place), `last`; channels: of the adjoints among them."""
        new = {name: self._arrays[name] for name in (*first, *last)}
        before = len(first)

        def program(*arguments: jax.Array) -> tuple[jax.Array, ...]:
            given = arguments[len(inputs) :]

            def fresh(names: Sequence[str]) -> list[jax.ShapeDtypeStruct]:
                return [jax.ShapeDtypeStruct(new[name].shape, new[name].dtype) for name in names]

            results = [*fresh(first), *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in given), *fresh(last)]
            aliases = {len(inputs) + k: before + k for k in range(len(given))}
            return tuple(
                jax.ffi.ffi_call(f"so3krates_{kernel}", results, input_output_aliases=aliases)(
                    *arguments, **self._attributes
                )
            )

        program.__name__ = adjoint_name(kernel, channels)
        self.programs.setdefault(program.__name__, program)
        self.steps.append(Call(program.__name__, (*inputs, *into), (*first, *into, *last)))

    def refresh(self, names: list[str]) -> None:
        self.steps.append(Refresh(tuple(names)))
