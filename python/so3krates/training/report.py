"""The report of a run or of an evaluation: error tables and figures in one folder."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from rich.console import Console
from rich.table import Table

from so3krates import terminal
from so3krates.data import finite
from so3krates.files import make_folder, write_text
from so3krates.progress import progress_display
from so3krates.storage import Model, flat_params
from so3krates.uncertainty import Calibration, calibration, calibration_table, known_atoms

from .breakdown import Breakdown, breakdown, breakdown_tables, force_size_table
from .committee import Committee, committee_table
from .evaluate import Properties, evaluate, reference, uncertainties_of
from .html_report import html_page
from .metrics import Errors, as_json, error_table, rich_table
from .overfitting import overfitting
from .plots import breakdown_plot, learning_curve, parity_plot, uncertainty_plot


class ReportError(RuntimeError):
    """A report that is not complete; the message says what is missing, and why."""


@dataclasses.dataclass(frozen=True)
class Results:
    """Predictions for a set of labelled frames beside their labels, and the errors."""

    frames: Sequence[Atoms]
    predicted: Properties
    labels: Properties
    tag_key: str = ""

    @cached_property
    def table(self) -> dict[str, Errors]:
        """Errors of the whole set."""
        return error_table(self.predicted, self.labels)

    @cached_property
    def parts(self) -> Breakdown:
        """Errors of its parts."""
        return breakdown(self.frames, self.predicted, self.labels, self.tag_key)

    @cached_property
    def calibration(self) -> Calibration | None:
        """How well uncertainties tell of the errors of forces; None where there are none of either."""
        if self.predicted.uncertainties is None or self.uncertain_atoms is None:
            return None
        return calibration(self.predicted.uncertainties, self._force_errors)

    @property
    def uncertain_atoms(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Uncertainties (N,) and errors of forces (N, 3), eV/A, of labelled atoms; None where there are none."""
        if self.predicted.uncertainties is None:
            return None
        sigma, error = known_atoms(self.predicted.uncertainties, self._force_errors)
        return (sigma, error) if len(sigma) else None

    @cached_property
    def _force_errors(self) -> list[np.ndarray]:
        return [f - g for f, g in zip(self.predicted.forces, self.labels.forces, strict=True)]

    def as_json(self) -> dict[str, Any]:
        """All as plain values."""
        found = {} if self.calibration is None else {"uncertainty": self.calibration._asdict()}
        return {**as_json(self.table), **self.parts.as_json(), **found}


def result_tables(sets: Mapping[str, Results]) -> list[Table]:
    """Tables to print of named sets."""
    table = rich_table({name: result.table for name, result in sets.items()})
    parts = breakdown_tables({name: result.parts for name, result in sets.items()})
    found = {name: result.calibration for name, result in sets.items()}
    known = {name: one for name, one in found.items() if one is not None}
    return [table, *parts, *([calibration_table(known)] if known else [])]


def write_results(
    folder: str | Path,
    sets: Mapping[str, Results],
    console: Console | None = None,
    committees: Mapping[str, Committee] | None = None,
    title: str = "Report",
    facts: Mapping[str, str] | None = None,
    metrics_file: str | Path | None = None,
) -> None:
    """Prints the tables on `console`; writes errors.json, errors.txt, parity.png, breakdown.png and report.html.

    `committees` of the same sets are reported too; given the CSV of a run, learning_curve.png is drawn. `title` and
    `facts` head the page. Raises WriteError, and ReportError for figures that cannot be drawn, when all else is there.
    """
    folder = make_folder(folder)
    tables = all_tables(sets, committees)
    if console is not None:
        for table in tables:
            console.print(table)
    write_json(folder / "errors.json", sets, committees)
    text = io.StringIO()
    console_of_file = terminal.console(file=text, width=140)
    for table in tables:
        console_of_file.print(table)
    write_text(folder / "errors.txt", text.getvalue())
    parts = {name: result.parts for name, result in sets.items()}
    pairs = {name: (result.predicted, result.labels) for name, result in sets.items()}
    figures = {
        "parity.png": lambda path: parity_plot(path, pairs),
        "breakdown.png": lambda path: breakdown_plot(path, parts),
    }
    told = {name: result.uncertain_atoms for name, result in sets.items()}
    told_atoms = {name: atoms for name, atoms in told.items() if atoms is not None}
    if told_atoms:
        figures["uncertainty.png"] = lambda path: uncertainty_plot(path, told_atoms)
    if metrics_file is not None:
        figures["learning_curve.png"] = lambda path: learning_curve(path, metrics_file)
    failed: dict[str, Exception] = {}
    for name, draw in figures.items():
        try:
            draw(folder / name)
        except Exception as error:
            failed[name] = error
    page = html_page(title, facts or {}, [*tables, force_size_table(parts)], folder)
    write_text(folder / "report.html", page)
    if failed:
        raise ReportError(
            f"{folder} lacks {', '.join(f'{name} ({error})' for name, error in failed.items())}; the tables are there"
        ) from next(iter(failed.values()))


def all_tables(sets: Mapping[str, Results], committees: Mapping[str, Committee] | None = None) -> list[Table]:
    """Tables to print of named sets and of the committees that predicted them."""
    return [*result_tables(sets), *([committee_table(committees)] if committees else [])]


def write_json(
    path: str | Path, sets: Mapping[str, Results], committees: Mapping[str, Committee] | None = None
) -> None:
    """Errors of named sets, of their parts and of committees as JSON."""
    content: dict[str, Any] = {name: result.as_json() for name, result in sets.items()}
    for name, committee in (committees or {}).items():
        content[name]["committee"] = committee.as_json()
    write_text(path, json.dumps(finite(content), indent=1, allow_nan=False) + "\n")


def write_report(
    folder: str | Path,
    model: Model,
    sets: Mapping[str, Sequence[Atoms]],
    metrics_file: str | Path | None = None,
    console: Console | None = None,
    batch_size: int = 8,
    float64: bool = False,
    tag_key: str = "",
) -> dict[str, dict[str, Errors]]:
    """Evaluates the model on named sets of labelled frames and writes what it finds.

    Writes what `write_results` writes and, given the CSV of the run, learning_curve.png; prints the tables on
    `console` where there is one. Returns set -> property -> errors.
    """
    folder = Path(folder)
    results = {
        name: Results(frames, _predicted(model, name, frames, batch_size, float64, console), reference(frames), tag_key)
        for name, frames in sets.items()
        if frames
    }
    title = f"Report of {folder.resolve().parent.name}"
    facts = model_facts(model)
    if metrics_file is not None and (learnt := overfitting(metrics_file)) is not None:
        facts["learning curve"] = learnt
    write_results(folder, results, console, title=title, facts=facts, metrics_file=metrics_file)
    return {name: result.table for name, result in results.items()}


def write_committee_report(
    folder: str | Path,
    models: Sequence[Model],
    sets: Mapping[str, Sequence[Atoms]],
    console: Console | None = None,
    batch_size: int = 8,
    float64: bool = False,
    tag_key: str = "",
) -> dict[str, Committee]:
    """The same for the mean of several models, with the table of the committee; returns set -> committee."""
    committees = {
        name: Committee(
            [_predicted(model, name, frames, batch_size, float64, console) for model in models], reference(frames)
        )
        for name, frames in sets.items()
        if frames
    }
    results = {name: Results(sets[name], c.mean, c.labels, tag_key) for name, c in committees.items()}
    title = f"Report of the committee {Path(folder).resolve().parent.name}"
    write_results(folder, results, console, committees, title, {"models": str(len(models)), **model_facts(models[0])})
    return committees


def _predicted(
    model: Model, name: str, frames: Sequence[Atoms], batch_size: int, float64: bool, console: Console | None
) -> Properties:
    """Predictions for a named set; the console shows how far they are."""
    with progress_display(console) if console is not None else contextlib.nullcontext() as report:
        stage = f"evaluating {name}"
        counted = None if report is None else lambda done: report(stage, done, len(frames))
        found = evaluate(model, frames, batch_size, float64, counted)
        return found._replace(uncertainties=uncertainties_of(model, frames, batch_size))


def model_facts(model: Model) -> dict[str, str]:
    """What heads the report of a model."""
    training = model.training or {}
    config = model.config
    count = sum(array.size for array in flat_params(model.params).values())
    facts = {
        "elements": " ".join(model.elements),
        "energy shifts (eV)": ", ".join(f"{symbol} {shift:.6g}" for symbol, shift in model.energy_shifts.items()),
        "network": f"{config.layers} layers, F = {config.features}, cutoff {config.cutoff:g} A, {count} parameters",
    }
    if "frames" in training:
        facts["frames"] = ", ".join(f"{number} {name}" for name, number in training["frames"].items())
    if "best_step" in training:
        facts["weights"] = f"of step {training['best_step']}"
    return facts
