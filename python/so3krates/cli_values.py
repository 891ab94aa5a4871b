"""Values on the command line: what they are made of, and which make no sense for any of our options."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

MAY_BE_EMPTY = ("energy_key", "forces_key", "stress_key")  # options that say "none" so


class Command(TyperCommand):
    """A command of which no name is empty, unless that means something: an empty path would be the current folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises ValueError that names the option or argument."""
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for param in self.params:
            value = given.get(param.name or "")
            empty = any(isinstance(one, str) and not one.strip() for one in _each(value))
            if empty and param.default != "" and param.name not in MAY_BE_EMPTY:
                leave = "" if param.required else ", or leave it out"
                raise ValueError(f"{_name(param)} is empty: give a value{leave}")
        return super().parse_args(ctx, args)


def _each(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _name(param: Any) -> str:
    """As it is written on a command line: an option by its long name, an argument in capitals."""
    longest: str = max(param.opts, key=len)
    return longest if param.param_type_name == "option" else longest.upper()


def _only(sense: str, holds: Callable[[float], bool]) -> Callable[[typer.CallbackParam, Any], Any]:
    """A callback of options that take a number: raises ValueError, which names the option, for any other."""

    def check(param: typer.CallbackParam, value: Any) -> Any:
        # (`math.isfinite` cannot take integers of any length.)
        if value is not None and not (-math.inf < value < math.inf and holds(value)):
            raise ValueError(f"{_name(param)} {value}: give a number that is finite{sense}")
        return value

    return check


any_number = _only("", lambda value: True)
not_negative = _only(" and not negative", lambda value: value >= 0)
above_zero = _only(" and above 0", lambda value: value > 0)
at_least_one = _only(" and at least 1", lambda value: value >= 1)


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
    """Finite numbers of a kind in an option. Raises ValueError that names it."""
    try:
        found = tuple(kind(word) for word in words(text))
    except ValueError:
        raise ValueError(f"--{name} {text}: give numbers separated by commas") from None
    if not all(-math.inf < number < math.inf for number in found):
        raise ValueError(f"--{name} {text}: give finite numbers")
    return found


def variables(settings: Sequence[str]) -> dict[str, str]:
    """Variables of a deck from options NAME=VALUE. Raises ValueError that names one."""
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name or not equals:
            raise ValueError(f"--var {setting}: give NAME=VALUE")
        found[name] = value
    return found


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
