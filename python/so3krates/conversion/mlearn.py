"""JSON lists of pymatgen structures with outputs, as the repository mlearn has them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from ..data.errors import DataError
from ..data.units import stress_factor
from .texts import text_of

KBAR = stress_factor("kbar")


def mlearn_frames(path: Path, elements: Sequence[str]) -> Iterator[Atoms]:
    """Frames, with the kind (`group`) of each. Energy in eV, forces in eV/A; `virial_stress` in kbar, with VASP's sign
    and order xx yy zz xy yz zx.

    Raises DataError for JSON that is no such list.
    """
    try:
        content = json.loads(text_of(path))
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, list):
        raise DataError(f"{path}: is no list of structures with outputs, but {type(content).__name__}")
    for number, entry in enumerate(content):
        where = f"{path}, frame {number}"
        if not isinstance(entry, dict) or not {"structure", "outputs"} <= entry.keys():
            raise DataError(f"{where}: has no 'structure' and 'outputs'")
        atoms = _frame(entry["structure"], entry["outputs"], where)
        if isinstance(entry.get("group"), str):
            atoms.info["group"] = entry["group"]
        yield atoms


def _frame(structure: dict[str, Any], outputs: dict[str, Any], where: str) -> Atoms:
    try:
        sites = structure["sites"]
        for site in sites:
            if len(site["species"]) != 1 or site["species"][0]["occu"] != 1:
                raise DataError(f"{where}: a site is shared by {site['species']}: give ordered structures")
        atoms = Atoms(
            [site["species"][0]["element"] for site in sites],
            scaled_positions=[site["abc"] for site in sites],
            cell=structure["lattice"]["matrix"],
            pbc=True,
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: its structure is not pymatgen's: {error} is missing") from error
    results: dict[str, Any] = {}
    if "energy" in outputs:
        results["energy"] = float(outputs["energy"])
    if "forces" in outputs:
        results["forces"] = np.asarray(outputs["forces"], float)
    if "virial_stress" in outputs:
        xx, yy, zz, xy, yz, zx = np.asarray(outputs["virial_stress"], float)
        results["stress"] = -KBAR * np.array([xx, yy, zz, yz, zx, xy])
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
