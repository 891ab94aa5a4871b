"""Progress of work that is counted: a bar on a terminal, a line per stage elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Callback = Callable[[str, int, int], None]  # stage, done, total


@contextmanager
def progress_display(console: Console) -> Iterator[Callback]:
    """A callback that shows stages, each with its own count, on the console."""
    if not console.is_terminal:
        yield lambda stage, done, total: console.print(f"{stage}: {total}") if done == total else None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done)

        yield show
