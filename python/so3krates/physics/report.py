"""The report of `so3krates physics`: tables, a figure, JSON and a page in one folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from so3krates.data import finite
from so3krates.files import empty_figure, make_folder, write_figure, write_frames, write_text
from so3krates.training.html_report import html_page

from .crystal import Physics, PhysicsError

VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")
FIGURE = "physics.png"
HIGHEST = 3.0  # eV, of the figure's pairs


def quantities(found: Physics) -> dict[str, tuple[float, str]]:
    """Name -> (number, unit), nan for what was not found; the names are those of a file of reference values."""
    lengths, angles = found.crystal.cell.lengths(), found.crystal.cell.angles()
    rows: dict[str, tuple[float, str]] = {
        **{name: (float(length), "A") for name, length in zip("abc", lengths, strict=True)},
        **{name: (float(angle), "degrees") for name, angle in zip(("alpha", "beta", "gamma"), angles, strict=True)},
        "energy": (found.energy, "eV/atom"),
        "volume": (found.volume, "A^3/atom"),
        "bulk_modulus": (found.bulk_modulus, "GPa"),
    }
    if found.elastic is not None:
        c = found.elastic
        rows |= {f"C{i + 1}{j + 1}": (float(c[i, j]), "GPa") for i in range(6) for j in range(i, 6)}
        rows["bulk_modulus_voigt"] = (float(c[:3, :3].sum() / 9), "GPa")
        shear = np.trace(c[:3, :3]) - c[0, 1] - c[1, 2] - c[0, 2] + 3 * np.trace(c[3:, 3:])
        rows["shear_modulus_voigt"] = (float(shear / 15), "GPa")
    rows["vacancy"] = (math.nan if found.vacancy is None else found.vacancy, "eV")
    optical = found.frequencies[np.argsort(np.abs(found.frequencies))][3:]  # without the three translations
    if len(optical):
        rows["lowest_frequency"] = (float(optical.min()), "THz")
        rows["highest_frequency"] = (float(optical.max()), "THz")
    return rows


def read_reference(path: Path) -> dict[str, float]:
    """Reference values, a JSON object of names of `quantities` and numbers. Raises PhysicsError."""
    try:
        content = json.loads(path.read_text(), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise PhysicsError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        for value in content.values()
    ):
        raise PhysicsError(f'{path} is no object of names and numbers, as in {{"C11": 359, "bulk_modulus": 195}}')
    return {name: float(value) for name, value in content.items()}


def _once(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError where a name stands there twice."""
    names = [name for name, _ in entries]
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise ValueError(f"{twice[0]!r} stands there twice")
    return dict(entries)


def physics_tables(found: Physics, reference: Mapping[str, float] | None = None) -> list[Table]:
    """Quantities, beside reference values where there are some, and pairs. Raises PhysicsError for unknown names."""
    rows = quantities(found)
    unknown = sorted(set(reference or {}) - set(rows))
    if unknown:
        raise PhysicsError(f"the reference names {', '.join(unknown)}; known are {', '.join(rows)}")
    table = Table(title=f"{found.crystal.get_chemical_formula()}, {len(found.crystal)} atoms, relaxed")
    for heading in ("quantity", "found", "reference", "difference", "unit"):
        table.add_column(heading, justify="left" if heading in ("quantity", "unit") else "right")
    largest = 0.0 if found.elastic is None else np.abs(found.elastic).max()
    for name, (value, unit) in rows.items():
        if name.startswith("C") and abs(value) < 1e-3 * largest and name not in (reference or {}):
            continue  # zero by symmetry
        other = (reference or {}).get(name)
        cells = ("", "") if other is None else (f"{other:.5g}", f"{100 * (value / other - 1):+.1f} %" if other else "")
        table.add_row(name, "not found" if math.isnan(value) else f"{value:.5g}", *cells, unit)
    pairs = Table(title="Pairs of atoms alone")
    for heading in ("pair", "well (A)", "depth (eV)", "attracts below (A)", "by (eV)"):
        pairs.add_column(heading, justify="left" if heading == "pair" else "right")
    for name, curve in found.pairs.items():
        (distance, energy), hole = curve.well, curve.hole
        numbers = ("-", "-") if hole is None else (f"{hole[0]:.2f}", f"{hole[1]:.3g}")
        pairs.add_row(name, f"{distance:.2f}", f"{-energy:.3g}", *numbers)
    return [table, pairs]


def as_json(found: Physics, reference: Mapping[str, float] | None = None) -> dict[str, Any]:
    """All as plain values."""
    return finite(
        {
            "quantities": {name: {"value": value, "unit": unit} for name, (value, unit) in quantities(found).items()},
            "reference": dict(reference or {}),
            "vacancy_atoms": found.vacancy_atoms,
            "frequencies_THz": found.frequencies.tolist(),
            "equation_of_state": {
                "volumes_A3_per_atom": found.curve[0].tolist(),
                "energies_eV_per_atom": found.curve[1].tolist(),
            },
            "pairs": {
                name: {"distances_A": curve.distances.tolist(), "energies_eV": curve.energies.tolist()}
                for name, curve in found.pairs.items()
            },
            "warnings": list(found.warnings),
        }
    )


def write_physics(folder: str | Path, found: Physics, reference: Mapping[str, float] | None = None) -> list[Table]:
    """Writes physics.json, physics.png, relaxed.extxyz and physics.html; returns the tables, to print.

    Raises WriteError, and PhysicsError for unknown reference values.
    """
    tables = physics_tables(found, reference)
    folder = make_folder(folder)
    write_text(folder / "physics.json", json.dumps(as_json(found, reference), indent=1, allow_nan=False) + "\n")
    write_frames(folder / "relaxed.extxyz", [found.crystal.copy()])
    _figure(folder / FIGURE, found)
    facts = {f"warning {number}": text for number, text in enumerate(found.warnings, 1)}
    title = f"Physics of {found.crystal.get_chemical_formula()}"
    write_text(folder / "physics.html", html_page(title, facts, tables, folder))
    return tables


def _figure(path: Path, found: Physics) -> None:
    figure = empty_figure(8.4, 4.2)
    state, pairs = figure.subplots(1, 2)
    volumes, energies = found.curve
    state.plot(volumes, 1000 * (energies - energies.min()), "o-", ms=4)
    state.set(xlabel="volume (Å³/atom)", ylabel="energy above the lowest (meV/atom)", title="equation of state")
    lowest = 0.0
    for name, curve in found.pairs.items():
        pairs.plot(curve.distances, curve.energies, label=name)
        lowest = min(lowest, float(np.nanmin(curve.energies)))
    pairs.set(xlabel="distance (Å)", ylabel="energy (eV)", title="pairs of atoms alone", ylim=(1.1 * lowest, HIGHEST))
    pairs.legend(frameon=False, fontsize=8)
    write_figure(path, figure)
