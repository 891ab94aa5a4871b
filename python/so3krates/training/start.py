"""What a run goes on from: a model, with the elements, terms and energy shifts that the new data ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from flax.traverse_util import flatten_dict, unflatten_dict

from so3krates.baselines import Baseline, baselines_from, pair_sections, settings_of_baselines
from so3krates.data import FrameGraph, fit_shifts
from so3krates.model.config import ConfigError, ModelConfig
from so3krates.model.long_range import Interaction
from so3krates.model.network import Params
from so3krates.model.so3lr import TABLES
from so3krates.model.terms import FLOOR_SHARE, Term, settings_of, terms_from
from so3krates.storage import Model

from .charges import interactions_of, without_interactions
from .config import RunConfig
from .evaluate import ordered_batches
from .finetuning import initial_model, same_network
from .loss import labels_of
from .run_folder import TrainingError
from .step import batch_energies

NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)
BATCH = 8  # frames whose energies are computed at once
LONGEST_SHIFTS = 6  # elements whose shifts are said


@dataclasses.dataclass(frozen=True)
class Start:
    """A model as a run with these elements goes on from it."""

    model: Model  # as it is on disk
    elements: tuple[str, ...]  # of the run: those of the model that its frames have, then the added ones
    params: Params  # the model's, with the rows of added elements
    said: tuple[str, ...]  # what the user should know

    @property
    def shifts(self) -> dict[str, float]:
        """Energy shifts (eV) of the elements as the model has them; 0 for added ones."""
        return {element: self.model.energy_shifts.get(element, 0.0) for element in self.elements}


def start_of(config: RunConfig, present: Sequence[str]) -> Start | None:
    """The model of `training.initial_model` for frames with these elements; None where the run names none.

    Raises ModelError for what is no model, ConfigError for another network, TrainingError for elements that it does not
    know and that are not added by name.
    """
    name = config.training.initial_model
    if name is None:
        return None
    model, source = initial_model(name), f"training.initial_model = {name}"
    given = config.model.to_dict()
    del given["radial_floor"]  # it follows from the data
    same_network(given, model.config, name)
    if settings_of(interactions_of(config.terms, model.elements)) != settings_of(model.interactions):
        words = "; ".join(part.describe() for part in model.interactions) or "no charges that it predicts"
        raise ConfigError(f"{source} has {words}, and [terms] of the run something else: leave these sections out")
    known, added = ", ".join(model.elements), config.finetuning.add_elements
    unknown = [e for e in present if e not in model.elements]
    missing = [e for e in unknown if e not in added]
    if missing:
        raise TrainingError(
            f"the frames have {', '.join(missing)}, which {source} does not know (it knows {known}): "
            f"--add-elements {','.join(unknown)} (finetuning.add_elements) adds them, or give other frames"
        )
    wrong = [e for e in added if e not in unknown]
    if wrong:
        why = f"which {source} knows already" if wrong[0] in model.elements else "which no training frame has"
        raise TrainingError(f"finetuning.add_elements has {wrong[0]}, {why}: leave it out")
    kept = tuple(e for e in model.elements if e in present)
    said = []
    left = [e for e in model.elements if e not in present]
    if left:
        said.append(
            f"{', '.join(left)} of {name} is in no training frame, and the new model does not know it: frames with it "
            "(finetuning.replay) keep it"
        )
    elements = (*kept, *added)
    interactions_of(config.terms, elements)  # before any work: not all elements have them
    params = flatten_dict(model.params, sep="/")
    params |= {table: np.array(params[table]) for table in TABLES if table in params}
    for element in added:
        near = nearest(element, model.elements)
        for table in params.keys() & set(TABLES):
            rows = params[table]
            if atomic_numbers[element] >= len(rows):
                last = chemical_symbols[len(rows) - 1]
                raise TrainingError(f"finetuning.add_elements has {element}: the tables of {name} end at {last}")
            rows[atomic_numbers[element]] = np.mean([rows[atomic_numbers[e]] for e in near], axis=0)
        said.append(f"{element} is new to {name} and begins as {' and '.join(near)}, nearest in the periodic table")
    return Start(model, elements, unflatten_dict(params, sep="/"), tuple(said))


def nearest(element: str, known: Sequence[str]) -> list[str]:
    """Elements of `known` with the smallest distance in the periodic table, columns and rows counting alike."""
    own = np.array(_place(atomic_numbers[element]))
    distances = [float(np.square(own - _place(atomic_numbers[e])).sum()) for e in known]
    return [e for e, distance in zip(known, distances, strict=True) if distance == min(distances)]


def _place(number: int) -> tuple[int, int]:
    """Row and column (1 to 18) of an element; lanthanides and actinides stand in column 3."""
    row = next(k for k, last in enumerate(NOBLE_GASES) if number <= last)
    place, length = number - NOBLE_GASES[row - 1], NOBLE_GASES[row] - NOBLE_GASES[row - 1]
    if place <= 2 and number != 2:
        return row, place
    return row, max(3, place + 18 - length)


def terms_of(
    config: RunConfig, start: Start | None, elements: Sequence[str], distances: Mapping[str, float]
) -> tuple[Term, ...]:
    """Terms of a run: those of the model that it goes on from, where it has some, or those of the settings.

    Pairs with added elements take their radii from `distances`. Raises TrainingError for settings that contradict the
    model's.
    """
    if start is None or not start.model.terms:
        return terms_from(pair_sections(without_interactions(config.terms)), elements, distances)
    theirs = settings_of(start.model.terms)
    name = config.training.initial_model
    for section, given in pair_sections(without_interactions(config.terms)).items():
        for key, value in given.items():
            if theirs.get(section, {}).get(key) != value:
                raise TrainingError(
                    f"terms.{section}.{key} = {value!r}, but training.initial_model = {name} has "
                    f"{theirs.get(section, {}).get(key)!r}: leave [terms] out"
                )

    def kept(value: object) -> object:
        """Radii of pairs that the run has."""
        if not isinstance(value, Mapping):
            return value
        return {pair: radius for pair, radius in value.items() if set(pair.split("-")) <= set(elements)}

    settings = {section: {key: kept(v) for key, v in values.items()} for section, values in theirs.items()}
    return terms_from(settings, elements, distances)


def baselines_of(config: RunConfig) -> tuple[Baseline, ...]:
    """Baselines of a run: those of the model that it goes on from, or those of the settings.

    Raises TrainingError for settings that contradict the model's.
    """
    given = baselines_from(config.terms, config.baseline)
    name = config.training.initial_model
    if name is None:
        return given
    theirs = initial_model(name).baselines
    had = settings_of_baselines(theirs)
    for section, values in settings_of_baselines(given).items():
        if had.get(section) != values:
            words = "; ".join(part.describe() for part in theirs) or "none"
            raise TrainingError(
                f"[{section}] asks for another baseline than training.initial_model = {name} has ({words}): leave the "
                "section out, or train without a model to start from"
            )
    return theirs


def floor_of(config: ModelConfig, shortest: float) -> ModelConfig:
    """The network with its radial floor below the new frames too: filters are as they were at all old distances."""
    floor = FLOOR_SHARE * shortest
    return dataclasses.replace(config, radial_floor=min(round(floor, 4), floor, config.radial_floor))


def beyond_basis(config: ModelConfig, shortest: float) -> list[str]:
    """What to say where the frames have distances (A) that the model's basis was not laid out for."""
    if config.radial_start is None or shortest >= config.radial_start:
        return []
    return [
        f"the frames have a distance of {shortest:.2f} A, and the model's radial basis begins at {config.radial_start} "
        "A: it tells little apart below; where these distances matter, train from nothing"
    ]


def refitted(
    start: Start,
    config: ModelConfig,
    graphs: Sequence[FrameGraph],
    mode: str | Mapping[str, float],
    dtype: type,
    interactions: tuple[Interaction, ...] = (),
) -> tuple[dict[str, float], str]:
    """Energy shifts (eV) with which the model's mean error per atom is zero on the frames, and what to say of them.

    `graphs` have the shifts of `start` and all terms taken off. Where the compositions of the frames do not decide, the
    shifts are nearest to those that isolated atoms among the frames ask for, if there are any. `mode` "mean" moves all
    elements by the same, "none" keeps the model's shifts, and a table is taken as it is.
    """
    energies = np.array([energy for energy, _, _ in labels_of(graphs)])
    predicted = np.full(len(graphs), np.nan)
    params = jax.tree.map(lambda p: np.asarray(p, dtype), start.params)
    for indices, batch, _ in ordered_batches(graphs, BATCH, dtype):
        found = batch_energies(config, params, batch, interactions)
        predicted[indices] = np.asarray(found, np.float64)[: len(indices)]
    counts = np.zeros((len(graphs), len(start.elements)))
    alone = np.zeros(len(graphs), bool)
    numbers = [atomic_numbers[element] for element in start.elements]
    for row, graph in enumerate(graphs):
        counts[row] = [np.count_nonzero(graph.species == z) for z in numbers]
        alone[row] = len(graph.species) == 1 and not graph.table.used.any()
    moves, isolated = moves_of(counts, energies - predicted, alone, mode, start)
    shifts = {e: shift + move for (e, shift), move in zip(start.shifts.items(), moves.tolist(), strict=True)}
    if not np.isfinite(energies).any():
        return shifts, "no frame has an energy: the energy shifts are those of the model"
    atoms = counts.sum(axis=1)
    before = (energies - predicted) / atoms
    after = before - counts @ moves / atoms
    known = np.isfinite(before) & ~(alone & (np.count_nonzero(~alone) > 0))
    how = "as the settings give them" if not isinstance(mode, str) else "kept" if mode == "none" else "fitted again"
    if isolated:
        how += f", with isolated atoms of {', '.join(isolated)}"
    listed = ", ".join(f"{e} {shift:.4f}" for e, shift in list(shifts.items())[:LONGEST_SHIFTS])
    return shifts, (
        f"energy shifts {how}: {listed}{', ...' if len(shifts) > LONGEST_SHIFTS else ''} eV; the mean error of "
        f"{np.count_nonzero(known)} frames was {before[known].mean():.4f} eV/atom and is now "
        f"{1000 * after[known].mean():.2f} meV/atom (rms {1000 * np.sqrt(np.mean(after[known] ** 2)):.2f})"
    )


def moves_of(
    counts: np.ndarray, errors: np.ndarray, alone: np.ndarray, mode: str | Mapping[str, float], start: Start
) -> tuple[np.ndarray, list[str]]:
    """What is added to the shifts (E,) in eV, and the elements whose isolated atoms had a say.

    counts: (M, E) atoms of each element. errors: (M,) label minus prediction, eV, NaN where unknown. alone: (M,)
    whether a frame is an isolated atom.
    """
    elements = start.elements
    if not isinstance(mode, str):
        table = fit_shifts(elements, counts, errors, mode)
        return np.array([table[e] - shift for e, shift in start.shifts.items()]), []
    known = np.isfinite(errors)
    rows = known & ~alone if (known & ~alone).any() else known
    if mode == "none" or not rows.any():
        return np.zeros(len(elements)), []
    shares = counts[rows] / counts[rows].sum(axis=1, keepdims=True)
    per_atom = errors[rows] / counts[rows].sum(axis=1)
    moves = np.zeros(len(elements))
    if mode == "lse":  # first what the added elements explain, and then the same for all
        added = [k for k, element in enumerate(elements) if element not in start.model.elements]
        moves[added] = np.linalg.lstsq(shares[:, added], per_atom, rcond=1e-8)[0]
    moves += (per_atom - shares @ moves).mean()
    if mode == "mean":
        return moves, []
    isolated = []
    for k, element in enumerate(elements):
        own = known & alone & (counts[:, k] == 1)
        if own.any():
            moves[k] = errors[own].mean()
            isolated.append(element)
    # Shares add up to 1, so that the rest has no mean.
    return moves + np.linalg.lstsq(shares, per_atom - shares @ moves, rcond=1e-8)[0], isolated
