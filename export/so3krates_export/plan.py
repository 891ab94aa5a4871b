"""The stages of a network as programs, arrays and the order in which they run (docs/bundle.md)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from so3krates.model import stages
from so3krates.model.config import ModelConfig
from so3krates.model.network import Params


class Array(NamedTuple):
    """An array that is not a weight; a size is a number or the name of a capacity."""

    dtype: str
    shape: tuple[int | str, ...]
    role: str  # "input", "state" or "output"


class Call(NamedTuple):
    """One run of a program; names of weights start with "weights/"."""

    program: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Refresh(NamedTuple):
    """Rows of other ranks are overwritten with their owners' values."""

    arrays: tuple[str, ...]


VIRIAL_CHANNELS = 4  # of the adjoint that gives per-atom virials


def adjoint_name(name: str, channels: int) -> str:
    """Name of an array or a program whose shapes depend on the number of adjoint channels."""
    return name if channels == 1 else f"{name}_{channels}"


def evaluator_arrays(precision: str, channels: int) -> dict[str, Array]:
    """What every plan has: the evaluator's inputs, the pairs within the cutoff, and the results."""
    arrays = {
        "positions": Array("float64", ("atoms", 3), "input"),
        "row_of_atom": Array("int32", ("atoms",), "input"),
        "atom_of_row": Array("int32", ("rows",), "input"),
        "species": Array("int32", ("rows",), "input"),
        "candidate_count": Array("int32", ("rows",), "input"),
        "candidates": Array("int32", ("rows", "candidates"), "input"),
        "owned_count": Array("int32", (), "input"),
        "row_count": Array("int32", (), "input"),
        "vectors": Array(precision, ("rows", "neighbours", 3), "state"),
        "neighbours": Array("int32", ("rows", "neighbours"), "state"),
        "neighbours_needed": Array("int32", (), "output"),
        "energy": Array("float64", (), "output"),
        "atom_energies": Array("float64", ("rows",), "output"),
        "forces": Array("float64", ("rows", 3), "output"),
        "strain_gradient": Array("float64", (3, 3), "output"),
    }
    if channels == VIRIAL_CHANNELS:
        arrays["atom_virials"] = Array("float64", ("rows", 3, 3), "output")
    return arrays


class Plan(NamedTuple):
    """All that is needed to run a network stage by stage."""

    arrays: dict[str, Array]
    programs: dict[str, Callable[..., tuple[jax.Array, ...]]]  # positional, in the order of a call's inputs
    steps: list[Call | Refresh]

    def donated(self, call: Call) -> tuple[int, ...]:
        """Positions of inputs that are updated in place."""
        return tuple(k for k, name in enumerate(call.inputs) if name in call.outputs)


def weight_arrays(params: Params, atomic_numbers: list[int]) -> dict[str, np.ndarray]:
    """Weights by their names in the plan; the embedding is reduced to the rows of `atomic_numbers`."""
    from flax.traverse_util import flatten_dict

    weights = {f"weights/{name}": np.asarray(value) for name, value in flatten_dict(params, sep="/").items()}
    weights["weights/embedding/embedding"] = weights["weights/embedding/embedding"][np.asarray(atomic_numbers)]
    return weights


def build_plan(
    config: ModelConfig,
    precision: str,
    weight_names: list[str],
    channels: int = 1,
    row_block: int = stages.ROW_BLOCK,
) -> Plan:
    """The stages for energies, forces and strain gradient; channels = 4 adds per-atom virials.

    precision: numpy name of the network's dtype. weight_names: as given by `weight_arrays`. row_block: rows that loops
    handle at once, a divisor of every capacity of rows. Plans of different channels
    share the arrays and programs that do not depend on them.
    """
    f, m = config.features, config.orders
    adjoint, message_adjoint = (
        tuple(adjoint_name(f"{kind}_{part}", channels) for part in ("features", "euclidean"))
        for kind in ("adjoint", "message_adjoint")
    )
    arrays = evaluator_arrays(precision, channels) | {
        "counts": Array("int32", ("rows",), "state"),
    }
    for features, euclidean in (adjoint, message_adjoint):
        arrays[features] = Array(precision, ("rows", channels, f), "state")
        arrays[euclidean] = Array(precision, ("rows", channels, m), "state")
    for name in stages.Projections._fields:
        arrays[name] = Array(precision, ("rows", f), "state")
    for k in range(config.layers + 1):
        arrays[f"features_{k}"] = Array(precision, ("rows", f), "state")
        arrays[f"euclidean_{k}"] = Array(precision, ("rows", m), "state")
    for k in range(config.layers):
        arrays[f"attended_features_{k}"] = Array(precision, ("rows", f), "state")
        arrays[f"attended_euclidean_{k}"] = Array(precision, ("rows", m), "state")
    virials = "atom_virials" if channels == VIRIAL_CHANNELS else None
    # Edges carry all channels: as many values at once as with one, where a block has rows to spare.
    adjoint_block = max(min(row_block, stages.ROW_BLOCK), row_block // channels)

    builder = _Builder(weight_names)
    table = stages.Table._make(("vectors", "neighbours", "counts"))  # names in place of arrays, here and below
    projections = stages.Projections._make(stages.Projections._fields)

    def state(k: int) -> tuple[str, str]:
        return f"features_{k}", f"euclidean_{k}"

    def attended(k: int) -> tuple[str, str]:
        return f"attended_features_{k}", f"attended_euclidean_{k}"

    def project(k: int) -> None:
        builder.call(
            "project",
            functools.partial(stages.project, config, row_block=row_block),
            (builder.weights(k, "project"), state(k)[0], "row_count", projections),
            projections,
        )

    builder.call(
        "neighbours",
        functools.partial(stages.neighbours, config.cutoff, row_block=row_block),
        (
            "positions", "row_of_atom", "atom_of_row", "candidates", "candidate_count", "owned_count", table,
        ),
        (table, "neighbours_needed"),
    )  # fmt: skip
    builder.call(
        "embed",
        functools.partial(stages.embed, row_block=row_block),
        ("weights/embedding/embedding", "species", "row_count", state(0)),
        state(0),
    )
    for k in range(config.layers):
        project(k)
        builder.call(
            "layer",
            functools.partial(stages.layer, config, row_block=row_block),
            (
                builder.weights(k, "layer"), *state(k), projections, table, "owned_count",
                (*attended(k), *state(k + 1)),
            ),
            (*attended(k), *state(k + 1)),
        )  # fmt: skip
        if k + 1 < config.layers:
            builder.refresh(state(k + 1))
    readout = stages.ReadoutArrays._make(("atom_energies", *adjoint, "forces", virials))
    builder.call(
        adjoint_name("readout", channels),
        functools.partial(stages.readout, config, row_block=row_block),
        (builder.readout_weights(), state(config.layers)[0], "owned_count", readout),
        ("energy", "strain_gradient", readout),
    )
    for k in reversed(range(config.layers)):
        builder.call(
            adjoint_name("exchange_adjoint", channels),
            functools.partial(stages.exchange_adjoint, config, row_block=row_block),
            (builder.weights(k, "exchange"), *attended(k), adjoint, "owned_count", message_adjoint),
            message_adjoint,
        )
        builder.refresh(message_adjoint)
        if k + 1 < config.layers:
            project(k)
        into = stages.AdjointArrays._make((*adjoint, "forces", virials))
        builder.call(
            adjoint_name("layer_adjoint", channels),
            functools.partial(stages.layer_adjoint, config, row_block=adjoint_block),
            (
                builder.weights(k, "layer_adjoint"), *state(k), projections, message_adjoint, table, "owned_count",
                "strain_gradient", into,
            ),
            ("strain_gradient", into),
        )  # fmt: skip
    return Plan(arrays, builder.programs, builder.steps)


# Parameter groups of a layer that each program reads.
_GROUPS = {
    "project": ("feature_query", "feature_key", "feature_value", "geometric_query", "geometric_key", "attention_norm"),
    "exchange": ("exchange", "exchange_norm", "residual_1", "residual_2"),
    "filters": ("feature_filter", "geometric_filter"),
}
_GROUPS["layer"] = _GROUPS["filters"] + _GROUPS["exchange"]
_GROUPS["layer_adjoint"] = _GROUPS["filters"] + _GROUPS["project"]


class _Builder:
    """Collects programs and steps; arguments are trees of names, flattened to positions."""

    def __init__(self, weight_names: list[str]) -> None:
        self._weight_names = sorted(weight_names)
        self.programs: dict[str, Callable[..., tuple[jax.Array, ...]]] = {}
        self.steps: list[Call | Refresh] = []

    def weights(self, layer: int, program: str) -> dict[str, Any]:
        prefixes = tuple(f"weights/layers_{layer}/{group}/" for group in _GROUPS[program])
        return self._tree(f"weights/layers_{layer}/", prefixes)

    def readout_weights(self) -> dict[str, Any]:
        return self._tree("weights/readout/", ("weights/readout/",))

    def _tree(self, root: str, prefixes: tuple[str, ...]) -> dict[str, Any]:
        names = [name for name in self._weight_names if name.startswith(prefixes)]
        return unflatten_dict({name.removeprefix(root): name for name in names}, sep="/")

    def call(self, program: str, function: Callable[..., Any], inputs: Any, outputs: Any) -> None:
        names, structure = jax.tree.flatten(inputs)

        def positional(*arrays: jax.Array) -> tuple[jax.Array, ...]:
            return tuple(jax.tree.leaves(function(*jax.tree.unflatten(structure, arrays))))

        positional.__name__ = program
        self.programs.setdefault(program, positional)
        self.steps.append(Call(program, tuple(names), tuple(jax.tree.leaves(outputs))))

    def refresh(self, names: tuple[str, ...]) -> None:
        self.steps.append(Refresh(names))
