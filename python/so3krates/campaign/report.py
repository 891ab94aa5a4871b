"""What a campaign found: tables, a figure, numbers and a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from so3krates.analysis.conductivity import parse_average
from so3krates.analysis.conductivity_report import with_error
from so3krates.files import empty_figure, make_folder, write_figure, write_text
from so3krates.training.html_report import html_page

from .gather import Gathered
from .runs import Outcome
from .settings import Campaign

FIGURE, NUMBERS, PAGE = "campaign.png", "campaign.json", "report.html"


def write_report(
    campaign: Campaign, folder: Path, found: Mapping[str, Gathered], absent: Mapping[str, str], outcome: Outcome
) -> list[Table]:
    """Writes campaign.json, campaign.png and report.html in `folder`; returns the tables. Raises WriteError."""
    make_folder(folder)
    names = parse_average(campaign.average) or ("x", "y", "z")
    tables = [_values(found, names), _times(found, names)]
    trouble = [*((name, why) for name, why in absent.items()), *((n, str(e)) for n, e in outcome.failed.items())]
    if trouble:
        table = Table("crystal or run", "why there is nothing of it", title="Failed")
        for name, why in trouble:
            table.add_row(name, " ".join(why.split()))
        tables.append(table)
    content = {
        "crystals": {name: _as_json(one, names) for name, one in found.items()},
        "absent": dict(absent),
        "failed": {name: str(error) for name, error in outcome.failed.items()},
        "said": outcome.said,
    }
    write_text(folder / NUMBERS, json.dumps(content, indent=1, allow_nan=False) + "\n")
    if found:
        _figure(folder / FIGURE, found, names)
    facts = {
        "deck": campaign.deck.parent.name + "/" + campaign.deck.name,
        "potential": campaign.potential.name if campaign.potential is not None else "of the deck",
        "runs": f"{sum(map(len, outcome.logs.values()))} of {campaign.seeds * len(campaign.crystals)}",
        "variables": ", ".join(f"{name} = {value}" for name, value in campaign.variables.items()),
    }
    write_text(folder / PAGE, html_page("Thermal conductivity", facts, tables, folder))
    return tables


def _values(found: Mapping[str, Gathered], names: Sequence[str]) -> Table:
    """A line for each crystal and set of directions."""
    title = "Thermal conductivity, W/mK"
    headings = ("crystal", "atoms", "K", "seeds", "ps", "direction", "Green-Kubo", "mean of seeds", "cepstral")
    table = Table(*headings, "lattice dynamics", title=title)
    for name, one in sorted(found.items(), key=lambda item: item[1].atoms):
        for index, direction in enumerate(names):
            together, cepstral = one.together.green_kubo[direction], one.together.cepstral[direction]
            seeds = one.seeds[direction]
            state = (name, str(one.atoms), f"{one.temperature:.4g}", str(len(seeds.values)), f"{one.duration:.5g}")
            table.add_row(
                *(state if index == 0 else [""] * len(state)),
                direction,
                with_error(together.value, together.error),
                with_error(seeds.mean, seeds.error) if math.isfinite(seeds.error) else f"{seeds.mean:.4g}",
                with_error(cepstral.value, cepstral.error),
                "-" if one.lattice is None else f"{one.lattice.along(direction):.4g}",
            )
    return table


def _times(found: Mapping[str, Gathered], names: Sequence[str]) -> Table:
    """How values change with the length of the runs."""
    table = Table("crystal", "ps", *names, title="With longer runs, Green-Kubo, W/mK")
    for name, one in sorted(found.items(), key=lambda item: item[1].atoms):
        for duration, values in one.times:
            cells = (with_error(*values[d]) if d in values else "too short" for d in names)
            table.add_row(name, f"{duration:.5g}", *cells)
    return table


def _figure(path: Path, found: Mapping[str, Gathered], names: Sequence[str]) -> None:
    figure = empty_figure(11, 4)
    sizes, times = figure.subplots(1, 2)
    ordered = sorted(found.values(), key=lambda one: one.atoms)
    for index, name in enumerate(names):
        values = [one.together.green_kubo[name] for one in ordered]
        look: dict[str, Any] = {"color": f"C{index}", "fmt": "o-", "ms": 4, "capsize": 2}
        atoms = [one.atoms for one in ordered]
        sizes.errorbar(atoms, [v.value for v in values], [v.error for v in values], label=name, **look)
        if ordered[-1].lattice is not None:
            value = ordered[-1].lattice.along(name)
            sizes.axhline(value, color=f"C{index}", ls=":", label=f"{name}, lattice dynamics")
        for one in ordered:
            known = [(duration, *of[name]) for duration, of in one.times if name in of]
            if known:
                times.errorbar(*zip(*known, strict=True), **look)
    sizes.set(xscale="log", xlabel="atoms", ylabel="kappa (W/mK)", title="with the size")
    times.set(xscale="log", xlabel="time of all seeds (ps)", ylabel="kappa (W/mK)", title="with the time")
    sizes.legend(fontsize=8, frameon=False)
    write_figure(path, figure)


def _as_json(one: Gathered, names: Sequence[str]) -> dict[str, Any]:
    directions = {}
    for name in names:
        together, cepstral, seeds = one.together.green_kubo[name], one.together.cepstral[name], one.seeds[name]
        directions[name] = {
            "green_kubo": [together.value, together.error],
            "cepstral": [cepstral.value, cepstral.error],
            "seeds": seeds.values,
            "seeds_error": seeds.error if math.isfinite(seeds.error) else None,
            "lattice_dynamics": None if one.lattice is None else one.lattice.along(name),
            "times_ps": [[duration, *values[name]] for duration, values in one.times if name in values],
        }
    return {
        "atoms": one.atoms,
        "temperature_K": one.temperature,
        "duration_ps": one.duration,
        "W_per_mK": directions,
        "notes": [*one.notes, *one.together.warnings],
    }
