"""What a bundle gives, by name: one line here, and for what is no part of every schedule the stage that computes it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from so3krates import _harness
from so3krates.model import stages

from .plan import Addition, Array, Body, tree_stage


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
    "feature_norm": Output("1", "Euclidean norm of an atom's features after the last layer"),
}


def _feature_norm(body: Body, layers: int) -> Addition:
    inputs = (body.state(layers)[0], "owned_count", "feature_norm")
    function = functools.partial(stages.row_norms, row_block=body.row_block)
    stage = tree_stage(f"{body.prefix}feature_norm", function, inputs, "feature_norm")
    return Addition(stage, {"feature_norm": Array("float64", ("rows",), "output")})


# Outputs with a stage of their own, which runs where they are asked for.
_EXTRA: list[Callable[[Body, int], Addition]] = [_feature_norm]


def extra_outputs(body: Body, layers: int) -> list[Addition]:
    """Stages of the outputs that no other stage computes."""
    return [extra(body, layers) for extra in _EXTRA]
