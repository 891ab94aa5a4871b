"""MLIP's *.cfg files: one block BEGIN_CFG ... END_CFG a frame."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from ..data.errors import DataError
from .texts import table, text_of

POSITIONS = (("cartes_x", "cartes_y", "cartes_z"), ("direct_x", "direct_y", "direct_z"))
FORCES = ("fx", "fy", "fz")
LABEL = re.compile("^(?!.*weight).*(energ|forc|stress|virial)")  # of a section that is not read
VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")  # ASE's order


def mtp_frames(path: Path, elements: Sequence[str]) -> Iterator[Atoms]:
    """Frames; elements: symbols of the types 0, 1, ...

    Energy in eV, forces in eV/A; PlusStress is -V times ASE's stress in eV (Novikov, Gubaev, Podryabinkin, Shapeev,
    Mach. Learn.: Sci. Technol. 2, 025002 (2021)).
    """
    block: list[str] | None = None
    for number, line in enumerate(text_of(path).splitlines(), 1):
        word = line.split()[0] if line.split() else ""
        if word == "BEGIN_CFG":
            if block is not None:
                raise DataError(f"{path}, line {number}: BEGIN_CFG within a frame: the one before it was cut")
            block = []
        elif word == "END_CFG":
            if block is None:
                raise DataError(f"{path}, line {number}: END_CFG without BEGIN_CFG")
            yield _frame(block, elements, f"{path}, frame that ends in line {number}")
            block = None
        elif block is not None and word:
            block.append(line)
    if block is not None:
        raise DataError(f"{path}: ends within a frame")


def _frame(lines: list[str], elements: Sequence[str], where: str) -> Atoms:
    size, cell = 0, None
    results: dict[str, Any] = {}
    columns: list[str] = []
    rows = np.zeros((0, 0))
    stress: np.ndarray | None = None
    k = 0

    def numbers(title: str, count: int, width: int) -> np.ndarray:
        return table(lines[k : k + count], count, width, f"{where}: {title}")

    while k < len(lines):
        word, *rest = lines[k].split()
        word = word.rstrip(":").lower()
        k += 1
        if word == "size":
            size = int(numbers("Size", 1, 1).item())
            k += 1
        elif word == "supercell":
            cell = numbers("Supercell", 3, 3)
            k += 3
        elif word == "atomdata":
            columns = rest if rest else lines[k - 1].split(":", 1)[1].split()
            rows = numbers("AtomData", size, len(columns))
            k += size
        elif word == "energy":
            results["energy"] = float(numbers("Energy", 1, 1).item())
            k += 1
        elif word == "plusstress":
            if sorted(rest) != sorted(VOIGT):
                raise DataError(f"{where}: PlusStress has the components {' '.join(rest)}; {' '.join(VOIGT)} are read")
            named = dict(zip(rest, numbers("PlusStress", 1, len(VOIGT))[0], strict=True))
            stress = np.array([named[axes] for axes in VOIGT])
            k += 1
        elif LABEL.search(word):
            raise DataError(
                f"{where}: has {word!r}, whose sign and unit are not known: write it as Energy, PlusStress (-V times "
                "the stress, eV) or columns fx fy fz of AtomData, or take it out"
            )
    if rows.shape != (size, len(columns)) or "type" not in columns:
        raise DataError(f"{where}: has {len(rows)} lines of atoms with the columns {columns}, and Size says {size}")
    of = {name: rows[:, place] for place, name in enumerate(columns)}
    types = of["type"].astype(int)
    if types.min(initial=0) < 0:
        raise DataError(f"{where}: has atoms of type {types.min()}; types are 0, 1, ...")
    if types.max(initial=0) >= len(elements):
        raise DataError(f"{where}: has atoms of type {types.max()}, and only {len(elements)} elements are given")
    atoms = Atoms([elements[t] for t in types], cell=cell, pbc=cell is not None)
    cartesian, direct = POSITIONS
    if set(cartesian) <= of.keys():
        atoms.positions = np.column_stack([of[name] for name in cartesian])
    elif set(direct) <= of.keys() and cell is not None:
        atoms.set_scaled_positions(np.column_stack([of[name] for name in direct]))
    else:
        raise DataError(f"{where}: has no positions among its columns {columns}")
    if set(FORCES) <= of.keys():
        results["forces"] = np.column_stack([of[name] for name in FORCES])
    if stress is not None and cell is not None:
        results["stress"] = -stress / atoms.get_volume()
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
