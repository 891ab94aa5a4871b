"""The frames that a configuration names, read and split."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ase import Atoms

from so3krates.data import (
    DataError,
    Split,
    StoredFrames,
    count_split,
    fraction_split,
    iter_frames,
    read_frames,
    store_frames,
)

from .config import DataConfig


def load_frames(config: DataConfig) -> tuple[list[Atoms], list[Atoms]]:
    """Training and validation frames of a run, labels under the keys of the configuration.

    Raises DataError where no file is named or a file or split cannot be used.
    """
    if config.train_file:
        valid = read_frames(config.valid_file, config.keys) if config.valid_file else []
        return read_frames(config.train_file, config.keys), valid
    if not config.file:
        raise DataError("no data: name data.file, or data.train_file and data.valid_file")
    frames = read_frames(config.file, config.keys)
    split = _split(config, len(frames))
    return [frames[i] for i in split.train], [frames[i] for i in split.valid]


def load_stored(
    config: DataConfig, cutoff: float, folder: str | Path
) -> tuple[StoredFrames, StoredFrames | list[Atoms]]:
    """The same frames in the same order, but kept on disk in `folder` and read there when they are needed.

    What an earlier call left for the same files, keys and cutoff is used again. Raises as `load_frames`.
    """
    folder = Path(folder)
    if config.train_file:
        valid = _stored(config, config.valid_file, cutoff, folder / "valid") if config.valid_file else []
        return _stored(config, config.train_file, cutoff, folder / "train"), valid
    if not config.file:
        raise DataError("no data: name data.file, or data.train_file and data.valid_file")
    frames = _stored(config, config.file, cutoff, folder)
    split = _split(config, len(frames))
    return frames.subset(split.train), frames.subset(split.valid)


def _stored(config: DataConfig, file: str, cutoff: float, folder: Path) -> StoredFrames:
    path = Path(file)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    state = path.stat()
    source = {"file": str(path.resolve()), "bytes": state.st_size, "changed_ns": state.st_mtime_ns}
    source |= dataclasses.asdict(config.keys)
    return store_frames(folder, iter_frames(path, config.keys), cutoff, source)


def _split(config: DataConfig, count: int) -> Split:
    if config.n_train is None:
        return fraction_split(count, config.train_split, config.seed)
    n_valid = count - config.n_train if config.n_valid is None else config.n_valid
    return count_split(count, config.n_train, n_valid, config.seed)
