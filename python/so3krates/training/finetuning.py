"""Settings of a run that goes on from a model, and how fast each part of the network then learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase.data import atomic_numbers

from so3krates.files import looked_for
from so3krates.model.config import ConfigError, ModelConfig
from so3krates.model.long_range import INTERACTIONS
from so3krates.model.terms import settings_of
from so3krates.shipped import located
from so3krates.storage import Model, ModelError
from so3krates.wording import counted

from .checks import is_int, is_number, require
from .committee import member_folders

STRATEGIES = ("full", "last-layers", "readout")
REPLAY_LABELS = ("model", "file")
# What a preset gives to a run from nothing, beside that: measured in docs/finetuning.md.
SMALLER = 0.1  # learning rate
FEWER = 2  # times fewer steps


@dataclasses.dataclass(frozen=True)
class FineTuningConfig:
    """How a run goes on from `training.initial_model` (docs/finetuning.md)."""

    strategy: str = "full"  # full, last-layers, readout: what learns; all else stays as it is
    last_layers: int = 1  # of strategy last-layers: how many learn, beside the readout
    rate_factors: dict[str, float] | None = None  # of the learning rate: embedding, layers, layers_0 ..., readout
    add_elements: tuple[str, ...] = ()  # that the model does not know yet
    replay: str | None = None  # frames of the old data that train too
    replay_frames: int | None = None  # how many of them; absent: as many as new ones
    replay_labels: str = "model"  # model: what it says of them before the run; file: those of the file
    old_test: str | None = None  # labelled frames of the old data, whose errors are reported before and after

    def __post_init__(self) -> None:
        def check(name: str, condition: bool, advice: str) -> None:
            require(condition, "finetuning", name, getattr(self, name), advice)

        check("strategy", self.strategy in STRATEGIES, f"one of {', '.join(STRATEGIES)}")
        check("replay_labels", self.replay_labels in REPLAY_LABELS, f"one of {', '.join(REPLAY_LABELS)}")
        check("last_layers", is_int(self.last_layers, 1), "a whole number of at least 1")
        check(
            "replay_frames",
            self.replay_frames is None or is_int(self.replay_frames, 1),
            "a whole number of at least 1, or leave it out",
        )
        check("last_layers", self.last_layers == 1 or self.strategy == "last-layers", "strategy = 'last-layers' too")
        for name in ("replay_frames", "replay_labels"):
            unset = getattr(self, name) == getattr(FineTuningConfig, name)
            check(name, unset or self.replay is not None, "finetuning.replay too, a file of frames of the old data")
        for name in ("replay", "old_test"):
            value = getattr(self, name)
            check(name, value is None or (isinstance(value, str) and value != ""), "a file of frames, or leave it out")
        factors = self.rate_factors
        check(
            "rate_factors",
            factors is None or (isinstance(factors, dict) and all(is_number(f) and f >= 0 for f in factors.values())),
            "a table of numbers of at least 0, as in {embedding = 0.1, layers = 0.3}",
        )
        added = self.add_elements
        known = isinstance(added, list | tuple) and all(isinstance(e, str) and atomic_numbers.get(e) for e in added)
        check("add_elements", known and len(set(added)) == len(added), "a list of chemical symbols, each once")
        object.__setattr__(self, "add_elements", tuple(added))


def rate_factors(settings: FineTuningConfig, model: ModelConfig) -> dict[str, float]:
    """Factor of the learning rate of the parameters, by the first part of their names; 0: they stay as they are.

    Settings have parts of the network: embedding, all that comes before the first layer; layers_0 ...; readout, all
    that comes after the last. Raises ConfigError for other parts, and where nothing learns.
    """
    layers = [f"layers_{k}" for k in range(model.layers)]
    parts = ["embedding", *layers, "readout"]
    if settings.strategy == "last-layers" and settings.last_layers > model.layers:
        raise ConfigError(
            f"finetuning.last_layers = {settings.last_layers}: the model has {counted(model.layers, 'layer')}"
        )
    first = {"full": 0, "last-layers": len(parts) - 1 - settings.last_layers, "readout": len(parts) - 1}
    learning = parts[first[settings.strategy] :]
    given = settings.rate_factors or {}
    for name, factor in given.items():
        if name not in (*parts, "layers"):
            raise ConfigError(f"finetuning.rate_factors.{name}: known are layers, {', '.join(parts)}")
        if factor > 0 and name not in learning and not (name == "layers" and set(layers) & set(learning)):
            raise ConfigError(
                f"finetuning.rate_factors.{name} = {factor:g}, but strategy {settings.strategy!r} leaves it as it is: "
                "give strategy = 'full', or leave the factor out"
            )
    factors = {}
    for part in parts:
        factor = given.get(part, given.get("layers", 1.0) if part in layers else 1.0)
        factors[part] = float(factor) if part in learning else 0.0
    if not any(factors.values()):
        raise ConfigError(f"finetuning.rate_factors = {given}: nothing learns, give a factor above 0")
    if settings.add_elements and factors["embedding"] == 0:
        raise ConfigError(
            f"finetuning.add_elements = {list(settings.add_elements)}, but their embedding does not learn, so that "
            "they stay what they begin as: give strategy = 'full' without embedding = 0"
        )
    names = {"embedding": model.inputs, "readout": model.outputs}
    return {name: factor for part, factor in factors.items() for name in names.get(part, (part,))}


def require_start(settings: FineTuningConfig, initial_model: str | None) -> None:
    """Raises ConfigError for settings of [finetuning] where no model is named to go on from."""
    if initial_model is not None:
        return
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            shown = list(value) if isinstance(value, tuple) else value
            raise ConfigError(
                f"finetuning.{field.name} = {shown!r}, but there is no model to go on from: give --from MODEL or "
                "training.initial_model"
            )


def gentler(training: Mapping[str, Any]) -> dict[str, Any]:
    """Section [training] of a preset for a model that is trained already: smaller steps, and fewer of them."""
    fewer = {key: max(1, training[key] // FEWER) for key in ("steps", "epochs") if key in training}
    return {**training, **fewer, "learning_rate": SMALLER * training["learning_rate"]}


def same_network(given: Mapping[str, Any], model: ModelConfig, source: str) -> dict[str, Any]:
    """The [model] section of a run that goes on from a model: the model's own.

    Raises ConfigError for a key that is given and says otherwise, with both values.
    """
    own = {"architecture": "so3krates", **dataclasses.asdict(model), **model.to_dict()}
    for key, value in given.items():
        theirs = own.get(key)
        if key in own and _as_tuple(value) != _as_tuple(theirs):
            shown = "nothing" if theirs is None else repr(theirs)
            raise ConfigError(
                f"model.{key} = {value!r}, but training.initial_model = {source} has {shown}: leave it out, or "
                "train without a model to start from"
            )
    return {**given, **model.to_dict()}


def same_interactions(given: Mapping[str, Any], model: Model, source: str) -> dict[str, Any]:
    """The [terms] section of a run that goes on from a model, with the interactions of the model.

    Raises ConfigError for a key that is given and says otherwise, with both values.
    """
    own = settings_of(model.interactions)
    for section in own.keys() | (given.keys() & INTERACTIONS.keys() if own else set()):
        values = given.get(section, {})
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"terms.{section} = {values!r}: leave it out, as training.initial_model = {source} decides"
            )
        for key, value in values.items():
            theirs = own.get(section, {}).get(key)
            if value != theirs:
                raise ConfigError(
                    f"terms.{section}.{key} = {value!r}, but training.initial_model = {source} has "
                    f"{'nothing' if theirs is None else repr(theirs)}: leave [terms.{section}] out"
                )
    return {**given, **own}


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def member_starts(source: str | None, members: int) -> list[str | None]:
    """The model that each member of a committee goes on from: the same one, or of a committee as large its own.

    Raises ConfigError for a committee of another size.
    """
    folders = [] if source is None else member_folders(source)
    if source is None or len(folders) == 1:
        return [source] * members
    if len(folders) != members:
        raise ConfigError(
            f"training.initial_model = {source} holds {len(folders)} models for {counted(members, 'member')}: "
            f"--committee {len(folders)} goes on from each of them, {folders[0]} names one"
        )
    return [str(folder) for folder in folders]


def of_model(given: Mapping[str, dict[str, Any]], source: str) -> dict[str, dict[str, Any]]:
    """Settings by section with network and interactions of the model, or the first of a committee, to go on from.

    Raises ConfigError for settings that say otherwise, and ModelError as `initial_model`.
    """
    model = initial_model(member_folders(source)[0])
    network = same_network(given["model"], model.config, source)
    return {**given, "model": network, "terms": same_interactions(given["terms"], model, source)}


def initial_model(path: str | Path) -> Model:
    """The model of a folder or of a name, to go on from. Raises ModelError for what holds none, or several."""
    path = located(path)
    if path.is_file():
        raise ModelError(
            f"{path} is a file, and a run goes on from a model folder: give the one that the bundle was exported from "
            "(a bundle has tables and products of weights in place of the weights)"
        )
    if not path.is_dir():
        raise ModelError(
            f"{path}: no such folder{looked_for(path)}: give the model folder to go on from, which a training wrote"
        )
    members = member_folders(path)
    if len(members) > 1:
        raise ModelError(f"{path} holds {len(members)} models: give the one to go on from, as in {members[0]}")
    return Model.load(path)
