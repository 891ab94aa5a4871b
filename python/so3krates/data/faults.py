"""Frames that teach nothing: numbers that are not finite or absurd, atoms at one place, unknown elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from so3krates.lattice import collapsed
from so3krates.wording import counted

from .charge_labels import charge_faults
from .errors import DataError
from .frames import LabelKeys, Labels, iter_frames, labels
from .names import QUANTITIES, OtherNames
from .neighbours import near_pairs
from .slopes import Finding, LabelSlopes
from .suspects import Suspects

TOUCHING = 0.1  # A, atoms that are nearer are at one place
NEAR = 1.0  # A, reach of the list that is searched for them
LARGEST_ENERGY = 1e7  # eV/atom, beyond total energies with all electrons
LARGEST_FORCE = 1e4  # eV/A
LARGEST_STRESS = 1e8  # eV/A^3
PASCALS = ': if stresses are in Pa, set stress_unit = "Pa"'
LARGEST_LENGTH = 1e7  # A, of positions and cell vectors
SHOWN = 5  # frames named in a message


class Fault(NamedTuple):
    """Why a frame cannot be used."""

    frame: int  # in the file, from 0
    text: str

    def __str__(self) -> str:
        return f"frame {self.frame}: {self.text}"


def faults_of(atoms: Atoms, values: Labels, most: int = len(chemical_symbols) - 1) -> Iterator[str]:
    """What makes a frame useless, with the first atom of each kind; `most` is the largest atomic number allowed.

    Atoms are counted from 0.
    """
    yield from structure_faults(atoms, most)
    size = len(atoms)
    if np.isinf(values.energy):
        yield f"the energy is {values.energy}"
    elif abs(values.energy) > LARGEST_ENERGY * size:
        yield f"the energy is {values.energy:.3g} eV, more than {LARGEST_ENERGY:g} eV/atom"
    if not np.isnan(values.forces).all():
        sizes = np.abs(values.forces).max(axis=1, initial=0.0)
        lost = np.flatnonzero(~np.isfinite(values.forces).all(axis=1))
        if len(lost):
            yield (
                f"the force on atom {lost[0]} is {_numbers(values.forces[lost[0]])} "
                f"({counted(len(lost), 'atom')} in all)"
            )
        elif len(large := np.flatnonzero(sizes > LARGEST_FORCE)):
            yield f"the force on atom {large[0]} is {_numbers(values.forces[large[0]])} eV/A, above {LARGEST_FORCE:g}"
    if not np.isnan(values.stress).all():
        if not np.isfinite(values.stress).all():
            yield f"the stress is {_numbers(values.stress.ravel())}"
        elif np.abs(values.stress).max() > LARGEST_STRESS:
            yield (
                f"a component of the stress is {np.abs(values.stress).max():.3g} eV/A^3, above "
                f"{LARGEST_STRESS:g}{PASCALS}"
            )
    yield from charge_faults(atoms)


def structure_faults(atoms: Atoms, most: int = len(chemical_symbols) - 1) -> Iterator[str]:
    """What is wrong with a structure, labels apart."""
    if len(atoms) == 0:
        yield "it has no atoms"
        return
    unknown = np.flatnonzero((atoms.numbers < 1) | (atoms.numbers > most))
    if len(unknown):
        number = int(atoms.numbers[unknown[0]])
        if number < 1:
            yield (
                f"atom {unknown[0]} is {chemical_symbols[0]} ({counted(len(unknown), 'atom')} in all), "
                "which is no element"
            )
        else:
            yield (
                f"atom {unknown[0]} is {chemical_symbols[number]} with atomic number {number}, above {most}: "
                f"set model.embeddings = {number + 1} or more"
            )
    lost = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
    if len(lost):
        yield (
            f"the position of atom {lost[0]} is {_numbers(atoms.positions[lost[0]])} "
            f"({counted(len(lost), 'atom')} in all)"
        )
    elif len(far := np.flatnonzero(np.abs(atoms.positions).max(axis=1) > LARGEST_LENGTH)):
        yield f"the position of atom {far[0]} is {_numbers(atoms.positions[far[0]])} A, beyond {LARGEST_LENGTH:g}"
        return
    cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    if np.abs(cell).max() > LARGEST_LENGTH:
        yield f"the cell is {_numbers(cell.ravel())} A, beyond {LARGEST_LENGTH:g}"
    elif not np.isfinite(cell).all():
        yield f"the cell is {_numbers(cell.ravel())}"
    elif np.linalg.matrix_rank(cell) < atoms.pbc.sum():
        yield f"it is periodic along {atoms.pbc.tolist()}, but its cell vectors do not span that"
    elif fault := collapsed(atoms):
        yield fault
    elif not len(lost):
        yield from _touching(atoms)


def _touching(atoms: Atoms) -> Iterator[str]:
    i, j, d = near_pairs(atoms, NEAR)
    if len(d) and (nearest := int(d.argmin())) >= 0 and d[nearest] < TOUCHING:
        yield f"atoms {min(i[nearest], j[nearest])} and {max(i[nearest], j[nearest])} are {d[nearest]:.3g} A apart"


class LabelCheck:
    """What `so3krates data`, `train` and `evaluate` ask of the frames of a file, one after the other."""

    def __init__(
        self, keys: LabelKeys, most: int = len(chemical_symbols) - 1, quantities: Sequence[str] = QUANTITIES
    ) -> None:
        """`keys` by which the frames are read, `most` the largest atomic number, `quantities` those that are wanted."""
        self.names = OtherNames(keys, quantities)
        self.slopes = LabelSlopes(keys)
        self.suspects = Suspects()
        self.faults: list[Fault] = []
        self.sound: list[int] = []  # frames without fault
        self.periodic = self.frames = 0
        self._most = most

    @property
    def faulty(self) -> list[int]:
        """Frames with faults."""
        return list(dict.fromkeys(fault.frame for fault in self.faults))

    def add(self, atoms: Atoms, values: Labels) -> list[str]:
        """Looks at a frame; returns its faults."""
        found = list(faults_of(atoms, values, self._most))
        self.faults += [Fault(self.frames, text) for text in found]
        self.frames += 1
        self.periodic += bool(atoms.pbc.all())
        if not found:
            self.sound.append(self.frames - 1)
            self.suspects.add(self.frames - 1, atoms, values)
            self.slopes.add(atoms, values, self.frames - 1)
        return found

    def findings(self) -> list[Finding]:
        """What is wrong with the labels as a whole."""
        found = [Finding(line, stops=True) for line in self.names.lines()]
        found += [Finding(line, stops=False) for line in self.names.guesses()]
        stress = self.names.wanted.get("stress")
        if self.frames and not self.periodic and stress and not self.names.found["stress"]:
            found.append(
                Finding(
                    f"a stress is asked for (key {stress!r}), but none of "
                    f"{counted(self.frames, 'frame')} is periodic in three "
                    "directions: look for the cell (Lattice and pbc of an extxyz), or leave the stress out with "
                    'stress_key = ""',
                    stops=False,
                )
            )
        return found + self.slopes.findings()


def sound_frames(
    path: str | Path,
    keys: LabelKeys,
    check: LabelCheck,
    leave_out: bool = False,
    say: Callable[[str], None] | None = None,
) -> Iterator[Atoms]:
    """The frames of `iter_frames` that have no fault; `check` keeps what was found of the others and of the set.

    At the end of the file DataError names the frames with faults; with `leave_out`, `say` is told them instead.
    """
    for atoms in iter_frames(path, keys, check.names):
        if not check.add(atoms, labels(atoms)):
            yield atoms
    if not check.faults:
        return
    found = f"{len(check.faulty)} of {counted(check.frames, 'frame')} cannot be used: {some_faults(check.faults)}"
    if not leave_out:
        raise DataError(f"{path}: {found}; mend them, or leave them out with data.leave_out_faulty = true")
    if say is not None:
        say(f"{path}: {found}; left out")
    if not check.sound:
        raise DataError(f"{path}: no frame is left")


def some_faults(faults: Sequence[Fault]) -> str:
    """The first few faults as a message."""
    named = "; ".join(map(str, faults[:SHOWN]))
    return named + (f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else "")


def _numbers(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{x:.6g}" for x in values) + ")"
