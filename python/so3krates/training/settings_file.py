"""Files of settings of the commands that train many times: TOML, with paths from where they lie."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from so3krates.model.config import ConfigError
from so3krates.shipped import shipped

from .checks import require

Settings = TypeVar("Settings")


def load_settings(path: str | Path, make: Callable[[dict[str, Any], Path], Settings]) -> Settings:
    """What `make` makes of a TOML file's sections and of its folder, an absolute path.

    Raises ConfigError, beginning with the path, with the key that is wrong.
    """
    path = Path(path)
    try:
        return make(tomllib.loads(path.read_text(encoding="utf-8")), path.absolute().parent)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error


def section_from(content: dict[str, Any], name: str, absent: dict[str, Any] | None = None) -> dict[str, Any]:
    """Takes a section of keys out of `content`. Raises ConfigError for another thing, and without one of `absent`."""
    section = content.pop(name, absent)
    if section is None:
        raise ConfigError(f"section [{name}] is missing")
    if not isinstance(section, dict):
        raise ConfigError(f"[{name}] must be a section of keys, got {section!r}")
    return section


def beside(folder: Path, name: str, is_model: bool = False) -> str:
    """A path from where the settings lie, or of a model that comes with the package, if none of its name lies there."""
    place = folder / name
    return str(shipped()[name] if is_model and not place.exists() and name in shipped() else place)


def found_path(folder: Path, section: str, key: str, name: str | None) -> str | None:
    """A path from where the settings lie; raises ConfigError where nothing is there."""
    if name is None:
        return None
    place = folder / name
    require(place.exists(), section, key, name, f"a path that is there ({place} is not)")
    return str(place)
