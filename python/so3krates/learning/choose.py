"""What is labelled of all that runs saved: no frame twice, spread over what they are, and some to check by."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from so3krates.sampling.selection import (
    Measure,
    atomic_energy_measure,
    choose_largest,
    choose_random,
    choose_uniform,
    energy_measure,
    force_measure,
)
from so3krates.training import Properties

SAME = 0.02  # A, rms: frames whose atoms are nearer than this are the same


def distinct(frames: Sequence[Atoms], known: Sequence[Atoms]) -> list[int]:
    """Indices of frames that are like none before them, and like none of the known ones."""
    kept: dict[bytes, list[Atoms]] = {}
    for atoms in known:
        kept.setdefault(atoms.numbers.tobytes(), []).append(atoms)
    found = []
    for index, atoms in enumerate(frames):
        others = kept.setdefault(atoms.numbers.tobytes(), [])
        if not any(_is_same(atoms, other) for other in others):
            others.append(atoms)
            found.append(index)
    return found


def choose(frames: Sequence[Atoms], predicted: Properties, by: str, number: int, stop: float, seed: int) -> list[int]:
    """Indices of at most `number` frames by one of CHOICES, from what the potential predicts of them.

    Each deck has the same share, and what one has not, others take: a deck that ended at its first step would else
    never be learnt; chance says which comes first, so that it is not the same in all rounds. Frames above `stop`, where
    a potential's own numbers mean little, only where a deck has no others. Those at which the guard ended a run come
    first: they are just beyond what the potential knows, and right up to there.
    """
    random = np.random.default_rng(seed)
    orders = []
    for run in random.permutation(list(dict.fromkeys(str(atoms.info["run"]) for atoms in frames))):
        own = [k for k, atoms in enumerate(frames) if atoms.info["run"] == run]
        first = [k for k in own if frames[k].info.get("guard", False)][:number]
        own = [k for k in own if k not in first]
        own = [k for k in own if frames[k].info["largest"] <= stop] or own
        left = min(number - len(first), len(own))
        orders.append(first + _ordered([frames[k] for k in own], predicted, by, left, own, random))
    mixed = [k for layer in itertools.zip_longest(*orders) for k in layer if k is not None]
    return mixed[:number]


def _ordered(
    frames: Sequence[Atoms], predicted: Properties, by: str, number: int, rows: list[int], random: np.random.Generator
) -> list[int]:
    """The best `number` of some frames first; rows: their indices among those that were predicted."""
    if number == 0:
        return []
    if by == "random":
        order = choose_random(len(frames), number, random)
    elif by == "largest":
        values = np.array([atoms.info["largest"] for atoms in frames])
        places = np.arange(len(frames))
        order = choose_largest(Measure("uncertainty", "eV/A", values, places, np.zeros(len(frames), int)), number)
    else:
        order = choose_uniform(_measure(by, frames, predicted, rows), number, random)
    return [rows[k] for k in order]


def spread(frames: Sequence[int], number: int) -> list[int]:
    """At most `number` of some indices, evenly spread."""
    if len(frames) <= number:
        return list(frames)
    return [frames[int(place)] for place in np.linspace(0, len(frames) - 1, number).round()] if number else []


def _measure(by: str, frames: Sequence[Atoms], predicted: Properties, rows: Sequence[int]) -> Measure:
    if by == "energy":
        return energy_measure(frames, predicted.energies[np.array(rows)])
    if by == "force":
        return force_measure([predicted.forces[k] for k in rows])
    assert predicted.atom_energies is not None  # a bundle has them
    return atomic_energy_measure(frames, [predicted.atom_energies[k] for k in rows])


def _is_same(one: Atoms, other: Atoms) -> bool:
    if np.abs(one.cell.array - other.cell.array).max() > SAME:
        return False
    moved = other.positions - one.positions
    if one.pbc.any():
        inverse = np.linalg.pinv(one.cell.array)
        turns = np.where(one.pbc, np.round(moved @ inverse), 0.0)
        moved = moved - turns @ one.cell.array
    return bool(np.sqrt(np.square(moved).sum(axis=1).mean()) < SAME)
