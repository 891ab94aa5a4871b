"""JSON lists of pymatgen structures with outputs, as the repository mlearn has them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from ..data.errors import DataError
from ..data.frames import labels
from ..data.slopes import LabelSlopes
from ..data.units import stress_factor
from ..wording import counted
from .texts import require_symbols, text_of

KBAR = stress_factor("kbar")
# Orders of the shear components that files have: VASP's xy yz zx, and xy xz yz. As read by the first, and by the second
# order, the component that belongs to the strains yz, xz, xy is found under these places (`LabelSlopes.shear_orders`).
AS_VASP, TURNED = (0, 1, 2), (1, 0, 2)
STRESSES = {"stress", "virial_stress"}
SAME_SHEAR = 0.05 * KBAR  # shear components that differ by less may be exchanged


def mlearn_frames(path: Path, elements: Sequence[str]) -> Iterator[Atoms]:
    """Frames, with the kind (`group`) of each. Energy in eV, forces in eV/A; `virial_stress` or `stress` in kbar with
    VASP's sign, six numbers or a matrix.

    Some files have VASP's order of components, xx yy zz xy yz zx, and some xx yy zz xy xz yz, without a word of it: the
    sheared crystals of a file tell. Where they do not, frames whose stress depends on it have none. A matrix tells
    itself.
    Raises DataError for JSON that is no such list, and for labels of another shape.
    """
    try:
        content = json.loads(text_of(path))
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, list):
        raise DataError(f"{path}: is no list of structures with outputs, but {type(content).__name__}")
    frames, of_six = [], []
    for number, entry in enumerate(content):
        where = f"{path}, frame {number}"
        if not isinstance(entry, dict) or not {"structure", "outputs"} <= entry.keys():
            raise DataError(f"{where}: has no 'structure' and 'outputs'")
        atoms = _frame(entry["structure"], entry["outputs"], where)
        if isinstance(entry.get("group"), str):
            atoms.info["group"] = entry["group"]
        frames.append(atoms)
        if not any(np.ndim(entry["outputs"].get(name, 0.0)) == 2 for name in STRESSES):
            of_six.append(atoms)
    if lost := _order(of_six):
        warnings.warn(
            f"{path}: no stress is taken from {lost} of {counted(len(frames), 'frame')}, as nothing in the file tells "
            "the order of the last three components: put all lists of a set, its sheared crystals too, into one file",
            stacklevel=2,
        )
    yield from frames


def _order(frames: list[Atoms]) -> int:
    """Puts the shear stresses of frames, which are read in VASP's order, in their places, or takes the stress away.

    Returns of how many frames it was taken away.
    """
    slopes = LabelSlopes()
    for atoms in frames:
        slopes.add(atoms, labels(atoms))
    lost = 0
    possible = [order for order in slopes.shear_orders() if order in (AS_VASP, TURNED)]
    for atoms in frames:
        results = atoms.calc.results
        if "stress" in results and possible != [AS_VASP]:
            yz, xz = results["stress"][3:5]
            if possible == [TURNED]:
                results["stress"][3:5] = xz, yz
            elif abs(yz - xz) > SAME_SHEAR:
                del results["stress"]
                lost += 1
    return lost


def _frame(structure: dict[str, Any], outputs: dict[str, Any], where: str) -> Atoms:
    try:
        sites = structure["sites"]
        for site in sites:
            if len(site["species"]) != 1 or site["species"][0]["occu"] != 1:
                raise DataError(f"{where}: a site is shared by {site['species']}: give ordered structures")
        symbols = [site["species"][0]["element"] for site in sites]
        require_symbols(symbols, where)
        atoms = Atoms(
            symbols,
            scaled_positions=[site["abc"] for site in sites],
            cell=structure["lattice"]["matrix"],
            pbc=True,
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: its structure is not pymatgen's: {error} is missing") from error
    results: dict[str, Any] = {}
    for name, shape in (("energy", ()), ("forces", (len(atoms), 3))):
        if outputs.get(name) is not None:
            results[name] = _shaped(outputs[name], shape, f"{where}: {name}")
    for name in sorted(name for name in STRESSES if outputs.get(name) is not None):
        results["stress"] = -KBAR * _voigt(outputs[name], f"{where}: {name}")
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _shaped(value: Any, shape: tuple[int, ...], where: str) -> Any:
    try:
        array = np.asarray(value, float)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: is not made of numbers ({error})") from error
    if array.shape != shape:
        raise DataError(f"{where} has the shape {array.shape}, expected {shape}")
    return array if shape else float(array)


def _voigt(value: Any, where: str) -> Any:
    """Six components in ASE's order, of six in VASP's or of a matrix."""
    try:
        stress = np.asarray(value, float)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}") from error
    if stress.shape == (3, 3):
        return full_3x3_to_voigt_6_stress(stress)
    if stress.shape != (6,):
        raise DataError(f"{where} has the shape {stress.shape}: six components or a matrix of three by three")
    return stress[[0, 1, 2, 4, 5, 3]]
