"""Errors split up: by element, by tag of the frame, by temperature, by the size of the force."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from rich.table import Table

from so3krates.data import tags_of, temperature_of

from .evaluate import Properties
from .metrics import MILLI, ROWS, Errors, as_json, error_table, errors

FORCE_BINS = 8  # of equal numbers of atoms


class ForceBin(NamedTuple):
    """Force errors of the atoms whose label lies between two sizes."""

    low: float  # eV/A
    high: float  # eV/A
    atoms: int
    rmse: float  # meV/A, over components
    relative: float  # root mean square of |error| over that of |label|; NaN where all labels are zero


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """Errors of parts of a set; energies "with the means removed" lose the means of the whole set."""

    elements: dict[str, Errors]  # forces on the atoms of each element
    tags: dict[str, dict[str, Errors]]
    temperatures: dict[float, dict[str, Errors]]
    force_sizes: list[ForceBin]

    def as_json(self) -> dict[str, Any]:
        """Plain values; undefined numbers are null."""
        return {
            "by_element": as_json(self.elements),
            "by_tag": {tag: as_json(table) for tag, table in self.tags.items()},
            "by_temperature": {f"{t:g}": as_json(table) for t, table in self.temperatures.items()},
            "by_force_size": [
                {**row._asdict(), "relative": row.relative if math.isfinite(row.relative) else None}
                for row in self.force_sizes
            ],
        }


def breakdown(frames: Sequence[Atoms], predicted: Properties, labels: Properties, tag_key: str = "") -> Breakdown:
    """Errors of the parts of a set; frames are tagged as `tags_of` does it."""
    return Breakdown(
        elements=_by_element(frames, predicted, labels),
        tags=_by_value(tags_of(frames, tag_key), predicted, labels),
        temperatures=_by_value([temperature_of(atoms) for atoms in frames], predicted, labels),
        force_sizes=_by_force(predicted, labels),
    )


def breakdown_tables(parts: Mapping[str, Breakdown]) -> list[Table]:
    """Tables to print of what has more than one part: elements, tags, temperatures."""
    tables = []
    if any(len(part.elements) > 1 for part in parts.values()):
        table = Table(title="Force errors by element")
        for heading in ("set", "element", "RMSE/STD", "MAE", "RMSE", "unit"):
            table.add_column(
                heading, no_wrap=True, justify="left" if heading in ("set", "element", "unit") else "right"
            )
        for name, part in parts.items():
            for element, e in part.elements.items():
                if e.count:
                    table.add_row(name, element, f"{e.rmse_over_std:.5f}", f"{e.mae:.4g}", f"{e.rmse:.4g}", e.unit)
            table.add_section()
        tables.append(table)
    for title, field in (("tag", "tags"), ("temperature (K)", "temperatures")):
        if any(len(getattr(part, field)) > 1 for part in parts.values()):
            tables.append(_groups_table(title, {name: getattr(part, field) for name, part in parts.items()}))
    return tables


def force_size_table(parts: Mapping[str, Breakdown]) -> Table:
    """Force errors by the size of the force, to print."""
    table = Table(title="Force errors by size")
    for heading in ("set", "from (eV/A)", "to (eV/A)", "atoms", "RMSE (meV/A)", "rms error / rms force"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "set" else "right")
    for name, part in parts.items():
        for row in part.force_sizes:
            relative = f"{row.relative:.4g}" if math.isfinite(row.relative) else "-"
            table.add_row(name, f"{row.low:.4g}", f"{row.high:.4g}", str(row.atoms), f"{row.rmse:.4g}", relative)
        table.add_section()
    return table


def _groups_table(title: str, sets: Mapping[str, Mapping[Any, Mapping[str, Errors]]]) -> Table:
    table = Table(title=f"RMSE by {title}")
    table.add_column("set", no_wrap=True)
    table.add_column(title)
    table.add_column("frames", justify="right")
    for row, unit in ROWS.items():
        table.add_column(f"{row} ({unit})", justify="right")
    for name, groups in sets.items():
        for key, rows in groups.items():
            label = f"{key:g}" if isinstance(key, float) else key
            numbers = [f"{rows[row].rmse:.4g}" if rows[row].count else "-" for row in ROWS]
            table.add_row(name, label, str(rows["energy"].count), *numbers)
        table.add_section()
    return table


def _by_value(values: Sequence[Any], predicted: Properties, labels: Properties) -> dict[Any, dict[str, Errors]]:
    """Error tables of the frames that share a value; frames without one are left out."""
    difference = predicted.energies / predicted.atoms - labels.energies / labels.atoms
    known = np.isfinite(difference)
    offset = difference[known].mean() if known.any() else 0.0
    tables = {}
    for value in sorted({value for value in values if value is not None}):
        chosen = [n for n, other in enumerate(values) if other == value]
        parts = _subset(predicted, chosen), _subset(labels, chosen)
        rows = error_table(*parts)
        shifted = MILLI * (parts[0].energies / parts[0].atoms - offset), MILLI * parts[1].energies / parts[1].atoms
        has_label = np.isfinite(shifted[1])
        row = "energy, means removed"
        rows[row] = errors(shifted[0][has_label], shifted[1][has_label], ROWS[row])
        tables[value] = rows
    return tables


def _subset(properties: Properties, chosen: Sequence[int]) -> Properties:
    return Properties(
        properties.atoms[chosen],
        properties.energies[chosen],
        [properties.forces[n] for n in chosen],
        properties.stresses[chosen],
    )


def _by_element(frames: Sequence[Atoms], predicted: Properties, labels: Properties) -> dict[str, Errors]:
    if not frames:
        return {}
    numbers = np.concatenate([atoms.numbers for atoms in frames])
    values, truth = np.concatenate(predicted.forces), np.concatenate(labels.forces)
    result = {}
    for z in np.unique(numbers):
        p, t = values[numbers == z].ravel(), truth[numbers == z].ravel()
        known = np.isfinite(t)
        result[chemical_symbols[z]] = errors(MILLI * p[known], MILLI * t[known], ROWS["forces"])
    return result


def _by_force(predicted: Properties, labels: Properties) -> list[ForceBin]:
    if not labels.forces:
        return []
    values, truth = np.concatenate(predicted.forces), np.concatenate(labels.forces)
    known = np.isfinite(truth).all(axis=1)
    values, truth = values[known], truth[known]
    sizes = np.linalg.norm(truth, axis=1)
    order = np.argsort(sizes, kind="stable")
    rows = []
    for part in np.array_split(order, min(FORCE_BINS, len(order))) if len(order) else []:
        squared = np.square(values[part] - truth[part]).sum(axis=1).mean()
        size = np.square(sizes[part]).mean()
        relative = float(np.sqrt(squared / size)) if size > 0 else math.nan
        low, high = float(sizes[part[0]]), float(sizes[part[-1]])
        rows.append(ForceBin(low, high, len(part), float(MILLI * np.sqrt(squared / 3)), relative))
    return rows
