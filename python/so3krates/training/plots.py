"""Figures of a run: parity of predictions and labels, errors of parts, and the learning curve."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from so3krates.files import empty_figure, write_figure
from so3krates.uncertainty import LEVELS, shares_within

from .breakdown import Breakdown
from .evaluate import Properties
from .metrics import CHARGE_ROWS, ROWS, error_table, pairs

PANELS = ("energy, means removed", "forces", "stress")


def parity_plot(path: str | Path, sets: Mapping[str, tuple[Properties, Properties]]) -> Path:
    """Predicted against label, a panel per property and a colour per set of (predictions, labels)."""
    values = {name: pairs(*both) for name, both in sets.items()}
    tables = {name: error_table(*both) for name, both in sets.items()}
    units = ROWS | CHARGE_ROWS
    panels = [*PANELS, *(row for row in CHARGE_ROWS if any(row in rows for rows in values.values()))]
    figure = empty_figure(4.2 * len(panels), 4.2)
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        everything = [np.zeros(0)]
        for name, rows in values.items():
            predicted, label = rows.get(panel, (np.zeros(0), np.zeros(0)))
            if len(label) == 0:
                continue
            rmse = tables[name][panel].rmse
            axes.plot(label, predicted, ".", ms=3, alpha=0.5, rasterized=True, label=f"{_shown(name)}: RMSE {rmse:.3g}")
            everything += [predicted, label]
        limits = np.concatenate(everything)
        limits = limits[np.isfinite(limits)]
        if len(limits):
            axes.axline((limits.min(), limits.min()), slope=1, color="0.4", lw=0.8)
            axes.legend(loc="upper left", fontsize=8, frameon=False)
        axes.locator_params(nbins=5)
        axes.set(title=panel, xlabel=f"label ({units[panel]})", ylabel=f"predicted ({units[panel]})")
    return write_figure(path, figure)


def uncertainty_plot(path: str | Path, sets: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """Errors against uncertainties, (N, 3) and (N,) eV/A by set: atoms, tenths of them, shares within confidences."""
    figure = empty_figure(8.4, 4.2)
    atoms, shares = figure.subplots(1, 2)
    for number, (name, (sigma, error)) in enumerate(sets.items()):
        size, colour = np.sqrt(np.square(error).mean(axis=1)), f"C{number}"
        atoms.plot(sigma, size, ".", ms=2, alpha=0.2, color=colour, rasterized=True)
        tenths = np.array_split(np.argsort(sigma), min(10, len(sigma)))
        middles = [[np.sqrt(np.square(values[t]).mean()) for t in tenths] for values in (sigma, size)]
        atoms.plot(*middles, "o-", ms=4, color=colour, mec="w", label=_shown(name))
        shares.plot(LEVELS, shares_within(sigma, error), color=colour, label=_shown(name))
    everything = np.concatenate([np.concatenate([s, np.sqrt(np.square(e).mean(axis=1))]) for s, e in sets.values()])
    everything = everything[everything > 0]
    for axes, place in ((atoms, everything.min()), (shares, 0.0)):
        axes.axline((place, place), slope=1, color="0.4", lw=0.8)
        axes.legend(loc="upper left", fontsize=8, frameon=False)
    atoms.set(xscale="log", yscale="log", xlabel="uncertainty (eV/Å)", ylabel="error of a force's component (eV/Å)")
    shares.set(xlabel="confidence", ylabel="share of errors within", xlim=(0, 1), ylim=(0, 1))
    return write_figure(path, figure)


def breakdown_plot(path: str | Path, sets: Mapping[str, Breakdown]) -> Path:
    """Force errors against the size of the force, absolute and relative, by element and, where known, temperature."""
    heated = any(len(part.temperatures) > 1 for part in sets.values())
    figure = empty_figure(4.2 * (4 if heated else 3), 3.6)
    panels = figure.subplots(1, 4 if heated else 3)
    elements = list(dict.fromkeys(e for part in sets.values() for e, errors in part.elements.items() if errors.count))
    width = 0.8 / max(len(sets), 1)
    for offset, (name, part) in enumerate(sets.items()):
        middles = [0.5 * (row.low + row.high) for row in part.force_sizes]
        panels[0].plot(middles, [row.rmse for row in part.force_sizes], "o-", ms=3, label=_shown(name))
        panels[1].plot(middles, [row.relative for row in part.force_sizes], "o-", ms=3, label=_shown(name))
        known = {element: e.rmse for element, e in part.elements.items() if e.count}
        places = [elements.index(element) + offset * width for element in known]
        panels[2].bar(places, list(known.values()), width, label=_shown(name))
        if heated:
            hot = {t: rows["forces"].rmse for t, rows in part.temperatures.items() if rows["forces"].count}
            panels[3].plot(list(hot), list(hot.values()), "o-", ms=3, label=_shown(name))
    panels[2].set_xticks([k + 0.4 - 0.5 * width for k in range(len(elements))], elements)
    titles = (
        ("force errors by size", "force (eV/A)", "RMSE (meV/A)"),
        ("relative force errors", "force (eV/A)", "rms error / rms force"),
        ("force errors by element", "", "RMSE (meV/A)"),
        ("force errors by temperature", "temperature (K)", "RMSE (meV/A)"),
    )
    for axes, (title, x, y) in zip(panels, titles, strict=False):
        axes.set(title=title, xlabel=x, ylabel=y)
    handles, names = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside upper left", ncols=6, fontsize=8, frameon=False)
    return write_figure(path, figure)


def learning_curve(path: str | Path, metrics_file: str | Path) -> Path:
    """Losses and errors over steps from the CSV of a run."""
    with open(metrics_file, newline="") as handle:
        rows = list(csv.DictReader(handle))
    panels = {
        "loss": "loss",
        "energy (meV/atom)": "energy_rmse",
        "forces (meV/A)": "forces_rmse",
        "stress (meV/A^3)": "stress_rmse",
    }
    for row, unit in CHARGE_ROWS.items():
        if rows and f"train_{row}_rmse" in rows[0]:
            panels[f"{row} ({unit})"] = f"{row}_rmse"
    figure = empty_figure(3 * len(panels), 3.2)
    for axes, (title, column) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for part in ("train", "valid"):
            steps, values = _column(rows, f"{part}_{column}")
            if len(values):
                axes.plot(steps, values, ".-", ms=3, lw=1, label=part)
                axes.legend(fontsize=8, frameon=False)
                axes.set_yscale("log")
        axes.set(title=title, xlabel="step")
    return write_figure(path, figure)


def _column(rows: Sequence[Mapping[str, str]], name: str) -> tuple[np.ndarray, np.ndarray]:
    found = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    found = [(step, value) for step, value in found if np.isfinite(value) and value > 0]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps), np.array(values)


def _shown(name: str) -> str:
    """A name as it is written: dollars begin no formula, and an underscore hides no entry of a legend."""
    return name.replace("$", r"\$").replace("_", "\N{ZERO WIDTH SPACE}_", name.startswith("_"))
