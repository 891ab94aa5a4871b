"""The error table: R2, RMSE/STD, MAE and RMSE of energy, forces and stress."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from rich.table import Table

from .evaluate import Properties

MILLI = 1000.0

# Row of the table -> its unit; the energy stands twice, because a constant offset is no error in dynamics.
ROWS: dict[str, str] = {
    "energy": "meV/atom",
    "energy, means removed": "meV/atom",
    "forces": "meV/A",
    "stress": "meV/A^3",
}
# The same where a potential has charges.
CHARGE_ROWS: dict[str, str] = {"charges": "e", "dipole": "e A", "Hirshfeld ratios": "1"}


@dataclasses.dataclass(frozen=True)
class Errors:
    """Errors of one property; NaN where undefined (no label, or labels that are all equal for r2 and rmse_over_std)."""

    unit: str
    count: int  # numbers compared
    mae: float
    rmse: float
    rmse_over_std: float  # STD of the labels
    r2: float


def pairs(predicted: Properties, labels: Properties) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Property -> (predicted, label), flat, where there is a label, in the units of `ROWS` and `CHARGE_ROWS`.

    Energies are per atom. With the means removed, prediction and label each lose their own mean (docs/model.md);
    of a single frame there is none.
    """
    found = {
        "energy": (predicted.energies / predicted.atoms, labels.energies / labels.atoms),
        "forces": (_flat(predicted.forces), _flat(labels.forces)),
        "stress": (predicted.stresses.ravel(), labels.stresses.ravel()),
    }
    known = {name: (MILLI * p[np.isfinite(t)], MILLI * t[np.isfinite(t)]) for name, (p, t) in found.items()}
    p, t = known["energy"]
    # Of a lone frame nothing is left, which is no small error.
    known["energy, means removed"] = (p - p.mean(), t - t.mean()) if len(t) > 1 else (p[:0], t[:0])
    rows = {name: known[name] for name in ROWS}
    both = zip(
        CHARGE_ROWS,
        (predicted.charges, predicted.dipoles, predicted.ratios),
        (labels.charges, labels.dipoles, labels.ratios),
        strict=True,
    )
    more = {name: (_flat(list(p)), _flat(list(t))) for name, p, t in both if p is not None and t is not None}
    # A dipole that is not defined has no prediction.
    defined = {name: (p, t, np.isfinite(p) & np.isfinite(t)) for name, (p, t) in more.items()}
    return rows | {name: (p[known], t[known]) for name, (p, t, known) in defined.items() if known.any()}


def error_table(predicted: Properties, labels: Properties) -> dict[str, Errors]:
    """Errors of each row of `ROWS`, and of `CHARGE_ROWS` where there are predictions and labels."""
    units = ROWS | CHARGE_ROWS
    return {name: errors(p, t, units[name]) for name, (p, t) in pairs(predicted, labels).items()}


def errors(predicted: np.ndarray, labels: np.ndarray, unit: str) -> Errors:
    """Errors of flat arrays of equal length in `unit`."""
    if len(labels) == 0:
        return Errors(unit, 0, math.nan, math.nan, math.nan, math.nan)
    difference = predicted - labels
    rmse = float(np.sqrt(np.mean(difference**2)))
    std = float(np.std(labels))
    ratio = rmse / std if std > 0 else math.nan
    return Errors(unit, len(labels), float(np.mean(np.abs(difference))), rmse, ratio, 1.0 - ratio**2)


def rich_table(tables: Mapping[str, Mapping[str, Errors]], title: str = "Errors") -> Table:
    """Tables of several sets of frames as one to print."""
    table = Table(title=title)
    for heading in ("set", "property", "R2", "RMSE/STD", "MAE", "RMSE", "unit"):
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("set", "property", "unit") else "right")
    for set_name, rows in tables.items():
        for name, e in rows.items():
            if e.count:
                numbers = (_show(e.r2, ".6f"), _show(e.rmse_over_std, ".5f"), _show(e.mae), _show(e.rmse))
                table.add_row(set_name, name, *numbers, e.unit)
        table.add_section()
    return table


def as_json(table: Mapping[str, Errors]) -> dict[str, dict[str, float | int | str | None]]:
    """A table as plain values; undefined numbers are null."""
    return {
        name: {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in vars(e).items()}
        for name, e in table.items()
    }


def _flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([a.ravel() for a in arrays]) if arrays else np.zeros(0)


def _show(value: float, form: str = ".4g") -> str:
    return format(value, form) if math.isfinite(value) else "-"
