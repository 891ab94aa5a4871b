"""How commands end that fail: one line, and a traceback only for who asks for it."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from .files import ADVICE, looked_for

OUR_PACKAGES = ("so3krates", "so3krates_export")
TRACEBACK = "SO3KRATES_TRACEBACK"  # the environment variable that asks for a traceback, as --debug does


class Commands(TyperGroup):
    """Prints an error as one line; says of one that nobody foresaw that it is a defect."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Ends with exit code 1 after an error; what is wrong with the command line itself, typer says."""
        try:
            try:
                return super().main(*arguments, **options)
            finally:
                if sys.stdout is not None:  # which it is where a shell closed it
                    sys.stdout.flush()  # while it can still be said that this fails
        except BrokenPipeError as error:  # the reader has left, as `head` does
            give_up_output()
            raise SystemExit(1) from error
        except Exception as error:
            give_up_output()
            if os.environ.get(TRACEBACK):
                raise
            say_error(error)
            raise SystemExit(1) from error


def give_up_output() -> None:
    """Drops what cannot be written: Python would try again as it ends, and say so in words of its own."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def debug_option(value: bool) -> bool:
    """Asks for tracebacks, as the environment variable does."""
    if value:
        os.environ[TRACEBACK] = "1"
    return value


def say_error(error: Exception) -> None:
    """One line on the error output: what was wrong, and where nobody foresaw it, how to see more."""
    line = Text("Error: ", style="bold red")
    line.append(printable(describe(error)), style="not bold default")
    Console(stderr=True).print(line, highlight=False, soft_wrap=True)


def describe(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        names = " -> ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None)
        place = looked_for(os.fsdecode(error.filename)) if isinstance(error, FileNotFoundError) else ""
        return f"{names}: {error.strerror[:1].lower()}{error.strerror[1:]}{place}"
    if isinstance(error, OSError) and error.errno in ADVICE:
        return f"what this command prints could not be written: {error.strerror} ({ADVICE[error.errno]})"
    if isinstance(error, MemoryError):
        return f"not enough memory {f'({text})' if text else ''}: give a smaller system or batch, or a larger machine"
    if is_for_the_user(error):
        return text or type(error).__name__
    return (
        f"{type(error).__name__}{': ' if text else ''}{text} (a defect of so3krates, or a package that does not fit; "
        f"so3krates --debug shows where: please report it)"
    )


def is_for_the_user(error: Exception) -> bool:
    """Whether the error was raised on purpose: of one of our classes, by our own code, or by the file system."""
    if isinstance(error, OSError) or type(error).__module__.split(".")[0] in OUR_PACKAGES:
        return True
    if not isinstance(error, ValueError | RuntimeError) or isinstance(error, UnicodeError):
        return False
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals.get("__name__", "").split(".")[0] in OUR_PACKAGES


def printable(text: str) -> str:
    """Without what the error output cannot show: bytes of names that are no text, letters of other encodings."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding, "replace")
