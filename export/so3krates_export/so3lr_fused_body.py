"""The body "fused" of SO3LR on a CPU: layers, heads and long-range pairs by kernels of csrc/kernels."""

from __future__ import annotations

import numpy as np
from so3krates.model.config import ModelConfig, So3lrConfig
from so3krates.storage import Model

from .fused_body import FusedBody
from .plan import Addition, Array, Part, Stage
from .so3lr_body import SystemStages, embedding_weights, feature_order, system_arrays
from .so3lr_fused import NORMALISED, check_so3lr, head_ends, long_numbers, long_parts

_TRANSPOSED = ("residual_in_t", "residual_out_t", "exchange_t")


def _named(program: str, k: int) -> str:
    """The first layer's filters of the invariants have a rank of their own."""
    return program if k > 0 else f"{program}_first"


class So3lrFusedBody(FusedBody):
    """Layers like those of `FusedBody`, the first one too, whose features depend on the whole system."""

    def __init__(self, model: Model, config: ModelConfig, precision: str, weight_names: list[str]) -> None:
        """config: of the tabulated network. weight_names: of all weights, those of the embeddings among them."""
        assert isinstance(config, So3lrConfig)
        check_so3lr(config, model.interactions)
        self._interactions = model.interactions
        super().__init__(config, precision, len(model.elements))
        self._system = SystemStages(config, len(model.elements), embedding_weights(weight_names), self.row_block)

    def _own_arrays(self) -> dict[str, Array]:
        w = self._widths
        arrays = super()._own_arrays()
        for name in ("coefficients", self._coefficients_adjoint):
            del arrays[name]

        def rows(*width: int) -> Array:
            return Array(self.precision, ("rows", *width), "state")

        of_features, of_euclidean = self.state(0)
        arrays |= {of_features: rows(w.feature_stride), of_euclidean: rows(w.order_stride)}
        arrays |= {"projections": rows(w.row_stride), self._projection_adjoints: rows(1, w.row_stride)}
        for k in range(self._config.layers):
            del arrays[f"exchange_scale_{k}"]
            arrays[f"attended_features_{k}"] = rows(w.feature_stride)
        return arrays | system_arrays(self._elements, 2, self._interactions)

    def _attended(self, k: int) -> list[str]:
        return [f"attended_features_{k}", f"attended_euclidean_{k}"]

    def embed(self) -> list[Part]:
        return self._system.embed(self.state(0), feature_order(self._config))

    def project(self, k: int) -> Stage:
        return self._project(k)

    def layer(self, k: int) -> Stage:
        names = ("table", "hidden_in", "reduce", "expand", *NORMALISED)
        inputs = [*self._weights(f"layers_{k}", *names), *self.state(k), "projections", *self._table, "owned_count"]
        into = [*self._attended(k), *self.state(k + 1)]
        return self._stage("normalised_layer", inputs, into, name=_named("normalised_layer", k))

    def readout(self) -> list[Part]:
        of_atoms = [self.state(self._config.layers)[0], "species"]
        ends = np.asarray(head_ends(self._config), np.int64)
        heads = self._stage(
            "heads",
            [*self._weights("heads", "hidden", "bias", "out", "out_bias"), *of_atoms, "owned_count"],
            first=["charge_sums", "energy_network", "strain_gradient"],
            into=["atom_energies", "raw_charges", "hirshfeld_ratios", "forces"],
            ends=ends,
        )
        numbers = long_numbers(self._interactions)
        places = ["positions", "row_of_atom", "atom_of_row", "species"]
        counts = ["owned_count", "order", "row_count", "atom_count"]
        long_pairs = self._stage(
            "long_pairs",
            [*self._weights("long", "tables", "elements"), *places, *counts, "charges", "hirshfeld_ratios"],
            first=["energies_long", "slope_sum"],
            into=["strain_gradient", "atom_energies", "forces", "charge_slopes", "ratio_slopes"],
            ranges=np.asarray(numbers.ranges),
            scales=np.asarray(numbers.scales),
            spread=np.asarray(numbers.spread),
        )
        slopes = ["charge_slopes", "ratio_slopes", "slope_sum", "charge_sums"]
        heads_adjoint = self._stage(
            "heads_adjoint",
            [
                *self._weights("heads", "hidden", "bias", "hidden_t", "out", "out_bias"),
                *of_atoms,
                *slopes,
                "owned_count",
            ],
            into=[self._adjoints],
            ends=ends,
        )
        return self._system.readout(heads, long_pairs, heads_adjoint)

    def exchange_adjoint(self, k: int) -> Stage:
        weights = self._weights(f"layers_{k}", *NORMALISED, *_TRANSPOSED)
        inputs = [*weights, *self._attended(k), "owned_count"]
        return self._stage("normalised_exchange_adjoint", inputs, into=[self._adjoints])

    def layer_adjoint(self, k: int) -> Stage:
        return self._layer_adjoint(k, _named("layer_adjoint", k))

    def further_outputs(self) -> list[Addition]:
        """Stages of outputs that no other stage computes."""
        return self._system.outputs(long_parts(self._interactions))
