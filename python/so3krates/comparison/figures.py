"""Figures of a comparison: errors against time, frames and speed; equations of state and pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from so3krates.files import empty_figure, write_figure

HIGHEST = 3.0  # eV, of pairs above the lowest that is drawn
FEWEST_SIZES = 2  # for a learning curve


def _mean(rows: Sequence[dict[str, Any]], *names: str) -> float:
    values = []
    for row in rows:
        found: Any = row
        for name in names:
            found = (found or {}).get(name)
        values.append(np.nan if found is None else found)
    return float(np.mean(values)) if values else np.nan


def errors_figure(path: Path, groups: Mapping[tuple[str, int], list[dict[str, Any]]]) -> Path:
    """Force error against training time and speed of the most frames; against frames where there are several sizes."""
    sizes = sorted({frames for _, frames in groups})
    names = list(dict.fromkeys(family for family, _ in groups))
    several = len(sizes) >= FEWEST_SIZES
    figure = empty_figure(4.4 * (3 if several else 2), 3.8)
    panels = figure.subplots(1, 3 if several else 2)
    for number, name in enumerate(names):
        own = {frames: rows for (family, frames), rows in groups.items() if family == name}
        last = own[max(own)]
        error = _mean(last, "errors", "forces", "rmse")
        look = {"color": f"C{number % 10}", "marker": "os^Dv"[number // 10 % 5], "linestyle": "none"}
        panels[0].plot([_mean(last, "training", "cpu")], [error], label=name, **look)
        panels[1].plot([_mean(last, "speed", "atom_steps_per_s")], [error], **look)
        if several:
            curve = [_mean(own[size], "errors", "forces", "rmse") for size in sorted(own)]
            panels[2].plot(sorted(own), curve, **{**look, "linestyle": "-"})
    labels = ("training (CPU s)", "atom-steps/s through ASE", "frames")
    for axes, label in zip(panels, labels, strict=False):
        axes.set(xlabel=label, ylabel="RMSE of forces (meV/Å)")
        points = [np.array([line.get_xdata(), line.get_ydata()], float) for line in axes.lines]
        if any((np.isfinite(xy) & (xy > 0)).all(axis=0).any() for xy in points):
            axes.set(xscale="log", yscale="log")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axis.set_minor_formatter(NullFormatter())
    if names:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return write_figure(path, figure)


def curves_figure(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Equation of state of each family's first seed with the most frames, and energies of pairs."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["seed"] == 0 and row["frames"] >= best.get(row["family"], row)["frames"]:
            best[row["family"]] = row
    pairs = list(dict.fromkeys(pair for row in best.values() for pair in row.get("pairs") or {}))
    figure = empty_figure(3.6 * (1 + len(pairs)) + 1.2, 3.8)
    state, *panels = np.atleast_1d(figure.subplots(1, 1 + len(pairs)))
    for number, (name, row) in enumerate(best.items()):
        look = {"color": f"C{number % 10}", "ls": ("-", "--", ":")[number // 10 % 3], "lw": 1.2}
        if crystal := row.get("crystal"):
            energies = np.array([np.nan if e is None else e for e in crystal["energies"]])
            state.plot(crystal["volumes"], 1000 * (energies - np.nanmin(energies)), **look)
        for axes, pair in zip(panels, pairs, strict=True):
            if curve := (row.get("pairs") or {}).get(pair):
                energies = np.array([np.nan if e is None else e for e in curve["energies_eV"]])
                axes.plot(curve["distances_A"], energies, **look)
        state.plot([], [], label=name, **look)
    state.set(xlabel="volume (Å³/atom)", ylabel="energy above the lowest (meV/atom)", title="equation of state")
    for axes, pair in zip(panels, pairs, strict=True):
        axes.set(xlabel="distance (Å)", ylabel="energy (eV)", title=f"{pair} alone", ylim=(-2 * HIGHEST, HIGHEST))
    if best:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return write_figure(path, figure)
