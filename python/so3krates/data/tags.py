"""The kind of a frame, by which sets are split and errors are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ase import Atoms

# Entries of a frame's info that say of what kind it is; the first that a frame has counts.
TAG_KEYS = ("config_type", "group", "tag")
# One that often differs from frame to frame: it counts where it does not.
NAME_KEY = "name"
TEMPERATURE_KEYS = ("temperature_K", "temperature")


def tags_of(frames: Sequence[Atoms], key: str = "") -> list[str | None]:
    """The kind of each frame: its entry under `key`, or the first of TAG_KEYS; None where it has none.

    Where no frame has any, the frames' names, if there are at least twice as many frames as names.
    """
    found = [_first(atoms, (key,) if key else TAG_KEYS) for atoms in frames]
    if not key and all(value is None for value in found):
        names = [_first(atoms, (NAME_KEY,)) for atoms in frames]
        if 2 * len(set(names)) <= len(names):
            found = names
    return [None if value is None else str(value) for value in found]


def temperature_of(atoms: Atoms) -> float | None:
    """Temperature of a frame in K; None where there is no finite one."""
    try:
        value = float(_first(atoms, TEMPERATURE_KEYS))
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _first(atoms: Atoms, keys: Sequence[str]) -> Any:
    return next((atoms.info[key] for key in keys if key in atoms.info), None)
