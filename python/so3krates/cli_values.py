"""Values on the command line."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any


def lines_of(path: Path) -> list[str]:
    """The lines of a deck without comments and blanks. Raises OSError, and ValueError for what is no text."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no deck: byte {error.start} is no text in UTF-8") from error
    return [line.strip() for line in text.splitlines() if line.split("#", 1)[0].strip()]


def words(text: str) -> tuple[str, ...]:
    """Words that commas or blanks separate."""
    return tuple(text.replace(",", " ").split())


def numbers(name: str, text: str, kind: type) -> tuple[Any, ...]:
    """Numbers of a kind in an option. Raises ValueError that names it."""
    try:
        return tuple(kind(word) for word in words(text))
    except ValueError:
        raise ValueError(f"--{name} {text}: give numbers separated by commas") from None


def require_size(name: str, value: float | None) -> None:
    """Raises ValueError that names an option whose number is negative or not finite."""
    if value is not None and not 0 <= value < math.inf:
        raise ValueError(f"--{name} {value:g}: give a number that is finite and not negative")


def number_or_word(text: str) -> float | str:
    """A number where the text is one."""
    try:
        return float(text)
    except ValueError:
        return text


def set_value(content: dict[str, Any], setting: str) -> None:
    """Put `section.key=value` into nested settings; the value is TOML, or else text. Raises ConfigError."""
    from .model.config import ConfigError

    name, equals, text = setting.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot or section not in content:
        raise ConfigError(f"--set {setting}: give section.key=value with a section out of {', '.join(content)}")
    place = content[section]
    if section == "terms" and "." in key:  # a section for each of them
        term, _, key = key.partition(".")
        place = place.setdefault(term, {})
    try:
        place[key] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        place[key] = text.strip()


def use_float64() -> None:
    """Lets JAX compute in double precision."""
    import jax

    jax.config.update("jax_enable_x64", True)
