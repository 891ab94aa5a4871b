"""Values on the command line and what commands print to."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def console() -> Console:
    """Output of commands; tables in files and pipes are wide enough to be read."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


def words(text: str) -> tuple[str, ...]:
    """Words that commas or blanks separate."""
    return tuple(text.replace(",", " ").split())


def numbers(name: str, text: str, kind: type) -> tuple[Any, ...]:
    """Numbers of a kind in an option. Raises ValueError that names it."""
    try:
        return tuple(kind(word) for word in words(text))
    except ValueError:
        raise ValueError(f"--{name} {text}: give numbers separated by commas") from None


def number_or_word(text: str | None) -> float | str | None:
    """A number where the text is one."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
