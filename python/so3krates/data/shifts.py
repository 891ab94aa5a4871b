"""Energy shifts per element: what is taken off the labels in float64 before the network sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from .errors import DataError
from .frames import labels

SHIFT_MODES = ("lse", "mean", "none")


def elements_of(frames: Sequence[Atoms]) -> list[str]:
    """Chemical symbols of the frames, by atomic number."""
    numbers = np.unique(np.concatenate([atoms.numbers for atoms in frames]))
    return [chemical_symbols[z] for z in numbers]


def energy_shifts(frames: Sequence[Atoms], mode: str | Mapping[str, float]) -> dict[str, float]:
    """Shift in eV of each element in the frames; `fit_shifts` of their labels."""
    elements = elements_of(frames)
    numbers = [atomic_numbers[e] for e in elements]
    counts = np.array([[np.count_nonzero(atoms.numbers == z) for z in numbers] for atoms in frames], np.float64)
    return fit_shifts(elements, counts, np.array([labels(atoms).energy for atoms in frames]), mode)


def fit_shifts(
    elements: Sequence[str], counts: np.ndarray, energies: np.ndarray, mode: str | Mapping[str, float]
) -> dict[str, float]:
    """Shift in eV of each element from energies (M,) in eV of frames with `counts` (M, elements) atoms of each.

    `mode`: "mean", the mean energy per atom for every element (docs/model.md); "lse", least squares of the
    energies over the composition, the solution nearest to the mean where the compositions do not decide;
    "none", zeros; or a table of shifts that covers every element. Raises DataError otherwise.
    """
    if not isinstance(mode, str):
        missing = [e for e in elements if e not in mode]
        if missing:
            raise DataError(f"energy_shift has no value for {', '.join(missing)}, which the frames contain")
        return {e: float(mode[e]) for e in elements}
    if mode not in SHIFT_MODES:
        raise DataError(f"energy_shift = {mode!r}: give {', '.join(SHIFT_MODES)} or a table of elements")
    known = np.isfinite(energies)
    if mode == "none" or not known.any():
        return dict.fromkeys(elements, 0.0)
    atoms_in = counts.sum(axis=1)
    mean = float(np.mean(energies[known] / atoms_in[known]))
    shifts = np.full(len(elements), mean)
    if mode == "lse":
        # Small numbers are fitted, so that large all-electron energies cost no digits.
        residual = energies[known] - mean * atoms_in[known]
        shifts += np.linalg.lstsq(counts[known], residual, rcond=1e-8)[0]
    return dict(zip(elements, shifts.tolist(), strict=True))


def total_shift(numbers: np.ndarray, shifts: Mapping[str, float]) -> float:
    """Sum of the shifts over the atoms of one frame, eV, in float64.

    Raises DataError for an element without a shift.
    """
    found, counts = np.unique(numbers, return_counts=True)
    total = 0.0
    for z, count in zip(found, counts, strict=True):
        symbol = chemical_symbols[z]
        if symbol not in shifts:
            raise DataError(f"element {symbol} is unknown to the model; it knows {', '.join(shifts)}")
        total += shifts[symbol] * int(count)
    return total
