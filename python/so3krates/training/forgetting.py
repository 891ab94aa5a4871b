"""What a run that went on from a model has gained on new frames and lost on old ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ase import Atoms
from rich.table import Table

from so3krates.storage import Model

from .evaluate import evaluate, reference
from .metrics import CHARGE_ROWS, Errors, error_table

OLD = "old test"  # the set of frames of the old data
# Rows that mean the same for both models: their energies may count from other atoms.
COMPARED = ("energy, means removed", "forces", "stress", *CHARGE_ROWS)

Changes = dict[str, dict[str, dict[str, Any]]]  # set -> property -> before, after (RMSE; None where unknown), unit


def changes(before: Model, after: Model, sets: Mapping[str, Sequence[Atoms]], float64: bool = False) -> Changes:
    """RMSE of both models on named sets of labelled frames."""
    found: Changes = {}
    for name, frames in sets.items():
        if not frames:
            continue
        labels = reference(frames)

        def table(model: Model, frames: Sequence[Atoms] = frames, labels: Any = labels) -> dict[str, Errors] | None:
            known = set(model.elements)
            if any(not known.issuperset(atoms.symbols) for atoms in frames):
                return None
            return error_table(evaluate(model, frames, float64=float64), labels)

        tables = {"before": table(before), "after": table(after)}
        there = [row for row in COMPARED if any(table is not None and row in table for table in tables.values())]
        found[name] = {row: {"frames": len(frames), **_entry(row, tables)} for row in there}
    return found


def _entry(row: str, tables: Mapping[str, dict[str, Errors] | None]) -> dict[str, Any]:
    errors = {when: None if table is None else table.get(row) for when, table in tables.items()}
    units = [e.unit for e in errors.values() if e is not None]
    known = {when: None if e is None or not math.isfinite(e.rmse) else e.rmse for when, e in errors.items()}
    return {**known, "unit": units[0] if units else ""}


def changes_table(found: Changes) -> Table:
    """Changes as a table to print."""
    table = Table(title="Before and after")
    for heading in ("set", "property", "RMSE before", "RMSE after", "unit"):
        table.add_column(heading, no_wrap=True, justify="right" if heading.startswith("RMSE") else "left")
    for name, rows in found.items():
        for row, entry in rows.items():
            if entry["before"] is not None or entry["after"] is not None:
                shown = ["-" if entry[when] is None else f"{entry[when]:.4g}" for when in ("before", "after")]
                table.add_row(name, row, *shown, entry["unit"])
        table.add_section()
    return table
