"""The body "fused" on a GPU: edges as fused kernels (csrc/kernels/cuda), atoms as XLA's matrix products.

Arrays and weights have the layout of the fused CPU kernels (csrc/kernels/layout.h); lists hold both directions of a
pair, and a kernel writes rows of owned atoms only. The kernels are compiled where they run: a call carries the sizes
that its source needs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from so3krates.model.config import ModelConfig
from so3krates.model.harmonics import degree_of_order
from so3krates.model.rows import GPU_ROW_BLOCK
from so3krates.model.terms import Term

from .cuda import CALL, SIMPLE_WARPS, check_cuda, kernel_sizes, launch_of
from .fused import QUAD, widths
from .plan import VIRIAL_CHANNELS, Array, Call, Stage, adjoint_name, evaluator_arrays, member_root

KernelCall = Callable[..., list[jax.Array]]  # as `kernel_call`


def kernel_call(
    sizes: str,
    kernel: str,
    inputs: tuple[jax.Array, ...],
    results: list[jax.ShapeDtypeStruct],
    updated: int = 0,
    warps: int = SIMPLE_WARPS,
    block_bytes: int = 0,
    warp_bytes: int = 0,
) -> list[jax.Array]:
    """Run a kernel; the last `updated` inputs are updated in place and are the last results.

    sizes: of `kernel_sizes`. warps: of a block, at most. block_bytes, warp_bytes: shared memory of a block without its
    warps and of each.
    """
    first = len(results)
    kept = inputs[len(inputs) - updated :]
    call = jax.ffi.ffi_call(
        CALL,
        [*results, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in kept)],
        input_output_aliases={len(inputs) - updated + k: first + k for k in range(updated)},
    )
    numbers = {"warps": warps, "block_bytes": block_bytes, "warp_bytes": warp_bytes}
    return list(call(*inputs, kernel=kernel, sizes=sizes, **{name: np.int64(size) for name, size in numbers.items()}))


class CudaBody:
    """Weights as of `fused.fused_weights`; see `plan.Body`.

    Names of arrays and programs start with "kernel_" where the portable body has its own.
    """

    prefix = "kernel_"

    def __init__(
        self,
        config: ModelConfig,
        precision: str,
        elements: int,
        channels: int = 1,
        row_block: int = GPU_ROW_BLOCK,
        run: KernelCall = kernel_call,
        member: int = 0,
    ) -> None:
        """
        Args:
            config: of a tabulated network.
            precision: numpy name of the network's dtype.
            elements: number of species.
            channels: 1, or 4 for per-atom virials.
            row_block: rows that the adjoint of four channels handles at once, which bounds its memory; a divisor of
                every capacity of rows.
            run: what calls a kernel.
            member: of a committee, whose weights it takes.

        Raises:
            FusedError: the kernels do not compute this network.
        """
        check_cuda(config, precision, (channels,))
        self.weights = member_root("weights/fused/", member)
        self.precision, self.channels, self.row_block = precision, channels, row_block
        self._config, self._elements, self._widths = config, elements, widths(config)
        self._stages = self._own_stages(run)
        self._adjoints = adjoint_name("adjoints", channels)
        self.message_adjoint: tuple[str, ...] = (self._adjoints,)
        self._table = ("vectors", "neighbours", "counts")
        self._gradients = ("forces", "atom_virials") if channels == VIRIAL_CHANNELS else ("forces",)
        self.arrays = self._own_arrays()
        self._known = evaluator_arrays(precision, channels) | self.arrays

    def _own_stages(self, run: KernelCall) -> Stages:
        sizes = kernel_sizes(self._config, self.precision, self._elements, self.channels)
        return Stages(self._config, self.precision, sizes, self.channels, self.row_block, run)

    def _own_arrays(self) -> dict[str, Array]:
        w, layers = self._widths, self._config.layers

        def rows(*width: int) -> Array:
            return Array(self.precision, ("rows", *width), "state")

        arrays = {
            "counts": Array("int32", ("rows",), "state"),
            self._adjoints: rows(self.channels, w.message_stride),
        }
        for k in range(layers):
            of_features, of_euclidean = self.state(k + 1)
            arrays |= {of_features: rows(w.feature_stride), of_euclidean: rows(w.order_stride)}
            arrays |= {f"kernel_attended_{k}": rows(w.order_stride), f"kernel_scale_{k}": rows(QUAD)}
        if layers > 1:
            arrays["kernel_projections"] = rows(w.row_stride)
        return arrays

    def state(self, k: int) -> tuple[str, str]:
        return f"kernel_features_{k}", f"kernel_euclidean_{k}"

    def _after(self, k: int) -> list[str]:
        return [f"kernel_attended_{k}", *self.state(k + 1), f"kernel_scale_{k}"]

    def _weights(self, part: str, *names: str) -> list[str]:
        return [f"{self.weights}{part}/{name}" for name in names]

    def _stage(
        self, program: str, function: Callable[..., Any], inputs: Sequence[str], outputs: Sequence[str]
    ) -> Stage:
        """Arrays that are computed anew are handed in too, to be written in place."""
        into = [name for name in outputs if name not in inputs and self._known[name].shape[:1] == ("rows",)]
        call = Call(program, (*inputs, *into), tuple(outputs))
        return Stage(call, lambda *given: function(*given[: len(inputs)]))

    def pairs(self) -> Stage:
        lists = ["positions", "row_of_atom", "atom_of_row", "candidates", "candidate_count", "owned_count"]
        outputs = [*self._table, "neighbours_needed"]
        return self._stage("kernel_neighbours", self._stages.neighbours, [*lists, *self._table], outputs)

    def embed(self) -> None:
        """`first_layer` does it."""

    def project(self, k: int) -> Stage | None:
        if k == 0:  # the first layer's attention is a function of distances
            return None
        return self._project(k)

    def _project(self, k: int) -> Stage:
        inputs = [*self._weights(f"layers_{k}", "feature", "geometric"), *self.state(k)]
        return self._stage("kernel_project", self._stages.project, inputs, ["kernel_projections"])

    def layer(self, k: int) -> Stage:
        exchange = self._weights(f"layers_{k}", "exchange", "exchange_bias")
        if k == 0:
            weights = [*self._weights("first", "embedding", "values", "table"), *exchange]
            inputs = [*weights, "species", *self._table, "owned_count"]
            return self._stage("kernel_first_layer", self._stages.first_layer, inputs, self._after(0))
        weights = [*self._weights(f"layers_{k}", "table", "hidden_in", "hidden_out"), *exchange]
        inputs = [*weights, *self.state(k), "kernel_projections", *self._table, "owned_count"]
        return self._stage("kernel_layer", self._stages.layer, inputs, self._after(k))

    def readout(self) -> Stage:
        weights = self._weights("readout", "hidden", "bias", "out", "out_bias")
        return self._stage(
            adjoint_name("kernel_readout", self.channels),
            self._stages.readout,
            [*weights, self.state(self._config.layers)[0], "owned_count"],
            ["energy", "strain_gradient", "atom_energies", self._adjoints, *self._gradients],
        )

    def exchange_adjoint(self, k: int) -> Stage:
        kept = [f"kernel_attended_{k}", f"kernel_scale_{k}"]
        inputs = [*self._weights(f"layers_{k}", "exchange"), *kept, self._adjoints]
        name = adjoint_name("kernel_exchange_adjoint", self.channels)
        return self._stage(name, self._stages.exchange_adjoint, inputs, [self._adjoints])

    def layer_adjoint(self, k: int) -> Stage:
        if k == 0:
            updated = ["strain_gradient", *self._gradients]
            read = [*self._weights("first", "values", "table"), "species", self._adjoints, *self._table, "owned_count"]
            name = adjoint_name("kernel_first_layer_adjoint", self.channels)
            return self._stage(name, self._stages.first_layer_adjoint, [*read, *updated], updated)
        return self._layer_adjoint(k)

    def _layer_adjoint(self, k: int) -> Stage:
        weights = self._weights(f"layers_{k}", "table", "hidden_in", "hidden_out", "feature", "geometric")
        updated = ["strain_gradient", self._adjoints, *self._gradients]
        read = [*weights, "kernel_projections", *self._table, "owned_count"]
        name = adjoint_name("kernel_layer_adjoint", self.channels)
        return self._stage(name, self._stages.layer_adjoint, [*read, *updated], updated)

    def term(self, term: Term) -> None:
        """The portable stage."""


class Stages:
    """Programs by position of their arguments."""

    def __init__(
        self, config: ModelConfig, precision: str, sizes: str, channels: int, row_block: int, run: KernelCall
    ) -> None:
        """sizes: of `kernel_sizes`."""
        self._config, self._widths, self._channels, self._row_block = config, widths(config), channels, row_block
        self._run = functools.partial(run, sizes)
        self._launch = launch_of(config, precision, channels)
        of_order = degree_of_order(config.degrees)
        select = np.zeros((self._widths.order_stride, len(config.degrees)))
        select[np.arange(config.orders), of_order] = 1.0
        self._select = select  # (order_stride, degrees) which degree an order belongs to

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
        vectors, neighbours, counts = self._run("neighbours", inputs, [], updated=3)
        return vectors, neighbours, counts, jnp.max(jnp.where(row_numbers(counts) < owned, counts, 0))

    def _table(self, vectors, neighbours, counts, owned, rows=(0, 0)):
        """rows: the first one and the number of those that the adjoint of a layer visits."""
        capacities = jnp.stack([jnp.asarray(n, jnp.int64) for n in (0, neighbours.shape[1], *rows)])
        return vectors, neighbours, counts, capacities, owned

    def first_layer(self, embedding, values, table, exchange, bias, species, vectors, neighbours, counts, owned):
        rows, w, real = len(species), self._widths, values.dtype
        coefficients, attended = self._run(
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
        next_x, attended = self._messages(table, hidden_in, hidden_out, x, chi, projections, *rest)
        return attended, *self._exchange(exchange, bias, next_x, attended)

    def _messages(self, table, hidden_in, hidden_out, x, chi, projections, *rest):
        return self._run(
            "messages",
            (table, hidden_in, hidden_out, x, chi, projections, *self._table(*rest)),
            [jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct(chi.shape, chi.dtype)],
            warps=self._launch.warps,
            block_bytes=self._launch.matrix_bytes,
            warp_bytes=self._launch.tile_bytes,
        )

    def readout(self, hidden, bias, out, out_bias, x, owned):
        w, rows, channels = self._widths, len(x), self._channels

        def energies_of(features: jax.Array) -> jax.Array:
            return jax.nn.silu(features @ hidden + bias) @ out + out_bias[0]

        energies, vjp = jax.vjp(energies_of, x[:, : w.feature_width])
        (gradient,) = vjp(jnp.ones_like(energies))
        energies = energies.astype(jnp.float64)
        adjoints = jnp.pad(gradient[:, None], ((0, 0), (0, channels - 1), (0, w.message_stride - w.feature_width)))
        virials = [jnp.zeros((rows, 3, 3))] if channels == VIRIAL_CHANNELS else []
        total = jnp.sum(jnp.where(row_numbers(energies) < owned, energies, 0.0))
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
            row_gradients, strains, *gradients = self._run(
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
        return jnp.sum(jnp.where((row_numbers(strains) < owned)[:, None], strains, 0.0), axis=0).reshape(3, 3)

    def first_layer_adjoint(
        self, values, table, species, adjoints, vectors, neighbours, counts, owned, strain, *gradients
    ):
        w, rows, channels = self._widths, len(species), self._channels
        of_features = adjoints[..., : w.feature_stride].reshape(rows, channels, -1, QUAD)
        coefficients = jnp.einsum("acql,sql->acsl", of_features, values.reshape(len(values), -1, QUAD))
        strains, *gradients = self._run(
            "first_messages_adjoint",
            (
                table, species, adjoints, coefficients, *self._table(vectors, neighbours, counts, owned), *gradients,
            ),
            [jax.ShapeDtypeStruct((rows, 9), jnp.float64)],
            updated=len(gradients),
        )  # fmt: skip
        return strain + self._strain(strains, owned), *gradients


def row_numbers(array: jax.Array) -> jax.Array:
    """0, 1, ... for an array's rows, int32."""
    return jnp.arange(len(array), dtype=jnp.int32)
