"""VASP's ML_AB: the ab initio data of its machine-learned force fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from ..data.errors import DataError
from ..data.units import stress_factor
from .texts import table, text_of

KBAR = stress_factor("kbar")
RULES = set("*-=")


def ml_ab_frames(path: Path, elements: Sequence[str]) -> Iterator[Atoms]:
    """Frames. Energy in eV, forces in eV/A, stress in kbar with VASP's sign: positive where the cell would expand."""
    # Lines of rules only separate; a section is a title and what follows.
    lines = [line.strip() for line in text_of(path).splitlines()]
    content = [(n, line) for n, line in enumerate(lines, 1) if line and not set(line) <= RULES]
    starts = [k for k, (_, line) in enumerate(content) if line.lower().startswith("configuration num.")]
    if not starts:
        raise DataError(f"{path}: holds no 'Configuration num.'")
    head = [line for _, line in content[: starts[0]]]
    named = [after for title, after in pairwise(head) if title.lower().startswith("the number of configurations")]
    if named and named[0].isdigit() and int(named[0]) != len(starts):
        raise DataError(
            f"{path}: is cut: has {len(starts)} of the {named[0]} configurations that its head names. Copy it again"
        )
    for start, end in zip(starts, [*starts[1:], len(content)], strict=True):
        number, title = content[start]
        yield _frame([line for _, line in content[start:end]], f"{path}, line {number}, {title}")


def _frame(lines: list[str], where: str) -> Atoms:
    def after(title: str, count: int) -> list[str]:
        for k, line in enumerate(lines):
            if line.lower().startswith(title):
                found = lines[k + 1 : k + 1 + count]
                if len(found) == count:
                    return found
        raise DataError(f"{where}: {title!r} is missing or cut short")

    def numbers(title: str, count: int, width: int = 3) -> np.ndarray:
        return table(after(title, count), count, width, f"{where}: {title!r}")

    count = int(after("the number of atoms", 1)[0])
    kinds = int(after("the number of atom types", 1)[0])
    species = [line.split() for line in after("atom types and atom numbers", kinds)]
    symbols = [symbol for symbol, number in species for _ in range(int(number))]
    if len(symbols) != count:
        raise DataError(f"{where}: names {len(symbols)} atoms, and their number is {count}")
    atoms = Atoms(
        symbols,
        positions=numbers("atomic positions", count),
        cell=numbers("primitive lattice vectors", 3),
        pbc=True,
    )
    # Two lines of titles and two of numbers: XX YY ZZ, XY YZ ZX.
    first, second = table(after("stress (kbar)", 4)[1::2], 2, 3, f"{where}: 'stress (kbar)'")
    stress = -KBAR * np.array([*first, second[1], second[2], second[0]])
    results = {
        "energy": float(numbers("total energy", 1, 1).item()),
        "forces": numbers("forces", count),
        "stress": stress,
    }
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
