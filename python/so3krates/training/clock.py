"""The time of a run: what it took with all its interruptions left out, and what it will take."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Hashable

import numpy as np

RECENT = 100  # steps that tell what the next ones take


class Clock:
    """Seconds of a run; `before` were taken before it was resumed.

    Steps of a shape that is met for the first time hold its compilation, which the steps to come do not repeat: they
    count as time taken, not for what is expected. So does the first validation.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._began = time.monotonic()
        self._before = before
        self._shapes: set[Hashable] = set()
        self._steps: deque[float] = deque(maxlen=RECENT)
        self._beside = 0.0  # seconds of validations and checkpoints
        self._counted = 0  # steps that these belong to
        self._validated = False

    @property
    def here(self) -> float:
        """Since this call began."""
        return time.monotonic() - self._began

    @property
    def total(self) -> float:
        """Since the run began, interruptions left out."""
        return self._before + self.here

    def resumed(self, before: float) -> None:
        """Counts what was taken before."""
        self._before = before

    def step(self, seconds: float, shape: Hashable) -> None:
        """Takes note of a step whose batch has this shape."""
        self._counted += 1
        if shape in self._shapes:
            self._steps.append(seconds)
        self._shapes.add(shape)

    def validation(self, seconds: float) -> None:
        """Takes note of a validation."""
        if self._validated:
            self._beside += seconds
        else:
            self._validated, self._beside, self._counted = True, 0.0, 0

    def checkpoint(self, seconds: float) -> None:
        """Takes note of a checkpoint."""
        self._beside += seconds

    @property
    def per_step(self) -> float:
        """Median of the recent steps without compilation; NaN with too few."""
        return float(np.median(self._steps)) if len(self._steps) > 1 else math.nan

    def left(self, steps: int) -> float:
        """What so many steps will take with the validations and checkpoints among them; infinite where unknown."""
        if steps == 0:
            return 0.0
        if not self._steps:
            return math.inf
        return steps * (float(np.mean(self._steps)) + self._beside / max(self._counted, 1))
