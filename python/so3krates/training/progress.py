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

from so3krates import terminal

# Seconds between plain lines.
LINE_INTERVAL = 15.0
ONE_LINE = 130  # columns of a terminal in which all fits in one line
SHOWN = (
    ("energy", "meV/atom"),
    ("forces", "meV/A"),
    ("stress", "meV/A^3"),
    ("charges", "e"),
    ("dipole", "e A"),
    ("Hirshfeld ratios", ""),
)


@dataclasses.dataclass(frozen=True)
class Status:
    """Where a run stands after a step; errors are RMSEs in the order and units of SHOWN."""

    step: int
    total_steps: int
    epoch: int  # from 1
    epochs: int
    learning_rate: float
    loss: float  # of the training batches since the last validation, mean
    errors: np.ndarray  # (Q,) likewise; NaN without labels
    valid_loss: float | None  # of the last validation
    valid_errors: np.ndarray | None
    seconds: float  # since the run began
    seconds_left: float
    message: str | None = None  # something that the user should read


ProgressCallback = Callable[[Status], None]


class Display:
    """Shows a run: called with each status, and told of the work beside the steps."""

    def __init__(self, console: Console, progress: Progress | None) -> None:
        self._console, self._progress = console, progress
        self._task = None if progress is None else progress.add_task("", total=None)
        self._last = -math.inf

    def stage(self, name: str) -> None:
        """Work that is not counted: its name beside a bar that moves, or in a line."""
        if self._progress is None or self._task is None:
            self._console.print(name, highlight=False, markup=False, soft_wrap=True)
        else:
            self._progress.reset(self._task, total=None, description=name)

    def __call__(self, status: Status) -> None:
        if status.message:
            self._console.print(status.message, highlight=False, markup=False, soft_wrap=True)
        if self._progress is not None and self._task is not None:
            text = describe(status, "\n" if self._console.width < ONE_LINE else "  ")
            self._progress.update(self._task, completed=status.step, total=status.total_steps, description=text)
        elif status.step and (time.monotonic() - self._last >= LINE_INTERVAL or status.step == status.total_steps):
            self._console.print(describe(status), highlight=False, soft_wrap=True)
            self._last = time.monotonic()


@contextlib.contextmanager
def progress_display(console: Console | None = None) -> Iterator[Display]:
    """A display of a run on the console: a bar on a terminal, lines elsewhere."""
    console = console or terminal.console()
    if not console.is_terminal:
        yield Display(console, None)
        return
    columns = (BarColumn(bar_width=12), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console) as progress:
        yield Display(console, progress)


def describe(status: Status, gap: str = "  ") -> str:
    """Where the run is and the time left; after the gap loss and root mean square errors, training|validation."""
    known = status.valid_errors is not None
    place = f"epoch {status.epoch}/{status.epochs}  {duration(status.seconds_left)} left"
    # There are no errors yet: of a run that begins, or that goes on where it had ended.
    if not known and (status.step == 0 or math.isnan(status.loss)):
        return place
    parts = [f"{'train|valid' if known else 'train'}: loss " + _both(status.loss, status.valid_loss if known else None)]
    for index, (name, unit) in enumerate(SHOWN[: len(status.errors)]):
        if math.isfinite(status.errors[index]):
            valid = None if status.valid_errors is None else status.valid_errors[index]
            parts.append(f"{name} {_both(status.errors[index], valid)} {unit}".rstrip())
    return place + gap + "  ".join(parts)


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
