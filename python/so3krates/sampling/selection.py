"""Choosing frames of a pool: at random, uniformly in a measure of frames or atoms, or where a potential is unsure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from rich.table import Table

from so3krates.data import (
    DataError,
    LabelKeys,
    atom_values,
    elements_of,
    fit_shifts,
    labels,
    raw_frames,
    read_frames,
)
from so3krates.files import plain_text, write_frames

METHODS = ("random", "energy", "force", "atomic-energy", "uncertainty", "committee")
LARGEST = ("uncertainty", "committee")  # the frames with the largest values are chosen, not values of all sizes
# Of equal width, between the smallest and the largest value of a measure in the pool.
BINS = 50


class SelectionError(ValueError):
    """A selection that cannot be made; the message says why."""


class Measure(NamedTuple):
    """Values by which frames are chosen: one for each frame, or one for each atom."""

    name: str
    unit: str
    values: np.ndarray  # (V,) finite
    frames: np.ndarray  # (V,) frame of each value; every frame has at least one
    groups: np.ndarray  # (V,) values of different groups are not compared with each other


class Selection(NamedTuple):
    """Frames of a pool in the order of their choice."""

    chosen: np.ndarray  # (n,) their indices in the pool
    total: int  # frames in the pool
    measure: Measure | None  # of the whole pool; None where the choice was random


def select_frames(
    pool: str | Path,
    n: int,
    by: str,
    models: Sequence[str | Path] = (),
    keys: LabelKeys | None = None,
    key: str = "atomic_energies",
    seed: int = 0,
    bins: int = BINS,
    limit: float | None = None,
) -> Selection:
    """Choose n frames of a file by one of METHODS.

    The measure is that of the labels under `keys` and, of atoms' energies, under `key`, or that of a model (folder or
    bundle) where one is given; the uncertainty needs one, a committee at least two. Frames with a value above `limit`
    are left out. Raises SelectionError and DataError for what cannot be done.
    """
    if by not in METHODS:
        raise SelectionError(f"--by {by}: give {', '.join(METHODS)}")
    frames = read_frames(pool, keys)
    if seed < 0 or (limit is not None and not math.isfinite(limit)):
        raise SelectionError(f"seed {seed}, limit {limit}: give a seed of at least 0, and a finite limit or none")
    random = np.random.default_rng(seed)
    if by == "random":
        if limit is not None or models:
            raise SelectionError("a random choice looks at no values: leave out the limit and the model")
        return Selection(choose_random(len(frames), n, random), len(frames), None)
    measure = _measure_of(by, frames, models, pool, keys or LabelKeys(), key)
    if n < len(frames) and len(frames) > 1 and np.ptp(measure.values) == 0:
        raise SelectionError(
            f"every {measure.name} of {len(frames)} frames is {measure.values[0]:.4g} {measure.unit}, so that it tells "
            "no frame from another: choose by something else, or --by random"
        )
    allowed = measure if limit is None else values_below(measure, limit)
    chosen = choose_largest(allowed, n) if by in LARGEST else choose_uniform(allowed, n, random, bins)
    return Selection(chosen, len(frames), measure)


def write_selection(output: str | Path, selection: Selection, pool: str | Path, method: str) -> None:
    """Write the chosen frames as they stand in the pool; `info` tells `selected_by`, `pool` and `pool_index`."""
    places = {int(index): place for place, index in enumerate(selection.chosen)}
    frames: dict[int, Atoms] = {}
    for index, atoms in enumerate(raw_frames(pool)):
        if index in places:
            atoms.info |= {"selected_by": method, "pool": plain_text(Path(pool).name), "pool_index": index}
            frames[places[index]] = atoms
    write_frames(output, [frames[place] for place in sorted(frames)])


def energy_measure(frames: Sequence[Atoms], energies: np.ndarray) -> Measure:
    """Energy per atom beyond the best sum over elements; total `energies` (M,) in eV."""
    elements = elements_of(frames)
    numbers = [atomic_numbers[element] for element in elements]
    counts = np.array([[np.count_nonzero(atoms.numbers == z) for z in numbers] for atoms in frames], np.float64)
    shifts = fit_shifts(elements, counts, energies, "lse")
    values = (energies - counts @ list(shifts.values())) / counts.sum(axis=1)
    return _measure("energy", "eV/atom", values, np.arange(len(frames)))


def force_measure(forces: Sequence[np.ndarray]) -> Measure:
    """Norms of the forces on atoms; `forces` are M times (n, 3) in eV/A."""
    values = np.concatenate([np.linalg.norm(f, axis=1) for f in forces])
    return _measure("force", "eV/A", values, np.repeat(np.arange(len(forces)), [len(f) for f in forces]))


def atomic_energy_measure(frames: Sequence[Atoms], energies: Sequence[np.ndarray]) -> Measure:
    """Energies of atoms, each element for itself; `energies` are M times (n,) in eV."""
    owners = np.repeat(np.arange(len(frames)), [len(atoms) for atoms in frames])
    numbers = np.concatenate([atoms.numbers for atoms in frames])
    return _measure("atomic energy", "eV", np.concatenate(list(energies)), owners, numbers)


def committee_measure(forces: Sequence[Sequence[np.ndarray]]) -> Measure:
    """Disagreement of a committee about frames; `forces[k][m]` (n, 3) in eV/A are member k's of frame m."""
    from so3krates.training import disagreement

    values = disagreement(forces)
    return _measure("disagreement", "eV/A", values, np.arange(len(values)))


def uncertainty_measure(uncertainties: Sequence[np.ndarray]) -> Measure:
    """Error of a force component that a model expects, rms over a frame; M times (n,) of its atoms in eV/A."""
    values = np.array([math.sqrt(np.mean(np.square(of_atoms))) for of_atoms in uncertainties])
    return _measure("uncertainty", "eV/A", values, np.arange(len(values)))


def choose_random(count: int, n: int, random: np.random.Generator) -> np.ndarray:
    """n out of `count` frames; the first k of them are the choice of k."""
    _check_number(n, count)
    return random.permutation(count)[:n]


def choose_uniform(measure: Measure, n: int, random: np.random.Generator, bins: int = BINS) -> np.ndarray:
    """n frames, as many from one part of the measure's range as from another; the first k are the choice of k.

    The range of each group is cut into `bins` of equal width. Round by round every bin, in random order, gives one
    frame that was not chosen before, by a random one of its values, until it has no more.
    """
    _check_number(n, len(np.unique(measure.frames)))
    piles = _piles(measure, bins, random)
    chosen: list[int] = []
    taken: set[int] = set()
    while len(chosen) < n:
        for number in random.permutation(len(piles)):
            pile = piles[number]
            while pile and pile[-1] in taken:
                pile.pop()
            if pile and len(chosen) < n:
                chosen.append(pile.pop())
                taken.add(chosen[-1])
        piles = [pile for pile in piles if pile]
    return np.array(chosen)


def choose_largest(measure: Measure, n: int) -> np.ndarray:
    """The n frames of the largest values, the largest first; of a measure with one value for each frame."""
    _check_number(n, len(measure.values))
    return measure.frames[np.argsort(-measure.values, kind="stable")[:n]]


def values_below(measure: Measure, limit: float) -> Measure:
    """The measure of the frames that have no value above `limit`. Raises SelectionError where there are none."""
    rows = ~np.isin(measure.frames, measure.frames[measure.values > limit])
    if not rows.any():
        raise SelectionError(
            f"each of {len(np.unique(measure.frames))} frames has a value above the limit of {limit:g} {measure.unit}; "
            f"the smallest {measure.name} is {measure.values.min():.4g}"
        )
    return _part(measure, rows)


def unevenness(values: np.ndarray, pool: np.ndarray, bins: int = BINS) -> float:
    """Standard deviation over mean of the counts in those bins of the pool's range that are not empty in the pool."""
    among_pool, edges = np.histogram(pool, bins)
    counts = np.histogram(values, edges)[0][among_pool > 0]
    return float(counts.std() / counts.mean())


def selection_table(selection: Selection) -> Table:
    """How many frames from how many, and the measure in the pool and in the selection."""
    table = Table(title=f"{len(selection.chosen)} of {selection.total} frames")
    measure = selection.measure
    for column in ("", "frames", "values", "smallest", "mean", "largest", "unevenness"):
        table.add_column(column, justify="right" if column else "left")
    if measure is None:
        table.add_row("pool", str(selection.total))
        table.add_row("selection", str(len(selection.chosen)))
        return table
    table.columns[0].header = f"{measure.name} ({measure.unit})"
    chosen = _part(measure, np.isin(measure.frames, selection.chosen))
    for name, count, values in (
        ("pool", selection.total, measure.values),
        ("selection", len(selection.chosen), chosen.values),
    ):
        numbers = (values.min(), values.mean(), values.max())
        spread = f"{unevenness(values, measure.values):.2f}"
        table.add_row(name, str(count), str(len(values)), *(f"{x:.4g}" for x in numbers), spread)
    return table


def _measure_of(
    by: str, frames: Sequence[Atoms], models: Sequence[str | Path], pool: str | Path, keys: LabelKeys, key: str
) -> Measure:
    from so3krates.predictions import predictions_of

    needed = {"committee": "at least two models", "uncertainty": "one model"}.get(
        by, "one model, or none for the labels"
    )
    if (by == "committee") != (len(models) > 1) or (by == "uncertainty" and not models):
        raise SelectionError(f"--by {by} with {len(models)} models: give {needed}")
    if by == "committee":
        measure = committee_measure([predictions_of(model, frames).forces for model in models])
        if not measure.values.any():
            raise SelectionError(
                f"{', '.join(map(str, models))} say the same forces of every frame: name models of different seeds, "
                "each once"
            )
        return measure
    if models:
        found = predictions_of(models[0], frames)
        if by == "uncertainty" and found.uncertainties is None:
            raise SelectionError(
                f"{models[0]} tells no uncertainty: train it with validation frames that have forces (networks that "
                "predict charges have none yet), and export it without --no-uncertainty"
            )
        energies, forces, of_atoms = found.energies, found.forces, found.atom_energies
    else:
        known = [labels(atoms) for atoms in frames] if by != "atomic-energy" else []
        energies, forces = np.array([f.energy for f in known]), [f.forces for f in known]
        of_atoms = _energies_under(key, pool, keys) if by == "atomic-energy" else []
    if by == "uncertainty":
        return uncertainty_measure(found.uncertainties or [])
    if by == "energy":
        return energy_measure(frames, energies)
    if by == "force":
        return force_measure(forces)
    return atomic_energy_measure(frames, of_atoms or [])


def _energies_under(key: str, pool: str | Path, keys: LabelKeys) -> list[np.ndarray]:
    """Energies of atoms in eV as the file has them."""
    factor = keys.factors[0]
    return [factor * atom_values(atoms, key, f"{pool}, frame {n}") for n, atoms in enumerate(raw_frames(pool))]


def _piles(measure: Measure, bins: int, random: np.random.Generator) -> list[list[int]]:
    """For each bin of each group the frames of its values, in random order; no bin is empty."""
    if bins < 1:
        raise SelectionError(f"bins = {bins}: give at least 1")
    piles = []
    for group in np.unique(measure.groups):
        rows = np.flatnonzero(measure.groups == group)
        values = measure.values[rows]
        width = np.ptp(values) / bins or 1.0
        bin_of = np.minimum((values - values.min()) / width, bins - 1).astype(int)
        piles += [random.permutation(measure.frames[rows[bin_of == one]]).tolist() for one in np.unique(bin_of)]
    return piles


def _part(measure: Measure, rows: np.ndarray) -> Measure:
    return measure._replace(values=measure.values[rows], frames=measure.frames[rows], groups=measure.groups[rows])


def _measure(name: str, unit: str, values: np.ndarray, frames: np.ndarray, groups: np.ndarray | None = None) -> Measure:
    lost = np.unique(frames[~np.isfinite(values)])
    if len(lost):
        raise DataError(
            f"{len(lost)} of {frames.max() + 1} frames have no finite {name}, the first is frame {lost[0]}: "
            "give the right keys, or a model that predicts it"
        )
    return Measure(name, unit, values, frames, np.zeros(len(values), int) if groups is None else groups)


def _check_number(n: int, count: int) -> None:
    if not 1 <= n <= count:
        raise SelectionError(f"-n {n}: give a number from 1 to {count}, the frames to choose from")
