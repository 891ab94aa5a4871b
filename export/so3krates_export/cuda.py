"""The stages for a GPU: edges as fused kernels (csrc/kernels/cuda), atoms as XLA's matrix products.

Arrays and weights have the layout of the fused CPU kernels (csrc/kernels/layout.h); lists hold both directions of a
pair, and a kernel writes rows of owned atoms only. The kernels are compiled where they run: a call carries the sizes
that its source needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from so3krates.model.config import CUTOFF_FUNCTIONS, ModelConfig
from so3krates.model.harmonics import degree_of_order
from so3krates.model.radial_basis import spline_range
from so3krates.model.stages import GPU_ROW_BLOCK

from .fused import QUAD, FusedError, check_fused, widths
from .plan import VIRIAL_CHANNELS, Array, Call, Plan, Refresh, adjoint_name, evaluator_arrays

KERNEL_VERSION = 3  # as in csrc/runtime/cuda_kernels.h
CALL = "so3krates_cuda"
WARP = 32
SHARED_BYTES = 227 * 1024  # that a block may take (compute capability 9.0); other GPUs give a block fewer warps
TILES = {"float32": 16, "float64": 8}  # neighbours that a warp handles at once
SIMPLE_WARPS = 8  # of kernels without shared memory


class Launch(NamedTuple):
    """Block of the kernels that multiply with the degree filters' matrices."""

    tile: int
    warps: int  # of `messages`
    adjoint_warps: int  # of `messages_adjoint`
    matrix_bytes: int
    tile_bytes: int
    adjoint_bytes: int

    @property
    def least_bytes(self) -> int:
        """Shared memory of the smallest block, of one warp."""
        return self.matrix_bytes + self.tile_bytes + self.adjoint_bytes


def check_cuda(config: ModelConfig, precision: str) -> None:
    """Raises FusedError for a network that the GPU kernels do not compute; its radial filters must be tabulated."""
    check_fused(config)
    for channels in (1, VIRIAL_CHANNELS):
        launch_of(config, precision, channels)


def launch_of(config: ModelConfig, precision: str, channels: int) -> Launch:
    """As many warps as shared memory holds; sizes are upper bounds, which the kernels' source checks."""
    w, real, tile = widths(config), np.dtype(precision).itemsize, TILES[precision]
    quads = max(-(-w.feature_width // QUAD), len(config.degrees) * -(-w.block_width // QUAD))
    groups = -(-quads // 4)
    rest = w.hidden > WARP and w.hidden % WARP == 1  # a unit that is left over
    units = -(-(w.hidden - rest) // WARP) * WARP

    def rounded(count: int, to: int) -> int:
        return -(-count // to) * to

    matrix_bytes = rounded(2 * 16 * groups * (units + 1) * real, 64)
    edge = rounded(18 + config.orders, QUAD) + QUAD
    tile_bytes = rounded(tile * (edge + 2 * units + 16 * (groups | 1) + 2) * real, 64)
    edge_adjoint = QUAD + 2 * len(config.degrees) + channels * (5 * QUAD + 4 + config.orders)
    adjoint_bytes = rounded(tile * (rounded(edge_adjoint, QUAD) + 2 * (units + QUAD)) * real, 64)
    free = SHARED_BYTES - matrix_bytes
    warps, adjoint_warps = min(12, free // tile_bytes), min(8, free // (tile_bytes + adjoint_bytes))
    if channels == VIRIAL_CHANNELS:
        adjoint_warps = min(4, adjoint_warps)  # which leaves each thread the registers of two
    launch = Launch(tile, warps, adjoint_warps, matrix_bytes, tile_bytes, adjoint_bytes)
    if launch.least_bytes > SHARED_BYTES:
        raise FusedError(
            f"the GPU kernels do not compute features = {config.features} with {w.hidden} hidden units of the degree "
            f"filters in {precision} (their matrices leave no shared memory): export with body 'xla'"
        )
    return launch


def kernel_shared_bytes(config: ModelConfig, precision: str) -> int:
    """Shared memory that a block must be able to take for every kernel of a bundle."""
    return max(launch_of(config, precision, channels).least_bytes for channels in (1, VIRIAL_CHANNELS))


def kernel_sizes(config: ModelConfig, precision: str, elements: int, channels: int) -> str:
    """What the kernels' source is compiled with, as the preprocessor reads it."""
    w, launch = widths(config), launch_of(config, precision, channels)
    least, spacing = spline_range(config.radial_functions, config.cutoff, config.spline_start)
    sizes = {
        "REAL": {"float32": "float", "float64": "double"}[precision],
        "CHANNELS": channels,
        "GROUP": w.group,
        "FEATURE_WIDTH": w.feature_width,
        "FEATURE_STRIDE": w.feature_stride,
        "DEGREES": len(config.degrees),
        "DEGREE_LIST": ", ".join(map(str, config.degrees)),
        "BLOCK_WIDTH": w.block_width,
        "BLOCK_STRIDE": w.block_stride,
        "ORDERS": config.orders,
        "ORDER_STRIDE": w.order_stride,
        "HIDDEN": w.hidden,
        "HIDDEN_STRIDE": w.hidden_stride,
        "ELEMENTS": elements,
        "NODES": config.radial_functions,
        "CUTOFF": repr(float(config.cutoff)),
        "SPLINE_START": repr(float(least)),
        "SPLINE_STEP": repr(float(spacing)),
        "CUTOFF_FUNCTION": CUTOFF_FUNCTIONS.index(config.cutoff_function),
        "POLYNOMIAL_ORDER": config.polynomial_order,
        "TILE": launch.tile,
        "MESSAGES_WARPS": launch.warps,
        "ADJOINT_WARPS": launch.adjoint_warps,
        "MATRIX_BYTES": launch.matrix_bytes,
        "TILE_BYTES": launch.tile_bytes,
        "ADJOINT_BYTES": launch.adjoint_bytes,
    }
    return "".join(f"#define {name} {value}\n" for name, value in sizes.items())


def build_cuda_plan(
    config: ModelConfig, precision: str, elements: int, channels: int = 1, row_block: int = GPU_ROW_BLOCK
) -> Plan:
    """The stages with the edges' work in custom calls; weights as of `fused.fused_weights`.

    config: of a tabulated network. elements: number of species. row_block: rows that the adjoint of four channels
    handles at once, which bounds its memory; a divisor of every capacity of rows. Names of arrays and programs start
    with "kernel_" where the portable plan has its own.
    """
    check_cuda(config, precision)
    w, stages = widths(config), _Stages(config, precision, elements, channels, row_block)
    adjoints = adjoint_name("adjoints", channels)
    virials = ["atom_virials"] if channels == VIRIAL_CHANNELS else []
    arrays = evaluator_arrays(precision, channels) | {
        "counts": Array("int32", ("rows",), "state"),
        adjoints: Array(precision, ("rows", channels, w.message_stride), "state"),
    }
    for k in range(config.layers):
        arrays[f"kernel_attended_{k}"] = Array(precision, ("rows", w.order_stride), "state")
        arrays[f"kernel_scale_{k}"] = Array(precision, ("rows", QUAD), "state")
        arrays[f"kernel_features_{k + 1}"] = Array(precision, ("rows", w.feature_stride), "state")
        arrays[f"kernel_euclidean_{k + 1}"] = Array(precision, ("rows", w.order_stride), "state")
    if config.layers > 1:
        arrays["kernel_projections"] = Array(precision, ("rows", w.row_stride), "state")
    programs: dict[str, Any] = {}
    steps: list[Call | Refresh] = []
    table, gradients = ["vectors", "neighbours", "counts"], ["forces", *virials]

    def call(name: str, function: Any, inputs: list[str], outputs: list[str]) -> None:
        """Arrays that are computed anew are handed in too, to be written in place."""
        into = [output for output in outputs if output not in inputs and arrays[output].shape[:1] == ("rows",)]
        programs.setdefault(name, lambda *given: function(*given[: len(inputs)]))
        steps.append(Call(name, (*inputs, *into), tuple(outputs)))

    def state(k: int) -> list[str]:
        return [f"kernel_features_{k}", f"kernel_euclidean_{k}"]

    def weights(k: int, *names: str) -> list[str]:
        return [f"weights/fused/layers_{k}/{name}" for name in names]

    def after(k: int) -> list[str]:
        return [f"kernel_attended_{k}", *state(k + 1), f"kernel_scale_{k}"]

    def project(k: int) -> None:
        names = [*weights(k, "feature", "geometric"), *state(k)]
        call("kernel_project", stages.project, names, ["kernel_projections"])

    call(
        "kernel_neighbours",
        stages.neighbours,
        ["positions", "row_of_atom", "atom_of_row", "candidates", "candidate_count", "owned_count", *table],
        [*table, "neighbours_needed"],
    )
    first = [f"weights/fused/first/{name}" for name in ("embedding", "values", "table")]
    exchange = weights(0, "exchange", "exchange_bias")
    call("kernel_first_layer", stages.first_layer, [*first, *exchange, "species", *table, "owned_count"], after(0))
    for k in range(1, config.layers):
        steps.append(Refresh(tuple(state(k))))
        project(k)
        filters = weights(k, "table", "hidden_in", "hidden_out", "exchange", "exchange_bias")
        inputs = [*filters, *state(k), "kernel_projections", *table, "owned_count"]
        call("kernel_layer", stages.layer, inputs, after(k))
    head = [f"weights/fused/readout/{name}" for name in ("hidden", "bias", "out", "out_bias")]
    call(
        adjoint_name("kernel_readout", channels),
        stages.readout,
        [*head, state(config.layers)[0], "owned_count"],
        ["energy", "strain_gradient", "atom_energies", adjoints, *gradients],
    )
    for k in reversed(range(config.layers)):
        kept = [f"kernel_attended_{k}", f"kernel_scale_{k}"]
        inputs = [*weights(k, "exchange"), *kept, adjoints]
        call(adjoint_name("kernel_exchange_adjoint", channels), stages.exchange_adjoint, inputs, [adjoints])
        steps.append(Refresh((adjoints,)))
        if k == 0:
            inputs = [*first[1:], "species", adjoints, *table, "owned_count", "strain_gradient", *gradients]
            outputs = ["strain_gradient", *gradients]
            call(adjoint_name("kernel_first_layer_adjoint", channels), stages.first_layer_adjoint, inputs, outputs)
            break
        if k + 1 < config.layers:
            project(k)
        names = weights(k, "table", "hidden_in", "hidden_out", "feature", "geometric")
        updated = ["strain_gradient", adjoints, *gradients]
        inputs = [*names, "kernel_projections", *table, "owned_count", *updated]
        call(adjoint_name("kernel_layer_adjoint", channels), stages.layer_adjoint, inputs, updated)
    return Plan(arrays, programs, steps)


class _Stages:
    """Programs by position of their arguments; see `build_cuda_plan`."""

    def __init__(self, config: ModelConfig, precision: str, elements: int, channels: int, row_block: int) -> None:
        self._config, self._widths, self._channels, self._row_block = config, widths(config), channels, row_block
        self._sizes = kernel_sizes(config, precision, elements, channels)
        self._launch = launch_of(config, precision, channels)
        of_order = degree_of_order(config.degrees)
        select = np.zeros((self._widths.order_stride, len(config.degrees)))
        select[np.arange(config.orders), of_order] = 1.0
        self._select = select  # (order_stride, degrees) which degree an order belongs to

    def _call(
        self,
        kernel: str,
        inputs: tuple[jax.Array, ...],
        results: list[jax.ShapeDtypeStruct],
        updated: int = 0,
        warps: int = SIMPLE_WARPS,
        block_bytes: int = 0,
        warp_bytes: int = 0,
    ) -> list[jax.Array]:
        """Run a kernel; the last `updated` inputs are updated in place and are the last results.

        warps: of a block, at most. block_bytes, warp_bytes: shared memory of a block without its warps and of each.
        """
        first = len(results)
        kept = inputs[len(inputs) - updated :]
        call = jax.ffi.ffi_call(
            CALL,
            [*results, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in kept)],
            input_output_aliases={len(inputs) - updated + k: first + k for k in range(updated)},
        )
        sizes = {"warps": warps, "block_bytes": block_bytes, "warp_bytes": warp_bytes}
        numbers = {name: np.int64(size) for name, size in sizes.items()}
        return list(call(*inputs, kernel=kernel, sizes=self._sizes, **numbers))

    def _in_blocks(self, rows: int, body: Callable[..., Any], carry: Any) -> Any:
        """body(first row, number of rows, carry) for all rows: at once for one channel, else block by block."""
        if self._channels == 1:
            return body(0, rows, carry)

        def block(state: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
            return state[0] + self._row_block, body(state[0], self._row_block, state[1])

        # The bound is the capacity itself, as `lower_ladder` needs, and a number: the host does not wait for the loop.
        return lax.while_loop(lambda state: state[0] < rows, block, (jnp.int32(0), carry))[1]

    def neighbours(self, positions, row_of_atom, atom_of_row, candidates, candidate_count, owned, *table):
        capacities = jnp.asarray([candidates.shape[1], table[1].shape[1]], jnp.int64)
        inputs = (positions, row_of_atom, atom_of_row, candidates, candidate_count, capacities, owned, *table)
        vectors, neighbours, counts = self._call("neighbours", inputs, [], updated=3)
        return vectors, neighbours, counts, jnp.max(jnp.where(_rows(counts) < owned, counts, 0))

    def _table(self, vectors, neighbours, counts, owned, rows=(0, 0)):
        """rows: the first one and the number of those that the adjoint of a layer visits."""
        capacities = jnp.stack([jnp.asarray(n, jnp.int64) for n in (0, neighbours.shape[1], *rows)])
        return vectors, neighbours, counts, capacities, owned

    def first_layer(self, embedding, values, table, exchange, bias, species, vectors, neighbours, counts, owned):
        rows, w, real = len(species), self._widths, values.dtype
        coefficients, attended = self._call(
            "first_messages",
            (table, species, *self._table(vectors, neighbours, counts, owned)),
            [
                jax.ShapeDtypeStruct((rows, len(values), QUAD), real),
                jax.ShapeDtypeStruct((rows, w.order_stride), real),
            ],
        )
        sent = jnp.einsum("asl,sql->aql", coefficients, values.reshape(len(values), -1, QUAD))
        x = embedding.at[species].get(mode="promise_in_bounds") + sent.reshape(rows, -1)
        return attended, *self._exchange(exchange, bias, x, attended)

    def _exchange(self, kernel, bias, x, chi):
        w = self._widths
        squares = (chi * chi) @ jnp.asarray(self._select, x.dtype)
        out = jnp.concatenate([x[:, : w.feature_width], squares], axis=1) @ kernel + bias
        scale = out[:, w.feature_stride :]
        return x + out[:, : w.feature_stride], chi + self._spread(scale) * chi, scale

    def _spread(self, scale):
        """One value for each degree, (..., QUAD), repeated for its orders: (..., order_stride)."""
        return scale[..., : self._select.shape[1]] @ jnp.asarray(self._select.T, scale.dtype)

    def _projection_matrix(self, feature, geometric):
        """(message_stride, row_stride): from features and Euclidean variables to a row of the kernels' projections."""
        config, w = self._config, self._widths
        by_head = feature[..., : w.feature_width].reshape(w.head_features, 3, w.head_features, w.group)
        dense = jnp.einsum("npmh,hg->nhpmg", by_head, jnp.eye(w.group, dtype=feature.dtype))
        dense = dense.reshape(w.feature_width, 3, w.feature_width)
        dense = jnp.pad(dense, ((0, 0), (0, 0), (0, w.feature_stride - w.feature_width)))
        # From the interleaved order to that of the model, whose features the degrees share out.
        f = np.arange(config.features)
        place = np.zeros((w.feature_width, config.features))
        place[f % w.head_features * w.group + f // w.head_features, f] = 1.0
        place = jnp.asarray(place.reshape(w.feature_width, len(config.degrees), w.block_width), feature.dtype)
        blocks = jnp.einsum("flb,lbpm->fplm", place, geometric)
        matrix = jnp.concatenate([dense.reshape(w.feature_width, -1), blocks.reshape(w.feature_width, -1)], axis=1)
        matrix = jnp.pad(matrix, ((0, w.message_stride - w.feature_width), (0, w.order_stride)))
        return matrix.at[-w.order_stride :, -w.order_stride :].set(jnp.eye(w.order_stride, dtype=feature.dtype))

    def project(self, feature, geometric, x, chi):
        return (jnp.concatenate([x, chi], axis=1) @ self._projection_matrix(feature, geometric),)

    def layer(self, table, hidden_in, hidden_out, exchange, bias, x, chi, projections, *rest):
        next_x, attended = self._call(
            "messages",
            (table, hidden_in, hidden_out, x, chi, projections, *self._table(*rest)),
            [jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct(chi.shape, chi.dtype)],
            warps=self._launch.warps,
            block_bytes=self._launch.matrix_bytes,
            warp_bytes=self._launch.tile_bytes,
        )
        return attended, *self._exchange(exchange, bias, next_x, attended)

    def readout(self, hidden, bias, out, out_bias, x, owned):
        w, rows, channels = self._widths, len(x), self._channels

        def energies_of(features: jax.Array) -> jax.Array:
            return jax.nn.silu(features @ hidden + bias) @ out + out_bias[0]

        energies, vjp = jax.vjp(energies_of, x[:, : w.feature_width])
        (gradient,) = vjp(jnp.ones_like(energies))
        energies = energies.astype(jnp.float64)
        adjoints = jnp.pad(gradient[:, None], ((0, 0), (0, channels - 1), (0, w.message_stride - w.feature_width)))
        virials = [jnp.zeros((rows, 3, 3))] if channels == VIRIAL_CHANNELS else []
        total = jnp.sum(jnp.where(_rows(energies) < owned, energies, 0.0))
        return total, jnp.zeros((3, 3)), energies, adjoints, jnp.zeros((rows, 3)), *virials

    def exchange_adjoint(self, kernel, attended, scale, adjoints):
        w = self._widths
        select = jnp.asarray(self._select, attended.dtype)

        def block(first: jax.Array | int, rows: int, adjoints: jax.Array) -> jax.Array:
            chi, stretch, both = (lax.dynamic_slice_in_dim(a, first, rows) for a in (attended, scale, adjoints))
            chi, stretch = chi[:, None], self._spread(stretch)[:, None]
            of_x, of_chi = both[..., : w.feature_stride], both[..., w.feature_stride :]
            rest = jnp.zeros((*of_x.shape[:-1], QUAD - select.shape[1]), of_x.dtype)
            out = jnp.concatenate([of_x, (of_chi * chi) @ select, rest], axis=-1) @ kernel.T
            features, squares = out[..., : w.feature_width], out[..., w.feature_width :]
            of_x = of_x + jnp.pad(features, ((0, 0), (0, 0), (0, w.feature_stride - w.feature_width)))
            of_chi = of_chi * (1 + stretch) + 2 * chi * (squares @ select.T)
            both = jnp.concatenate([of_x, of_chi], axis=-1)
            return lax.dynamic_update_slice_in_dim(adjoints, both, first, 0)

        return (self._in_blocks(len(attended), block, adjoints),)

    def layer_adjoint(
        self, table, hidden_in, hidden_out, feature, geometric, projections, vectors, neighbours, counts, owned, strain,
        adjoints, *gradients
    ):  # fmt: skip
        w, launch = self._widths, self._launch
        matrix = self._projection_matrix(feature, geometric)

        def block(first: jax.Array | int, rows: int, carry: Any) -> Any:
            strain, summed, *gradients = carry
            edges = self._table(vectors, neighbours, counts, owned, (first, rows))
            row_gradients, strains, *gradients = self._call(
                "messages_adjoint",
                (table, hidden_in, hidden_out, projections, adjoints, *edges, *gradients),
                [
                    jax.ShapeDtypeStruct((rows, self._channels, w.row_stride), projections.dtype),
                    jax.ShapeDtypeStruct((rows, 9), jnp.float64),
                ],
                updated=len(gradients),
                warps=launch.adjoint_warps,
                block_bytes=launch.matrix_bytes,
                warp_bytes=launch.tile_bytes + launch.adjoint_bytes,
            )
            # The other blocks' edges read the adjoints as they were.
            own = lax.dynamic_slice_in_dim(adjoints, first, rows) + row_gradients @ matrix.T
            summed = lax.dynamic_update_slice_in_dim(summed, own, first, 0)
            return strain + self._strain(strains, owned - first), summed, *gradients

        return self._in_blocks(len(projections), block, (strain, adjoints, *gradients))

    def _strain(self, strains, owned):
        """Sum of the first `owned` rows' strain gradients."""
        return jnp.sum(jnp.where((_rows(strains) < owned)[:, None], strains, 0.0), axis=0).reshape(3, 3)

    def first_layer_adjoint(
        self, values, table, species, adjoints, vectors, neighbours, counts, owned, strain, *gradients
    ):
        w, rows, channels = self._widths, len(species), self._channels
        of_features = adjoints[..., : w.feature_stride].reshape(rows, channels, -1, QUAD)
        coefficients = jnp.einsum("acql,sql->acsl", of_features, values.reshape(len(values), -1, QUAD))
        strains, *gradients = self._call(
            "first_messages_adjoint",
            (
                table, species, adjoints, coefficients, *self._table(vectors, neighbours, counts, owned), *gradients,
            ),
            [jax.ShapeDtypeStruct((rows, 9), jnp.float64)],
            updated=len(gradients),
        )  # fmt: skip
        return strain + self._strain(strains, owned), *gradients


def _rows(array: jax.Array) -> jax.Array:
    return jnp.arange(len(array), dtype=jnp.int32)
