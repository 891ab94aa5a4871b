"""The frames that a configuration names, read, checked and split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from so3krates.data import (
    DataError,
    LabelCheck,
    Split,
    StoredFrames,
    count_split,
    fraction_split,
    require_file,
    sound_frames,
    store_frames,
    tags_of,
)
from so3krates.wording import counted

from .config import WEIGHTS, DataConfig, RunConfig


def _silent(_: str) -> None:
    """Says nothing."""


@dataclasses.dataclass(frozen=True)
class Demands:
    """What frames must be to train on."""

    most: int = len(chemical_symbols) - 1  # largest atomic number that the network holds
    quantities: tuple[str, ...] = tuple(WEIGHTS)  # that the loss weighs
    force: bool = False  # go on although labels look wrong as a whole
    say: Callable[[str], None] = _silent  # told what is left out and what looks wrong but does not stop

    @classmethod
    def of(cls, config: RunConfig, force: bool = False, say: Callable[[str], None] = _silent) -> Demands:
        """The demands of a run."""
        weighed = tuple(name for name, weight in WEIGHTS.items() if config.training.weights[weight] > 0)
        return cls(config.model.embeddings - 1, weighed, force, say)


def load_frames(config: DataConfig, demands: Demands | None = None) -> tuple[list[Atoms], list[Atoms]]:
    """Training and validation frames of a run, labels under the keys of the configuration.

    Raises DataError where no file is named or a file or split cannot be used, where frames have faults (or leaves them
    out, as the configuration says), and where labels look wrong as a whole, unless the demands are to go on.
    """
    demands = demands or Demands()
    if config.train_file:
        train, _ = _read(config, config.train_file, demands)
        valid, numbers = _read(config, config.valid_file, demands) if config.valid_file else ([], [])
        _require_elements(train, valid, config.valid_file, numbers)
        return train, valid
    if not config.file:
        raise DataError("no data: name data.file, or data.train_file and data.valid_file")
    frames, numbers = _read(config, config.file, demands)
    split = _split(config, len(frames), tags_of(frames, config.tag_key))
    train, valid = ([frames[i] for i in part] for part in (split.train, split.valid))
    _require_elements(train, valid, config.file, [numbers[i] for i in split.valid])
    return train, valid


def load_stored(
    config: DataConfig, cutoff: float, folder: str | Path, demands: Demands | None = None
) -> tuple[StoredFrames, StoredFrames | list[Atoms]]:
    """The same frames, but kept on disk in `folder` and read there when they are needed.

    The split looks at no kinds of frames, which are not kept. What an earlier call left for the same files, keys and
    cutoff is used again. Raises as `load_frames`.
    """
    folder, demands = Path(folder), demands or Demands()
    if config.train_file:
        valid: StoredFrames | list[Atoms] = []
        if config.valid_file:
            valid = _stored(config, config.valid_file, cutoff, folder / "valid", demands)
        return _stored(config, config.train_file, cutoff, folder / "train", demands), valid
    if not config.file:
        raise DataError("no data: name data.file, or data.train_file and data.valid_file")
    frames = _stored(config, config.file, cutoff, folder, demands)
    split = _split(config, len(frames))
    return frames.subset(split.train), frames.subset(split.valid)


def load_test(
    config: DataConfig, file: str | Path, frames_train: Sequence[Atoms] | StoredFrames, demands: Demands
) -> list[Atoms]:
    """Frames for the error table only, which the model of the training frames must know. Raises as `load_frames`."""
    frames, numbers = _read(config, str(file), demands)
    _require_elements(frames_train, frames, str(file), numbers)
    return frames


def evaluated_frames(file: str | Path, config: DataConfig, say: Callable[[str], None]) -> list[Atoms]:
    """The frames of a file that predictions are held against; `say` is told what looks wrong.

    Raises DataError for frames with faults (or leaves them out, as the configuration says) and where no frame has any
    label that is asked for.
    """
    check = LabelCheck(config.keys)
    frames = list(sound_frames(file, config.keys, check, config.leave_out_faulty, say))
    if check.names.without_labels():
        asked = ", ".join(f"{name} {key!r}" for name, key in check.names.wanted.items())
        found = "; ".join(check.names.lines() + check.names.guesses()) or "nothing like a label was found"
        raise DataError(f"{file}: none of {counted(check.frames, 'frame')} has a label ({asked}): {found}")
    for finding in check.findings():
        say(f"{file}: {finding.text}")
    return frames


def _read(config: DataConfig, file: str, demands: Demands) -> tuple[list[Atoms], list[int]]:
    """Sound frames of a file and their numbers in it."""
    check = LabelCheck(config.keys, demands.most, demands.quantities)
    frames = list(_sound_frames(config, file, demands, check))
    return frames, check.sound


def _sound_frames(config: DataConfig, file: str, demands: Demands, check: LabelCheck) -> Iterator[Atoms]:
    """The frames of a file; at its end what was found of them stops the run or is said."""
    yield from sound_frames(file, config.keys, check, config.leave_out_faulty, demands.say)
    findings = check.findings()
    stops = [finding.text for finding in findings if finding.stops]
    if stops and not demands.force:
        raise DataError(f"{file}: {'; '.join(stops)}; --force trains on the labels as they are")
    for finding in findings:
        demands.say(f"{file}: {finding.text}")


def _stored(config: DataConfig, file: str, cutoff: float, folder: Path, demands: Demands) -> StoredFrames:
    path = Path(file)
    require_file(path)
    state = path.stat()
    source = {"file": str(path.resolve()), "bytes": state.st_size, "changed_ns": state.st_mtime_ns}
    source |= dataclasses.asdict(config.keys)
    check = LabelCheck(config.keys, demands.most, demands.quantities)
    return store_frames(folder, _sound_frames(config, file, demands, check), cutoff, source)


def _split(config: DataConfig, count: int, kinds: Sequence[str | None] | None = None) -> Split:
    if config.n_train is None:
        return fraction_split(count, config.train_split, config.seed, kinds)
    n_valid = count - config.n_train if config.n_valid is None else config.n_valid
    return count_split(count, config.n_train, n_valid, config.seed, kinds)


def _require_elements(
    train: Sequence[Atoms] | StoredFrames, valid: Sequence[Atoms], file: str | None, numbers: Sequence[int]
) -> None:
    """Refuses to validate or test elements that no training frame has, by the number of the frame in its file."""
    if isinstance(train, StoredFrames):
        known = {atomic_numbers[element] for element in train.composition()[0]}
    else:
        known = {int(z) for atoms in train for z in np.unique(atoms.numbers)}
    for atoms, number in zip(valid, numbers, strict=True):
        unknown = sorted({int(z) for z in atoms.numbers} - known)
        if unknown:
            raise DataError(
                f"{file}, frame {number}: has {', '.join(chemical_symbols[z] for z in unknown)}, which no training "
                "frame has: choose another data.seed, or other frames"
            )
