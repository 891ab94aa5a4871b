"""The frames that a configuration names, read and split."""

from __future__ import annotations

from ase import Atoms

from so3krates.data import DataError, count_split, fraction_split, read_frames

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
    if config.n_train is None:
        split = fraction_split(len(frames), config.train_split, config.seed)
    else:
        n_valid = len(frames) - config.n_train if config.n_valid is None else config.n_valid
        split = count_split(len(frames), config.n_train, n_valid, config.seed)
    return [frames[i] for i in split.train], [frames[i] for i in split.valid]
