"""The frames that a configuration names, read, checked and split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from so3krates.baselines import BaselineError, Baselines, settings_of_baselines
from so3krates.data import (
    ChargeLabels,
    DataError,
    LabelCheck,
    LabelKeys,
    Labels,
    Split,
    StoredFrames,
    count_split,
    fraction_split,
    held_out_doubts,
    known_labels,
    labels,
    require_file,
    sound_frames,
    store_frames,
    tags_of,
    with_labels,
)
from so3krates.storage import Model
from so3krates.wording import counted

from .charges import usual_keys
from .config import WEIGHTS, DataConfig, RunConfig
from .evaluate import evaluate
from .finetuning import initial_model
from .start import baselines_of

# Settings of section [data] that say how labels and structures are read, and by what errors are split.
READING = (*LabelKeys.setting_names(), "tag_key")


def _silent(_: str) -> None:
    """Says nothing."""


@dataclasses.dataclass(frozen=True)
class Demands:
    """What frames must be to train on."""

    most: int = len(chemical_symbols) - 1  # largest atomic number that the network holds
    quantities: tuple[str, ...] = tuple(WEIGHTS)  # that the loss weighs
    force: bool = False  # go on although labels look wrong as a whole
    say: Callable[[str], None] = _silent  # told what is left out and what looks wrong but does not stop
    baselines: Baselines = dataclasses.field(default_factory=Baselines)  # taken off the labels

    @classmethod
    def of(cls, config: RunConfig, force: bool = False, say: Callable[[str], None] = _silent) -> Demands:
        """The demands of a run."""
        weighed = tuple(name for name, weight in WEIGHTS.items() if config.training.weights[weight] > 0)
        return cls(config.model.embeddings - 1, weighed, force, say, Baselines(baselines_of(config)))


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
        _say_of_held_out(train, valid, config.valid_file, demands)
        return train, valid
    if not config.file:
        raise DataError("no data: name data.file, or data.train_file and data.valid_file")
    frames, numbers = _read(config, config.file, demands)
    split = _split(config, len(frames), tags_of(frames, config.tag_key))
    train, valid = ([frames[i] for i in part] for part in (split.train, split.valid))
    _require_elements(train, valid, config.file, [numbers[i] for i in split.valid])
    _say_of_held_out(train, valid, config.file, demands)
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
    _say_of_held_out(frames_train, frames, str(file), demands)
    return frames


def load_replay(config: RunConfig, new: int, demands: Demands) -> list[Atoms]:
    """Frames of `finetuning.replay` with the labels that they train with: all, or as many as the settings say.

    `new`: number of new frames. The file is read as the data of the initial model were. Raises as `load_frames`.
    """
    settings, source = config.finetuning, config.training.initial_model
    if settings.replay is None or source is None:
        return []
    model = initial_model(source)
    own = settings.replay_labels == "file"
    asked = dataclasses.replace(demands, quantities=demands.quantities if own else ())
    frames, _ = _read(data_config_of(model), settings.replay, asked)
    _require_old(frames, settings.replay, model, source)
    number = min(settings.replay_frames or new, len(frames))
    chosen = [frames[i] for i in np.sort(np.random.default_rng(config.data.seed).permutation(len(frames))[:number])]
    if own and not any(np.isfinite(label).any() for atoms in chosen for label in labels(atoms)):
        raise DataError(
            f"{settings.replay}: none of {counted(len(chosen), 'frame')} to replay has a label: leave "
            "finetuning.replay_labels out, and what the model says of them is taken"
        )
    if own:
        return chosen
    return labelled_by(model, chosen, config.training.float64)


def labelled_by(model: Model, frames: Sequence[Atoms], float64: bool = False) -> list[Atoms]:
    """The structures with what the model says as their labels: energy (eV), forces (eV/A), stress (eV/A^3), and where
    it predicts them charges (e), dipole (e A) and Hirshfeld ratios."""
    found = evaluate(model, frames, float64=float64)
    charges: list[ChargeLabels | None] = [None] * len(frames)
    if found.charges is not None and found.dipoles is not None:
        unknown: list[np.ndarray | None] = [None] * len(frames)
        ratios = unknown if found.ratios is None else found.ratios
        own = zip(found.charges, found.dipoles, ratios, strict=True)
        charges = [known_labels(q, dipole, v, len(q)) for q, dipole, v in own]
    values = map(Labels, found.energies.tolist(), found.forces, found.stresses)
    return [with_labels(a.copy(), own, more) for a, own, more in zip(frames, values, charges, strict=True)]


def without_baselines(baselines: Baselines, atoms: Atoms, where: str, sign: int = -1) -> Atoms:
    """A frame whose labels have the baselines taken off, or with the sign 1 added. Raises DataError."""
    if not baselines:
        return atoms
    own = labels(atoms)
    try:
        sums = baselines.sums(atoms)
    except BaselineError as error:
        raise DataError(f"{where}: {error}") from error
    stress = own.stress  # NaN unless there is one
    if atoms.pbc.all():
        stress = stress + sign * sums.strain_gradient / atoms.get_volume()
    return with_labels(atoms, Labels(own.energy + sign * sums.energy, own.forces + sign * sums.forces, stress))


def load_old_test(config: RunConfig, demands: Demands) -> list[Atoms]:
    """Frames of `finetuning.old_test`, read as the data of the initial model were, without baselines.

    Raises as `evaluated_frames`, and DataError for elements that this model does not know.
    """
    file, source = config.finetuning.old_test, config.training.initial_model
    if file is None or source is None:
        return []
    model = initial_model(source)
    frames = evaluated_frames(file, data_config_of(model), demands.say)
    _require_old(frames, file, model, source)
    return [without_baselines(demands.baselines, atoms, f"{file}, frame {n}") for n, atoms in enumerate(frames)]


def _require_old(frames: Sequence[Atoms], file: str, model: Model, source: str) -> None:
    """Refuses frames of elements that the model, whose old data they should be, does not know."""
    unknown = sorted({symbol for atoms in frames for symbol in atoms.symbols} - set(model.elements))
    if unknown:
        raise DataError(
            f"{file} has {', '.join(unknown)}, which {source} does not know: give frames of its own data, with "
            f"{', '.join(model.elements)} alone"
        )


def data_config_of(model: Model) -> DataConfig:
    """How the data of a model's training were read, for other files of the same kind."""
    return DataConfig(**own_reading(model))


def own_reading(model: Model) -> dict[str, Any]:
    """The settings of READING with which a model's training read its data, or that are usual for what it predicts."""
    usual = usual_keys([interaction.section for interaction in model.interactions])
    return usual | reading_of(model.training or {})


def reading_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of READING in what a model tells of its training; those that it does not tell are absent."""
    data = record.get("settings", {}).get("data", {})
    return {name: data[name] for name in READING if name in data} if isinstance(data, dict) else {}


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
    for text in [finding.text for finding in check.findings()] + check.suspects.lines(with_perfect=False):
        say(f"{file}: {text}")
    return frames


def _read(config: DataConfig, file: str, demands: Demands) -> tuple[list[Atoms], list[int]]:
    """Sound frames of a file and their numbers in it."""
    check = LabelCheck(config.keys, demands.most, demands.quantities)
    frames = list(_sound_frames(config, file, demands, check))
    return frames, check.sound


def _sound_frames(config: DataConfig, file: str, demands: Demands, check: LabelCheck) -> Iterator[Atoms]:
    """The frames of a file without baselines; at its end what was found of them stops the run or is said."""
    for atoms in sound_frames(file, config.keys, check, config.leave_out_faulty, demands.say):
        yield without_baselines(demands.baselines, atoms, f"{file}, frame {check.sound[-1]}")
    findings = check.findings()
    stops = [finding.text for finding in findings if finding.stops]
    if stops and not demands.force:
        raise DataError(f"{file}: {'; '.join(stops)}; --force trains on the labels as they are")
    for text in [finding.text for finding in findings] + check.suspects.lines(with_perfect=False):
        demands.say(f"{file}: {text}")


def _stored(config: DataConfig, file: str, cutoff: float, folder: Path, demands: Demands) -> StoredFrames:
    path = Path(file)
    require_file(path)
    state = path.stat()
    source = {"file": str(path.resolve()), "bytes": state.st_size, "changed_ns": state.st_mtime_ns}
    source |= dataclasses.asdict(config.keys)
    if demands.baselines:
        source["baselines"] = settings_of_baselines(demands.baselines.parts)
    check = LabelCheck(config.keys, demands.most, demands.quantities)
    return store_frames(folder, _sound_frames(config, file, demands, check), cutoff, source)


def _split(config: DataConfig, count: int, kinds: Sequence[str | None] | None = None) -> Split:
    if config.n_train is None:
        return fraction_split(count, config.train_split, config.seed, kinds)
    n_valid = count - config.n_train if config.n_valid is None else config.n_valid
    return count_split(count, config.n_train, n_valid, config.seed, kinds)


def _say_of_held_out(
    train: Sequence[Atoms] | StoredFrames, held_out: Sequence[Atoms], file: str | None, demands: Demands
) -> None:
    if not isinstance(train, StoredFrames):
        for text in held_out_doubts(train, held_out):
            demands.say(f"{file}: {text}")


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
