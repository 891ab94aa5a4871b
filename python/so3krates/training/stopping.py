"""Why a run ends before its epochs do: each function gives the reason, or None where it goes on."""

from __future__ import annotations

import math

from .config import TrainingConfig


def stopped(settings: TrainingConfig, signal_name: str | None, seconds: float, seconds_of_run: float) -> str | None:
    """After a step, to be resumed: by the user, or after so many seconds of this call or of the run."""
    if signal_name:
        return f"stopped by {signal_name}"
    if settings.max_minutes is not None and seconds >= 60 * settings.max_minutes:
        return f"time limit of {settings.max_minutes:g} min reached"
    if settings.hours is not None and seconds_of_run >= 3600 * settings.hours:
        return f"training.hours = {settings.hours:g} are over; with more hours --resume goes on"
    return None


def slow(settings: TrainingConfig, step: int, learning_rate: float) -> str | None:
    """By the learning rate of the last step."""
    if settings.schedule == "constant" or step <= settings.warmup_steps:
        return None
    return f"learning rate fell to {learning_rate:.3g}" if learning_rate <= settings.learning_rate_stop else None


def stale(settings: TrainingConfig, step: int, best_step: int, eval_every: int, total_steps: int) -> str | None:
    """After a validation, as those since `best_step` were no better."""
    patience = settings.patience
    most = int(patience) if patience >= 1 else math.ceil(patience * total_steps / eval_every)
    if most == 0 or step - best_step < most * eval_every:
        return None
    return f"no lower validation loss in {most} validations since step {best_step}"
