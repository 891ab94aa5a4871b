"""Which frames train and which validate: the original code's recipe and one by counts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from so3krates.wording import counted

from .errors import DataError


class Split(NamedTuple):
    """Indices of frames; no frame is in two parts."""

    train: np.ndarray
    valid: np.ndarray
    rest: np.ndarray


def fraction_split(count: int, train_fraction: float, seed: int, kinds: Sequence[Hashable] | None = None) -> Split:
    """The split of mlff for `train_split` and `seed_data` (docs/model.md): one frame is always left over.

    Of frames of several kinds it is that of `count_split`.
    """
    n_train = int(np.floor(train_fraction * count))
    n_valid = count - n_train - 1
    if n_train < 1 or n_valid < 0:
        raise DataError(
            f"train_split = {train_fraction} of {counted(count, 'frame')} leaves {n_train} to train "
            f"on and {max(n_valid, 0)} to "
            "validate; give n_train and n_valid instead"
        )
    return count_split(count, n_train, n_valid, seed, kinds)


def count_split(count: int, n_train: int, n_valid: int, seed: int, kinds: Sequence[Hashable] | None = None) -> Split:
    """A random split by counts: of a permutation the first n_valid validate, the next n_train train.

    Of frames of several kinds (one for each frame) every part holds its share of each: at least one frame where a kind
    has two and the part is not smaller than the number of kinds.
    """
    if n_train < 1 or n_valid < 0 or n_train + n_valid > count:
        raise DataError(
            f"n_train = {n_train} and n_valid = {n_valid} cannot be taken from {counted(count, 'frame')}; "
            "give n_train >= 1, n_valid >= 0 and a sum of at most the number of frames"
        )
    order = np.random.RandomState(seed).permutation(count)
    if kinds is not None and len(set(kinds)) > 1:
        return _by_kind(order, n_train, n_valid, kinds)
    return Split(order[n_valid : n_valid + n_train], order[:n_valid], order[n_valid + n_train :])


def _by_kind(order: np.ndarray, n_train: int, n_valid: int, kinds: Sequence[Hashable]) -> Split:
    names = list(dict.fromkeys(kinds[i] for i in order))
    number = {name: k for k, name in enumerate(names)}
    kind = np.array([number[kinds[i]] for i in order])
    sizes = np.bincount(kind)
    # A kind of a single frame trains: what is not learnt need not be validated.
    valid = _shares(n_valid, sizes, sizes - 1 if n_train >= len(names) else sizes)
    train = _shares(n_train, sizes - valid, sizes - valid)
    place = np.empty(len(order), int)  # of a frame among those of its kind
    for k in range(len(names)):
        place[kind == k] = np.arange(sizes[k])
    is_valid = place < valid[kind]
    is_train = ~is_valid & (place < (valid + train)[kind])
    return Split(order[is_train], order[is_valid], order[~is_valid & ~is_train])


def _shares(total: int, sizes: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Whole numbers that add up to `total`, in proportion to `sizes`, at most `most`; where possible at least 1."""
    if most.sum() < total:
        most = sizes
    wanted = total * sizes / sizes.sum()
    least = np.minimum(1, most) if total >= np.count_nonzero(most) else np.zeros_like(most)
    shares = np.clip(np.floor(wanted).astype(int), least, most)
    while shares.sum() != total:
        step = 1 if shares.sum() < total else -1
        free = shares < most if step > 0 else shares > least
        # The kind that is furthest below, or above, its share.
        shares[np.argmax(np.where(free, step * (wanted - shares), -np.inf))] += step
    return shares
