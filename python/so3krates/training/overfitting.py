"""Overfitting said in words: validation errors that rise while training errors fall (docs/training.md)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

WINDOW = 5  # validations that a running median takes, against the noise of single ones
RISE = 1.1  # of the validation loss from its least value on: 5 % of an error
UNITS = {
    "forces": "meV/A",
    "energy": "meV/atom",
    "stress": "meV/A^3",
}  # of metrics.csv, the first that is there is told
REMEDIES = (
    "more, or more diverse, frames, a smaller network (--preset fast), a larger training.weight_decay or fewer "
    "training.steps help; training.patience ends such a run"
)


def overfitting(metrics_file: str | Path) -> str | None:
    """A sentence where the CSV of a run shows that it learnt its frames by heart, else None."""
    if not Path(metrics_file).exists():
        return None
    with open(metrics_file, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    losses = {part: _column(rows, f"{part}_loss") for part in ("train", "valid")}
    best = rise_of_losses(losses["train"], losses["valid"])
    if best is None:
        return None
    errors = {
        quantity: [_medians(_column(rows, f"{part}_{quantity}_rmse"))[[best, -1]] for part in ("valid", "train")]
        for quantity in UNITS
    }
    told = next((quantity for quantity, both in errors.items() if np.isfinite(both).all()), None)
    numbers = ""
    if told is not None:
        valid, train = errors[told]
        numbers = (
            f" ({told} {valid[0]:.3g} to {valid[1]:.3g} {UNITS[told]} in validation, {train[0]:.3g} to {train[1]:.3g} "
            "in training)"
        )
    rise = 100 * (_medians(losses["valid"])[-1] / _medians(losses["valid"])[best] - 1)
    return (
        f"overfitting: the validation loss rose by {rise:.0f} % from epoch {rows[best + WINDOW // 2]['epoch']} to "
        f"{rows[-1]['epoch']} while the training loss fell{numbers}: {REMEDIES}"
    )


def rise_of_losses(train: np.ndarray, valid: np.ndarray) -> int | None:
    """The window of validations from which on the validation loss rose while the training loss fell; None without.

    train, valid: losses at each validation; medians of WINDOW of them are compared.
    """
    if len(valid) < 2 * WINDOW or not np.isfinite([train, valid]).all():
        return None
    smooth_train, smooth_valid = _medians(train), _medians(valid)
    best = int(smooth_valid.argmin())
    rose = len(smooth_valid) - 1 - best >= WINDOW and smooth_valid[-1] > RISE * smooth_valid[best]
    return best if rose and smooth_train[-1] < smooth_train[best] else None


def _column(rows: Sequence[Mapping[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name] or "nan") for row in rows])


def _medians(values: np.ndarray) -> np.ndarray:
    return np.median(np.lib.stride_tricks.sliding_window_view(values, WINDOW), axis=-1)
