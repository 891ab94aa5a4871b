"""What a bundle or a model folder holds, as a table to read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from so3krates import exporting
from so3krates.hints import command
from so3krates.shipped import located, shipped

# Manifest entries that are programs and plans; they are summed up in a few lines of their own.
_PLANS = ("ladder", "buffers", "programs", "schedules", "results")


def describe(path: str | Path) -> Table:
    """Table of a bundle's manifest or of a model folder.

    Raises BundleError or ModelError when `path` is neither.
    """
    path = located(path)
    rows = _model_rows(path) if path.is_dir() else _bundle_rows(path)
    table = Table(title=str(path), show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def shipped_table() -> Table:
    """The potentials that come with the package."""
    from so3krates.storage import Model

    table = Table(title="Potentials by name")
    for heading in ("name", "elements", "what it is", "where"):
        table.add_column(heading, overflow="fold")
    for name, path in shipped().items():
        if path.is_dir():
            elements = Model.load(path).elements
            kind = f"model; a bundle by {command('so3krates', 'export', name, '-o', name + '.so3k')}"
        else:
            elements, kind = exporting.read_bundle(path).manifest["elements"], f"bundle: pair_coeff * * {name} ..."
        table.add_row(name, " ".join(elements), kind, str(path))
    return table


def _bundle_rows(path: Path) -> Iterator[tuple[str, str]]:
    bundle = exporting.read_bundle(path)
    manifest = bundle.manifest
    plain = {key: value for key, value in manifest.items() if key not in (*_PLANS, "elements", "energy_shifts")}
    model, training, terms = plain.pop("model"), plain.pop("training"), plain.pop("terms", [])
    outputs, guard, baselines = plain.pop("outputs", {}), plain.pop("guard", None), plain.pop("baselines", [])
    weights = sum(array.size for name, array in bundle.tensors.items() if name.startswith("weights/"))
    programs = [array.nbytes for name, array in bundle.tensors.items() if name.startswith("programs/")]
    yield from _flat(plain)
    for term in terms:
        yield f"term {term['name']}", str(term.get("meaning", json.dumps(term)))
    for entry in baselines:
        yield (
            f"baseline [{entry['section']}]",
            f"{entry['meaning']}: added beside the potential, in decks by hybrid/overlay",
        )
    for name, output in outputs.items():
        yield (
            f"output {name}",
            f"{output['unit']}, {output['meaning']}" + ("" if output["standard"] else "; on request"),
        )
    yield "guard", "none" if guard is None else _limits(guard, manifest["elements"])
    yield "elements", _shifts(dict(zip(manifest["elements"], manifest["energy_shifts"], strict=True)))
    yield "weights", str(weights)
    yield "programs", f"{', '.join(manifest['programs'])}: {len(programs)} variants, {sum(programs) / 1e6:.1f} MB"
    sizes = manifest["ladder"]
    rows = sorted({rung["rows"] for rung in sizes})
    neighbours = sorted({rung["neighbours"] for rung in sizes})
    yield (
        "capacities",
        f"{rows[0]} to {rows[-1]} atoms, {neighbours[0]} to {neighbours[-1]} neighbours within the cutoff",
    )
    yield "checksum", bundle.sha256
    yield from _flat(model, "model.")
    yield from _training_rows(training or {})


def _model_rows(path: Path) -> Iterator[tuple[str, str]]:
    from so3krates.model.config import So3lrConfig
    from so3krates.storage import Model, flat_params
    from so3krates.system_evaluator import system_outputs

    model = Model.load(path)
    yield "elements", _shifts(model.energy_shifts)
    yield "weights", str(sum(array.size for array in flat_params(model.params).values()))
    for term in model.terms:
        yield f"term {term.name}", term.describe()
    for interaction in model.interactions:
        yield f"term {interaction.name}", interaction.describe()
    for part in model.baselines:
        yield f"baseline [{part.section}]", part.describe()
    if isinstance(model.config, So3lrConfig):
        for name, output in system_outputs(model).items():
            yield f"output {name}", f"{output.unit}, {output.meaning}"
        yield "charge", "total charge and multiplicity of a structure by atoms.info, else 0 and 1"
    yield "uncertainty", "none" if model.uncertainty is None else "of atoms, calibrated on validation frames"
    yield from _flat(model.config.to_dict(), "model.")
    yield from _training_rows(model.training or {})


def _training_rows(training: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Errors as a person reads them, and all else."""
    for name, rows in training.get("errors", {}).items():
        found = [
            f"{row} {e['rmse']:.4g} {e['unit']} (MAE {e['mae']:.4g})"
            for row, e in rows.items()
            if isinstance(e, Mapping)
        ]
        yield f"{name} errors, {rows['frames']} structures", f"RMSE {', '.join(found)}" if found else "no labels"
    yield from _flat({key: value for key, value in training.items() if key != "errors"}, "training.")


def _shifts(shifts: Mapping[str, float]) -> str:
    return ", ".join(f"{symbol} (energy shift {value:.6f} eV)" for symbol, value in shifts.items())


def _limits(guard: Mapping[str, Any], elements: Sequence[str]) -> str:
    """The training data's shortest distances and largest force."""
    found = [
        f"{first}-{second} {guard['distances'][i][j]:.3f} A"
        for i, first in enumerate(elements)
        for j, second in enumerate(elements)
        if j >= i and guard["distances"][i][j] is not None
    ]
    if guard["largest_force"] is not None:
        found.append(f"forces to {guard['largest_force']:.3g} eV/A")
    return ", ".join(found)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)
