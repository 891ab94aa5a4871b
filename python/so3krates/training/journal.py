"""What a run tells of itself: errors since the last validation, rows of metrics, loggers, the display."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .clock import Clock
from .config import TrainingConfig
from .loggers import Logger
from .loss import ErrorSums, is_centred, loss_of, normalised_weights, root_mean_squares, without_mean
from .material import Material
from .progress import ProgressCallback, Status
from .run_folder import RunFolder, columns
from .step import add_sums, zero_sums


class Journal:
    """Sums of errors of a run, and where they go."""

    def __init__(
        self,
        settings: TrainingConfig,
        material: Material,
        place: RunFolder | None,  # of the process that writes
        loggers: Sequence[Logger],
        progress: ProgressCallback,
        clock: Clock,
    ) -> None:
        self._settings, self._material, self._place = settings, material, place
        self._loggers, self._progress, self._clock = loggers, progress, clock
        self._weights = normalised_weights(settings)
        self._sums = zero_sums(len(self._weights))
        self._valid_sums: ErrorSums | None = None
        self.end = material.total_steps  # of the steps that are shown

    def add(self, sums: ErrorSums) -> None:
        """Errors of a step's batch."""
        self._sums = add_sums(self._sums, sums)

    @property
    def train_loss(self) -> float:
        """Of the steps since the last row; NaN where there were none."""
        return self._loss(self._sums)

    def valid_loss(self, sums: ErrorSums) -> float:
        """Takes note of a validation, and gives its loss: without what goes into the shifts in the end."""
        self._valid_sums = without_mean(sums) if is_centred(self._settings) else sums
        return self._loss(self._valid_sums)

    def _loss(self, sums: ErrorSums) -> float:
        return float(loss_of(sums, self._weights)) if sums.counts.any() else math.nan

    def write_row(self, step: int, learning_rate: float) -> None:
        """A row of metrics, the same for the loggers, and a line on the display; then the sums begin anew."""
        errors = [root_mean_squares(self._sums), np.full(len(self._weights), np.nan)]
        valid_loss = math.nan
        if self._valid_sums is not None:
            errors[1], valid_loss = root_mean_squares(self._valid_sums), self._loss(self._valid_sums)
        numbers = [self._clock.total, learning_rate, self.train_loss, *errors[0], valid_loss, *errors[1]]
        epoch = self._material.epoch(step)
        if self._place is not None:
            self._place.add_metrics(step, epoch, numbers)
        # train_loss -> train/loss: one chart group for each set.
        named = zip((name.replace("_", "/", 1) for name in columns(len(self._weights))[4:]), numbers[2:], strict=True)
        values: Mapping[str, float] = {"epoch": epoch, "learning_rate": learning_rate, **dict(named)}
        for logger in self._loggers:
            logger.write(step, values)
        self.show(step, learning_rate)
        self._sums = zero_sums(len(self._weights))

    def show(self, step: int, learning_rate: float, message: str | None = None) -> None:
        """Tells the display where the run stands."""
        valid = self._valid_sums
        self._progress(
            Status(
                step=step,
                total_steps=self.end,
                epoch=self._material.epoch(step),
                epochs=self._material.epochs,
                learning_rate=learning_rate,
                loss=self.train_loss,
                errors=root_mean_squares(self._sums),
                valid_loss=None if valid is None else self._loss(valid),
                valid_errors=None if valid is None else root_mean_squares(valid),
                seconds=self._clock.total,
                seconds_left=self._seconds_left(step),
                message=message,
            )
        )

    def _seconds_left(self, step: int) -> float:
        left = [self._clock.left(self.end - step)]
        if self._settings.max_minutes is not None:
            left.append(60 * self._settings.max_minutes - self._clock.here)
        if self._settings.hours is not None:
            left.append(3600 * self._settings.hours - self._clock.total)
        return max(0.0, min(left))
