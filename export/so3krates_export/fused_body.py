"""The body "fused" on a CPU: every stage is one of the kernels in csrc/kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from so3krates.model.config import ModelConfig
from so3krates.model.radial_basis import spline_range
from so3krates.model.rows import ROW_BLOCK
from so3krates.model.term_stages import Lists
from so3krates.model.terms import Term

from .fused import CUTOFF_NUMBERS, QUAD, ROUNDS, SCHEDULE_ENTRIES, check_fused, widths
from .plan import VIRIAL_CHANNELS, Array, Call, Part, Stage, adjoint_name, evaluator_arrays, member_root


class FusedBody:
    """Custom calls on arrays and weights in the kernels' layout; see `plan.Body`."""

    prefix = ""

    def __init__(
        self,
        config: ModelConfig,
        precision: str,
        elements: int,
        channels: int = 1,
        threads: int = 0,
        member: int = 0,
        small: bool = False,
    ) -> None:
        """
        Args:
            config: of a tabulated network.
            precision: numpy name of the network's dtype.
            elements: number of species.
            channels: 1, or 4 for per-atom virials.
            threads: how many share the pairs; 0: the client's.
            member: of a committee, whose weights it takes.
            small: the adjoints of the projections have room for one channel, and channels are computed one by one.

        Raises:
            FusedError: the kernels do not compute this network.
        """
        check_fused(config)
        self.weights = member_root("weights/fused/", member)
        self.precision, self.channels, self.row_block = precision, channels, ROW_BLOCK
        self._config, self._elements, self._widths = config, elements, widths(config)
        self._attributes = _attributes(config, precision, elements, threads)
        self._adjoints, self._coefficients_adjoint = (
            adjoint_name(name, channels) for name in ("adjoints", "coefficients_adjoint")
        )
        self._small, self._projected = small, 1 if small else channels
        self._projection_adjoints = adjoint_name("projection_adjoints", self._projected)
        self.message_adjoint: tuple[str, ...] = (self._adjoints,)
        self._table = ("vectors", "neighbours", "ends", "order", "schedule")
        self._gradients = ("forces", "atom_virials") if channels == VIRIAL_CHANNELS else ("forces",)
        self.arrays = self._own_arrays()
        self._known = evaluator_arrays(precision, channels) | self.arrays

    def _own_arrays(self) -> dict[str, Array]:
        w, layers = self._widths, self._config.layers

        def rows(*width: int) -> Array:
            return Array(self.precision, ("rows", *width), "state")

        arrays = {
            "ends": Array("int32", ("rows", ROUNDS), "state"),
            "order": Array("int32", ("rows",), "state"),
            "schedule": Array("int32", (SCHEDULE_ENTRIES,), "state"),
            "coefficients": rows(self._elements, QUAD),
            self._coefficients_adjoint: rows(self.channels, self._elements, QUAD),
            self._adjoints: rows(self.channels, w.message_stride),
        }
        for k in range(layers):
            of_features, of_euclidean = self.state(k + 1)
            arrays |= {of_features: rows(w.feature_stride), of_euclidean: rows(w.order_stride)}
            arrays |= {f"attended_euclidean_{k}": rows(w.order_stride), f"exchange_scale_{k}": rows(QUAD)}
        if layers > 1:
            arrays |= {
                "projections": rows(w.row_stride),
                self._projection_adjoints: rows(self._projected, w.row_stride),
            }
        return arrays

    def state(self, k: int) -> tuple[str, str]:
        return f"features_{k}", f"euclidean_{k}"

    def _after(self, k: int) -> list[str]:
        return [f"attended_euclidean_{k}", *self.state(k + 1), f"exchange_scale_{k}"]

    def _weights(self, part: str, *names: str) -> list[str]:
        return [f"{self.weights}{part}/{name}" for name in names]

    def _stage(
        self,
        kernel: str,
        inputs: Sequence[str],
        into: Sequence[str],
        first: Sequence[str] = (),
        last: Sequence[str] = (),
        channels: int = 1,
        name: str = "",
        **attributes: Any,
    ) -> Stage:
        """Results are `first`, `into` (updated in place), `last`; channels: of the adjoints among them.

        name: of the program, if not the kernel's. attributes: of this call alone.
        """
        before = len(first)

        def fresh(names: Sequence[str]) -> list[jax.ShapeDtypeStruct]:
            return [jax.ShapeDtypeStruct(self._known[name].shape, self._known[name].dtype) for name in names]

        def program(*arguments: jax.Array) -> tuple[jax.Array, ...]:
            given = arguments[len(inputs) :]
            results = [*fresh(first), *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in given), *fresh(last)]
            aliases = {len(inputs) + k: before + k for k in range(len(given))}
            call = jax.ffi.ffi_call(f"so3krates_{kernel}", results, input_output_aliases=aliases)
            return tuple(call(*arguments, **self._attributes, **attributes))

        program.__name__ = adjoint_name(name or kernel, channels)
        return Stage(Call(program.__name__, (*inputs, *into), (*first, *into, *last)), program)

    def pairs(self) -> Stage:
        lists = ["positions", "row_of_atom", "atom_of_row", "candidates", "candidate_count", "owned_count"]
        return self._stage("pairs", lists, into=self._table, last=["neighbours_needed"])

    def embed(self) -> Stage | list[Part] | None:
        """`first_layer` does it."""
        return None

    def project(self, k: int) -> Stage | None:
        return None if k == 0 else self._project(k)  # the first layer's attention is a function of distances

    def _project(self, k: int) -> Stage:
        names = [*self._weights(f"layers_{k}", "feature", "geometric"), *self.state(k), "row_count"]
        return self._stage("project", names, into=["projections"])

    def layer(self, k: int) -> Stage:
        exchange = self._weights(f"layers_{k}", "exchange", "exchange_bias")
        if k == 0:
            weights = [*self._weights("first", "embedding", "values", "table"), *exchange]
            inputs = [*weights, "species", *self._table, "owned_count"]
            return self._stage("first_layer", inputs, into=["coefficients", *self._after(0)])
        weights = [*self._weights(f"layers_{k}", "table", "hidden_in", "reduce", "expand"), *exchange]
        inputs = [*weights, *self.state(k), "projections", *self._table, "owned_count"]
        return self._stage("layer", inputs, into=self._after(k))

    def readout(self) -> Stage | list[Part]:
        weights = self._weights("readout", "hidden", "hidden_t", "bias", "out", "out_bias")
        return self._stage(
            "readout",
            [*weights, self.state(self._config.layers)[0], "owned_count"],
            first=["energy", "strain_gradient"],
            into=["atom_energies", self._adjoints, *self._gradients],
            channels=self.channels,
        )

    def exchange_adjoint(self, k: int) -> Stage:
        kept = [f"attended_euclidean_{k}", f"exchange_scale_{k}"]
        inputs = [*self._weights(f"layers_{k}", "exchange_t"), *kept, "owned_count"]
        return self._stage("exchange_adjoint", inputs, into=[self._adjoints], channels=self.channels)

    def layer_adjoint(self, k: int) -> Stage:
        if k == 0:
            inputs = [*self._weights("first", "values", "table"), "species", self._adjoints, *self._table, "row_count"]
            into = ["strain_gradient", self._coefficients_adjoint, *self._gradients]
            return self._stage("first_layer_adjoint", inputs, into=into, channels=self.channels)
        return self._layer_adjoint(k, "small_layer_adjoint" if self._small else "layer_adjoint")

    def _layer_adjoint(self, k: int, name: str = "layer_adjoint") -> Stage:
        names = ("table", "hidden_in", "reduce", "expand", "expand_t", "feature_t", "geometric_t")
        inputs = [*self._weights(f"layers_{k}", *names), "projections", *self._table, "owned_count"]
        into = ["strain_gradient", self._projection_adjoints, self._adjoints, *self._gradients]
        return self._stage("layer_adjoint", inputs, into=into, channels=self.channels, name=name)

    def term(self, term: Term) -> Stage | None:
        if not term.kernel:
            return None
        return self._stage(
            "term",
            Lists._fields,
            into=["energy", "strain_gradient", "atom_energies", *self._gradients],
            channels=self.channels,
            name=f"term_{term.name}",
            term=term.kernel,
            table=term.table().ravel(),
        )


def _attributes(config: ModelConfig, precision: str, elements: int, threads: int) -> dict[str, Any]:
    """What the kernels need to know besides their arguments."""
    least, spacing = spline_range(config.radial_functions, config.cutoff, config.spline_start)
    whole = {
        "features": config.features,
        "heads": config.heads,
        "hidden": config.spherical_filter_features[0],
        "readout": config.readout_features[0],
        "elements": elements,
        "cutoff_function": CUTOFF_NUMBERS[config.cutoff_function],
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
