"""Labellers: one that writes down what it is asked for, fails for some structures and dies at some; one with files."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.genericfileio import CalculatorTemplate, GenericFileIOCalculator
from ase.io import read, write

FAILED = "failed"
STYLE = "units metal\npair_style so3krates threads 2\npair_coeff * * old.so3k Ga N\nrun 5\n"  # a deck
SMEARED = 0.5  # eV, of the energy of `Program` above its free energy


class Killed(BaseException):
    """As a kill: nothing that handles errors sees it."""


class NotedEMT(EMT):  # type: ignore[misc]
    """EMT with a line in a file for each structure that it is asked for; structures count from 0 as they come first."""

    def __init__(self, notes: str, fails: tuple[int, ...] = (), dies: tuple[int, ...] = ()) -> None:
        super().__init__()
        self._notes, self._fails, self._dies = Path(notes), fails, dies

    def calculate(self, atoms: Atoms, *arguments: Any) -> None:
        name = f"{zlib.crc32(atoms.positions.round(6).tobytes()):x}"
        known = asked(self._notes)
        number = list(dict.fromkeys(n for n, _ in known)).index(name) if name in dict(known) else len(dict(known))
        death = self._notes.with_suffix(f".died-{number}")
        if number in self._dies and not death.exists():
            death.touch()
            raise Killed(number)
        with self._notes.open("a") as file:
            file.write(f"{name} {FAILED if number in self._fails else 'done'}\n")
        if number in self._fails:
            raise RuntimeError("no convergence after 60 cycles")
        super().calculate(atoms, *arguments)


def asked(notes: Path) -> list[tuple[str, str]]:
    """Names of structures, and what became of them, in the order of the questions."""
    if not notes.exists():
        return []
    return [(name, outcome) for name, outcome in map(str.split, notes.read_text().splitlines())]


class Program(GenericFileIOCalculator):  # type: ignore[misc]
    """EMT in the manner of ASE's newer programs of electronic structure: with files, in a folder."""

    def __init__(self) -> None:
        super().__init__(template=_Files(), profile="this process", directory=".")


class _Files(CalculatorTemplate):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__("program", ["energy", "free_energy", "forces"])

    def write_input(self, profile: Any, directory: Path, atoms: Atoms, parameters: Any, properties: Any) -> None:
        write(directory / "input.xyz", atoms, format="extxyz")

    def execute(self, directory: Path, profile: Any) -> None:
        atoms = read(directory / "input.xyz")
        atoms.calc = EMT()
        atoms.get_forces()
        write(directory / "output.xyz", atoms, format="extxyz")

    def read_results(self, directory: Path) -> dict[str, Any]:
        atoms = read(directory / "output.xyz")
        free = atoms.get_potential_energy()
        return {"energy": free + SMEARED, "free_energy": free, "forces": atoms.get_forces()}

    def load_profile(self, cfg: Any, **options: Any) -> Any:
        raise NotImplementedError


def copper(seed: int, size: float = 0.1) -> Atoms:
    """A cubic cell of four atoms, displaced by numbers with the standard deviation `size` (A)."""
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.positions += np.random.default_rng(seed).normal(0, size, atoms.positions.shape)
    return atoms
