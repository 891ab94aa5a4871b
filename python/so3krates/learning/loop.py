"""The loop: rounds until the deck's errors and uncertainties are below their targets, or a budget ends."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from rich.console import Console

from so3krates.files import make_folder, only_user, replacing, write_text
from so3krates.progress import progress_display
from so3krates.storage import CONFIG_FILE
from so3krates.terminal import said
from so3krates.wording import counted

from .config import LearningSettings
from .explore import check_decks
from .labels import LabelsFailed, recipe
from .report import write_learning_report
from .rounds import POTENTIAL, Round

LABELLER = "labeller"  # of the record; None: none has worked yet
RECORD, CLOCK = "learn.json", "clock.json"
FINAL = "final"


class LearningError(RuntimeError):
    """A loop that cannot begin or go on; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a loop ended."""

    reason: str
    reached: bool  # whether the targets were
    potential: Path  # the bundle
    rounds: list[dict[str, Any]]  # summaries
    labels: int  # by the labeller


def learn(settings: LearningSettings, output: str | Path, console: Console) -> Outcome:
    """Runs a loop in a folder, or goes on with the one that was begun there.

    Raises LearningError for a folder of another loop, LabelsAwaited where a batch system is at work, and what training,
    export, LAMMPS and the file system raise: after any of them, and after a kill, the same call goes on.
    """
    output = Path(output)
    check_decks(settings.runs)
    if settings.label.calculator is not None:
        recipe(settings.label).make()  # a wrong name is seen before anything is trained
    make_folder(output)
    with only_user(output), _claimed(output, settings) as hours:
        try:
            return _learn(settings, output, console, hours)
        except LabelsFailed:  # of which nothing is kept: another labeller may take the folder
            path = output / RECORD
            record = {**json.loads(path.read_text(encoding="utf-8")), LABELLER: None}
            write_text(path, json.dumps(record, indent=1) + "\n")
            raise


def _learn(settings: LearningSettings, output: Path, console: Console, hours: Any) -> Outcome:
    learn, summaries = settings.learn, []
    frames: list[list[Atoms]] = []
    reason, reached, last, potential = "", False, None, output / POTENTIAL
    with progress_display(console) as on_progress:
        rounds = [Round(n, output, settings, console, on_progress) for n in range(learn.max_rounds + 1)]
        start = rounds[0].begin()
        _require_labels(start, rounds[0])
    frames.append(rounds[0].labelled())
    summaries.append(start)
    for one in rounds[1:]:
        made = _spent(summaries)
        reason = _budget(settings, made, hours())
        if reason and one.summary is None and len(summaries) > 1:
            break
        _say(console, f"Round {one.number}: {counted(sum(map(len, frames)), 'frame')}, {made} by the labeller")
        bundle = one.train(frames, last)
        summary = one.summary
        if summary is None:
            most = _most(settings, made)
            with progress_display(console) as on_progress:
                one = dataclasses.replace(one, on_progress=on_progress)
                runs = one.explore(bundle)
                chosen = one.choose(bundle, [atoms for part in frames for atoms in part], most)
                failed = one.label(chosen, any(earlier["labels"] for earlier in summaries))
                summary = one.conclude(bundle, runs, failed)
        summaries.append(summary)
        _say(console, _words(summary))
        for text in summary["failed"]:
            said(console, "Left out:", text)
        frames.append(one.labelled())
        last, potential = one.folder, bundle
        write_learning_report(output, settings, summaries)
        reached = _is_reached(settings, summary)
        if reached:
            reason = f"the targets were reached in round {one.number}"
            break
        if not frames[-1]:
            found = f"round {one.number} found no new frames to label"
            if summary["failed"]:
                found = f"each of {counted(len(summary['failed']), 'label')} of round {one.number} failed"
            reason = _budget(settings, _spent(summaries), hours()) or found
            break
        reason = f"{learn.max_rounds} rounds were done (learn.max_rounds)"
    if not reached and frames[-1] and len(summaries) > 1:
        _say(console, "A last training, on all labels")
        ending = _Final(len(summaries), output, settings, console, lambda *_: None)
        potential, last = ending.train(frames, last), ending.folder
    _publish(output, potential, last)
    made = sum(summary["labels"] for summary in summaries)
    outcome = Outcome(reason, reached, output / POTENTIAL, summaries, made)
    write_learning_report(output, settings, summaries, reason)
    return outcome


class _Final(Round):
    """The training after the last round, on its labels too."""

    @property
    def folder(self) -> Path:
        return self.output / f"{FINAL}-{self.number - 1:02d}"


def _is_reached(settings: LearningSettings, summary: dict[str, Any]) -> bool:
    """Whether the decks of a round came to their ends within the targets."""
    learn = settings.learn
    if summary["ended"] or summary["uncertain_share"] > learn.max_uncertain:
        return False
    if learn.max_error is None:
        return True
    found = summary["errors"].get("checks") or summary["errors"].get("fresh")
    return found is not None and found["forces"]["rmse"] <= 1000 * learn.max_error


def _spent(summaries: Sequence[dict[str, Any]]) -> int:
    """Labels that the labeller was asked for, those that failed included."""
    return sum(summary["labels"] + len(summary["failed"]) for summary in summaries)


def _budget(settings: LearningSettings, labels: int, hours: float) -> str:
    """Which part of the budget is spent; empty: none."""
    learn = settings.learn
    if learn.max_labels is not None and labels >= learn.max_labels:
        return f"{labels} labels were asked for (learn.max_labels = {learn.max_labels})"
    if learn.max_hours is not None and hours >= learn.max_hours:
        return f"{hours:.3g} hours have gone (learn.max_hours = {learn.max_hours:g})"
    return ""


def _most(settings: LearningSettings, made: int) -> int:
    """Labels that a round may still have made."""
    learn = settings.learn
    whole = learn.labels_per_round + learn.checks_per_round
    return whole if learn.max_labels is None else max(min(whole, learn.max_labels - made), 0)


def _require_labels(summary: dict[str, Any], first: Round) -> None:
    """Two frames at least: one trains, one validates."""
    count = len(first.labelled())
    if count < 2:
        failed = f"; {summary['failed'][0]}" if summary["failed"] else ""
        raise LearningError(
            f"{first.folder} has {counted(count, 'labelled frame')} to begin with, and 2 are needed: one to train, one "
            f"to validate{failed}"
        )


def _words(summary: dict[str, Any]) -> str:
    """A round in a line."""
    parts = [
        f"an atom above learn.save in {summary['above']} of {summary['looks']} looks, at most "
        f"{summary['largest']:.3g} eV/A",
        f"{counted(summary['labels'], 'label')}",
    ]
    for name in ("checks", "fresh", "test"):
        if name in summary["errors"]:
            parts.append(f"forces of {name} {summary['errors'][name]['forces']['rmse']:.4g} meV/A")
    parts += [f"ended early: {text}" for text in summary["ended"]]
    return f"Round {summary['round']}: " + "; ".join(parts)


@contextlib.contextmanager
def _claimed(output: Path, settings: LearningSettings) -> Iterator[Any]:
    """The hours of the loop that this folder belongs to."""
    _claim(output, settings)
    with _clock(output) as hours:
        yield hours


def _claim(output: Path, settings: LearningSettings) -> None:
    """Takes the folder for this loop. What its data and network depend on may not change; budgets and targets may."""
    label = settings.label
    record = {
        "model": settings.training.model.to_dict(),
        "terms": settings.training.terms,
        "data": settings.training.data.file,
        "structures": settings.learn.structures,
        "committee": settings.learn.committee,
        LABELLER: str(recipe(label)) if label.calculator is not None else (label.command or "batch"),
    }
    record = json.loads(json.dumps(record))
    path = output / RECORD
    if path.is_file():
        begun = json.loads(path.read_text(encoding="utf-8"))
        for key in record:
            if key == LABELLER and begun.get(key, "") is None:
                write_text(path, json.dumps(begun | {key: record[key]}, indent=1) + "\n")
            elif begun.get(key) != record[key]:
                raise LearningError(
                    f"{output} belongs to a loop with {key} = {begun.get(key)!r}, not {record[key]!r}: go on with the "
                    "same, or choose another output"
                )
        return
    if output.is_dir() and any(output.iterdir()):
        raise LearningError(f"{output} is no folder of a loop, and not empty: choose another output")
    make_folder(output)
    write_text(path, json.dumps(record, indent=1) + "\n")


@contextlib.contextmanager
def _clock(output: Path) -> Iterator[Any]:
    """Hours of this loop so far, those of earlier calls included; what a kill cuts off is not counted."""
    path = output / CLOCK
    before = float(json.loads(path.read_text())["hours"]) if path.is_file() else 0.0
    started = time.monotonic()

    def hours() -> float:
        now = before + (time.monotonic() - started) / 3600
        write_text(path, json.dumps({"hours": now}) + "\n")
        return now

    try:
        yield hours
    finally:
        with contextlib.suppress(OSError):
            hours()


def _publish(output: Path, potential: Path, last: Path | None) -> None:
    """The last potential and its model where everybody looks for them."""
    with replacing(output / POTENTIAL) as part:
        shutil.copyfile(potential, part)
    if last is None:
        return
    for name in ("model", "models"):
        source = last / name
        for file in source.rglob("*") if source.is_dir() else ():
            if file.is_file() and file.parent.parent.name != "checkpoints" and _is_of_model(file):
                target = output / name / file.relative_to(source)
                make_folder(target.parent)
                with replacing(target) as part:
                    shutil.copyfile(file, part)


def _is_of_model(file: Path) -> bool:
    return file.name == CONFIG_FILE or file.suffix == ".safetensors"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True, highlight=False)
