"""The whole of a sampling: structures of a plan, their labels, one file; a killed one goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator

from so3krates.engines import PROCESSES
from so3krates.files import make_folder, only_user, require_place, write_frames, write_text
from so3krates.progress import Callback

from .calculators import computed
from .crystals import relax_crystal, relax_positions
from .harmonic import SamplingError
from .plan import Plan
from .structures import structures
from .workers import DRIVER, TEACHER, Source, Workers

PLAN_FILE = "plan.json"


def parts_folder(output: str | Path) -> Path:
    """Where the results of a sampling lie until it is complete."""
    return Path(f"{output}.parts")


def sample(
    output: str | Path,
    crystal: Atoms,
    plan: Plan,
    teacher: Source,
    driver: Source | None = None,
    relax: bool = False,
    processes: int = 1,
    on_progress: Callback | None = None,
    engine: str = PROCESSES,
) -> list[Atoms]:
    """Samples a crystal by a plan, labels the structures by the teacher and writes them as extxyz.

    The driver makes the structures; without one the teacher does. `relax`: start from the driver's own lattice. Each
    result is kept beside the output until all are there, so that the same call goes on after a kill and nothing is
    calculated twice. Frames and their order do not depend on the number of processes. Raises SamplingError for an
    output that exists or belongs to another plan.
    """
    output, folder = Path(output), parts_folder(output)
    if output.exists() and not folder.exists():
        raise SamplingError(f"{output} exists already: delete it, or choose another output")
    make_folder(output.parent)
    require_place(output)
    with Workers(teacher, driver, folder, processes, on_progress, engine) as workers, contextlib.ExitStack() as stack:
        _claim(folder, _record(plan, crystal, relax, workers.names))
        stack.enter_context(only_user(folder))
        if relax:
            (found,) = workers.run("lattice", DRIVER, _relax_lattice, {"lattice": (crystal,)})
            crystal = crystal.copy()
            crystal.set_cell(found["cell"])
            crystal.positions = found["positions"]
        frames = label_frames(structures(plan, crystal, workers), workers)
    write_frames(output, frames)
    shutil.rmtree(folder)
    return frames


def label_frames(frames: Sequence[Atoms], workers: Workers) -> list[Atoms]:
    """Copies with energy, forces and, where the teacher has it, stress; `info` names teacher and driver."""
    names = {{TEACHER: "calculator"}.get(role, role): name for role, name in workers.names.items()}
    jobs = {f"label-{number}": (frame,) for number, frame in enumerate(frames)}
    labelled = []
    for frame, results in zip(frames, workers.run("labels", TEACHER, _labels, jobs), strict=True):
        copy = frame.copy()
        copy.info |= names
        results = {name: value.item() if value.ndim == 0 else value for name, value in results.items()}
        copy.calc = SinglePointCalculator(copy, **results)
        labelled.append(copy)
    return labelled


def _labels(calculator: Calculator, frame: Atoms) -> dict[str, np.ndarray]:
    return computed(calculator, frame.copy())


def _relax_lattice(calculator: Calculator, crystal: Atoms) -> dict[str, np.ndarray]:
    relaxed = (relax_crystal if crystal.pbc.all() else relax_positions)(crystal, calculator)
    return {"cell": relaxed.cell.array, "positions": relaxed.positions}


def _record(plan: Plan, crystal: Atoms, relax: bool, names: dict[str, str]) -> dict[str, Any]:
    """All that the result depends on, as plain values."""
    digest = hashlib.sha256()
    for array in (crystal.numbers, crystal.positions, crystal.cell.array, crystal.pbc):
        digest.update(np.ascontiguousarray(array).tobytes())
    record = {
        "plan": type(plan).__name__,
        **dataclasses.asdict(plan),
        "relax": relax,
        "structure": digest.hexdigest(),
        **names,
    }
    return json.loads(json.dumps(record))


def _claim(folder: Path, record: dict[str, Any]) -> None:
    """Takes a folder of parts for a sampling, new or begun. Raises SamplingError where it belongs to another."""
    path = folder / PLAN_FILE
    # A plan without any result, as of a calculator that could not be made, binds nobody.
    if path.is_file() and any(folder.glob("*.npz")):
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(begun, dict):
                raise ValueError("no table of settings")
        except ValueError as error:
            raise SamplingError(f"{path} is damaged ({error}): delete {folder} and sample anew") from error
        differ = sorted(key for key in begun.keys() | record.keys() if begun.get(key) != record.get(key))
        if differ:
            key = differ[0]
            raise SamplingError(
                f"{folder} belongs to a sampling with {key} = {begun.get(key)!r}, not {record.get(key)!r}: go on "
                "with the same settings, delete the folder, or choose another output"
            )
        return
    make_folder(folder)
    write_text(path, json.dumps(record, indent=1) + "\n")
