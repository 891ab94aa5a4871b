"""Which frames train and which validate: the original code's recipe and one by counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .errors import DataError


class Split(NamedTuple):
    """Indices of frames; no frame is in two parts."""

    train: np.ndarray
    valid: np.ndarray
    rest: np.ndarray


def fraction_split(count: int, train_fraction: float, seed: int) -> Split:
    """The split of mlff for `train_split` and `seed_data` (docs/model.md): one frame is always left over."""
    n_train = int(np.floor(train_fraction * count))
    n_valid = count - n_train - 1
    if n_train < 1 or n_valid < 0:
        raise DataError(
            f"train_split = {train_fraction} of {count} frames leaves {n_train} to train on and {max(n_valid, 0)} to "
            "validate; give n_train and n_valid instead"
        )
    return count_split(count, n_train, n_valid, seed)


def count_split(count: int, n_train: int, n_valid: int, seed: int) -> Split:
    """A random split by counts: of a permutation the first n_valid validate, the next n_train train."""
    if n_train < 1 or n_valid < 0 or n_train + n_valid > count:
        raise DataError(
            f"n_train = {n_train} and n_valid = {n_valid} cannot be taken from {count} frames; "
            "give n_train >= 1, n_valid >= 0 and a sum of at most the number of frames"
        )
    order = np.random.RandomState(seed).permutation(count)
    return Split(order[n_valid : n_valid + n_train], order[:n_valid], order[n_valid + n_train :])
