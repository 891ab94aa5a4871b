"""The body "fused" of SO3LR on a GPU: pairs as fused kernels (csrc/kernels/cuda), atoms as XLA's matrix products.

Weights are those of the CPU's kernels (`so3lr_fused`). Arrays of rows are handled whole: a loop's passes would wait for
the host.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from so3krates.model.config import ModelConfig, So3lrConfig
from so3krates.model.long_range import Interaction
from so3krates.model.rows import GPU_ROW_BLOCK, take
from so3krates.storage import Model

from .cuda import LONG_BYTES, SIMPLE_WARPS, check_cuda, kernel_sizes
from .cuda_body import CudaBody, KernelCall, Stages, kernel_call, row_numbers
from .plan import Addition, Array, Part, Stage
from .so3lr_body import SystemStages, embedding_weights, feature_order, system_arrays
from .so3lr_fused import NORMALISED, check_so3lr, head_ends, long_numbers, long_parts

NORM_FLOOR = 1e-6  # added to variances, as flax has it
CELLS_IN_REACH = 3  # a cell's edge is the reach over this, or more
GROWTH, GROWTHS = 1.25, 128  # by which edges grow until the cells are as many as there is room for, and how often
_STRAIN = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])  # of xx, xy, xz, yy, yz, zz


def check_so3lr_cuda(config: ModelConfig, precision: str, interactions: Sequence[Interaction]) -> None:
    """Raises FusedError for a model that the kernels do not compute; its radial filters must be tabulated."""
    check_so3lr(config, interactions)
    check_cuda(config, precision, (1,))


class So3lrCudaBody(CudaBody):
    """Layers like those of `CudaBody`, the first one too, whose features depend on the whole system."""

    _stages: _So3lrStages

    def __init__(
        self,
        model: Model,
        config: ModelConfig,
        precision: str,
        weight_names: Sequence[str],
        row_block: int = GPU_ROW_BLOCK,
        run: KernelCall = kernel_call,
    ) -> None:
        """config: of the tabulated network. weight_names: of all weights, those of the embeddings among them.

        row_block: of terms, which are portable stages.
        """
        assert isinstance(config, So3lrConfig)
        check_so3lr(config, model.interactions)
        self._interactions = model.interactions
        super().__init__(config, precision, len(model.elements), row_block=row_block, run=run)
        self._system = SystemStages(config, len(model.elements), embedding_weights(weight_names), None)

    def _own_stages(self, run: KernelCall) -> _So3lrStages:
        long = long_numbers(self._interactions)
        sizes = kernel_sizes(self._config, self.precision, self._elements, self.channels, long)
        return _So3lrStages(self._config, self.precision, sizes, self.channels, self.row_block, run, max(long.ranges))

    def _own_arrays(self) -> dict[str, Array]:
        w, layers = self._widths, self._config.layers

        def rows(*width: int) -> Array:
            return Array(self.precision, ("rows", *width), "state")

        arrays = {
            "counts": Array("int32", ("rows",), "state"),
            "kernel_projections": rows(w.row_stride),
            self._adjoints: rows(1, w.message_stride),
        }
        pairs = [*map(self.state, range(layers + 1)), *map(self._attended, range(layers))]
        for of_features, of_euclidean in pairs:
            arrays |= {of_features: rows(w.feature_stride), of_euclidean: rows(w.order_stride)}
        return arrays | system_arrays(self._elements, 2, self._interactions)

    def _attended(self, k: int) -> tuple[str, str]:
        return f"kernel_attended_features_{k}", f"kernel_attended_euclidean_{k}"

    def embed(self) -> list[Part]:  # type: ignore[override]
        return self._system.embed(self.state(0), feature_order(self._config))

    def project(self, k: int) -> Stage:
        return self._project(k)

    def layer(self, k: int) -> Stage:
        weights = self._weights(f"layers_{k}", "table", "hidden_in", "hidden_out", *NORMALISED)
        inputs = [*weights, *self.state(k), "kernel_projections", *self._table, "owned_count"]
        return self._stage("kernel_layer", self._stages.layer, inputs, [*self._attended(k), *self.state(k + 1)])

    def readout(self) -> list[Part]:  # type: ignore[override]
        weights = self._weights("heads", "hidden", "bias", "out", "out_bias")
        of_atoms = [*weights, self.state(self._config.layers)[0], "species"]
        heads = self._stage(
            "kernel_heads",
            self._stages.heads,
            [*of_atoms, "owned_count"],
            [
                "charge_sums", "energy_network", "strain_gradient", "atom_energies", "raw_charges", "hirshfeld_ratios",
                "forces",
            ],
        )  # fmt: skip
        places = ["positions", "row_of_atom", "atom_of_row", "species", "owned_count", "atom_count"]
        updated = ["strain_gradient", "atom_energies", "forces"]
        long_pairs = self._stage(
            "kernel_long_pairs",
            self._stages.long_pairs,
            [*self._weights("long", "tables", "elements"), *places, "charges", "hirshfeld_ratios", *updated],
            ["energies_long", "slope_sum", *updated, "charge_slopes", "ratio_slopes"],
        )
        slopes = ["charge_slopes", "ratio_slopes", "slope_sum", "charge_sums"]
        heads_adjoint = self._stage(
            "kernel_heads_adjoint", self._stages.heads_adjoint, [*of_atoms, *slopes], [self._adjoints]
        )
        return self._system.readout(heads, long_pairs, heads_adjoint)

    def exchange_adjoint(self, k: int) -> Stage:
        inputs = [*self._weights(f"layers_{k}", *NORMALISED), *self._attended(k), self._adjoints]
        return self._stage("kernel_exchange_adjoint", self._stages.exchange_adjoint, inputs, [self._adjoints])

    def layer_adjoint(self, k: int) -> Stage:
        return self._layer_adjoint(k)

    def further_outputs(self) -> list[Addition]:
        """Stages of outputs that no other stage computes."""
        return self._system.outputs(long_parts(self._interactions))


class _So3lrStages(Stages):
    """Programs by position of their arguments."""

    def __init__(
        self,
        config: ModelConfig,
        precision: str,
        sizes: str,
        channels: int,
        row_block: int,
        run: KernelCall,
        square: float,
    ) -> None:
        """square: of the distance up to which long-range pairs are visited, A^2."""
        super().__init__(config, precision, sizes, channels, row_block, run)
        self._ends, self._reach = head_ends(config), float(np.sqrt(square))

    def layer(
        self, table: jax.Array, hidden_in: jax.Array, hidden_out: jax.Array, *others: jax.Array
    ) -> tuple[jax.Array, ...]:
        """others: NORMALISED, features, Euclidean variables, projections, neighbours."""
        weights, rest = others[: len(NORMALISED)], others[len(NORMALISED) :]
        x, chi = self._messages(table, hidden_in, hidden_out, *rest)
        return x, chi, *self._normalised(weights, x, chi)

    def _normalised(self, weights: Sequence[jax.Array], x: jax.Array, chi: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Normalisation, residual network, exchange, normalisation."""
        scale_1, bias_1, into, into_bias, out_of, out_of_bias, exchange, exchange_bias, scale_2, bias_2 = weights
        x = _normal(x) * scale_1 + bias_1
        x = x + jax.nn.silu(jax.nn.silu(x) @ into + into_bias) @ out_of + out_of_bias
        squares = (chi * chi) @ jnp.asarray(self._select, x.dtype)
        out = jnp.concatenate([x, squares], axis=1) @ exchange + exchange_bias
        x, scale = _normal(x + out[:, : x.shape[1]]) * scale_2 + bias_2, out[:, x.shape[1] :]
        return x, chi + self._spread(scale) * chi

    def exchange_adjoint(self, *arrays: jax.Array) -> tuple[jax.Array]:
        """NORMALISED, attended features and Euclidean variables, adjoints."""
        *weights, x, chi, adjoints = arrays
        _, vjp = jax.vjp(functools.partial(self._normalised, weights), x, chi)
        width = x.shape[1]
        found = vjp((adjoints[:, 0, :width], adjoints[:, 0, width:]))
        return (jnp.concatenate(found, axis=1)[:, None],)

    def _head_values(
        self,
        hidden: jax.Array,
        bias: jax.Array,
        out: jax.Array,
        out_bias: jax.Array,
        species: jax.Array,
        x: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Energies (eV), raw charges (e), Hirshfeld ratios."""
        products, constants = jax.nn.silu(x @ hidden + bias) * take(out, species), take(out_bias, species)
        parts = jnp.split(products, self._ends[:-1], axis=1)
        energies, charges, ratios = (part.sum(1) + constants[:, k] for k, part in enumerate(parts))
        return energies, charges, jnp.abs(ratios)

    def heads(
        self,
        hidden: jax.Array,
        bias: jax.Array,
        out: jax.Array,
        out_bias: jax.Array,
        x: jax.Array,
        species: jax.Array,
        owned: jax.Array,
    ) -> tuple[jax.Array, ...]:
        """As `so3lr_stages.heads`."""
        found = self._head_values(hidden, bias, out, out_bias, species, x)
        energies, charges, ratios = (values.astype(jnp.float64) for values in found)
        energy, charge = (jnp.sum(jnp.where(row_numbers(x) < owned, v, 0.0)) for v in (energies, charges))
        sums = jnp.stack([charge, owned.astype(jnp.float64)])
        return sums, energy, jnp.zeros((3, 3)), energies, charges, ratios, jnp.zeros((len(x), 3))

    def heads_adjoint(
        self,
        hidden: jax.Array,
        bias: jax.Array,
        out: jax.Array,
        out_bias: jax.Array,
        x: jax.Array,
        species: jax.Array,
        charge_slopes: jax.Array,
        ratio_slopes: jax.Array,
        slope_sum: jax.Array,
        sums: jax.Array,
    ) -> tuple[jax.Array]:
        """As `so3lr_stages.heads_adjoint`."""
        values, vjp = jax.vjp(functools.partial(self._head_values, hidden, bias, out, out_bias, species), x)
        of_charges = charge_slopes - slope_sum / jnp.maximum(sums[1], 1.0)
        (gradient,) = vjp((jnp.ones_like(values[0]), of_charges.astype(x.dtype), ratio_slopes.astype(x.dtype)))
        return (jnp.pad(gradient[:, None], ((0, 0), (0, 0), (0, self._widths.order_stride))),)

    def long_pairs(
        self,
        tables: jax.Array,
        elements: jax.Array,
        positions: jax.Array,
        row_of_atom: jax.Array,
        atom_of_row: jax.Array,
        species: jax.Array,
        owned: jax.Array,
        atom_count: jax.Array,
        charges: jax.Array,
        ratios: jax.Array,
        strain: jax.Array,
        atom_energies: jax.Array,
        forces: jax.Array,
    ) -> tuple[jax.Array, ...]:
        """As `so3lr_stages.long_pairs`, with pairs that are found in cells of atoms."""
        real, rows = tables.dtype, len(species)
        free, ratio = jnp.moveaxis(take(elements, species), 1, 0)
        values = jnp.stack([charges.astype(real), ratios.astype(real) * free, ratio, free], axis=1)
        place_atoms, begins, counts, box = self._cells(positions, row_of_atom, atom_of_row, owned, atom_count)
        place_rows = jnp.maximum(take(row_of_atom, place_atoms), 0)
        *sums, atom_energies, forces = self._run(
            "long_pairs",
            (
                tables, positions, atom_of_row, values, take(positions, place_atoms), take(values, place_rows), begins,
                counts, box, owned, atom_energies, forces,
            ),
            [jax.ShapeDtypeStruct(shape, jnp.float64) for shape in ((rows,), (rows,), (rows, 8))],
            updated=2,
            warps=SIMPLE_WARPS,
            warp_bytes=LONG_BYTES,
        )  # fmt: skip
        charge_slopes, ratio_slopes, row_sums = sums
        used = row_numbers(species) < owned
        totals = jnp.sum(jnp.where(used[:, None], row_sums, 0.0), axis=0)
        slope_sum = jnp.sum(jnp.where(used, charge_slopes, 0.0))
        strain = strain + totals[2:][_STRAIN]
        return totals[:2], slope_sum, strain, atom_energies, forces, charge_slopes, ratio_slopes

    def _cells(
        self,
        positions: jax.Array,
        row_of_atom: jax.Array,
        atom_of_row: jax.Array,
        owned: jax.Array,
        atom_count: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Atoms within reach of the box around the owned rows, sorted into cells along z, then y, then x, the others
        behind them; where each cell begins; cells along each axis; origin and edge (A)."""
        atoms, used = len(positions), row_numbers(atom_of_row) < owned
        own = take(positions, jnp.where(used, atom_of_row, 0))
        low = jnp.min(jnp.where(used[:, None], own, jnp.inf), axis=0) - self._reach
        high = jnp.max(jnp.where(used[:, None], own, -jnp.inf), axis=0) + self._reach
        edges = self._reach / CELLS_IN_REACH * GROWTH ** np.arange(GROWTHS)
        along = jnp.floor((high - low) / edges[:, None]) + 1.0
        # One place more than there are cells, and a number of the program that is the capacity itself (`lower_ladder`).
        fits = jnp.minimum(jnp.prod(along, axis=1), 2.0**31).astype(jnp.int64) < atoms
        chosen = jnp.argmax(fits)
        edge, counts = jnp.asarray(edges)[chosen], along[chosen]
        cells = jnp.prod(counts).astype(jnp.int32)
        is_near = jnp.all((positions >= low) & (positions <= high), axis=1)
        is_near = is_near & (row_of_atom >= 0) & (row_numbers(positions) < atom_count)
        place = jnp.clip(jnp.floor((positions - low) / edge), 0.0, counts - 1.0)
        cell = ((place[:, 0] * counts[1] + place[:, 1]) * counts[2] + place[:, 2]).astype(jnp.int32)
        cell = jnp.where(is_near, cell, cells)
        cell, atom = lax.sort((cell, row_numbers(positions)), num_keys=1, is_stable=True)
        (begins,) = self._run(
            "cell_begins",
            (cell, jnp.asarray([atoms], jnp.int64), cells),
            [jax.ShapeDtypeStruct((atoms,), jnp.int32)],
        )
        return atom, begins, counts.astype(jnp.int32), jnp.append(low, edge)


def _normal(x: jax.Array) -> jax.Array:
    """Rows less their means, over their standard deviations."""
    difference = x - x.mean(axis=1, keepdims=True)
    return difference * lax.rsqrt((difference * difference).mean(axis=1, keepdims=True) + NORM_FLOOR)
