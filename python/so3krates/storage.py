"""A trained model on disk: one folder with `config.toml` and `weights.safetensors`."""

from __future__ import annotations

import dataclasses
import functools
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tomli_w
from ase.data import atomic_numbers
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from .baselines import Baseline, baselines_from, pair_sections, settings_of_baselines
from .files import looked_for, make_folder, write_bytes, write_text
from .model.config import ConfigError, ModelConfig, So3lrConfig, config_from
from .model.long_range import INTERACTIONS, Interaction, interactions_from, longest
from .model.network import Params
from .model.so3lr import initial_params
from .model.terms import Term, beside_terms, settings_of, terms_from
from .shipped import located
from .uncertainty.density import Density

CONFIG_FILE = "config.toml"
WEIGHTS_FILE = "weights.safetensors"
UNCERTAINTY_FILE = "uncertainty.safetensors"
FORMAT = "so3krates-model"
VERSION = 4  # where there are baselines; 3 of the architecture so3lr; 2 where there are terms; else 1


class ModelError(ValueError):
    """A model that cannot be saved or read; the message names the file and what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Model:
    """All that is needed to evaluate or export a potential.

    An atom's energy is the network's output plus `energy_shifts` of its element, in eV, added in float64, plus its
    share of the terms.
    """

    config: ModelConfig
    params: Params  # nested dict of arrays; flat names as in the network
    elements: tuple[str, ...]  # chemical symbols that the network was trained on
    energy_shifts: dict[str, float]  # eV per atom, one for each of `elements`
    training: dict[str, Any] | None = None  # what is known of data, settings and errors; plain values
    terms: tuple[Term, ...] = ()  # added to the network's energy
    uncertainty: Density | None = None  # of the training environments
    interactions: tuple[Interaction, ...] = ()  # of long range, with what the network of SO3LR says of atoms
    baselines: tuple[Baseline, ...] = ()  # that the network learnt the rest of; whoever evaluates adds them

    def __post_init__(self) -> None:
        require_elements(self.config, self.elements, self.energy_shifts)

    @property
    def reach(self) -> float:
        """The largest cutoff (A) of the network and of the terms."""
        return max(self.config.cutoff, *(term.cutoff for term in self.terms), 0.0)

    @property
    def long_reach(self) -> float | None:
        """Where the interactions of a network of the architecture so3lr end, A; None of another network."""
        return longest(self.interactions) if isinstance(self.config, So3lrConfig) else None

    @property
    def _version(self) -> int:
        if self.baselines:
            return VERSION
        if isinstance(self.config, So3lrConfig):
            return 3
        return 2 if self.terms else 1

    def save(self, folder: str | Path) -> Path:
        """Write the model to `folder`, which is made when missing; returns its path. Raises WriteError."""
        folder = Path(folder)
        make_folder(folder)
        config = {
            "format": FORMAT,
            "version": self._version,
            "elements": list(self.elements),
            "energy_shifts": {symbol: float(self.energy_shifts[symbol]) for symbol in self.elements},
            "model": self.config.to_dict(),
        }
        sections: dict[str, Any] = {"terms": settings_of((*self.terms, *self.interactions))}
        for section, values in settings_of_baselines(self.baselines).items():
            of_terms = section.removeprefix("terms.")
            (sections["terms"] if of_terms != section else sections)[of_terms] = values
        config |= {name: values for name, values in sections.items() if values}
        if self.training is not None:
            config["training"] = _plain(self.training)
        weights = {name: np.ascontiguousarray(array) for name, array in flat_params(self.params).items()}
        write_bytes(folder / WEIGHTS_FILE, save(weights))
        if self.uncertainty is not None:
            arrays = {n: np.ascontiguousarray(value, np.float64) for n, value in self.uncertainty._asdict().items()}
            write_bytes(folder / UNCERTAINTY_FILE, save(arrays))
        else:
            (folder / UNCERTAINTY_FILE).unlink(missing_ok=True)
        write_text(folder / CONFIG_FILE, tomli_w.dumps(config))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Model:
        """Read a folder written by `save`.

        Raises ModelError when a file is missing, damaged, newer than this version or does not fit the other.
        """
        folder = located(folder)
        path = folder / CONFIG_FILE
        if not path.is_file():
            if not folder.exists():
                raise ModelError(f"{folder}: no such model folder{looked_for(folder)}")
            advice = ": give the folder that the training made, not a bundle" if folder.is_file() else ""
            raise ModelError(f"{folder} is not a model folder: {CONFIG_FILE} is missing{advice}")
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ModelError(f"{path} is damaged: {error}") from error
        if content.get("format") != FORMAT:
            raise ModelError(f'{path} does not describe a model: format = "{FORMAT}" is missing')
        if content.get("version") not in range(1, VERSION + 1):
            raise ModelError(
                f"{path} has version {content.get('version')!r}, this so3krates reads 1 to {VERSION}: update so3krates"
            )
        try:
            for key, kind, words in (("model", dict, "a section"), ("elements", list, "a list")):
                if not isinstance(content[key], kind):
                    raise TypeError(f"{key} = {content[key]!r}: must be {words}")
            config = config_from(content["model"])
            elements, shifts = tuple(content["elements"]), dict(content["energy_shifts"])
            shifts = {symbol: float(value) for symbol, value in shifts.items()}
            terms, interactions = _terms_from(config, content.get("terms", {}), elements)
            baselines = baselines_from(content.get("terms", {}), content.get("baseline", {}))
        except KeyError as error:
            raise ModelError(f"{path}: {error.args[0]} is missing") from error
        except (ConfigError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: {error}") from error
        params = _read_weights(folder / WEIGHTS_FILE, config)
        density = _read_uncertainty(folder / UNCERTAINTY_FILE, config, len(elements))
        return cls(config, params, elements, shifts, content.get("training"), terms, density, interactions, baselines)


def _terms_from(
    config: ModelConfig, settings: Any, elements: Sequence[str]
) -> tuple[tuple[Term, ...], tuple[Interaction, ...]]:
    """Terms of pairs, and the interactions that a network of SO3LR has beside them. Raises ConfigError."""
    if not (isinstance(config, So3lrConfig) and isinstance(settings, Mapping)):
        return terms_from(pair_sections(settings), elements), ()
    of_pairs = {section: values for section, values in settings.items() if section not in INTERACTIONS}
    return terms_from(of_pairs, elements), interactions_from(settings, elements)


def with_term(model: Model, section: str, settings: Mapping[str, Any]) -> Model:
    """A model with a further term, which was trained without it.

    The term must end below the shortest distances of the training data, where the model has no say; default radii do.
    Raises ModelError where it does not, where they are not known, and where the model has such a term; ConfigError for
    settings that cannot work.
    """
    had = next((term for term in model.terms if term.section == section), None)
    if had is not None:
        raise ModelError(f"the model has a {section} already, which it was trained with: {had.describe()}")
    distances = (model.training or {}).get("distances")
    (term,) = terms_from({section: settings}, model.elements, distances)
    if distances is None and len(settings) < 2:
        raise ModelError(
            f"the model does not say the shortest distances of its training data, below which a {section} must end: "
            "give its outer radius (--repulsion-outer), or train again"
        )
    for pair, radius in term.outer_radii.items():
        of_pair = (d for name, d in (distances or {}).items() if set(name.split("-")) == set(pair.split("-")))
        seen = min(of_pair, default=math.inf)
        if radius > seen:
            raise ModelError(
                f"the {section} of {pair} would reach to {radius:g} A, but the training data have such pairs at "
                f"{seen:.4g} A, whose labels hold all there is: give an outer radius below that, or train with "
                f"[terms.{section}]"
            )
    shortest = min((distances or term.outer_radii).values())
    config = beside_terms(model.config, (term,), shortest)
    return dataclasses.replace(model, config=config, terms=(*model.terms, term))


def require_elements(config: ModelConfig, elements: Sequence[str], energy_shifts: Mapping[str, float]) -> None:
    """Raise ModelError for elements and shifts (eV) that no model can have; before training, not after it."""
    for symbol in elements:
        number = atomic_numbers.get(symbol, 0)
        if not 1 <= number < config.embeddings:
            raise ModelError(
                f"element {symbol!r}: give chemical symbols of atomic numbers 1 to {config.embeddings - 1}, or set "
                "model.embeddings higher"
            )
    if not elements or len(set(elements)) != len(elements):
        raise ModelError(f"elements {list(elements)}: give each element once, and at least one")
    if set(energy_shifts) != set(elements):
        raise ModelError(
            f"energy_shifts are given for {sorted(energy_shifts)}, elements are {sorted(elements)}: "
            "give one shift for each element"
        )
    lost = [symbol for symbol in elements if not math.isfinite(energy_shifts[symbol])]
    if lost:
        raise ModelError(
            f"the energy shift of {lost[0]} is {energy_shifts[lost[0]]}: look for energies that are not finite"
        )


def flat_params(params: Params) -> dict[str, np.ndarray]:
    """Parameters by flat name, such as `layers_0/exchange/kernel`."""
    return {name: np.asarray(array) for name, array in flatten_dict(params, sep="/").items()}


@functools.lru_cache(maxsize=16)
def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Flat name and shape of every parameter of the network, without computing any."""
    tree = jax.eval_shape(lambda: initial_params(config, 0))
    return {name: leaf.shape for name, leaf in flatten_dict(tree, sep="/").items()}


def check_weights(weights: dict[str, np.ndarray], config: ModelConfig, source: str) -> None:
    """Raise ModelError unless `weights` have names and shapes of the network's parameters and are finite."""
    shapes = parameter_shapes(config)
    for kind, names in (("lacks", shapes.keys() - weights.keys()), ("has unknown", weights.keys() - shapes.keys())):
        if names:
            raise ModelError(f"{source} {kind} {min(names)} ({len(names)} in all): it belongs to another network")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ModelError(f"{source}: {name} has shape {weights[name].shape}, the network needs {shape}")
    _require_finite(weights, source)


def _require_finite(arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Raises ModelError for the first array that holds a number that is none."""
    for name, array in arrays.items():
        lost = int(np.sum(~np.isfinite(array)))
        if lost:
            raise ModelError(
                f"{source}: {lost} of {array.size} numbers in {name} are not finite: the training that wrote it had "
                "diverged, or the file was altered; train again or take another copy"
            )


def _read_weights(path: Path, config: ModelConfig) -> Params:
    if not path.is_file():
        raise ModelError(f"{path.parent} is not a model folder: {path.name} is missing")
    try:
        weights = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    check_weights(weights, config, str(path))
    return unflatten_dict(weights, sep="/")


def _read_uncertainty(path: Path, config: ModelConfig, elements: int) -> Density | None:
    if not path.is_file():
        return None
    try:
        arrays = load_file(path)
        _require_finite(arrays, str(path))
        density = Density.from_arrays(arrays, elements)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    width = config.features + len(config.degrees)
    if len(density.mean) != width:
        raise ModelError(f"{path}: is of environments of {len(density.mean)} numbers, and the network has {width}")
    return density


def _plain(value: Any) -> Any:
    """`value` in types that TOML knows; None is left out of tables and not allowed elsewhere."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    return value
