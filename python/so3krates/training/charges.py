"""Charges that the network predicts: what their section of the settings makes of a run (docs/charges.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from so3krates.data import FrameGraph, StoredGraphs
from so3krates.data.charge_labels import RATIOS
from so3krates.model.config import SO3LR, ConfigError, ModelConfig, So3lrConfig
from so3krates.model.long_range import Dispersion, Electrostatics, Interaction, interactions_from, predicted_sections
from so3krates.model.network import Params

SECTION = Electrostatics.section
# Of a preset's network: what one of the architecture so3lr takes over.
TAKEN_OVER = ("cutoff", "features", "heads", "layers", "degrees", "embeddings")
# Settings of the loss.
WEIGHTS = {"charges": "charge_weight", "dipole": "dipole_weight", "ratios": "ratio_weight"}
KEYS = {"charges_key": "charges", "dipole_key": "dipole"}  # of [data], where the settings give none
KEYS_OF_DISPERSION = {"ratios_key": RATIOS}  # the same
ALL_KEYS = KEYS | KEYS_OF_DISPERSION
OWN_SETTINGS = {"data": tuple(ALL_KEYS), "training": tuple(WEIGHTS.values())}
# Theirs where the settings give none and the training data have the label.
LABELLED_WEIGHTS = {"charge_weight": 1.0, "dipole_weight": 1.0, "ratio_weight": 1.0}
SMALLER = 0.1  # of the last matrices at first: random charges would have energies of many eV


def predicts_charges(terms: Mapping[str, Any]) -> bool:
    """Whether the sections of [terms] ask for a network that predicts charges."""
    return SECTION in predicted_sections(terms)


def reads_ratios(terms: Mapping[str, Any]) -> bool:
    """Whether the sections of [terms] have dispersion by Hirshfeld ratios that the network predicts."""
    return Dispersion.section in predicted_sections(terms)


def usual_keys(sections: Collection[str]) -> dict[str, str]:
    """Keys of labels in section [data] where the settings give none, of interactions with these sections of [terms]."""
    return (KEYS if SECTION in sections else {}) | (KEYS_OF_DISPERSION if Dispersion.section in sections else {})


def interactions_of(terms: Mapping[str, Any], elements: Sequence[str] = ()) -> tuple[Interaction, ...]:
    """Interactions of what the network says of atoms, of the sections of [terms]. Raises ConfigError."""
    return interactions_from(predicted_sections(terms), elements)


def without_interactions(terms: Mapping[str, Any]) -> dict[str, Any]:
    """The other sections of [terms]. Raises ConfigError for interactions that cannot be."""
    interactions_of(terms)
    found, section = predicted_sections(terms), Dispersion.section
    if section in terms and section not in found:
        form = terms[section].get("form") if isinstance(terms[section], Mapping) else terms[section]
        raise ConfigError(f"terms.{section}.form = {form!r}: known is {Dispersion.name}")
    if section in found and SECTION not in found:
        raise ConfigError(
            f'terms.{section}.form = "{Dispersion.name}" needs a network that predicts charges as well: add '
            f'[terms.{SECTION}] form = "{Electrostatics.name}"'
        )
    return {section: values for section, values in terms.items() if section not in found}


def network_of(settings: Mapping[str, Any], terms: Mapping[str, Any]) -> ModelConfig:
    """The network of section [model] beside these terms. Raises ConfigError."""
    if not predicts_charges(terms):
        return ModelConfig.from_dict(dict(settings))
    own = {"mean_neighbours": None, **settings}
    architecture = own.pop("architecture", SO3LR)
    if architecture != SO3LR:
        raise ConfigError(f"model.architecture = {architecture!r}: one that predicts charges is {SO3LR!r}")
    return So3lrConfig.from_dict(own)


def sizes_of_preset(model: Mapping[str, Any]) -> dict[str, Any]:
    """What a network that predicts charges takes of section [model] of a preset."""
    return {key: model[key] for key in TAKEN_OVER if key in model}


def require_fitting(model: ModelConfig, terms: Mapping[str, Any], sections: Mapping[str, Any]) -> None:
    """Raises ConfigError for a network with charges without their section, or the other way round, and for settings of
    charges or of a run (`sections` by name) that do not go with it."""
    if isinstance(model, So3lrConfig) != predicts_charges(terms):
        raise ConfigError(
            f'a network of the architecture {SO3LR} is trained with [terms.{SECTION}] form = "{Electrostatics.name}", '
            "and this form with such a network alone"
        )
    is_predicted = isinstance(model, So3lrConfig)
    if is_predicted and not reads_ratios(terms) and (sections["data"].ratios_key or sections["training"].ratio_weight):
        raise ConfigError(
            f"data.ratios_key or training.ratio_weight is given, but nothing reads Hirshfeld ratios: [terms."
            f'{Dispersion.section}] form = "{Dispersion.name}" does'
        )
    known = {"data": ("stream",)} if is_predicted else OWN_SETTINGS
    for section, names in known.items():
        for name in names:
            value = getattr(sections[section], name)
            if not value:
                continue
            shown = f"{section}.{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
            if is_predicted:
                raise ConfigError(
                    f"{shown}: a network that predicts charges is trained on frames in memory: leave it out"
                )
            raise ConfigError(
                f"{shown}, but the network predicts no charges: it does with "
                f'[terms.{SECTION}] form = "{Electrostatics.name}"'
            )


def read_factors(factors: dict[str, float], terms: Mapping[str, Any]) -> dict[str, float]:
    """Factors of the learning rate in which ratios that no interaction reads have nothing to learn."""
    return factors | ({"hirshfeld": 0.0} if predicts_charges(terms) and not reads_ratios(terms) else {})


def with_neighbours(config: ModelConfig, graphs: Sequence[FrameGraph]) -> ModelConfig:
    """The network with its mean number of neighbours, counted in the training data where it is not given."""
    if not isinstance(config, So3lrConfig) or config.mean_neighbours is not None:
        return config
    atoms = sum(len(graph.species) for graph in graphs)
    neighbours = sum(int(graph.table.counts.sum()) for graph in graphs)
    return dataclasses.replace(config, mean_neighbours=round(max(1.0, neighbours / max(atoms, 1)), 4))


def labels_of_charges(graphs: Sequence[FrameGraph]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Charges (n,), dipole (3,) and Hirshfeld ratios (n,) of each graph, NaN without label; none for a network without
    charges."""
    if isinstance(graphs, StoredGraphs):
        return []
    return [(g.system.charges, g.system.dipole, g.system.ratios) for g in graphs if g.system is not None]


def begun(params: Params, graphs: Sequence[FrameGraph]) -> Params:
    """Random parameters of a network that predicts charges whose energies and charges are small at first.

    Where there are labels, charges and Hirshfeld ratios begin about the mean of each element. Others stay as they are.
    """
    if "charges" not in params:
        return params
    labels, species = labels_of_charges(graphs), np.concatenate([graph.species for graph in graphs])
    found = {**params, "readout": _smaller(params["readout"])}
    for head, place in (("charges", 0), ("hirshfeld", 2)):
        values = np.concatenate([own[place] for own in labels])
        shift = np.array(params[head]["shift"])
        for number in np.unique(species[np.isfinite(values)]):
            shift[number] = values[(species == number) & np.isfinite(values)].mean()
        found[head] = {**params[head], "shift": shift}
    found["charges"]["network"] = _smaller(params["charges"]["network"])  # ratios differ little at first as they are
    return found


def _smaller(head: Params) -> Params:
    """A head whose last matrix is smaller."""
    last = max(head)  # dense_0, dense_1, ...
    return {**head, last: {**head[last], "kernel": SMALLER * np.asarray(head[last]["kernel"])}}


def unused_dipoles(graphs: Sequence[FrameGraph], found: int) -> str:
    """What to say where frames have dipoles that are not defined; found: how many frames have one."""
    used = sum(bool(np.isfinite(dipole).any()) for _, dipole, _ in labels_of_charges(graphs))
    if found == used:
        return ""
    return (
        f"{found - used} of {found} dipoles are left out of the loss: in a periodic cell a dipole depends on the "
        "choice of images, and of a charged structure on the origin"
    )
