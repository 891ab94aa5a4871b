"""What commands print to: text of the user (paths, tags, messages) is printed as written, never read as markup."""

from __future__ import annotations

from typing import IO

from rich.console import Console
from rich.status import Status
from rich.text import Text

FILE_WIDTH = 120  # columns of tables in files and pipes


def console(stderr: bool = False, file: IO[str] | None = None, width: int = FILE_WIDTH) -> Console:
    """A console on the terminal, on a pipe or on a file, `width` wide where it is no terminal."""
    found = Console(stderr=stderr, file=file, markup=False, emoji=False)
    if found.is_terminal:
        return found
    return Console(stderr=stderr, file=file, width=width, markup=False, emoji=False)


def nowhere() -> Console:
    """A console that prints nothing: of processes that do not speak."""
    return Console(quiet=True, markup=False, emoji=False)


def busy(console: Console, text: str) -> Status:
    """Says beside a moving sign what goes on, while a `with` block lasts; nothing where there is no terminal."""
    return console.status(Text(text))


def said(console: Console, head: str, text: str, style: str = "bold yellow") -> None:
    """One line of text after a styled head."""
    console.print(Text.assemble((head, style), " ", text), highlight=False, soft_wrap=True)
