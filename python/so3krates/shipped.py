"""Potentials that come with this package, and are found by name."""

from __future__ import annotations

from pathlib import Path

from .files import looked_for

FOLDER = Path(__file__).parent / "potentials"
BUNDLE = ".so3k"


def shipped() -> dict[str, Path]:
    """Bundles and model folders by name."""
    return {path.name.removesuffix(BUNDLE): path for path in sorted(FOLDER.iterdir())} if FOLDER.is_dir() else {}


def located(path: str | Path) -> Path:
    """What lies at `path`, or else the potential of this name that comes with the package; else the path itself."""
    path = Path(path)
    if path.exists() or len(path.parts) != 1:
        return path
    return shipped().get(path.name.removesuffix(BUNDLE), path)


def is_potential(path: str | Path) -> bool:
    """Whether a folder or a bundle, by its name, is at `path` or among the potentials of the package."""
    found = located(path)
    return found.is_dir() or (found.is_file() and found.name.endswith(BUNDLE))


def missing(path: str | Path) -> str:
    """What to say of a potential that is not there."""
    named = ", ".join(shipped())
    return f"{path}: no such model folder or bundle{looked_for(path)}; the potentials of the package are {named}"


def decks() -> dict[str, Path]:
    """Decks that come with the package, by the name of their folder among the examples."""
    return {path.parent.name: path for path in sorted((Path(__file__).parent / "decks").glob("*/in.green_kubo"))}


def deck_named(name: str) -> Path:
    """Raises KeyError where the package has no such deck."""
    return decks()[name]
