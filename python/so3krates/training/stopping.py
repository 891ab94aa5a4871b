"""Why a run ends before its epochs do: each function gives the reason, or None where it goes on."""

from __future__ import annotations

from .config import TrainingConfig


def stopped(settings: TrainingConfig, signal_name: str | None, seconds: float) -> str | None:
    """After a step, to be resumed: by the user, or after so many seconds of this call."""
    if signal_name:
        return f"stopped by {signal_name}"
    if settings.max_minutes is not None and seconds >= 60 * settings.max_minutes:
        return f"time limit of {settings.max_minutes:g} min reached"
    return None


def slow(settings: TrainingConfig, step: int, learning_rate: float) -> str | None:
    """By the learning rate of the last step."""
    if settings.schedule == "constant" or step <= settings.warmup_steps:
        return None
    return f"learning rate fell to {learning_rate:.3g}" if learning_rate <= settings.learning_rate_stop else None


def stale(settings: TrainingConfig, step: int, best_step: int, eval_every: int) -> str | None:
    """After a validation, as those since `best_step` were no better."""
    if settings.patience is None or step - best_step < settings.patience * eval_every:
        return None
    return f"no lower validation loss in {settings.patience} validations since step {best_step}"
