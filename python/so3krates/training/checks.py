"""Checks of settings that name the key in their message."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from so3krates.model.config import ConfigError

LENGTHS = ("steps", "epochs", "hours")  # of a run; with the first there is no other
LARGEST = 2**31 - 1  # of whole numbers: seeds and counters of steps are held in 32 bits


def require(condition: bool, section: str, key: str, value: Any, advice: str) -> None:
    """Raises ConfigError with the key, its value and what to give, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{section}.{key} = {value!r}: give {advice}")


def require_one_length(training: Any) -> None:
    """Refuses `steps` beside `epochs` or `hours`, which would decide alone. Raises ConfigError."""
    own = [name for name in LENGTHS if isinstance(training, Mapping) and training.get(name) is not None]
    if len(own) > 1 and own[0] == "steps":
        both = " and ".join(f"training.{name} = {training[name]!r}" for name in own)
        raise ConfigError(f"{both}: each says how long the run is: give one of them")


def is_int(value: Any, least: int = 0) -> bool:
    """A whole number of at least `least` that 32 bits hold, not a truth value."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST


def is_number(value: Any) -> bool:
    """A finite number, not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
