"""The report of a comparison: tables, two figures, JSON, CSV and a page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from so3krates.files import write_text
from so3krates.training.html_report import html_page

from .config import CompareSettings
from .figures import curves_figure, errors_figure

Rows = Sequence[dict[str, Any]]
COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {  # of the CSV
    "family": lambda row: row["family"],
    "frames": lambda row: row["frames"],
    "seed": lambda row: row["seed"],
    "training_cpu_s": lambda row: look(row, "training", "cpu"),
    "training_wall_s": lambda row: look(row, "training", "wall"),
    "training_memory_GB": lambda row: look(row, "training", "memory"),
    "energy_rmse_meV_per_atom": lambda row: look(row, "errors", "energy", "rmse"),
    "energy_rmse_means_removed_meV_per_atom": lambda row: look(row, "errors", "energy, means removed", "rmse"),
    "forces_rmse_meV_per_A": lambda row: look(row, "errors", "forces", "rmse"),
    "forces_mae_meV_per_A": lambda row: look(row, "errors", "forces", "mae"),
    "stress_rmse_meV_per_A3": lambda row: look(row, "errors", "stress", "rmse"),
    "atom_steps_per_s": lambda row: look(row, "speed", "atom_steps_per_s"),
    "prediction_memory_GB": lambda row: look(row, "speed", "memory_GB"),
    "drift_meV_per_atom_ps": lambda row: law(row, "NVE drift"),
    "rotation_eV_per_A": lambda row: law(row, "rotation, forces"),
    "permutation_eV_per_A": lambda row: law(row, "permutation, forces"),
    "translation_eV_per_A": lambda row: law(row, "translation, forces"),
    "derivative_of_forces": lambda row: law(row, "force = -dE/dx"),
    "step_at_cutoff_eV_per_A": lambda row: law(row, "force step at the cutoff"),
    "volume_A3_per_atom": lambda row: look(row, "crystal", "volume"),
    "bulk_modulus_GPa": lambda row: look(row, "crystal", "bulk_modulus"),
    "problem": lambda row: row.get("problem"),
}


def look(row: dict[str, Any], *names: str) -> Any:
    """An entry of a row at any depth; None where there is none."""
    found: Any = row
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def law(row: dict[str, Any], name: str) -> float | None:
    """What a check of a row found; None where it was not made."""
    return next((check["value"] for check in row.get("laws") or [] if check["name"] == name), None)


def comparison_tables(settings: CompareSettings, rows: Rows) -> list[Table]:
    """Errors and times; speed and memory; laws; the crystal; what failed."""
    good = [row for row in rows if "errors" in row]
    tables = [_errors(settings, good), _speed(settings, good)]
    if settings.compare.check_minutes > 0:
        tables += [_laws(good), _crystals(good)]
    lost = [(row, "", row["problem"]) for row in rows if row.get("problem")]
    lost += [(row, part, text) for row in good for part, text in (row.get("problems") or {}).items()]
    if lost:
        table = Table("family", "frames", "seed", "what", "problem", title="What was not found, and why")
        for row, part, text in lost:
            table.add_row(row["family"], str(row["frames"]), str(row["seed"]), part or "all", text)
        tables.append(table)
    return tables


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "family" else "right")
    return table


def _show(value: Any, form: str = ".3g") -> str:
    return "-" if value is None or (isinstance(value, float) and not math.isfinite(value)) else format(value, form)


def spread(values: Sequence[float | None], form: str = ".3g") -> str:
    """A mean, and the sample standard deviation of several seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    deviation = f" ± {_show(float(np.std(known, ddof=1)), '.2g')}" if len(known) > 1 else ""
    return _show(float(np.mean(known)), form) + deviation


def groups(rows: Rows) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Rows that differ in their seeds alone, by family and frames."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["family"], row["frames"]), []).append(row)
    return found


def _errors(settings: CompareSettings, rows: Rows) -> Table:
    table = _table(
        f"Errors of {settings.compare.test_file and Path(settings.compare.test_file).name} (RMSE)",
        *("family", "frames", "seeds", "training, CPU s", "memory, GB"),
        *("energy, meV/atom", "means removed", "forces, meV/A", "stress, meV/A^3"),
    )
    for (family, frames), same in groups(rows).items():
        numbers = [spread([look(row, "training", name) for row in same]) for name in ("cpu", "memory")]
        names = ("energy", "energy, means removed", "forces", "stress")
        numbers += [spread([look(row, "errors", name, "rmse") for row in same]) for name in names]
        table.add_row(family, str(frames), str(len(same)), *numbers)
    return table


def _speed(settings: CompareSettings, rows: Rows) -> Table:
    threads = settings.compare.threads
    word = "thread" if threads == 1 else "threads"
    table = _table(
        f"Energies and forces through ASE, {threads} {word}", "family", "atoms", "atom-steps/s", "memory, GB"
    )
    for (family, _), same in groups(rows).items():
        found = [look(row, "speed", "atom_steps_per_s") for row in same]
        memory = [look(row, "speed", "memory_GB") for row in same]
        if any(value is not None for value in found):
            atoms = next(look(row, "speed", "atoms") for row in same if look(row, "speed", "atoms"))
            table.add_row(family, str(atoms), spread(found, ".0f"), spread(memory))
    return table


def _laws(rows: Rows) -> Table:
    names = {
        "NVE drift, meV/atom/ps": "NVE drift",
        "rotation, eV/A": "rotation, forces",
        "permutation, eV/A": "permutation, forces",
        "translation, eV/A": "translation, forces",
        "forces by differences": "force = -dE/dx",
        "stress by differences": "stress = dE/dstrain / V",
        "step at the cutoff, eV/A": "force step at the cutoff",
    }
    table = _table("Laws (what breaks them; the last but one are relative)", "family", "frames", "seed", *names)
    for row in rows:
        if row.get("laws"):
            cells = (_show(law(row, name), ".2g") for name in names.values())
            table.add_row(row["family"], str(row["frames"]), str(row["seed"]), *cells)
    return table


def _crystals(rows: Rows) -> Table:
    table = _table(
        "The relaxed crystal, and pairs of atoms alone",
        *("family", "frames", "seed", "a, A", "c, A", "volume, A^3/atom", "B, GPa", "C11", "C12", "C13", "C33", "C44"),
        *("attract when near", "roughest, meV"),
    )
    for row in rows:
        crystal, pairs = row.get("crystal") or {}, row.get("pairs") or {}
        if not crystal and not pairs:
            continue
        lengths = crystal.get("lengths_A") or [None] * 3
        elastic = crystal.get("elastic_GPa")
        constants = (
            [None] * 5 if elastic is None else [elastic[i][j] for i, j in ((0, 0), (0, 1), (0, 2), (2, 2), (3, 3))]
        )
        holes = ", ".join(f"{name} below {p['hole'][0]:.2f} A" for name, p in pairs.items() if p["hole"])
        rough = max((1000 * p["roughness_eV"] for p in pairs.values()), default=None)
        table.add_row(
            *(row["family"], str(row["frames"]), str(row["seed"])),
            *(_show(length, ".4g") for length in (lengths[0], lengths[2])),
            *(_show(crystal.get("volume"), ".4g"), _show(crystal.get("bulk_modulus"))),
            *(_show(value) for value in constants),
            *(holes or "-", _show(rough)),
        )
    return table


def write_comparison(output: Path, settings: CompareSettings, rows: Rows, wanted: int) -> list[Table]:
    """Writes compare.json, compare.csv, compare.png, curves.png and compare.html; returns the tables. WriteError."""
    tables = comparison_tables(settings, rows)
    write_text(output / "compare.json", json.dumps(list(rows), indent=1, allow_nan=False) + "\n")
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for row in rows:
        lines.writerow(["" if (value := column(row)) is None else value for column in COLUMNS.values()])
    write_text(output / "compare.csv", text.getvalue())
    good = [row for row in rows if "errors" in row]
    errors_figure(output / "compare.png", groups(good))
    curves_figure(output / "curves.png", good)
    compare = settings.compare
    facts = {
        "frames": f"{settings.data.file} to train on, {compare.test_file} for the errors",
        "budget": f"{compare.minutes:g} CPU minutes for each of {compare.threads} threads, {compare.memory:g} GB",
        "rows": f"{len(rows)} of {wanted}, {len(rows) - len(good)} without a potential",
    }
    versions = {row["family"]: row["versions"] for row in rows if row.get("versions")}
    facts |= {name: ", ".join(f"{p} {v}" for p, v in found.items()) for name, found in versions.items()}
    write_text(output / "compare.html", html_page("Families of potentials", facts, tables, output))
    return tables
