"""What a run is made of before its first step: graphs, labels that it needs, sizes that fit."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from so3krates.data import (
    DataError,
    FrameGraph,
    StoredFrames,
    StoredGraphs,
    elements_of,
    energy_shifts,
    fit_shifts,
    frame_graphs,
    shortest_distances,
    without_terms,
)
from so3krates.files import plain_text
from so3krates.model.config import ModelConfig
from so3krates.model.terms import Term
from so3krates.wording import counted

from .charges import LABELLED_WEIGHTS, labels_of_charges, predicts_charges
from .charges import WEIGHTS as CHARGE_WEIGHTS
from .config import FILES, WEIGHTS, RunConfig, TrainingConfig
from .loss import labels_of
from .run_folder import TrainingError


def shifts_of(frames: Sequence[Atoms] | StoredFrames, mode: str | Mapping[str, float]) -> dict[str, float]:
    """Energy shifts (eV) of the elements of frames."""
    if isinstance(frames, StoredFrames):
        return fit_shifts(*frames.composition(), mode)
    return energy_shifts(frames, mode)


def elements_in(*sets: Sequence[Atoms] | StoredFrames) -> list[str]:
    """Chemical symbols of the frames of all sets, by atomic number."""
    found: set[str] = set()
    for frames in sets:
        if isinstance(frames, StoredFrames):
            found.update(frames.composition()[0])
        elif len(frames):
            found.update(elements_of(frames))
    return sorted(found, key=atomic_numbers.__getitem__)


def graphs_of(
    frames: Sequence[Atoms] | StoredFrames,
    cutoff: float,
    shifts: Mapping[str, float],
    name: str,
    reach: float | None = None,
) -> Sequence[FrameGraph]:
    """Graphs of a named set; reach (A): of predicted charges. Raises DataError for frames that cannot be used."""
    if isinstance(frames, StoredFrames):
        return frames.graphs(cutoff, shifts)
    return frame_graphs(frames, cutoff, shifts, name, reach=reach)


def weighed(graphs: Sequence[FrameGraph], config: RunConfig) -> tuple[TrainingConfig, list[str]]:
    """Settings in which weights that are not given are numbers: 0 for labels that no training frame has, and that of
    stresses by the share of training frames that have one.

    Returns what the user should know of it, too. Raises DataError as `require_labels`.
    """
    labelled, keys = _labelled(graphs), config.data.wanted
    settings = _weights_of(config)
    left = [
        name for name, weight in settings.items() if getattr(config.training, weight) is None and not labelled[name]
    ]
    usual = {name: weight for name, weight in LABELLED_WEIGHTS.items() if name in settings.values()}
    weights: dict[str, Any] = usual | config.training.weights | {settings[name]: 0.0 for name in left}
    require_labels(graphs, config, weights, "training")
    missing = " and ".join(f"{name} (key {keys[name]!r})" for name in left if keys[name])
    said = (
        f"none of {counted(len(graphs), 'training frame')} has {missing}: left out of the loss; "
        "labels under another name need their key under [data]"
    )
    told = [said] if missing else []
    count, stress = sum(bool(np.isfinite(virial).any()) for _, _, virial in labels_of(graphs)), WEIGHTS["stress"]
    if config.training.stress_weight is None and 0 < count < len(graphs):
        # A mean over few labels is noise that would outweigh those that all frames have, and choose the best weights.
        weights[stress] = float(f"{weights[stress] * count / len(graphs):.2g}")
        told.append(
            f"{counted(count, 'frame')} of the {len(graphs)} that train {'has' if count == 1 else 'have'} a stress: "
            f"{stress} is {weights[stress]:g}, less by that share; training.{stress} sets another"
        )
    return dataclasses.replace(config.training, **weights), told


def require_labels(graphs: Sequence[FrameGraph], config: RunConfig, weights: Mapping[str, float], name: str) -> None:
    """Refuses a weight that is given on a label that no frame of the named set has, and a set with none at all."""
    labelled, keys, settings = _labelled(graphs), config.data.wanted, _weights_of(config)
    for quantity, setting in settings.items():
        given = getattr(config.training, setting)
        if given is not None and given > 0 and not labelled[quantity]:
            raise DataError(
                f"training.{setting} = {given} but none of {len(graphs)} {name} frames has a label for it "
                f"(key {keys[quantity]!r}): name the right key under [data], or set training.{setting} = 0"
            )
    if not any(labelled[quantity] and weights[setting] > 0 for quantity, setting in settings.items()):
        raise DataError(
            f"none of {len(graphs)} {name} frames has a label that the loss weighs (keys {keys}): name the right keys "
            "under [data]"
        )


def _weights_of(config: RunConfig) -> dict[str, str]:
    """The setting of the weight of each quantity that the network predicts."""
    return WEIGHTS | (CHARGE_WEIGHTS if predicts_charges(config.terms) else {})


def _labelled(graphs: Sequence[FrameGraph]) -> dict[str, bool]:
    """Whether any of the graphs has each label."""
    more = zip(CHARGE_WEIGHTS, zip(*labels_of_charges(graphs), strict=True), strict=False)
    of_charges = {name: any(np.isfinite(label).any() for label in labels) for name, labels in more}
    found = np.zeros(len(WEIGHTS), bool)
    for labels in labels_of(graphs):
        found |= [bool(np.isfinite(label).any()) for label in labels]
        if found.all():
            break
    return dict(zip(WEIGHTS, found.tolist(), strict=True)) | of_charges


def distances_in(graphs: Sequence[FrameGraph]) -> dict[str, float]:
    """Shortest distances (A) of neighbours by pair of elements."""
    return graphs.distances if isinstance(graphs, StoredGraphs) else shortest_distances(graphs)


def largest_force_in(graphs: Sequence[FrameGraph]) -> float | None:
    """The largest force on an atom among the labels (eV/A); None where there is no label."""
    largest = 0.0
    for _, forces, _ in labels_of(graphs):
        squares = np.square(forces).sum(axis=1)
        largest = max(largest, float(squares[np.isfinite(squares)].max(initial=0.0)))
    return float(np.sqrt(largest)) or None


def differences(graphs: Sequence[FrameGraph], terms: Sequence[Term]) -> Sequence[FrameGraph]:
    """Graphs whose labels have what the terms give taken off: the network learns the rest."""
    if not terms:
        return graphs
    if isinstance(graphs, StoredGraphs):
        return graphs.without(terms)
    return [without_terms(graph, terms) for graph in graphs]


def moved(graphs: Sequence[FrameGraph], moves: Mapping[str, float]) -> Sequence[FrameGraph]:
    """Graphs with other energy shifts; moves: what is added to the shift (eV) of each element."""
    if isinstance(graphs, StoredGraphs):
        return graphs.moved(moves)
    by_number = np.zeros(len(chemical_symbols))
    by_number[[atomic_numbers[element] for element in moves]] = list(moves.values())
    return [graph._replace(energy=graph.energy - float(by_number[graph.species].sum())) for graph in graphs]


def unlabelled(graphs: Sequence[FrameGraph]) -> list[FrameGraph]:
    """Graphs without labels."""
    return [
        graph._replace(
            energy=np.nan,
            forces=np.full_like(graph.forces, np.nan),
            virial=np.full((3, 3), np.nan),
            system=None if graph.system is None else graph.system.without_labels(),
        )
        for graph in graphs
    ]


def without_folders(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose files are named without the folders of this machine: a model and its bundles are given away."""
    for section, keys in FILES.items():
        own = settings.get(section, {})
        # Bytes that are no text, which a name may hold, have no place in TOML.
        own |= {key: plain_text(Path(own[key]).name) for key in keys if key in own}
    return settings


# Of the shortest distance in the training data: where a basis that is uniform in d begins, in steps of START_STEP, so
# that a few more frames do not change it.
START_SHARE = 0.9
START_STEP = 0.1  # A


def with_start(config: ModelConfig, shortest: float) -> ModelConfig:
    """The network with `radial_start` as a number: a tenth below `shortest` (A).

    A start that is given, and a basis that has none, are left as they are.
    """
    if config.radial_basis != "gaussian" or config.radial_start is not None:
        return config
    steps = math.floor(START_SHARE * min(shortest, config.cutoff) / START_STEP)
    return dataclasses.replace(config, radial_start=round(steps * START_STEP, 10))


def require_parts(settings: TrainingConfig, batch_size: int) -> list[str]:
    """Refuses more parts than a batch has structures, and more devices than a process has; returns what is to say."""
    processes, parts = jax.process_count(), settings.parts * jax.process_count()
    if parts > batch_size:
        each = f" for each of {processes} processes" if processes > 1 else ""
        raise TrainingError(
            f"a batch of {batch_size} structures cannot be split into training.accumulate = {settings.accumulate} "
            f"times training.devices = {settings.devices} parts{each}: give a training.batch_size of at least {parts}"
        )
    if settings.devices > jax.local_device_count():
        raise TrainingError(f"training.devices = {settings.devices}, but JAX sees {jax.local_device_count()}")
    if processes == 1 or batch_size % parts == 0:
        return []
    return [
        f"a batch of {batch_size} structures goes to {parts} parts as {-(-batch_size // parts)} or "
        f"{batch_size // parts}: some wait for the others; a training.batch_size of {batch_size - batch_size % parts} "
        f"or {batch_size + -batch_size % parts} wastes nothing"
    ]


def fingerprint(*sets: Sequence[FrameGraph]) -> str:
    """Hash of the frames and labels of all sets, in order."""
    digest = hashlib.sha256()
    for graphs in sets:
        digest.update(str(len(graphs)).encode())
        if isinstance(graphs, StoredGraphs):
            digest.update(graphs.digest.encode())
            continue
        for g in graphs:
            own = () if g.system is None else (np.array(g.system.state), *g.system[3:])
            for array in (g.species, g.positions, g.cell, np.float64(g.energy), g.forces, g.virial, *own):
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
