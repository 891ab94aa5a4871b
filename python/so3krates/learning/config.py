"""Settings of a learning loop: sections [learn], [label] and [[run]] beside those of a training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from so3krates.data.suspects import LARGE_FORCE
from so3krates.engines import ENGINES, PROCESSES
from so3krates.model.config import ConfigError
from so3krates.sampling.lammps_labels import GAN_TERSOFF
from so3krates.training.charges import predicts_charges
from so3krates.training.checks import is_int, is_number, require
from so3krates.training.config import RunConfig, given_settings, section_of
from so3krates.training.finetuning import SMALLER
from so3krates.training.settings_file import found_path, load_settings, section_from

CHOICES = ("atomic-energy", "force", "energy", "random", "largest")
# Keys of [data] that the loop sets itself, as its data grow.
OWN_DATA_KEYS = ("train_file", "valid_file", "n_train", "n_valid", "train_split", "stream")
OUTPUTS = ("uncertainty", "committee_forces")


@dataclasses.dataclass(frozen=True)
class LearnConfig:
    """When frames are saved and runs end, how many are labelled, and when the loop ends."""

    save: float = 0.0  # eV/A: frames with a more uncertain atom are candidates; has to be given
    stop: float = 0.0  # eV/A: a run ends there, which is no error; has to be given
    every: int = 10  # steps between looks
    starts: int = 3  # of a deck in a round at most: a run that ends early is begun again with another seed
    by: str | None = None  # what is looked at; absent: committee_forces of a committee, else uncertainty
    committee: int = 1  # models of each round
    choose: str = "atomic-energy"  # how frames are chosen among the candidates
    labels_per_round: int = 20  # of candidates
    checks_per_round: int = 5  # of frames of the runs whatever their uncertainty: they tell the error of the deck
    check_every: int = 10  # looks between frames that are kept for that
    valid_share: float = 0.2  # of each round's labels that validates
    retrain_steps: int | None = None  # of trainings after the first; absent: as of the first
    retrain_rate: float | None = None  # their learning rate by that of the first; absent: SMALLER, or that of the first
    max_error: float | None = None  # eV/A, target: rms error of forces on the checks before training on them
    max_uncertain: float = 0.02  # target: share of looks that find an atom above `save`
    max_rounds: int = 10
    max_labels: int | None = None  # that the labeller is asked for, start structures and failures included
    max_hours: float | None = None
    structures: str | None = None  # file of structures that the labeller labels before the first round
    test_file: str | None = None  # labelled frames for errors of each round only
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        def check(name: str, good: bool, advice: str) -> None:
            require(good, "learn", name, getattr(self, name), advice)

        check("save", is_number(self.save) and self.save > 0, "eV/A, above 0: frames above it are candidates")
        check("stop", is_number(self.stop) and self.stop > 0, "eV/A, above 0: a run ends there")
        check("stop", self.stop > self.save, f"more than learn.save = {self.save:g}, above which frames are saved")
        check("starts", is_int(self.starts, 1) and self.starts <= 10, "a whole number from 1 to 10")
        for name in ("every", "committee", "labels_per_round", "check_every", "max_rounds"):
            check(name, is_int(getattr(self, name), 1), "a whole number of at least 1")
        for name in ("checks_per_round", "seed"):
            check(name, is_int(getattr(self, name)), "a whole number of at least 0")
        for name in ("retrain_steps", "max_labels"):
            value = getattr(self, name)
            check(name, value is None or is_int(value, 1), "a whole number of at least 1, or leave it out")
        for name in ("max_error", "max_hours", "retrain_rate"):
            value = getattr(self, name)
            check(name, value is None or (is_number(value) and value > 0), "a number above 0, or leave it out")
        check("max_uncertain", is_number(self.max_uncertain) and 0 <= self.max_uncertain <= 1, "a share from 0 to 1")
        check("valid_share", is_number(self.valid_share) and 0 < self.valid_share < 1, "a share between 0 and 1")
        check("choose", self.choose in CHOICES, f"one of {', '.join(CHOICES)}")
        check("precision", self.precision in ("float32", "float64"), "float32 or float64")
        check("by", self.by is None or self.by in OUTPUTS, f"one of {', '.join(OUTPUTS)}, or leave it out")
        check("by", self.by != OUTPUTS[1] or self.committee > 1, "uncertainty, or a learn.committee of at least 2")
        for name in ("structures", "test_file"):
            value = getattr(self, name)
            check(name, value is None or (isinstance(value, str) and value != ""), "a path, or leave it out")

    def retrain_share(self, goes_on: bool) -> float:
        """Learning rate of trainings after the first by that of the first, which `goes_on` from a model or does not."""
        if self.retrain_rate is not None:
            return self.retrain_rate
        return 1.0 if goes_on else SMALLER

    @property
    def output(self) -> str:
        """The output of atoms that is looked at."""
        return self.by or (OUTPUTS[1] if self.committee > 1 else OUTPUTS[0])


@dataclasses.dataclass(frozen=True)
class LabelConfig:
    """Who labels: a calculator by name, or a command that works in a folder of each frame."""

    calculator: str | None = None  # as of `so3krates sample`: lammps, a model, a bundle, module:factory(...)
    pair_style: str | None = None  # of "lammps"
    pair_coeff: tuple[str, ...] = ()
    elements: tuple[str, ...] = ()  # of its atom types
    processes: int = 1  # labels at a time
    engine: str = PROCESSES  # where they are made: `so3krates.engines`
    max_force: float = LARGE_FORCE  # eV/A; labels with a larger force are left out
    command: str | None = None  # run in the folder of each frame by the shell
    batch: bool = False  # the command only submits: results are read when the loop is called again
    template: str | None = None  # folder whose files are copied into each
    write: str = "structure.extxyz"  # the structure's file there
    write_format: str | None = None  # ASE's name of its format; absent: by the file's name
    read: str = "labelled.extxyz"  # the file of the result
    read_format: str | None = None

    def __post_init__(self) -> None:
        def check(name: str, good: bool, advice: str) -> None:
            require(good, "label", name, getattr(self, name), advice)

        for name in ("pair_coeff", "elements"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, str) else value
            check(name, isinstance(value, list | tuple) and all(isinstance(v, str) for v in value), "a list of texts")
            object.__setattr__(self, name, tuple(value))
        texts = ("calculator", "pair_style", "command", "template", "write_format", "read_format")
        for name in texts:
            value = getattr(self, name)
            check(name, value is None or (isinstance(value, str) and value != ""), "a text, or leave it out")
        for name in ("write", "read"):
            value = getattr(self, name)
            check(name, isinstance(value, str) and value != "" and "/" not in value, "the name of a file")
        check("processes", is_int(self.processes, 1), "a whole number of at least 1")
        check("engine", self.engine in ENGINES, f"{', '.join(ENGINES)}")
        is_by_calculator = self.calculator is not None or self.engine == PROCESSES
        check("engine", is_by_calculator, '"processes" with a command: with batch = true the command submits')
        check("max_force", is_number(self.max_force) and self.max_force > 0, "eV/A, above 0")
        check("batch", isinstance(self.batch, bool), "true or false")
        both = self.calculator is not None and self.command is not None
        neither = self.calculator is None and self.command is None and not self.batch
        require(not both and not neither, "label", "calculator", self.calculator, "either it or label.command")
        check("batch", not self.batch or self.calculator is None, "false with a calculator, which labels at once")
        has_style = self.pair_style is not None
        check("pair_style", not has_style or self.calculator == "lammps", 'it with label.calculator = "lammps" only')
        check("elements", not has_style or len(self.elements) > 0, "the elements of the atom types of lammps")

    @property
    def deck(self) -> tuple[str, ...]:
        """Lines of the interaction of calculator lammps."""
        if self.pair_style is None:
            return GAN_TERSOFF
        return (f"pair_style {self.pair_style}", *(f"pair_coeff {line}" for line in self.pair_coeff))


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """A deck that is run in each round."""

    deck: str = ""
    files: tuple[str, ...] = ()  # that it reads, copied beside it
    variables: dict[str, Any] = dataclasses.field(default_factory=dict)  # as by -var
    ranks: int = 1

    def __post_init__(self) -> None:
        def check(name: str, good: bool, advice: str) -> None:
            require(good, "run", name, getattr(self, name), advice)

        check("deck", isinstance(self.deck, str) and self.deck != "", "the path of a LAMMPS deck")
        files = self.files
        check("files", isinstance(files, list | tuple) and all(isinstance(f, str) for f in files), "a list of paths")
        object.__setattr__(self, "files", tuple(files))
        check("variables", isinstance(self.variables, dict), "a table of names and values")
        check("ranks", is_int(self.ranks, 1), "a whole number of at least 1")


@dataclasses.dataclass(frozen=True)
class LearningSettings:
    """All of a loop's settings; paths are absolute."""

    training: RunConfig
    learn: LearnConfig
    label: LabelConfig
    runs: tuple[RunSettings, ...]

    @classmethod
    def load(cls, path: str | Path) -> LearningSettings:
        """From a TOML file. Raises ConfigError, beginning with the path, with the key that is wrong."""
        return load_settings(path, cls._from_dict)

    @classmethod
    def _from_dict(cls, content: dict[str, Any], folder: Path) -> LearningSettings:
        learn, label = (section_from(content, name) for name in ("learn", "label"))
        runs = content.pop("run", [])
        runs = [runs] if isinstance(runs, dict) else runs
        if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) for run in runs):
            raise ConfigError("no deck to run: give a section [[run]] with deck = FILE")
        for key in OWN_DATA_KEYS:
            if key in content.get("data", {}):
                raise ConfigError(
                    f"data.{key}: the loop itself parts its growing data: give data.file for labelled frames to begin "
                    "with, and learn.valid_share"
                )
        if "finetuning" in content:
            raise ConfigError("[finetuning]: leave it out; a loop goes on from training.initial_model with all weights")
        training = content.get("training")
        if isinstance(training, dict) and isinstance(training.get("initial_model"), str):
            content["training"] = training | {
                "initial_model": found_path(folder, "training", "initial_model", training["initial_model"])
            }
        settings = cls(
            RunConfig.from_settings(*given_settings(content)),
            section_of(LearnConfig, "learn", learn),
            section_of(LabelConfig, "label", label),
            tuple(section_of(RunSettings, "run", run) for run in runs),
        )
        if predicts_charges(settings.training.terms):
            raise ConfigError(
                'terms.electrostatics.form = "predicted_charges": such a network tells no uncertainty yet, by which a '
                "loop looks for frames; train it on data that are labelled already"
            )
        if settings.training.data.file is None and settings.learn.structures is None:
            raise ConfigError(
                "nothing to begin with: give data.file with labelled frames, or learn.structures with frames to label"
            )
        return settings._absolute(folder)

    def _absolute(self, folder: Path) -> LearningSettings:
        """With paths from where the settings lie; raises ConfigError for files that are missing."""

        def found(section: str, key: str, name: str | None) -> str | None:
            return found_path(folder, section, key, name)

        data = dataclasses.replace(self.training.data, file=found("data", "file", self.training.data.file))
        learn = dataclasses.replace(
            self.learn,
            structures=found("learn", "structures", self.learn.structures),
            test_file=found("learn", "test_file", self.learn.test_file),
        )
        calculator = self.label.calculator
        if calculator is not None and (folder / calculator).exists():
            calculator = str(folder / calculator)
        label = dataclasses.replace(
            self.label, calculator=calculator, template=found("label", "template", self.label.template)
        )
        runs = [
            dataclasses.replace(
                run,
                deck=found("run", "deck", run.deck) or "",
                files=tuple(found("run", "files", name) or "" for name in run.files),
            )
            for run in self.runs
        ]
        config = dataclasses.replace(self.training, data=data)
        return LearningSettings(config, learn, label, tuple(runs))
