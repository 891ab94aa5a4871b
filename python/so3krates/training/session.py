"""From settings to models and their reports: what `so3krates train` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from rich.console import Console

from so3krates.data import StoredFrames, read_frames
from so3krates.hints import command

from .config import RunConfig
from .loggers import require_packages
from .report import write_committee_report, write_report
from .sources import load_frames, load_stored
from .trainer import RUN_FILE, TrainingError, TrainingResult, train

STORE_FOLDER = "frames"
REPORTED = 1000  # frames of a stored set that a report looks at


def committee(config: RunConfig, members: int) -> dict[str, RunConfig]:
    """Runs that differ in their seeds of weights and order alone, by the name of their folder; one run has none."""
    if members == 1:
        return {"": config}
    t = config.training
    return {
        f"seed-{n}": dataclasses.replace(
            config,
            training=dataclasses.replace(t, seed_model=t.seed_model + n, seed_training=t.seed_training + n),
        )
        for n in range(members)
    }


def run_session(
    config: RunConfig,
    output: str | Path,
    console: Console,
    test_file: str | Path | None = None,
    resume: bool = False,
    members: int = 1,
) -> list[TrainingResult]:
    """Trains one model in `output`, or a committee in folders within it, and writes the reports.

    Raises ValueError for fewer than one member and what `load_frames` and `train` raise.
    """
    if members < 1:
        raise ValueError(f"{members} members of a committee: give at least 1")
    require_packages(config.training.log_to)
    output = Path(output)
    runs = committee(config, members)
    _require_place([output / name for name in runs], output, resume)
    if config.data.stream:
        console.print(
            f"Keeping the frames in {output / STORE_FOLDER}: written once, about 0.6 s for a thousand small ones"
        )
        frames_train, frames_valid = load_stored(config.data, config.model.cutoff, output / STORE_FOLDER)
    else:
        frames_train, frames_valid = load_frames(config.data)
    test_frames = read_frames(test_file, config.data.keys) if test_file is not None else []
    console.print(f"{len(frames_train)} frames to train, {len(frames_valid)} to validate; writing to {output}")
    sets = {"train": reported(frames_train), "valid": reported(frames_valid), "test": test_frames}
    results = []
    for name, run in runs.items():
        folder = output / name
        # A member whose turn has not come when the session was stopped is begun, not resumed.
        begun = resume and (members == 1 or (folder / RUN_FILE).exists())
        result = train(run, frames_train, frames_valid, folder, resume=begun)
        console.print(f"Ended after {result.steps} steps ({result.seconds:.0f} s): {result.reason}.")
        options = {"float64": run.training.float64, "tag_key": run.data.tag_key}
        write_report(folder / "report", result.model, sets, result.metrics_file, console, **options)
        following = command("so3krates", "export", folder, "-o", f"{folder.name}.so3k")
        console.print(f"Model: {folder}. Next: {following}", soft_wrap=True, markup=False)
        results.append(result)
        if result.reason.startswith("stopped by"):
            break
    if members > 1 and len(results) == members and not results[-1].reason.startswith("stopped by"):
        options = {"float64": config.training.float64, "tag_key": config.data.tag_key}
        write_committee_report(output / "report", [result.model for result in results], sets, console, **options)
    return results


def _require_place(folders: Sequence[Path], output: Path, resume: bool) -> None:
    """Refuses to begin where a run lies, and to resume where none does, before anything is read or written."""
    begun = [folder for folder in folders if (folder / RUN_FILE).exists()]
    if begun and not resume:
        raise TrainingError(f"{begun[0]} holds a run already: resume it, or choose another folder")
    if resume and not begun:
        raise TrainingError(f"{output} holds no run to resume ({RUN_FILE} is missing)")


def reported(frames: Sequence[Atoms] | StoredFrames) -> Sequence[Atoms]:
    """The frames of a report: all of a list, REPORTED of a store, evenly spread."""
    if not isinstance(frames, StoredFrames):
        return frames
    return frames.to_atoms(np.unique(np.linspace(0, len(frames) - 1, REPORTED).astype(int)) if len(frames) else [])
