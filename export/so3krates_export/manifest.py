"""Parts of a manifest that follow from others (docs/bundle.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NO_STEP = -1  # in "from": no step of the schedule has computed it
# What the reader refuses: it moves a terminal's cursor, hides text or turns its direction.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(value: Any) -> Any:
    """The same with a space for every character that `check_texts` refuses."""
    if isinstance(value, str):
        return _CONTROLS.sub(" ", value)
    if isinstance(value, Mapping):
        return {printable(name): printable(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [printable(entry) for entry in value]
    return value


def last_writers(steps: list[dict[str, Any]], count: int | None = None) -> dict[str, int]:
    """The step that computed each array last, after the first `count` steps."""
    writers: dict[str, int] = {}
    for index, step in enumerate(steps[:count]):
        for kind in ("outputs", "refresh", "reduce"):
            writers |= dict.fromkeys(step.get(kind, ()), index)
    return writers


def with_sources(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every step says which step's values it reads."""
    result = []
    for index, step in enumerate(steps):
        writers = last_writers(steps, index)
        names = next(step[kind] for kind in ("inputs", "refresh", "reduce") if kind in step)
        result.append({**step, "from": [writers.get(name, NO_STEP) for name in names]})
    return result


def results_of(manifest: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """For "results": the step of each schedule that computes each output last."""
    return {
        name: {
            array: index
            for array, index in last_writers(steps).items()
            if manifest["buffers"][array]["role"] == "output"
        }
        for name, steps in manifest["schedules"].items()
    }
