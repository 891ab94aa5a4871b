"""The command `so3krates run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_values import at_least_one, not_negative, variables
from .terminal import console, said


def run(
    deck: Annotated[Path, typer.Argument(help="A deck that writes two restart files in turn.")],
    ranks: Annotated[int, typer.Option("--ranks", "-n", callback=at_least_one, help="MPI ranks.")] = 1,
    var: Annotated[list[str] | None, typer.Option("--var", help="NAME=VALUE, a variable of the deck.")] = None,
    retries: Annotated[
        int, typer.Option("--retries", callback=not_negative, help="New starts after a rank was killed.")
    ] = 3,
) -> None:
    """Run a deck, from its newest whole restart file where there is one; after a killed rank again."""
    from .lammps.long_run import run_long

    screen = console()

    def show(line: str) -> None:
        screen.print(line, highlight=False, soft_wrap=True)

    done = run_long(
        deck, Path.cwd(), variables(var or ()), ranks, retries, lambda text: said(screen, "Note:", text), show
    )
    show(f"Came to its end. Logs: {', '.join(log.name for log in done.logs)}")
