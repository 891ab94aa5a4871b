"""Programs that move rows between an array on a device and the host's memory, for refreshes (docs/bundle.md)."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import lax

from .plan import Array, Call, Plan, Refresh

MOVED_ROWS = 4096  # at once


def take_rows(array: jax.Array, rows: jax.Array) -> tuple[jax.Array]:
    """Some rows of an array; rows: (MOVED_ROWS,) indices."""
    return (array.at[rows].get(mode="promise_in_bounds"),)


def put_rows(array: jax.Array, rows: jax.Array, start: jax.Array) -> tuple[jax.Array]:
    """The array with `rows`, MOVED_ROWS of them, from row `start` on."""
    return (lax.dynamic_update_slice_in_dim(array, rows, start, 0),)


def moves_of(plan: Plan) -> tuple[Plan, dict[str, list[str]]]:
    """A plan of the programs for the arrays that `plan` refreshes, and for each of these their names: take, put.

    Arrays of one shape share their programs.
    """
    arrays = {
        "moved/rows": Array("int32", (MOVED_ROWS,), "input"),
        "moved/start": Array("int32", (), "input"),
    }
    programs: dict[str, Callable[..., tuple[jax.Array, ...]]] = {}
    steps: list[Call | Refresh] = []
    names: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for step in plan.steps if isinstance(step, Refresh) for name in step.arrays):
        array = plan.arrays[name]
        shape = "x".join(map(str, array.shape[1:])) + f"_{array.dtype}"
        names[name] = [f"take_rows_{shape}", f"put_rows_{shape}"]
        arrays[name], arrays[f"moved/{name}"] = array, array._replace(shape=(MOVED_ROWS, *array.shape[1:]))
        programs |= dict(zip(names[name], (take_rows, put_rows), strict=True))
        steps.append(Call(names[name][0], (name, "moved/rows"), (f"moved/{name}",)))
        steps.append(Call(names[name][1], (name, f"moved/{name}", "moved/start"), (name,)))
    return Plan(arrays, programs, steps), names
