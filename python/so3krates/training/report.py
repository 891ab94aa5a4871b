"""The report of a run: error tables, parity plots and the learning curve in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ase import Atoms
from rich.console import Console

from so3krates.storage import Model

from .evaluate import evaluate, reference
from .metrics import Errors, as_json, error_table, rich_table
from .plots import learning_curve, parity_plot


def write_report(
    folder: str | Path,
    model: Model,
    sets: Mapping[str, Sequence[Atoms]],
    metrics_file: str | Path | None = None,
    console: Console | None = None,
    batch_size: int = 8,
    float64: bool = False,
) -> dict[str, dict[str, Errors]]:
    """Evaluates the model on named sets of labelled frames and writes what it finds.

    Writes errors.json, errors.txt, parity.png and, given the CSV of the run, learning_curve.png; prints the
    table on `console` where there is one. Returns set -> property -> errors.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        name: (evaluate(model, frames, batch_size, float64), reference(frames))
        for name, frames in sets.items()
        if frames
    }
    tables = {name: error_table(*both) for name, both in results.items()}
    (folder / "errors.json").write_text(json.dumps({name: as_json(t) for name, t in tables.items()}, indent=1) + "\n")
    with open(folder / "errors.txt", "w", encoding="utf-8") as handle:
        Console(file=handle, width=100).print(rich_table(tables))
    parity_plot(folder / "parity.png", results)
    if metrics_file is not None:
        learning_curve(folder / "learning_curve.png", metrics_file)
    if console is not None:
        console.print(rich_table(tables))
    return tables
