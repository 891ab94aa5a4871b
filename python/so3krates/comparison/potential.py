"""A trained family as checks, physics and tables see it: predictions by its own process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ase.io
import numpy as np
from ase import Atoms

from so3krates.checks import Answer
from so3krates.training import Properties
from so3krates.wording import counted

from .families import FamilyError
from .process import Server

QUESTION, ANSWER = "question.extxyz", "answer.extxyz"
PROPERTIES = ("energy", "forces", "stress")
ABSURD = 1e12  # eV and eV/A, which no potential means


class Seconds(NamedTuple):
    """What each frame took, without reading and writing."""

    seconds: list[float]  # by the clock
    cpu_seconds: list[float]  # of all threads


class FamilyPotential:
    """Predictions of frames through the server of a family (docs/compare.md)."""

    precision = "float32"  # that laws are judged by: files hold eight digits behind the point, whatever computes
    charges: Mapping[str, float] = {}  # it has no fixed ones that split modes

    def __init__(self, server: Server, folder: Path, elements: Sequence[str], cutoff: float) -> None:
        self.server, self.folder, self.elements, self.cutoff = server, folder, elements, cutoff
        self.questions = 0  # that were asked
        self.most_questions: float = math.inf

    def __call__(self, atoms: Atoms) -> Answer:
        """Of one structure. Raises FamilyError."""
        found, _ = self.predict([atoms])
        stress = found.stresses[0]
        return Answer(float(found.energies[0]), found.forces[0], stress if np.isfinite(stress).all() else None)

    def predict(self, frames: Sequence[Atoms], properties: Sequence[str] = PROPERTIES) -> tuple[Properties, Seconds]:
        """Of frames, and what each took. Raises FamilyError where the answer is none to the question."""
        self.questions += 1
        if self.questions > self.most_questions:
            raise FamilyError("it does not come to rest, or has no smooth energy: too many evaluations were asked for")
        bare = [Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc) for atoms in frames]
        question, answer = self.folder / QUESTION, self.folder / ANSWER
        ase.io.write(question, bare, format="extxyz")  # thousands of them: none waits for the disc
        answer.unlink(missing_ok=True)
        said = self.server.ask({"frames": str(question), "output": str(answer), "properties": list(properties)})
        try:
            found = ase.io.read(answer, ":")
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise FamilyError(f"its predictions cannot be read: {error}") from error
        if len(found) != len(frames):
            raise FamilyError(f"it predicted {counted(len(found), 'frame')} of {len(frames)}")
        unknown = np.full((3, 3), np.nan)
        energies, forces, stresses = [], [], []
        for number, (asked, told) in enumerate(zip(frames, found, strict=True)):
            results = {} if told.calc is None else told.calc.results
            if len(told) != len(asked) or "energy" not in results or "forces" not in results:
                raise FamilyError(f"frame {number}: it gave no energy and forces of {counted(len(asked), 'atom')}")
            energies.append(float(results["energy"]))
            forces.append(np.asarray(results["forces"]))
            stresses.append(told.get_stress(voigt=False) if "stress" in results else unknown)
        sizes = [np.abs(np.append(f, e)).max() for e, f in zip(energies, forces, strict=True)]
        lost = [n for n, size in enumerate(sizes) if not size < ABSURD]  # NaN is in no order
        if lost:
            named = ", ".join(map(str, lost[:5])) + (", ..." if len(lost) > 5 else "")
            raise FamilyError(
                f"its energy or forces are no numbers, or beyond {ABSURD:g} eV and eV/A, for "
                f"{counted(len(lost), 'frame')} ({named})"
            )
        times = [[float(second) for second in said.get(name, [])] for name in Seconds._fields]
        return Properties(np.array([len(a) for a in frames]), np.array(energies), forces, np.array(stresses)), Seconds(
            *times
        )
