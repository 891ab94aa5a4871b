"""Labels of a round: by a calculator in this or in more processes, or by a command in a folder of each frame.

Each result is kept on disk, so that none is made twice. What fails is tried once more and then left out, with a folder
that holds the frame and the reason.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator

from so3krates.files import make_folder, write_frames, write_text
from so3krates.progress import Callback
from so3krates.sampling import Recipe, Workers
from so3krates.sampling.calculators import computed, work_in
from so3krates.sampling.workers import TEACHER
from so3krates.wording import counted

from .config import LabelConfig

FAILED = "error"  # of a result: why there is none
SUBMITTED = "submitted"
NEAR = 1e-2  # A, between the structure that was written and the one that was read
ENERGY, FORCES, STRESS = "energy", "forces", "stress"


class LabelsAwaited(RuntimeError):
    """Labels that a batch system has not made yet; the message says how many, and where."""


class LabelsFailed(RuntimeError):
    """A labeller that has never worked; the message says why, and the next call asks it again."""


@dataclasses.dataclass(frozen=True)
class Labelled:
    """What became of the frames of a round."""

    frames: list[Atoms]  # with labels
    failed: dict[int, str]  # index of a frame -> its folder and the reason


def recipe(settings: LabelConfig) -> Recipe:
    """The calculator that labels."""
    return Recipe(settings.calculator or "", settings.deck, settings.elements or ("Ga", "N"))


def label(frames: Sequence[Atoms], settings: LabelConfig, folder: Path, on_progress: Callback | None) -> Labelled:
    """Labels of frames, whose results are kept in a folder. Raises LabelsAwaited where a batch system has some yet."""
    make_folder(folder)
    if settings.calculator is None:
        results = _by_command(frames, settings, folder, on_progress)
    else:
        results = _by_calculator(frames, settings, folder, on_progress)
    labelled, failed = [], {}
    for index, (atoms, found) in enumerate(zip(frames, results, strict=True)):
        problem = str(found[FAILED]) if FAILED in found else _doubt(found, settings.max_force)
        place = folder / f"frame-{index:04d}"
        if problem:
            make_folder(place)
            write_frames(place / "failed.extxyz", [atoms])
            write_text(place / "error.txt", problem + "\n")
            failed[index] = f"{place}: {problem}"
            continue
        copy = atoms.copy()
        values = {k: v.item() if v.ndim == 0 else v for k, v in found.items()}
        copy.calc = SinglePointCalculator(copy, **values)
        labelled.append(copy)
    return Labelled(labelled, failed)


def require_some(made: Labelled, folder: Path) -> None:
    """Raises LabelsFailed where all labels of a folder have failed: what failed is then made again by the next call."""
    if made.frames or not made.failed:
        return
    for path in [*folder.glob("label-*.npz"), *folder.glob("again-*.npz")]:
        with np.load(path) as content:
            has_failed = FAILED in content
        if has_failed:
            path.unlink()
    first = next(iter(made.failed.values()))
    raise LabelsFailed(
        f"each of {counted(len(made.failed), 'label')} failed, and none was ever made; the first: {first}: mend "
        "[label] of the settings, and the same command makes them again (remove a file named failed)"
    )


def _doubt(found: dict[str, np.ndarray], max_force: float) -> str:
    """What is wrong with labels; empty: nothing."""
    if not (np.isfinite(found[ENERGY]).all() and np.isfinite(found[FORCES]).all()):
        return "the energy or forces are not finite"
    largest = float(np.sqrt(np.square(found[FORCES]).sum(axis=1)).max())
    if largest > max_force:
        return f"the largest force is {largest:.4g} eV/A, more than label.max_force = {max_force:g}"
    return ""


# A calculator


def _by_calculator(
    frames: Sequence[Atoms], settings: LabelConfig, folder: Path, on_progress: Callback | None
) -> list[dict[str, np.ndarray]]:
    with Workers(recipe(settings), None, folder, settings.processes, on_progress, settings.engine) as workers:
        results: list[dict[str, np.ndarray]] = []
        for attempt in ("label", "again"):
            jobs = {
                f"{attempt}-{k}": (atoms, folder / f"frame-{k:04d}")
                for k, atoms in enumerate(frames)
                if attempt == "label" or FAILED in results[k]
            }
            found = workers.run("labels" if attempt == "label" else "labels, once more", TEACHER, _results, jobs)
            if attempt == "label":
                results = found
            for name, result in zip(jobs, found, strict=True):
                results[int(name.partition("-")[2])] = result
    return results


def _results(calculator: Calculator, frame: Atoms, folder: Path) -> dict[str, np.ndarray]:
    """Labels of one frame, or why there are none."""
    atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
    work_in(calculator, folder)
    try:
        return computed(calculator, atoms)
    except Exception as error:  # of a library or program that is not ours
        return {FAILED: np.array(f"{type(error).__name__}: {' '.join(str(error).split())}")}


# A command


def _by_command(
    frames: Sequence[Atoms], settings: LabelConfig, folder: Path, on_progress: Callback | None
) -> list[dict[str, np.ndarray]]:
    places = [folder / f"frame-{k:04d}" for k in range(len(frames))]
    for atoms, place in zip(frames, places, strict=True):
        _write_input(atoms, place, settings)
    done = 0

    def report(_: Any = None) -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress("labels", done, len(frames))

    results: list[dict[str, np.ndarray] | None] = [None] * len(frames)
    with concurrent.futures.ThreadPoolExecutor(settings.processes) as pool:
        work = {pool.submit(_of_folder, a, p, settings): k for k, (a, p) in enumerate(zip(frames, places, strict=True))}
        for future in concurrent.futures.as_completed(work):
            results[work[future]] = future.result()
            report()
    awaited = [place for place, result in zip(places, results, strict=True) if result is None]
    if awaited:
        raise LabelsAwaited(
            f"{len(awaited)} of {len(frames)} labels are awaited, the first in {awaited[0]} ({settings.read}): when "
            "they are there, give the same command again; a folder with a file named failed is left out"
        )
    return [result for result in results if result is not None]


def _write_input(atoms: Atoms, place: Path, settings: LabelConfig) -> None:
    """Template and structure, once."""
    target = place / settings.write
    if target.is_file():
        return
    make_folder(place)
    if settings.template is not None:
        shutil.copytree(settings.template, place, dirs_exist_ok=True)
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    part = place / f".part-{settings.write}"
    ase.io.write(part, bare, format=settings.write_format or ase.io.formats.filetype(target, read=False))
    part.rename(target)


def _of_folder(atoms: Atoms, place: Path, settings: LabelConfig) -> dict[str, np.ndarray] | None:
    """The result of a folder, after its command where that has not run yet; None: it is awaited."""
    if (place / "failed").exists():
        return {FAILED: np.array("the folder has a file named failed")}
    problem = ""
    for _ in range(1 if settings.batch else 2):
        found = _read(atoms, place, settings)
        if isinstance(found, dict):
            return found
        if settings.batch and (settings.command is None or (place / SUBMITTED).exists()):
            return None
        problem = _ran(place, settings)
        if settings.batch:
            if problem:
                return {FAILED: np.array(problem)}
            write_text(place / SUBMITTED, json.dumps({"command": settings.command}) + "\n")
            return None
    found = _read(atoms, place, settings)
    return found if isinstance(found, dict) else {FAILED: np.array(problem or found)}


def _ran(place: Path, settings: LabelConfig) -> str:
    """Runs the command; why it failed, empty: it did not."""
    assert settings.command is not None
    with (place / "command.log").open("ab") as log:
        done = subprocess.run(
            settings.command, shell=True, cwd=place, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    return f"the command ended with status {done.returncode} (see command.log)" if done.returncode else ""


def _read(atoms: Atoms, place: Path, settings: LabelConfig) -> dict[str, np.ndarray] | str:
    """Labels of a result's file, or why there are none yet."""
    path = place / settings.read
    if not path.is_file():
        return f"there is no {settings.read}"
    try:
        read = ase.io.read(path, index=-1, format=settings.read_format)
    except Exception as error:  # of a file that is not whole, by any of ASE's readers
        return f"{settings.read} cannot be read ({type(error).__name__}: {' '.join(str(error).split())})"
    assert isinstance(read, Atoms)
    results = {} if read.calc is None else read.calc.results
    if FORCES not in results or ENERGY not in results:
        return f"{settings.read} has no energy and forces"
    order = _order(atoms, read)
    if order is None:
        return f"{settings.read} is of another structure"
    # The energy that forces are derivatives of, where a program has another one too.
    energy = results.get("free_energy", results[ENERGY])
    found = {ENERGY: np.array(energy, np.float64), FORCES: np.array(results[FORCES], np.float64)[order]}
    return found | ({STRESS: np.array(results[STRESS], np.float64)} if STRESS in results else {})


def _order(atoms: Atoms, read: Atoms) -> np.ndarray | None:
    """For each atom its place in what was read, where programs sort by element; None: they are other structures."""
    if len(atoms) != len(read) or (atoms.pbc.any() and np.abs(atoms.cell.array - read.cell.array).max() > NEAR):
        return None
    for order in (np.arange(len(atoms)), *_sorted_orders(atoms, read)):
        moved = read.positions[order] - atoms.positions
        if atoms.pbc.any() and atoms.cell.rank == 3:
            moved -= np.round(moved @ np.linalg.inv(atoms.cell.array)) * atoms.pbc @ atoms.cell.array
        if (read.numbers[order] == atoms.numbers).all() and np.abs(moved).max() < NEAR:
            return order
    return None


def _sorted_orders(atoms: Atoms, read: Atoms) -> list[np.ndarray]:
    """Atoms stand by element in what was read, and among their like as before."""
    if sorted(atoms.numbers) != sorted(read.numbers):
        return []
    order = np.empty(len(atoms), int)
    for z in np.unique(atoms.numbers):
        order[atoms.numbers == z] = np.flatnonzero(read.numbers == z)
    return [order]
