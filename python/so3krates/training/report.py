"""The report of a run or of an evaluation: error tables and figures in one folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ase import Atoms
from rich.console import Console
from rich.table import Table

from so3krates.storage import Model

from .breakdown import Breakdown, breakdown, breakdown_tables
from .evaluate import Properties, evaluate, reference
from .metrics import Errors, as_json, error_table, rich_table
from .plots import breakdown_plot, learning_curve, parity_plot


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

    def as_json(self) -> dict[str, Any]:
        """Both as plain values."""
        return {**as_json(self.table), **self.parts.as_json()}


def result_tables(sets: Mapping[str, Results]) -> list[Table]:
    """Tables to print of named sets."""
    table = rich_table({name: result.table for name, result in sets.items()})
    return [table, *breakdown_tables({name: result.parts for name, result in sets.items()})]


def write_results(folder: str | Path, sets: Mapping[str, Results], console: Console | None = None) -> None:
    """Writes errors.json, errors.txt, parity.png and breakdown.png; prints the tables on `console`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "errors.json", sets)
    with open(folder / "errors.txt", "w", encoding="utf-8") as handle:
        text = Console(file=handle, width=140)
        for table in result_tables(sets):
            text.print(table)
    parity_plot(folder / "parity.png", {name: (result.predicted, result.labels) for name, result in sets.items()})
    breakdown_plot(folder / "breakdown.png", {name: result.parts for name, result in sets.items()})
    if console is not None:
        for table in result_tables(sets):
            console.print(table)


def write_json(path: str | Path, sets: Mapping[str, Results]) -> None:
    """Errors of named sets and of their parts as JSON."""
    content = {name: result.as_json() for name, result in sets.items()}
    Path(path).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


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
    results = {
        name: Results(frames, evaluate(model, frames, batch_size, float64), reference(frames), tag_key)
        for name, frames in sets.items()
        if frames
    }
    write_results(folder, results, console)
    if metrics_file is not None:
        learning_curve(Path(folder) / "learning_curve.png", metrics_file)
    return {name: result.table for name, result in results.items()}
