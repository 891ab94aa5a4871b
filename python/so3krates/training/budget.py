"""How many epochs fill the hours of a run: some of its steps are timed before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .material import Material

SHARE = 0.9  # of the hours: the rest is for compilation, checkpoints and the report
TIMED = 20  # steps that are timed, each of a shape that is compiled already
MOST = 200  # steps that are made for it


def epochs_within(seconds: float, material: Material, step: Callable[[int], Any], validate: Callable[[], Any]) -> int:
    """Epochs that take `seconds` with their validations, at least 1.

    `step` makes a step on the batch of a number without a trace, `validate` all validation batches.
    """
    per_epoch = material.steps_per_epoch * _seconds_per_step(material, step)
    if len(material.valid_graphs):
        validate()  # compiles
        started = time.monotonic()
        validate()
        per_epoch += (time.monotonic() - started) * material.steps_per_epoch / material.eval_every
    return max(1, int(seconds / per_epoch))


def _seconds_per_step(material: Material, step: Callable[[int], Any]) -> float:
    shapes, times = set(), []
    for n in range(MOST):
        shape = tuple(array.shape for array in jax.tree.leaves(material.batch(n)))
        started = time.monotonic()
        jax.block_until_ready(step(n))
        if shape in shapes:
            times.append(time.monotonic() - started)
        shapes.add(shape)
        if len(times) == TIMED:
            break
    return sum(times) / len(times)


def copied(state: Any) -> Any:
    """Arrays of their own, for a step that takes the memory of what it is given."""
    return jax.tree.map(jnp.array, state)
