"""How a family's runner talks with `so3krates compare` (docs/compare.md). Needs numpy and ASE, nothing of so3krates.

A runner gives `main` two functions: `train(job)`, which leaves a model in `job.folder`, and `calculator(job)`, an ASE
calculator of that model.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

PR_SET_PDEATHSIG = 1
PARENT = "COMPARE_PARENT"  # variable with the process that started this one


class Job:
    """What job.json says, and the frames beside it. Energies in eV, less those of the elements; eV/A; eV/A^3."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        content = json.loads((self.folder / "job.json").read_text())
        self.budget: float = content["cpu_seconds"]  # of all threads together
        self.threads: int = content["threads"]
        self.seed: int = content["seed"]
        self.elements: list[str] = content["elements"]
        self.options: dict[str, Any] = content["options"]

    @property
    def train(self) -> list[Atoms]:
        return ase.io.read(self.folder / "train.extxyz", ":")

    @property
    def valid(self) -> list[Atoms]:
        return ase.io.read(self.folder / "valid.extxyz", ":")

    @property
    def used(self) -> float:
        """CPU seconds of this process and of those that it waited for."""
        return sum(os.times()[:4])

    @property
    def left(self) -> float:
        return self.budget - self.used

    def run(self, *command: object, **options: Any) -> None:
        """A program that trains, in the job's folder; it ends with this process. Its words go to the log."""
        words = [str(word) for word in command]
        code = subprocess.run(
            words, cwd=self.folder, preexec_fn=_end_with_parent, stdout=sys.stderr, **options
        ).returncode
        if code:
            how = f"exit status {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
            raise RuntimeError(f"{Path(words[0]).name} ended with {how}")

    def trial(self, trainer: Callable[[int], None], few: int = 20, share: float = 0.9) -> int:
        """Steps that fit into `share` of what is left, by runs of `few` steps, the first to fill caches, and more."""
        marks = []
        for steps in (few, few, 3 * few):
            before = self.used
            trainer(steps)
            marks.append(self.used - before)
        per_step = max(marks[2] - marks[1], 0.05 * marks[2]) / (2 * few)
        start = max(marks[1] - few * per_step, 0.0)
        return max(3 * few, int((share * self.left - start) / per_step))


def main(train: Callable[[Job], None], calculator: Callable[[Job], Any]) -> None:
    """`run.py train FOLDER` or `run.py serve FOLDER`."""
    _end_with_parent()
    if os.getppid() != int(os.environ.get(PARENT, os.getppid())):
        sys.exit("what started this has ended")  # while packages were imported
    # What packages print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    verb, job = sys.argv[1], Job(Path(sys.argv[2]))
    if verb == "train":
        train(job)
        return
    known = calculator(job)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(known, json.loads(line))), file=answers, flush=True)


def _answer(calculator: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Computes the frames of a file into another one; the seconds that each took, by the clock and of the CPU."""
    seconds, cpu_seconds, found = [], [], []
    try:
        for atoms in ase.io.read(request["frames"], ":"):
            begin, cpu = time.perf_counter(), time.process_time()
            results = _results(calculator, atoms, request["properties"])
            seconds.append(time.perf_counter() - begin)
            cpu_seconds.append(time.process_time() - cpu)
            atoms.calc = SinglePointCalculator(atoms, **results)
            found.append(atoms)
        ase.io.write(request["output"], found, format="extxyz")
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


def _results(calculator: Any, atoms: Atoms, properties: Sequence[str]) -> dict[str, Any]:
    atoms.calc = calculator
    found: dict[str, Any] = {"energy": float(atoms.get_potential_energy()), "forces": atoms.get_forces()}
    if "stress" in properties and atoms.pbc.all() and "stress" in calculator.implemented_properties:
        found["stress"] = atoms.get_stress()
    return found


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
