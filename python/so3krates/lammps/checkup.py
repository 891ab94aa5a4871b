"""One finding of `so3krates doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One line of the report; `fix` says what to do and is empty where all is well.

    A finding that is not ok and not `needed` is a note: something to know, without which runs work.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""
    needed: bool = True
