"""The outputs that a bundle declares by name; csrc/runtime/bundle_outputs.cpp reads the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from .bundle_checks import need

VERSION_OF_OUTPUTS = 4  # of the manifest, the first that declares them
EVALUATORS_OWN = "neighbours_needed"  # of role "output", but of no concern to a user
DTYPES = ("float64", "float32", "int32")
SYSTEM_RANKS = ("sum", "min", "max")  # how ranks' values of an output of the system combine
MOST_DIMENSIONS = 3

# What every potential has.
KNOWN_OUTPUTS: dict[str, dict[str, Any]] = {
    "energy": {
        "unit": "eV",
        "ranks": "sum",
        "standard": True,
        "meaning": "of all atoms, without energy shifts",
    },
    "atom_energies": {
        "unit": "eV",
        "ranks": "none",
        "standard": True,
        "meaning": "of each atom, without energy shifts",
    },
    "forces": {"unit": "eV/A", "ranks": "none", "standard": True, "meaning": "on each atom"},
    "strain_gradient": {
        "unit": "eV",
        "ranks": "sum",
        "standard": True,
        "meaning": "dE/d(strain), [position component, force component]",
    },
    "atom_virials": {
        "unit": "eV",
        "ranks": "none",
        "standard": False,
        "meaning": "of each atom, [position component, force component]; their sum is -strain_gradient",
    },
}


class Output(NamedTuple):
    """One declared output."""

    unit: str
    ranks: str
    standard: bool  # computed where nobody names outputs
    meaning: str
    per_atom: bool
    shape: tuple[int, ...]  # of the system, or of an atom
    problem: str  # why this version cannot give it; empty: it can


def outputs_of(manifest: Mapping[str, Any]) -> dict[str, Output]:
    """Outputs of a valid manifest by name, in ascending order; older versions have those that all potentials have."""
    buffers = manifest["buffers"]
    declared = manifest["outputs"] if manifest["version"] >= VERSION_OF_OUTPUTS else KNOWN_OUTPUTS
    return {name: _output(declared[name], buffers[name]) for name in sorted(declared) if name in buffers}


def _output(entry: Mapping[str, Any], buffer: Mapping[str, Any]) -> Output:
    shape, ranks = buffer["shape"], entry["ranks"]
    per_atom = shape[:1] == ["rows"]
    own = shape[1:] if per_atom else shape
    known = (
        all(type(size) is int for size in own)
        and math.prod(own) > 0
        and len(shape) <= MOST_DIMENSIONS
        and buffer["dtype"] in DTYPES
        and (ranks == "none" if per_atom else ranks in SYSTEM_RANKS)
    )
    problem = (
        f'is of type {buffer["dtype"]}, shape [{", ".join(map(str, shape))}] and ranks "{ranks}", '
        "which this so3krates cannot interpret: update so3krates"
    )
    return Output(
        entry["unit"], ranks, entry["standard"], entry["meaning"], per_atom, tuple(own), "" if known else problem
    )


def check_outputs(manifest: Mapping[str, Any]) -> None:
    """Raises BundleError where the declared outputs are not those that the schedules compute.

    The manifest's buffers and schedules are valid.
    """
    if manifest["version"] < VERSION_OF_OUTPUTS:
        return
    buffers, outputs = manifest["buffers"], manifest.get("outputs")
    need(type(outputs) is dict, 'manifest: "outputs" is not an object')
    computed = {name for name, buffer in buffers.items() if buffer["role"] == "output"} - {EVALUATORS_OWN}
    for name in sorted(computed):
        need(name in outputs, f'manifest: "outputs" does not declare "{name}"')
    for name, entry in sorted(outputs.items()):
        need(name in computed, f'manifest: "outputs" declares "{name}", which is not a buffer of role output')
        is_whole = type(entry) is dict and all(type(entry.get(key)) is str for key in ("unit", "ranks", "meaning"))
        need(
            is_whole and type(entry.get("standard")) is bool,
            f'manifest: output "{name}" has not the strings unit, ranks and meaning, and standard, true or false',
        )
        known = KNOWN_OUTPUTS.get(name)
        need(
            known is None or all(entry[key] == known[key] for key in ("unit", "ranks", "standard")),
            f'manifest: output "{name}" has not the unit, ranks and standard that all potentials have',
        )
        is_computed = any(
            name in step.get("outputs", ())
            for schedule in ("forces", "virials")
            for step in manifest["schedules"].get(schedule, ())
        )
        need(is_computed, f'manifest: neither "forces" nor "virials" computes the output "{name}"')
