"""How many epochs fill the hours of a run: some of its steps are timed before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .material import Material
from .processes import of_first

SHARE = 0.9  # of the hours: the rest is for compilation, checkpoints and the report
TIMED = 20  # steps that are timed, each of a shape that is compiled already
TRIAL = 0.1  # of the time that is left: the trial ends when it is over, though fewer steps were timed


def epochs_until(deadline: float, material: Material, step: Callable[[int], Any], validate: Callable[[], Any]) -> int:
    """Epochs with their validations that end at `deadline` (s, of `time.monotonic`), at least 1.

    `step` makes a step on the batch of a number without a trace, `validate` all validation batches.
    """
    per_epoch = material.steps_per_epoch * _seconds_per_step(deadline, material, step)
    if len(material.valid_graphs):
        _seconds(validate)  # compiles
        per_epoch += _seconds(validate) * material.steps_per_epoch / material.eval_every
    return int(of_first(max(1, int((deadline - time.monotonic()) / per_epoch))))


def _seconds_per_step(deadline: float, material: Material, step: Callable[[int], Any]) -> float:
    """Mean of steps of shapes that are compiled already."""
    trial_end = time.monotonic() + TRIAL * (deadline - time.monotonic())
    shapes: set[Any] = set()
    times: list[float] = []
    number = 0
    while len(times) < TIMED and (number == 0 or of_first(time.monotonic() < trial_end)):
        shape = tuple(array.shape for array in jax.tree.leaves(material.batch(number)))
        taken = _seconds(partial(step, number))
        if shape in shapes:
            times.append(taken)
        shapes.add(shape)
        number += 1
    # Of few hours, or of many shapes: the last one again.
    return sum(times) / len(times) if times else _seconds(partial(step, number - 1))


def _seconds(work: Callable[[], Any]) -> float:
    started = time.monotonic()
    jax.block_until_ready(work())
    return time.monotonic() - started


def copied(state: Any) -> Any:
    """Arrays of their own, for a step that takes the memory of what it is given."""
    return jax.tree.map(jnp.array, state)
