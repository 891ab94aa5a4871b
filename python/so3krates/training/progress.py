"""What a run says while it goes on: a bar with losses and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

# Seconds between plain lines.
LINE_INTERVAL = 15.0


@dataclasses.dataclass(frozen=True)
class Status:
    """Where a run stands after a step; errors are RMSEs of energy, forces, stress in meV/atom, meV/A, meV/A^3."""

    step: int
    total_steps: int
    epoch: int  # from 1
    epochs: int
    learning_rate: float
    loss: float  # of the training batches since the last validation, mean
    errors: np.ndarray  # (3,) likewise; NaN without labels
    valid_loss: float | None  # of the last validation
    valid_errors: np.ndarray | None
    seconds: float  # since the run began
    seconds_left: float
    message: str | None = None  # something that the user should read


ProgressCallback = Callable[[Status], None]


@contextlib.contextmanager
def progress_display(console: Console | None = None) -> Iterator[ProgressCallback]:
    """A callback that shows a run on the console."""
    console = console or Console()
    if console.is_terminal:
        with _bar(console) as callback:
            yield callback
    else:
        yield _lines(console)


@contextlib.contextmanager
def _bar(console: Console) -> Iterator[ProgressCallback]:
    columns = (BarColumn(bar_width=12), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("compiling", total=None)

        def show(status: Status) -> None:
            if status.message:
                progress.console.print(status.message)
            progress.update(task, completed=status.step, total=status.total_steps, description=describe(status))

        yield show


def _lines(console: Console) -> ProgressCallback:
    last = -math.inf

    def show(status: Status) -> None:
        nonlocal last
        now = time.monotonic()
        if status.message:
            console.print(status.message, highlight=False)
        if now - last >= LINE_INTERVAL or status.step == status.total_steps:
            console.print(describe(status), highlight=False, soft_wrap=True)
            last = now

    return show


def describe(status: Status) -> str:
    """One line: where the run is, the time left, and loss and errors as training|validation."""
    parts = [f"epoch {status.epoch}/{status.epochs}", f"{duration(status.seconds_left)} left"]
    known = status.valid_errors is not None
    parts.append("loss " + _both(status.loss, status.valid_loss if known else None))
    for index, (name, unit) in enumerate((("E", "meV/atom"), ("F", "meV/A"), ("S", "meV/A^3"))):
        if math.isfinite(status.errors[index]):
            parts.append(f"{name} {_both(status.errors[index], status.valid_errors[index] if known else None)} {unit}")
    return "  ".join(parts)


def _both(train: float, valid: float | None) -> str:
    return f"{train:.3g}" if valid is None else f"{train:.3g}|{valid:.3g}"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 45 s, 12 min, 3.4 h, 2.1 d."""
    if not math.isfinite(seconds):
        return "unknown time"
    for limit, unit, name in ((100, 1, "s"), (5400, 60, "min")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 3600:.1f} h" if seconds < 100 * 3600 else f"{seconds / 86400:.1f} d"
