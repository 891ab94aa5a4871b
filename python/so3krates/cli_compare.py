"""The command `so3krates compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import console
from .wording import counted


def compare(
    settings: Annotated[Path, typer.Argument(help="Settings: sections [compare], [data], [options.FAMILY].")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of trainings and report.")] = Path("compare"),
) -> None:
    """Train families of potentials on the same data and compare them; called again, it goes on."""
    from .comparison import CompareSettings
    from .comparison import compare as run_all
    from .comparison.report import comparison_tables

    loaded, screen = CompareSettings.load(settings), console()
    rows = run_all(loaded, output, screen)
    for table in comparison_tables(loaded, rows):
        screen.print(table)
    lost = sum(row.get("problem") is not None for row in rows)
    without = f", {lost} without a potential" if lost else ""
    text = f"{counted(len(rows), 'row')}{without}. Report: {output / 'compare.html'}"
    screen.print(text, highlight=False, markup=False, soft_wrap=True)
