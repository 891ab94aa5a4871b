"""The body "xla": stages as programs that XLA computes on every platform."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from so3krates.model import moment_adjoint, readout, stages
from so3krates.model.config import ModelConfig
from so3krates.model.network import Params
from so3krates.model.projections import Projections
from so3krates.model.rows import ROW_BLOCK, Table
from so3krates.model.so3lr import TABLES
from so3krates.model.terms import Term

from .plan import VIRIAL_CHANNELS, Array, Part, Stage, adjoint_name, member_root, tree_stage

# Parameter groups of a layer that each stage reads.
_PROJECT = ("feature_query", "feature_key", "feature_value", "geometric_query", "geometric_key", "attention_norm")
_EXCHANGE = ("exchange", "exchange_norm", "residual_1", "residual_2", "norm_1", "norm_2", "residual")
_FILTERS = ("feature_filter", "geometric_filter")


def weight_arrays(params: Params, atomic_numbers: list[int]) -> dict[str, np.ndarray]:
    """Weights by their names in the plan; tables by atomic number are reduced to the rows of `atomic_numbers`."""
    weights = {f"weights/{name}": np.asarray(value) for name, value in flatten_dict(params, sep="/").items()}
    tables = {f"weights/{name}" for name in TABLES} & weights.keys()
    return weights | {name: weights[name][np.asarray(atomic_numbers)] for name in tables}


class PortableBody:
    """Stages of `so3krates.model`: `stages`, `readout`, `moment_adjoint`; see `plan.Body`."""

    prefix = ""

    def __init__(
        self,
        config: ModelConfig,
        precision: str,
        weight_names: list[str],
        channels: int = 1,
        row_block: int = ROW_BLOCK,
        member: int = 0,
    ) -> None:
        """
        Args:
            config: of the network.
            precision: numpy name of the network's dtype.
            weight_names: as given by `weight_arrays`.
            channels: 1, or 4 for per-atom virials. Bodies of different channels share the arrays and programs that do
                not depend on them.
            row_block: rows that loops handle at once, a divisor of every capacity of rows.
            member: of a committee, whose weights it takes.
        """
        self.precision, self.channels, self.row_block = precision, channels, row_block
        self.weights = member_root("weights/", member)
        self._config, self._weight_names = config, sorted(weight_names)
        self._adjoint, self.message_adjoint = (
            tuple(adjoint_name(f"{kind}_{part}", channels) for part in ("features", "euclidean"))
            for kind in ("adjoint", "message_adjoint")
        )
        # Names in place of arrays, as in all trees here.
        self._table = Table._make(("vectors", "neighbours", "counts"))
        self._projections = Projections._make(Projections._fields)
        self._virials = "atom_virials" if channels == VIRIAL_CHANNELS else None
        self.arrays = self._own_arrays()

    def _own_arrays(self) -> dict[str, Array]:
        features, orders = self._config.features, self._config.orders

        def rows(*width: int) -> Array:
            return Array(self.precision, ("rows", *width), "state")

        arrays = {"counts": Array("int32", ("rows",), "state")}
        for of_features, of_euclidean in (self._adjoint, self.message_adjoint):
            arrays[of_features] = rows(self.channels, features)
            arrays[of_euclidean] = rows(self.channels, orders)
        arrays |= {name: rows(features) for name in Projections._fields}
        for k in range(self._config.layers + 1):
            of_features, of_euclidean = self.state(k)
            arrays |= {of_features: rows(features), of_euclidean: rows(orders)}
        for k in range(self._config.layers):
            of_features, of_euclidean = self._attended(k)
            arrays |= {of_features: rows(features), of_euclidean: rows(orders)}
        return arrays

    def state(self, k: int) -> tuple[str, str]:
        return f"features_{k}", f"euclidean_{k}"

    def _attended(self, k: int) -> tuple[str, str]:
        return f"attended_features_{k}", f"attended_euclidean_{k}"

    def _weights(self, root: str, *groups: str) -> dict[str, Any]:
        """Names of weights as the tree of parameters below `root`, of all groups where none are named."""
        prefixes = tuple(f"{root}{group}/" for group in groups) or (root,)
        names = [name for name in self._weight_names if name.startswith(prefixes)]
        return unflatten_dict({name.removeprefix(root): name for name in names}, sep="/")

    def _of_layer(self, k: int, *groups: str) -> dict[str, Any]:
        return self._weights(f"{self.weights}layers_{k}/", *groups)

    def pairs(self) -> Stage:
        lists = ("positions", "row_of_atom", "atom_of_row", "candidates", "candidate_count", "owned_count")
        function = functools.partial(stages.neighbours, self._config.cutoff, row_block=self.row_block)
        return tree_stage("neighbours", function, (*lists, self._table), (self._table, "neighbours_needed"))

    def embed(self) -> Stage | list[Part]:
        inputs = (f"{self.weights}embedding/embedding", "species", "row_count", self.state(0))
        return tree_stage("embed", functools.partial(stages.embed, row_block=self.row_block), inputs, self.state(0))

    def project(self, k: int) -> Stage:
        function = functools.partial(stages.project, self._config, row_block=self.row_block)
        inputs = (self._of_layer(k, *_PROJECT), self.state(k)[0], "row_count", self._projections)
        return tree_stage("project", function, inputs, self._projections)

    def layer(self, k: int) -> Stage:
        function = functools.partial(stages.layer, self._config, row_block=self.row_block)
        outputs = (*self._attended(k), *self.state(k + 1))
        weights = self._of_layer(k, *_FILTERS, *_EXCHANGE)
        inputs = (weights, *self.state(k), self._projections, self._table, "owned_count", outputs)
        return tree_stage("layer", function, inputs, outputs)

    def readout(self) -> Stage | list[Part]:
        function = functools.partial(readout.readout, self._config, row_block=self.row_block)
        into = readout.ReadoutArrays._make(("atom_energies", *self._adjoint, "forces", self._virials))
        inputs = (self._weights(f"{self.weights}readout/"), self.state(self._config.layers)[0], "owned_count", into)
        return tree_stage(adjoint_name("readout", self.channels), function, inputs, ("energy", "strain_gradient", into))

    def exchange_adjoint(self, k: int) -> Stage:
        function = functools.partial(moment_adjoint.exchange_adjoint, self._config, row_block=self.row_block)
        weights = self._of_layer(k, *_EXCHANGE)
        inputs = (weights, *self._attended(k), self._adjoint, "owned_count", self.message_adjoint)
        return tree_stage(adjoint_name("exchange_adjoint", self.channels), function, inputs, self.message_adjoint)

    def layer_adjoint(self, k: int) -> Stage:
        # Edges carry all channels: as many values at once as with one, where a block has rows to spare.
        block = max(min(self.row_block, ROW_BLOCK), self.row_block // self.channels)
        function = functools.partial(moment_adjoint.layer_adjoint, self._config, row_block=block)
        into = moment_adjoint.AdjointArrays._make((*self._adjoint, "forces", self._virials))
        inputs = (
            self._of_layer(k, *_FILTERS, *_PROJECT), *self.state(k), self._projections, self.message_adjoint,
            self._table, "owned_count", "strain_gradient", into,
        )  # fmt: skip
        outputs = ("strain_gradient", into)
        return tree_stage(adjoint_name("layer_adjoint", self.channels), function, inputs, outputs)

    def term(self, term: Term) -> None:
        """The portable stage."""
