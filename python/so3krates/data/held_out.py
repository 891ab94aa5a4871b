"""Frames that are held out, beside those that train: structures met before, energies that count from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from so3krates.wording import counted

from .frames import labels
from .suspects import COMPARED, structure_hash

KNOWN_SHARE = 0.1  # of held-out frames that may be training frames too, as ideal crystals of many series are
OTHER_ZERO = 0.5  # eV/atom, ...
TIMES_SPREAD = 20.0  # ... and times the rms deviation of training frames from a sum over elements


def held_out_doubts(train: Sequence[Atoms], held_out: Sequence[Atoms]) -> list[str]:
    """What speaks against telling a potential's errors by these frames, a line for each."""
    return _known(train, held_out) + _other_zero(train, held_out)


def _known(train: Sequence[Atoms], held_out: Sequence[Atoms]) -> list[str]:
    if len(train) > COMPARED:
        return []
    structures = {structure_hash(atoms) for atoms in train}
    known = sum(structure_hash(atoms) in structures for atoms in held_out)
    if known <= KNOWN_SHARE * len(held_out):
        return []
    return [
        f"{known} of {counted(len(held_out), 'frame')} that are held out have the structure of a training frame: "
        "errors of these tell nothing of new structures"
    ]


def _other_zero(train: Sequence[Atoms], held_out: Sequence[Atoms]) -> list[str]:
    elements = sorted({int(z) for atoms in [*train, *held_out] for z in np.unique(atoms.numbers)})
    shares, energies = _per_atom(train, elements)
    others, held_energies = _per_atom(held_out, elements)
    if not len(shares) or not len(others):
        return []
    # Compositions that training frames do not span have energies that these do not tell.
    span = np.linalg.pinv(shares, rcond=1e-8) @ shares
    told = np.abs(others @ span - others).max(axis=1) < 1e-6
    if not told.any():
        return []
    of_elements = np.linalg.lstsq(shares, energies, rcond=1e-8)[0]
    spread = float(np.sqrt(np.mean(np.square(energies - shares @ of_elements))))
    offset = float(np.median((held_energies - others @ of_elements)[told]))
    if abs(offset) < max(OTHER_ZERO, TIMES_SPREAD * spread):
        return []
    return [
        f"energies are {abs(offset):.3g} eV/atom {'above' if offset > 0 else 'below'} those of training frames of the "
        f"same composition (median), which differ by {spread:.2g}: look whether both are total energies, in the same "
        "unit and of the same settings"
    ]


def _per_atom(frames: Sequence[Atoms], elements: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the elements (M, elements) and energies per atom (M,), eV, of frames of several atoms with energies."""
    known = [(atoms, labels(atoms).energy) for atoms in frames if len(atoms) > 1]
    known = [(atoms, energy) for atoms, energy in known if np.isfinite(energy)]
    shares = [[np.count_nonzero(atoms.numbers == z) / len(atoms) for z in elements] for atoms, _ in known]
    return np.array(shares).reshape(-1, len(elements)), np.array([energy / len(atoms) for atoms, energy in known])
