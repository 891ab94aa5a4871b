"""From settings to models and their reports: what `so3krates train` does."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from rich.console import Console
from rich.table import Table

from so3krates.data import StoredFrames
from so3krates.files import write_text
from so3krates.hints import command
from so3krates.storage import Model
from so3krates.terminal import said
from so3krates.uncertainty import UncertaintyError
from so3krates.wording import counted

from .config import RunConfig
from .finetuning import initial_model, member_starts
from .forgetting import OLD, changes, changes_table
from .html_report import add_to_page
from .loggers import require_packages
from .metrics import Errors
from .overfitting import overfitting
from .processes import first_before_others, is_first, leave, place
from .progress import duration, progress_display
from .report import ReportError, write_committee_report, write_report
from .run_folder import REPORT_FOLDER, TrainingError, holds_run, require_run_place
from .sources import Demands, load_frames, load_old_test, load_replay, load_stored, load_test, without_baselines
from .trainer import TrainingResult, train
from .uncertainty import with_uncertainty

STORE_FOLDER = "frames"
MOST_MEMBERS = 64  # of a committee
REPORTED = 1000  # frames of a stored set that a report looks at


def committee(config: RunConfig, members: int) -> dict[str, RunConfig]:
    """Runs that differ in their seeds of weights and order alone, by the name of their folder; one run has none.

    Where they go on from a committee, each has its own member. Raises ConfigError for one of another size.
    """
    t = config.training
    starts = member_starts(t.initial_model, members)
    if members == 1:
        return {"": dataclasses.replace(config, training=dataclasses.replace(t, initial_model=starts[0]))}
    if t.hours is not None:
        t = dataclasses.replace(t, hours=t.hours / members)
    return {
        f"seed-{n}": dataclasses.replace(
            config,
            training=dataclasses.replace(
                t, seed_model=t.seed_model + n, seed_training=t.seed_training + n, initial_model=start
            ),
        )
        for n, start in enumerate(starts)
    }


def run_session(
    config: RunConfig,
    output: str | Path,
    console: Console,
    test_file: str | Path | None = None,
    resume: bool = False,
    members: int = 1,
    force: bool = False,
    examine: Callable[[Path, Sequence[Atoms]], Sequence[Table]] | None = None,
) -> list[TrainingResult]:
    """Trains one model in `output`, or a committee in folders within it, and writes the reports.

    `examine` makes further tables of the first model, from its folder and the training frames, for its report.

    Models are saved before their reports are made. A report that fails is said and the rest goes on; at the end a
    ReportError is raised. With `force`, or where a run goes on, labels that look wrong are trained on too. Raises
    ValueError for fewer than one member or more than MOST_MEMBERS, and what `load_frames` and `train` raise.
    """
    if not 1 <= members <= MOST_MEMBERS:
        raise ValueError(f"{members} members of a committee: give 1 to {MOST_MEMBERS}")
    require_packages(config.training.log_to)
    output = Path(output)
    runs = committee(config, members)
    _require_place([output / name for name in runs], output, resume)
    first = next(iter(runs.values()))  # the members' models to go on from share their baselines
    demands = Demands.of(first, force or resume, lambda text: said(console, "Note:", text))
    _require_own_lammps(demands)
    frames_train: StoredFrames | list[Atoms]
    frames_valid: StoredFrames | list[Atoms]
    if config.data.stream:
        console.print(
            f"Keeping the frames in {output / STORE_FOLDER}: written once, about 0.6 s for a thousand small ones"
        )
        stored = partial(load_stored, config.data, config.model.cutoff, output / STORE_FOLDER, demands)
        frames_train, frames_valid = first_before_others(stored)
    else:
        frames_train, frames_valid = load_frames(config.data, demands)
    tested = test_file if is_first() else None
    test_frames = load_test(config.data, tested, frames_train, demands) if tested is not None else []
    for part in demands.baselines.parts:
        _say(console, f"Taken off the labels: {part.describe()}; errors are those of the rest")
    _say(
        console, f"{counted(len(frames_train), 'frame')} to train, {len(frames_valid)} to validate; writing to {output}"
    )
    old_test = load_old_test(first, demands)
    sets = {"train": reported(frames_train), "valid": reported(frames_valid), "test": test_frames}
    results: list[TrainingResult] = []
    unwritten: dict[str, Exception] = {}
    for number, (name, run) in enumerate(runs.items(), 1):
        folder = output / name
        replay = load_replay(run, len(frames_train), demands)  # with the labels of the model that it goes on from
        if replay:
            _say(console, f"{counted(len(replay), 'frame')} of {config.finetuning.replay} beside them")
        # A member whose turn has not come when the session was stopped is begun, not resumed.
        begun = resume and (members == 1 or holds_run(folder))
        with progress_display(console) as progress:
            result = train(run, frames_train, frames_valid, folder, progress, begun, replay)
        is_last = number == len(runs) or result.reason.startswith("stopped by")
        speaks = is_first()
        if is_last:
            leave()  # what follows is the work of one
        if not speaks:
            results.append(result)
            if is_last:
                return results
            continue
        _say(console, f"Ended after {result.steps} steps ({_taken(result)}): {result.reason}.")
        if (learnt := overfitting(result.metrics_file)) is not None:
            said(console, "Note:", learnt)
        try:
            model = with_uncertainty(result.model, [*sets["train"], *replay], sets["valid"])
            model.save(folder)
            result = dataclasses.replace(result, model=model)
        except UncertaintyError as problem:
            said(console, "Note:", f"the model tells no uncertainties: {problem}")
        options: dict[str, Any] = {"float64": run.training.float64, "tag_key": run.data.tag_key}
        with _reporting(console, folder, unwritten):
            tables = write_report(folder / REPORT_FOLDER, result.model, sets, result.metrics_file, console, **options)
            result = dataclasses.replace(result, model=with_errors(result.model, tables, sets))
            result.model.save(folder)
            if examine is not None and not results and (found := examine(folder, whole(sets["train"], demands))):
                add_to_page(folder / REPORT_FOLDER / "report.html", found)
            if run.training.initial_model is not None:
                told = {name: sets[name] for name in ("valid", "test")} | {OLD: old_test}
                result = dataclasses.replace(result, model=_compared(run, result.model, told, folder, console))
        following = command("so3krates", "export", folder, "-o", f"{folder.resolve().name}.so3k")
        _say(console, f"Model: {folder}. Next: {following}")
        results.append(result)
        if is_last:
            break
    if members > 1 and len(results) == members and not results[-1].reason.startswith("stopped by"):
        options = {"float64": config.training.float64, "tag_key": config.data.tag_key}
        with _reporting(console, output, unwritten):
            models = [result.model for result in results]
            write_committee_report(output / REPORT_FOLDER, models, sets, console, **options)
    if unwritten:
        raise ReportError(
            f"trained and saved, but not reported in full: {', '.join(unwritten)}. When what was said above is mended: "
            + command("so3krates", "evaluate", output, "DATA", "-o", "FOLDER")
        ) from next(iter(unwritten.values()))
    return results


def _compared(
    run: RunConfig, model: Model, sets: Mapping[str, Sequence[Atoms]], folder: Path, console: Console
) -> Model:
    """Says what the run has gained and lost beside the model that it went on from; the model that knows it too."""
    found = changes(initial_model(run.training.initial_model or ""), model, sets, run.training.float64)
    if not found:
        return model
    table = changes_table(found)
    console.print(table)
    write_text(folder / REPORT_FOLDER / "changes.json", json.dumps(found, indent=1, allow_nan=False) + "\n")
    add_to_page(folder / REPORT_FOLDER / "report.html", [table])
    model = dataclasses.replace(model, training={**(model.training or {}), "changes": found})
    model.save(folder)
    return model


@contextlib.contextmanager
def _reporting(console: Console, folder: Path, unwritten: dict[str, Exception]) -> Iterator[None]:
    """Keeps a report that fails from ending the session: the model is saved, and there may be others to train."""
    try:
        yield
    except Exception as error:
        _say(console, f"The report of {folder} is not complete: {' '.join(str(error).split()) or repr(error)}")
        unwritten[str(folder)] = error


def _require_own_lammps(demands: Demands) -> None:
    """Refuses baselines of LAMMPS where MPI started the processes: LAMMPS would take them for its own ranks."""
    here = place()
    if demands.baselines.by_lammps and here.size > 1 and here.launcher != "--processes":
        raise TrainingError(
            f"{here.launcher} has started {here.size} processes, and the baseline is computed by LAMMPS, which would "
            "take them for its own ranks: share the batch by --processes instead, which needs no MPI"
        )


def whole(frames: Sequence[Atoms], demands: Demands) -> Sequence[Atoms]:
    """Frames with the labels that they had in their file."""
    if not demands.baselines:
        return frames
    return [without_baselines(demands.baselines, atoms, "a training frame", 1) for atoms in frames]


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _taken(result: TrainingResult) -> str:
    """The time of a run in words."""
    if result.seconds - result.seconds_here < 1:
        return duration(result.seconds)
    return f"{duration(result.seconds)}, {duration(result.seconds_here)} of them since it was resumed"


def with_errors(model: Model, tables: Mapping[str, Mapping[str, Errors]], sets: Mapping[str, Sequence[Atoms]]) -> Model:
    """The model with the errors of its report among what it tells of its training: a bundle has them too."""
    errors = {
        name: {"frames": len(sets[name])}
        | {row: {"rmse": e.rmse, "mae": e.mae, "unit": e.unit} for row, e in table.items() if math.isfinite(e.rmse)}
        for name, table in tables.items()
    }
    return dataclasses.replace(model, training={**(model.training or {}), "errors": errors})


def _require_place(folders: Sequence[Path], output: Path, resume: bool) -> None:
    """Refuses to begin where a run lies, and to resume where none does, before anything is read or written."""
    begun = [folder for folder in folders if holds_run(folder)]
    if resume and not begun:
        require_run_place(output, resume)
    for folder in folders:
        if not resume or folder in begun:
            require_run_place(folder, resume)


def reported(frames: Sequence[Atoms] | StoredFrames) -> Sequence[Atoms]:
    """The frames of a report: all of a list, REPORTED of a store, evenly spread."""
    if not isinstance(frames, StoredFrames):
        return frames
    return frames.to_atoms(np.unique(np.linspace(0, len(frames) - 1, REPORTED).astype(int)) if len(frames) else [])
