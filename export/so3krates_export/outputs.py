"""What a bundle gives, by name: one line here, and for what is no part of every schedule the stage that computes it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Mapping
from typing import NamedTuple

import numpy as np
from so3krates import _harness
from so3krates.model import density, stages
from so3krates.model.config import ModelConfig
from so3krates.uncertainty import Density

from .plan import Addition, Array, Body, tree_stage

UNCERTAINTY = "weights/uncertainty/"


class Output(NamedTuple):
    """As in the manifest (docs/bundle.md); shape and precision are those of the array of the same name."""

    unit: str
    meaning: str
    ranks: str = "none"  # how the values of several ranks make one: "sum", "min", "max"; "none" for values of atoms
    standard: bool = False  # computed where nobody names outputs


# Those of every potential are stated in C++.
DECLARED = {
    name: Output(**buffer["output"]) for name, buffer in _harness.BUNDLE_OUTPUTS.items() if "output" in buffer
} | {
    "charges": Output("e", "of each atom; they add up to the total charge"),
    "hirshfeld_ratios": Output("1", "volume of each atom over that of the free one"),
    "dipole": Output("e A", "sum of charge times position, as the positions are given", "sum"),
    "energy_network": Output("eV", "of the network alone, without shifts", "sum"),
    "energy_repulsion": Output("eV", "of the repulsion of close nuclei", "sum"),
    "energy_electrostatics": Output("eV", "of the predicted charges", "sum"),
    "energy_dispersion": Output("eV", "of the dispersion", "sum"),
    "feature_norm": Output("1", "Euclidean norm of an atom's features after the last layer"),
    "uncertainty": Output("eV/A", "what a component of the force on an atom is expected to be wrong by"),
    "committee_forces": Output("eV/A", "standard deviation of a component of the force on an atom over a committee"),
    "member_energies": Output("eV", "of all atoms by each member, without the bundle's energy shifts and terms", "sum"),
    "member_strain_gradients": Output("eV", "dE/d(strain) [member, position, force component], without terms", "sum"),
}


def _feature_norm(body: Body, config: ModelConfig, weights: Container[str]) -> Addition:
    inputs = (body.state(config.layers)[0], "owned_count", "feature_norm")
    function = functools.partial(stages.row_norms, row_block=body.row_block)
    stage = tree_stage(f"{body.prefix}feature_norm", function, inputs, "feature_norm")
    return Addition(stage, {"feature_norm": Array("float64", ("rows",), "output")})


def _uncertainty(body: Body, config: ModelConfig, weights: Container[str]) -> Addition | None:
    features, *others = density.DensityWeights._fields
    own = f"{body.weights}uncertainty/{features}"
    if own not in weights:
        return None
    names = density.DensityWeights._make([own, *(f"{UNCERTAINTY}{name}" for name in others)])
    inputs = (names, *body.state(config.layers), "species", "owned_count", "uncertainty")
    function = functools.partial(density.uncertainties, config, row_block=body.row_block)
    stage = tree_stage(f"{body.prefix}uncertainty", function, inputs, "uncertainty")
    return Addition(stage, {"uncertainty": Array("float64", ("rows",), "output")})


# Outputs with a stage of their own, which runs where they are asked for.
_EXTRA: list[Callable[[Body, ModelConfig, Container[str]], Addition | None]] = [_feature_norm, _uncertainty]


def extra_outputs(body: Body, config: ModelConfig, weights: Container[str] = ()) -> list[Addition]:
    """Stages of the outputs that no other stage computes; weights: names of all that there are."""
    found = (extra(body, config, weights) for extra in _EXTRA)
    return [addition for addition in found if addition is not None]


def uncertainty_weights(
    of: Density, config: ModelConfig, layouts: Mapping[str, Callable[[np.ndarray], np.ndarray]]
) -> dict[str, np.ndarray]:
    """Weights of the stage, float64. layouts: of features (..., F) by the root of the weights' names."""
    axes = of.axes[: config.features]
    offset = of.mean @ of.axes
    weights = {
        f"{UNCERTAINTY}invariants": of.axes[config.features :],
        f"{UNCERTAINTY}whitening": of.whitening,
        f"{UNCERTAINTY}centres": np.einsum("ekp,ekpq->ekq", of.centres + offset, of.whitening),
        f"{UNCERTAINTY}floor": of.floor,
        f"{UNCERTAINTY}slope": of.slope,
        f"{UNCERTAINTY}power": of.power,
        f"{UNCERTAINTY}limit": of.limit,
    }
    return weights | {f"{root}uncertainty/features": layout(axes.T).T for root, layout in layouts.items()}
