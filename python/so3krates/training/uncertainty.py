"""From a trained network and its data to the density of environments."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from so3krates.model.config import So3lrConfig
from so3krates.storage import Model
from so3krates.uncertainty.density import Density, UncertaintyError, calibrated, density_of

from .evaluate import elements_of, environments_of, evaluate, reference

MOST_ATOMS = 50_000  # of the training data that the density is made of; frames are left out evenly


def with_uncertainty(model: Model, train: Sequence[Atoms], valid: Sequence[Atoms]) -> Model:
    """The model with the density of its training environments, calibrated on frames that did not train.

    Raises UncertaintyError where elements or forces are missing.
    """
    return dataclasses.replace(model, uncertainty=fit_density(model, train, valid))


def fit_density(model: Model, train: Sequence[Atoms], valid: Sequence[Atoms]) -> Density:
    """The density of the training environments, calibrated on the forces of frames that did not train.

    Raises UncertaintyError where elements or forces are missing.
    """
    if isinstance(model.config, So3lrConfig):
        raise UncertaintyError("a model that predicts charges has none yet")
    total = sum(map(len, train))
    if total == 0:
        raise UncertaintyError("there are no training frames")
    chosen = _chosen(train, -(-total // MOST_ATOMS))
    rows = np.concatenate(environments_of(model, chosen))
    density = density_of(rows, elements_of(model, chosen), model.elements)
    labels, predicted = reference(valid), evaluate(model, valid)
    errors = np.concatenate([f - g for f, g in zip(predicted.forces, labels.forces, strict=True)] or [np.zeros((0, 3))])
    known = ~np.isnan(errors).any(axis=1)
    if not known.any():
        raise UncertaintyError("there are no forces that did not train: give validation frames with forces")
    elements = elements_of(model, valid)[known]
    distances = density.distances(np.concatenate(environments_of(model, valid))[known], elements)
    return calibrated(density, distances, elements, errors[known])


def _chosen(frames: Sequence[Atoms], step: int) -> list[Atoms]:
    """Every so many frames, and those with elements that none of these has."""
    chosen = list(frames[::step])
    known = {symbol for atoms in chosen for symbol in atoms.symbols}
    for atoms in frames:
        if not known.issuperset(atoms.symbols):
            chosen.append(atoms)
            known.update(atoms.symbols)
    return chosen
