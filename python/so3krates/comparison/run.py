"""A comparison from its settings to its report; what is done is not done again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from rich.console import Console

from so3krates.checks import perfect_crystal
from so3krates.data import (
    DataError,
    Labels,
    count_split,
    elements_of,
    energy_shifts,
    finite,
    labels,
    last_frame,
    tags_of,
    total_shift,
    with_labels,
)
from so3krates.files import make_folder, only_user, write_frames, write_text
from so3krates.physics import crystal_of
from so3krates.terminal import said
from so3krates.training import as_json as errors_json
from so3krates.training import error_table, reference
from so3krates.training.sources import evaluated_frames

from .config import CompareSettings
from .examination import examine
from .families import Family, FamilyError
from .potential import FamilyPotential
from .process import GRACE, LATE, Limits, RunnerProcess, Server, Usage
from .report import write_comparison

VALID_SHARE = 0.1  # of the frames, where data.n_valid is absent
JOB, TRAINED, ROW = "job.json", "trained.json", "row.json"


class Material(NamedTuple):
    """Frames of a comparison; energies in eV, less `shifts` of the elements."""

    train: list[Atoms]
    valid: list[Atoms]
    test: list[Atoms]
    elements: list[str]
    shifts: dict[str, float]
    crystal: Atoms
    digest: str  # of all of them


def compare(settings: CompareSettings, output: Path, screen: Console) -> list[dict[str, Any]]:
    """Trains and examines all families, one after the other; the rows of the report, which is written after each.

    A row that is done, by the same settings and data, is taken as it is. Raises DataError, ConfigError, WriteError; a
    family that fails has a row that says why.
    """
    output = make_folder(output).absolute()
    with only_user(output):
        return _compare(settings, output, screen)


def _compare(settings: CompareSettings, output: Path, screen: Console) -> list[dict[str, Any]]:
    material = _material(settings, screen)
    sizes = settings.compare.sizes or (len(material.train),)
    rows: list[dict[str, Any]] = []
    jobs = [
        (family, size, seed)
        for family in settings.families.values()
        for size in sizes
        for seed in range(settings.compare.seeds_of(family.name))
    ]
    for number, (family, size, seed) in enumerate(jobs, 1):
        rows.append(_row(settings, material, family, size, seed, output, screen, f"{number}/{len(jobs)}"))
        write_comparison(output, settings, rows, len(jobs))
    return rows


def _material(settings: CompareSettings, screen: Console) -> Material:
    def say(text: str) -> None:
        said(screen, "Note:", text)

    config, compare = settings.data, settings.compare
    assert config.file is not None and compare.test_file is not None  # their settings refuse it
    frames = evaluated_frames(config.file, config, say)
    test = evaluated_frames(compare.test_file, config, say)
    n_valid = max(1, round(VALID_SHARE * len(frames))) if config.n_valid is None else config.n_valid
    split = count_split(
        len(frames), max(1, len(frames) - n_valid), n_valid, config.seed, tags_of(frames, config.tag_key)
    )
    train, valid = ([frames[i] for i in part] for part in (split.train, split.valid))
    if compare.sizes and max(compare.sizes) > len(train):
        raise DataError(f"compare.sizes = {max(compare.sizes)}, but {len(train)} frames train: give at most so many")
    elements = elements_of(train)
    for part, others in ((config.file, valid), (compare.test_file, test)):
        unknown = sorted(set(elements_of(others)) - set(elements))
        if unknown:
            raise DataError(f"{part} has {', '.join(unknown)}, which no training frame has: give other frames")
    shifts = energy_shifts(train, config.energy_shift)
    parts = [[_shifted(atoms, shifts) for atoms in part] for part in (train, valid, test)]
    crystal = _crystal(settings, test, elements)
    digest = hashlib.sha256()
    for atoms in [*(atoms for part in parts for atoms in part), crystal]:
        for array in (atoms.numbers, atoms.positions, atoms.cell.array, *labels(atoms)):
            digest.update(np.ascontiguousarray(array).tobytes())
    return Material(parts[0], parts[1], parts[2], elements, shifts, crystal, digest.hexdigest())


def _shifted(atoms: Atoms, shifts: dict[str, float]) -> Atoms:
    """A bare frame whose energy lacks the elements' shifts: single precision holds what is left."""
    found = labels(atoms)
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    return with_labels(bare, Labels(found.energy - total_shift(atoms.numbers, shifts), found.forces, found.stress))


def _crystal(settings: CompareSettings, test: Sequence[Atoms], elements: Sequence[str]) -> Atoms:
    """The structure of the settings, the calmest test frame, or a simple crystal of the first and last element."""
    if settings.compare.structure is not None:
        found = last_frame(Path(settings.compare.structure))
        unknown = sorted(set(found.get_chemical_symbols()) - set(elements))
        if unknown:
            raise DataError(f"{settings.compare.structure} has {', '.join(unknown)}, which no training frame has")
    else:
        found = crystal_of(test) or perfect_crystal(elements[0], elements[-1])
    return Atoms(found.numbers, found.positions, cell=found.cell, pbc=found.pbc)


def _row(
    settings: CompareSettings,
    material: Material,
    family: Family,
    size: int,
    seed: int,
    output: Path,
    screen: Console,
    place: str,
) -> dict[str, Any]:
    """One training with all that is examined of it, or why there is none."""
    config = settings.compare
    folder = make_folder(output / family.name / f"frames-{size}-seed-{seed}")
    job = {
        "family": family.name,
        "frames": size,
        "seed": seed,
        "cpu_seconds": 60 * config.minutes * config.threads,
        "threads": config.threads,
        "elements": material.elements,
        "options": settings.options[family.name],
    }
    examined = [config.check_minutes, config.drift_steps, config.speed_atoms]
    # What a row is made by: another digest, and it is made anew.
    by = {"job": job, "data": material.digest, "runner": _digest(family), "examined": examined}
    done = _read(folder / ROW)
    if done is not None and done.get("by") == by and done.get("problem") is None:
        screen.print(f"{place} {family.name}, {size} frames, seed {seed}: is done already", highlight=False)
        return done
    screen.print(f"{place} {family.name}, {size} frames, seed {seed}", highlight=False)
    row: dict[str, Any] = {"family": family.name, "title": family.title, "frames": size, "seed": seed, "by": by}
    try:
        python = family.environment(Path(config.environments))
        row["versions"] = family.versions(python)
        usage = _trained(family, python, folder, by, material, config.memory)
        row["training"] = usage._asdict()
        row |= _predicted(settings, family, python, folder, material)
    except FamilyError as problem:
        row["problem"] = str(problem)
        said(screen, f"{family.name}:", str(problem))
    row = finite(row)
    write_text(folder / ROW, json.dumps(row, indent=1, allow_nan=False) + "\n")
    return row


def _digest(family: Family) -> str:
    """Of the runner and of what it needs."""
    files = sorted(file for file in family.folder.iterdir() if file.suffix in (".py", ".txt"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _trained(
    family: Family, python: Path, folder: Path, by: dict[str, Any], material: Material, memory: float
) -> Usage:
    """What the training took, now or in an earlier call. Raises FamilyError."""
    same, job = {key: value for key, value in by.items() if key != "examined"}, by["job"]
    done = _read(folder / TRAINED)
    if done is not None and done["by"] == same:
        return Usage(**done["usage"])
    shutil.rmtree(folder)
    make_folder(folder)
    write_text(folder / JOB, json.dumps(job, indent=1) + "\n")
    write_frames(folder / "train.extxyz", material.train[: job["frames"]])
    write_frames(folder / "valid.extxyz", material.valid)
    limits = Limits(LATE * job["cpu_seconds"] + GRACE, memory)
    process = RunnerProcess(python, family, "train", folder, limits, job["threads"])
    try:
        usage = process.wait()
    finally:
        process.end()
    write_text(folder / TRAINED, json.dumps({"by": same, "usage": usage._asdict()}) + "\n")
    return usage


def _predicted(
    settings: CompareSettings, family: Family, python: Path, folder: Path, material: Material
) -> dict[str, Any]:
    """Errors of the frames, and what is examined. Raises FamilyError where there are no errors."""
    config = settings.compare
    # Of the test frames as long as a training, whether there are checks or not.
    minutes = config.minutes + config.check_minutes
    limits = Limits((60 * minutes + GRACE) * config.threads, config.memory)
    server = Server(python, family, "serve", folder, limits, config.threads)
    cutoff = float(settings.options[family.name].get("cutoff", family.cutoff))
    potential = FamilyPotential(server, folder, material.elements, cutoff)
    try:
        server.start()
        found, _ = potential.predict(material.test)
        row: dict[str, Any] = {"errors": errors_json(error_table(found, reference(material.test)))}
        if config.check_minutes > 0:
            row |= examine(potential, material.crystal, config)
        return row
    finally:
        server.end()


def _read(path: Path) -> dict[str, Any] | None:
    """What an earlier call left, if it can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
