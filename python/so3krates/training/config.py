"""Settings of a training run by sections, their defaults, presets and the original's keys."""

from __future__ import annotations

import copy
import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from ase.data import chemical_symbols

from so3krates.baselines import baselines_from, pair_sections
from so3krates.data import SHIFT_MODES, DataError, LabelKeys
from so3krates.files import looked_for, write_text
from so3krates.hints import command
from so3krates.model.config import PRESETS as MODEL_PRESETS
from so3krates.model.config import ConfigError, ModelConfig
from so3krates.model.long_range import predicted_sections
from so3krates.model.terms import check_terms

from . import charges as predicted
from .checks import is_int, is_number, require, require_one_length
from .finetuning import FineTuningConfig, gentler, of_model, rate_factors, require_start
from .loggers import PACKAGES
from .original_keys import sections_from_original
from .settings_file import beside

SECTIONS = ("model", "data", "training", "terms", "baseline", "finetuning")
# Keys that name files, which are looked for beside the settings.
FILES = {
    "data": ("file", "train_file", "valid_file"),
    "training": ("initial_model",),
    "finetuning": ("replay", "old_test"),
}
ELEMENTS = frozenset(chemical_symbols[1:])
SCHEDULES = ("exponential", "cosine", "constant")
OPTIMISERS = ("adam", "amsgrad", "muon")
WEIGHTS = {"energy": "energy_weight", "forces": "force_weight", "stress": "stress_weight"}  # settings of the loss
# Theirs where the settings give none and the training data have the label.
LABELLED_WEIGHTS = {"energy_weight": 1.0, "force_weight": 1.0, "stress_weight": 0.1}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the frames come from, which of them train, and what is taken off their energies."""

    file: str | None = None  # all frames, to be split
    train_file: str | None = None  # or two files that are split already
    valid_file: str | None = None
    train_split: float = 0.8  # share that trains; used where n_train is absent
    n_train: int | None = None
    n_valid: int | None = None
    seed: int = 0  # of the split
    energy_key: str = "energy"  # "" leaves a label out
    forces_key: str = "forces"
    stress_key: str = "stress"  # +dE/d(strain)/V
    virial_key: str = ""  # -dE/d(strain), taken instead of the stress
    energy_unit: str = "eV"
    length_unit: str = "A"  # of positions and cell
    forces_unit: str = ""  # "": energy_unit/length_unit
    stress_unit: str = ""  # "": energy_unit/length_unit^3
    stress_sign: int = 1  # -1: stress and virial have the opposite sign in the data
    voigt_order: str = "xx yy zz yz xz xy"  # of stresses or virials with six components
    charges_key: str | None = None  # of atoms, e; absent: "charges" where the network predicts them, else not read
    dipole_key: str | None = None  # the same, "dipole"
    dipole_unit: str = "e A"
    ratios_key: str | None = None  # the same of Hirshfeld ratios, "hirshfeld_ratios"
    tag_key: str = ""  # entry of a frame's info that groups frames in error tables; "": config_type, group or tag
    leave_out_faulty: bool = False  # leave out frames with faults, and say which, instead of refusing
    stream: bool = False  # keep the frames on disk, in the folder of the run, and read them batch by batch
    energy_shift: str | dict[str, float] = "lse"  # lse, mean, none, or eV per element

    def __post_init__(self) -> None:
        for name in ("file", "train_file", "valid_file"):
            value = getattr(self, name)
            require(value is None or isinstance(value, str), "data", name, value, "a path")
        for name in ("energy_key", "forces_key", "stress_key", "virial_key", "tag_key"):
            require(isinstance(getattr(self, name), str), "data", name, getattr(self, name), "a name, or '' for none")
        for name in ("charges_key", "dipole_key", "ratios_key"):
            value = getattr(self, name)
            require(value is None or isinstance(value, str), "data", name, value, "a name, or '' for none")
        for name in ("energy_unit", "length_unit", "forces_unit", "stress_unit", "voigt_order", "dipole_unit"):
            require(isinstance(getattr(self, name), str), "data", name, getattr(self, name), "a text")
        try:
            _ = self.keys
        except DataError as error:
            raise ConfigError(f"data.{error}") from error
        require(
            not (self.file and (self.train_file or self.valid_file)),
            "data",
            "file",
            self.file,
            "either file or train_file and valid_file",
        )
        require(not self.valid_file or bool(self.train_file), "data", "valid_file", self.valid_file, "train_file too")
        require(
            is_number(self.train_split) and 0 < self.train_split <= 1,
            "data",
            "train_split",
            self.train_split,
            "a share above 0 and up to 1",
        )
        for name, least in (("n_train", 1), ("n_valid", 0)):
            value = getattr(self, name)
            require(value is None or is_int(value, least), "data", name, value, f"a whole number of at least {least}")
        require(
            self.n_train is not None or self.n_valid is None,
            "data",
            "n_valid",
            self.n_valid,
            "n_train with it (or train_split alone)",
        )
        for name in ("stream", "leave_out_faulty"):
            require(isinstance(getattr(self, name), bool), "data", name, getattr(self, name), "true or false")
        require(is_int(self.seed), "data", "seed", self.seed, "a whole number of at least 0")
        shift = self.energy_shift
        valid = (isinstance(shift, str) and shift in SHIFT_MODES) or (
            isinstance(shift, dict) and bool(shift) and shift.keys() <= ELEMENTS and all(map(is_number, shift.values()))
        )
        require(valid, "data", "energy_shift", shift, f"{', '.join(SHIFT_MODES)} or a table of eV per element")

    @property
    def wanted(self) -> dict[str, str]:
        """The key of each label, "" where it is left out."""
        return {
            "energy": self.energy_key,
            "forces": self.forces_key,
            "stress": self.virial_key or self.stress_key,
            "charges": self.charges_key or "",
            "dipole": self.dipole_key or "",
            "ratios": self.ratios_key or "",
        }

    @property
    def keys(self) -> LabelKeys:
        """The label keys as the readers take them."""
        return LabelKeys(
            energy=self.energy_key or None,
            forces=self.forces_key or None,
            stress=self.stress_key or None,
            virial=self.virial_key or None,
            energy_unit=self.energy_unit,
            length_unit=self.length_unit,
            forces_unit=self.forces_unit,
            stress_unit=self.stress_unit,
            stress_sign=self.stress_sign,
            voigt_order=self.voigt_order,
            charges=self.charges_key or None,
            dipole=self.dipole_key or None,
            ratios=self.ratios_key or None,
            dipole_unit=self.dipole_unit,
        )


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Loss, optimiser and course of a run; the defaults are mlff's but for the weights and the length (ORIGINAL).

    A file of settings begins with a preset's values instead (`PRESETS`).
    """

    energy_weight: float | None = None  # normalised to a sum of 1; absent: `usual_energy_weight`, or 0
    energy_gain: float = 1.0  # by what the weight of energies has grown where the learning rate has fallen to 0
    force_weight: float | None = None  # absent: LABELLED_WEIGHTS, or 0 without labels
    stress_weight: float | None = None
    charge_weight: float | None = None  # of charges that the network predicts; absent: 1, or 0 without labels
    dipole_weight: float | None = None
    ratio_weight: float | None = None  # of Hirshfeld ratios
    per_atom: bool = False  # energies and virials of the loss are per atom: small cells count as large ones
    variance_scaling: bool = True  # divide each target's squared error by its variance in the training data
    epochs: int | None = None  # absent: so many that `steps` are made, or that fill `hours`
    steps: int = 4000  # of the optimiser, rounded up to whole epochs
    hours: float | None = None  # wall time from which the epochs are chosen and at which the run ends
    batch_size: int | None = None  # structures; absent: by the number of training frames as mlff does
    valid_batch_size: int | None = None  # absent: batch_size
    accumulate: int = 1  # parts in which a device computes its batch one after the other, to need less memory
    devices: int = 1  # that share a batch
    learning_rate: float = 1e-3
    learning_rate_stop: float = 1e-5  # the run ends when the schedule falls to it
    schedule: str = "exponential"  # exponential, cosine, constant
    decay_steps: int = 100_000  # exponential: steps in which the rate falls by decay_factor
    decay_factor: float = 0.7
    warmup_steps: int = 0  # linear rise from 0 before the schedule
    clip_norm: float | None = None  # largest global norm of a gradient
    optimiser: str = "adam"  # adam, amsgrad, muon
    weight_decay: float = 0.0  # decoupled, as in AdamW
    ema_decay: float = 0.0  # weight of the past in the running average of weights that is validated and kept; 0: none
    refit_shift: bool = False  # the mean energy error per atom goes into the shifts in the end (`is_centred`)
    eval_every: int | None = None  # steps between validations; absent: one epoch
    patience: float = 0  # validations without a lower loss after which the run ends; below 1: their share; 0: never
    checkpoint_minutes: float = 2.0  # wall time between checkpoints; a resumed run repeats at most this much
    max_minutes: float | None = None  # wall time after which the run stops with what it has
    initial_model: str | None = None  # model that the run goes on from (docs/finetuning.md); absent: random weights
    log_to: tuple[str, ...] = ()  # tensorboard, wandb, beside metrics.csv
    seed_model: int = 0
    seed_training: int = 0  # of the order of frames
    float64: bool = False

    def __post_init__(self) -> None:
        def check(names: tuple[str, ...], condition: Any, advice: str, optional: bool = False) -> None:
            for name in names:
                value = getattr(self, name)
                require((optional and value is None) or condition(value), "training", name, value, advice)

        check(
            (*LABELLED_WEIGHTS, *predicted.LABELLED_WEIGHTS),
            lambda v: is_number(v) and v >= 0,
            "at least 0, or leave it out",
            True,
        )
        check(("weight_decay",), lambda v: is_number(v) and v >= 0, "a number of at least 0")
        truths = ("per_atom", "variance_scaling", "refit_shift", "float64")
        check(truths, lambda v: isinstance(v, bool), "true or false")
        check(("steps", "decay_steps", "accumulate", "devices"), lambda v: is_int(v, 1), "a whole number of at least 1")
        check(
            ("epochs", "batch_size", "valid_batch_size", "eval_every"),
            lambda v: is_int(v, 1),
            "a whole number of at least 1, or leave it out",
            optional=True,
        )
        check(("warmup_steps", "seed_model", "seed_training"), is_int, "a whole number of at least 0")
        check(("learning_rate", "energy_gain"), lambda v: is_number(v) and v > 0, "a number above 0")
        check(("learning_rate_stop", "checkpoint_minutes"), lambda v: is_number(v) and v >= 0, "at least 0")
        check(("decay_factor",), lambda v: is_number(v) and 0 < v <= 1, "above 0 and up to 1")
        check(("ema_decay",), lambda v: is_number(v) and 0 <= v < 1, "0 for none, or below 1, for instance 0.999")
        check(
            ("patience",),
            lambda v: is_int(v) or (is_number(v) and 0 < v < 1),
            "a number of validations, a share of all below 1, or 0 for no early end",
        )
        check(("clip_norm", "max_minutes", "hours"), lambda v: is_number(v) and v > 0, "above 0, or leave it out", True)
        check(("initial_model",), lambda v: isinstance(v, str) and v != "", "a model folder, or leave it out", True)
        known = f"a list out of {', '.join(PACKAGES)}"
        check(("log_to",), lambda v: isinstance(v, list | tuple) and all(name in PACKAGES for name in v), known)
        object.__setattr__(self, "log_to", tuple(dict.fromkeys(self.log_to)))
        check(("schedule",), lambda v: v in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        check(("optimiser",), lambda v: v in OPTIMISERS, f"one of {', '.join(OPTIMISERS)}")
        require(
            self.schedule == "constant" or self.learning_rate > self.learning_rate_stop,
            "training",
            "learning_rate",
            self.learning_rate,
            f"more than learning_rate_stop = {self.learning_rate_stop}, at which the run ends",
        )
        require(
            sum(self.weights.values()) > 0,
            "training",
            "force_weight",
            self.force_weight,
            "at least one weight above 0",
        )

    @property
    def weights(self) -> dict[str, float]:
        """Weights of energy, forces and stress by their settings, before they are normalised.

        Where the network predicts charges a run has weights of charges, dipoles and Hirshfeld ratios too.
        """
        given = {name: getattr(self, name) for name in LABELLED_WEIGHTS}
        found = {name: LABELLED_WEIGHTS[name] if weight is None else weight for name, weight in given.items()}
        more = {name: getattr(self, name) for name in predicted.LABELLED_WEIGHTS}
        return found | {name: weight for name, weight in more.items() if weight is not None}

    @property
    def parts(self) -> int:
        """Parts into which a batch is split."""
        return self.accumulate * self.devices

    def epochs_for(self, steps_per_epoch: int) -> int:
        """Epochs of a run: the setting, or as many as `steps` take."""
        return self.epochs or -(-self.steps // steps_per_epoch)

    def batch_size_for(self, n_train: int) -> int:
        """Structures per step: the setting, or the original's choice by the number of training frames."""
        if self.batch_size is not None:
            return min(self.batch_size, n_train)
        for limit, size in ((500, 1), (1000, 5), (10_000, 10)):
            if n_train < limit:
                return size
        return 100


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on but its data."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    terms: dict[str, Any] = dataclasses.field(default_factory=dict)  # settings of each, by its section of [terms]
    baseline: dict[str, Any] = dataclasses.field(default_factory=dict)  # what the network learns the rest of
    finetuning: FineTuningConfig = dataclasses.field(default_factory=FineTuningConfig)  # beside initial_model

    def __post_init__(self) -> None:
        check_terms(pair_sections(predicted.without_interactions(self.terms)))
        predicted.require_fitting(self.model, self.terms, {"data": self.data, "training": self.training})
        baselines_from(self.terms, self.baseline)
        require_start(self.finetuning, self.training.initial_model)
        _ = self.rate_factors
        if self.data.stream and self.finetuning.replay is not None:
            raise ConfigError(
                f"finetuning.replay = {self.finetuning.replay!r} with data.stream = true: replayed frames are kept in "
                "memory, leave one of the two out"
            )

    @property
    def rate_factors(self) -> dict[str, float]:
        """Factor of the learning rate of each part of the network."""
        return predicted.read_factors(rate_factors(self.finetuning, self.model), self.terms)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> RunConfig:
        """From a nested dict with the sections of `SECTIONS` and an optional `preset`.

        Keys that are absent are the preset's, by default those of DEFAULT_PRESET; of NO_PRESET they are the defaults of
        the classes, so that it makes `from_dict` the inverse of `to_dict`. Keys beside the sections are taken as the
        original code's (`ORIGINAL_KEYS`) with its defaults, so that an `inputs.json` of tools.mlff is a configuration.
        Raises ConfigError with the name of the key.
        """
        sections = _filled(*given_settings(settings))
        return cls(
            predicted.network_of(sections["model"], sections["terms"]),
            section_of(DataConfig, "data", sections["data"]),
            section_of(TrainingConfig, "training", sections["training"]),
            sections["terms"],
            sections["baseline"],
            section_of(FineTuningConfig, "finetuning", sections["finetuning"]),
        )

    @classmethod
    def from_settings(cls, named: str, given: dict[str, dict[str, Any]]) -> RunConfig:
        """From what a user gave beside a named preset, by section, as `read_settings` returns them.

        The network and its interactions are those of the model that the run goes on from, where there is one. Raises
        ConfigError for settings of others as well, and ModelError for what is no model.
        """
        source = given["training"].get("initial_model")
        if not (isinstance(source, str) and source):
            return cls.from_dict({"preset": NO_PRESET, **_filled(named, given)})
        given = of_model(given, source)
        sections = _filled(named, given) | {"model": given["model"]}
        return cls.from_dict({"preset": NO_PRESET, **sections})

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values without those that are absent; with NO_PRESET `from_dict` makes the same of them."""
        sections = {"model": self.model.to_dict(), "data": dataclasses.asdict(self.data)}
        sections["training"] = dataclasses.asdict(self.training)
        for name, values in (("terms", self.terms), ("baseline", self.baseline)):
            if values:
                sections[name] = copy.deepcopy(values)
        if self.training.initial_model is not None:
            sections["finetuning"] = dataclasses.asdict(self.finetuning)
        return {name: {k: v for k, v in values.items() if v is not None} for name, values in sections.items()}

    @classmethod
    def load(cls, path: str | Path) -> RunConfig:
        """From a TOML file, or a JSON file with the original's keys. Raises ConfigError, beginning with the path.

        Data files and models are looked up beside the configuration where they are relative.
        """
        named, given = read_settings(path)
        try:
            return cls.from_settings(named, given)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Writes the TOML file that `load` reads."""
        write_text(path, tomli_w.dumps({"preset": NO_PRESET} | self.to_dict()))


# Settings of mlff's that are no defaults here.
ORIGINAL: dict[str, Any] = {"energy_weight": 0.001, "force_weight": 1.0, "stress_weight": 0.01, "epochs": 2000}


def _recommended(features: int, layers: int, degrees: tuple[int, ...], steps: int) -> RunConfig:
    """Settings that measured best (docs/training_study.md) for a network and a length of the run."""
    return RunConfig(
        ModelConfig(features=features, layers=layers, degrees=degrees, radial_basis="gaussian", radial_functions=16),
        DataConfig(),
        TrainingConfig(
            steps=steps,
            batch_size=4,
            learning_rate=3e-3,
            learning_rate_stop=1e-6,
            schedule="cosine",
            warmup_steps=50,
            clip_norm=10.0,
            optimiser="muon",
            ema_decay=0.99,
            refit_shift=True,
            patience=0.5,
            per_atom=True,
            energy_gain=5.0,
        ),
    )


# Beside them the published GaN run: tools.mlff's settings of docs/model.md, energies shifted by their mean.
PRESETS: dict[str, RunConfig] = {
    "fast": _recommended(32, 2, (1, 2), 2000),
    "balanced": _recommended(64, 2, (1, 2, 3, 4), 4000),
    "accurate": _recommended(128, 3, (1, 2, 3, 4), 12_000),
    "gan": RunConfig(MODEL_PRESETS["gan"], DataConfig(energy_shift="mean"), TrainingConfig(**ORIGINAL)),
}
DEFAULT_PRESET = "balanced"
NO_PRESET = "none"  # all settings are there
ORIGINAL_PRESET = "mlff"  # of settings under the original's keys


def preset(name: str) -> RunConfig:
    """A preset by name. Raises ConfigError for an unknown one."""
    if name not in PRESETS:
        raise ConfigError(f"preset = {name!r}: known are {', '.join(PRESETS)}")
    return PRESETS[name]


def read_settings(path: str | Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """The preset that a file begins with, and its settings by section. Raises ConfigError, beginning with the path.

    Data files and models are looked up beside it where they are relative.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        if not isinstance(settings, dict):
            frames = command("so3krates", "convert", str(path), "-o", "frames.extxyz")
            raise ValueError(f"it holds no keys with values; where it holds frames: {frames}")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}{looked_for(path)})") from error
    try:
        named, sections = given_settings(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    for section, keys in FILES.items():
        for key in keys:
            if isinstance(sections[section].get(key), str) and sections[section][key]:
                sections[section][key] = beside(path.parent, sections[section][key], key == "initial_model")
    return named, sections


def given_settings(settings: dict[str, Any]) -> tuple[str, dict[str, dict[str, Any]]]:
    """The preset that settings begin with, and what they say by section; the original's keys have places there."""
    settings = dict(settings)
    named = settings.pop("preset", None)
    given = {name: settings.pop(name, {}) for name in SECTIONS}
    require_one_length({} if named == NO_PRESET else given["training"])
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    if settings and named is None:
        named = ORIGINAL_PRESET
    for name, values in sections_from_original(settings).items():
        sections[name].update(values)
    for name, values in given.items():
        if not isinstance(values, dict):
            raise ConfigError(f"[{name}] must be a section of keys, got {values!r}")
        sections[name].update(values)
    return DEFAULT_PRESET if named is None else named, sections


def _filled(named: str, given: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings by section; what is not given is the preset's."""
    if named == ORIGINAL_PRESET:
        base = changeable(RunConfig(training=TrainingConfig(**ORIGINAL)))
    else:
        base = {} if named == NO_PRESET else changeable(preset(named))
    if base and "initial_model" in given["training"]:
        base["training"] = gentler(base["training"])
    if predicted.predicts_charges(given["terms"]):
        base = {**base, "data": predicted.usual_keys(predicted_sections(given["terms"])) | base.get("data", {})}
        if "model" in base:
            base["model"] = predicted.sizes_of_preset(base["model"])
    sections = {name: base.get(name, {}) | values for name, values in given.items()}
    if base and "epochs" not in given["training"] and {"steps", "hours"} & given["training"].keys():
        sections["training"].pop("epochs", None)  # of a preset
    return sections


def changeable(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Settings as `to_dict` gives them, to be changed: widths that follow from `features` go on following it."""
    settings = config.to_dict()
    widths = ("radial_filter_features", "spherical_filter_features", "readout_features")
    unset: dict[str, Any] = dict.fromkeys(widths)
    derived = dataclasses.replace(config.model, **unset)
    for width in widths:
        if getattr(derived, width) == getattr(config.model, width):
            del settings["model"][width]
    return settings


def section_of(cls: type, section: str, values: dict[str, Any]) -> Any:
    """A section's settings from its keys. Raises ConfigError for one that `cls` does not have."""
    known = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key {section}.{key}: known are {', '.join(known)}")
    return cls(**values)
