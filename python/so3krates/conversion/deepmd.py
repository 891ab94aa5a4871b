"""A system of DeePMD-kit: type.raw, type_map.raw, and set.*/ with coord, box, energy, force and virial as npy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from ..data.errors import DataError
from ..data.names import is_named
from .texts import require_symbols


def deepmd_frames(path: Path, elements: Sequence[str]) -> Iterator[Atoms]:
    """Frames; elements: symbols of the types where there is no type_map.raw.

    Energy in eV, forces in eV/A, virial in eV: -dE/d(strain) (DeePMD-kit's documentation, "Data").
    """
    types = np.loadtxt(path / "type.raw", dtype=int, ndmin=1)
    names = path / "type_map.raw"
    symbols = names.read_text().split() if names.is_file() else elements
    if not symbols:
        raise DataError(f"{path}: has no type_map.raw: say which elements its types are, as in --elements Ga,N")
    require_symbols(symbols, names if names.is_file() else "--elements")
    if types.min(initial=0) < 0:
        raise DataError(f"{path}: has atoms of type {types.min()}; types are 0, 1, ...")
    if types.max(initial=0) >= len(symbols):
        raise DataError(f"{path}: has atoms of type {types.max()}, and only the elements {', '.join(symbols)}")
    sets = sorted(folder for folder in path.glob("set.*") if folder.is_dir())
    if not sets:
        raise DataError(f"{path}: has no folder set.000")
    is_open = (path / "nopbc").exists()
    for folder in sets:
        yield from _frames(folder, types, symbols, is_open)


def _frames(folder: Path, types: np.ndarray, names: Sequence[str], is_open: bool) -> Iterator[Atoms]:
    count = len(types)

    def load(name: str, width: tuple[int, ...]) -> np.ndarray | None:
        file = folder / f"{name}.npy"
        if not file.is_file():
            return None
        values = np.load(file).astype(float)
        if values.size % int(np.prod(width)):
            raise DataError(f"{file}: has {values.size} numbers, no multiple of {int(np.prod(width))} a frame")
        return values.reshape(-1, *width)

    coordinates, boxes = load("coord", (count, 3)), None if is_open else load("box", (3, 3))
    if coordinates is None or (boxes is None and not is_open):
        raise DataError(f"{folder}: has no coord.npy or no box.npy, and there is no file nopbc beside it")
    energies, forces, virials = load("energy", ()), load("force", (count, 3)), load("virial", (3, 3))
    mixed = load("real_atom_types", (count,))  # of each frame; -1 where it has fewer atoms
    found = {"box": boxes, "energy": energies, "force": forces, "virial": virials, "real_atom_types": mixed}
    for name, values in found.items():
        if values is not None and len(values) != len(coordinates):
            raise DataError(f"{folder}: {name}.npy has {len(values)} frames, and coord.npy {len(coordinates)}")
    for name, values in (("energy", energies), ("forces", forces), ("stress", virials)):
        others = [] if values is not None else sorted(f.stem for f in folder.glob("*.npy") if is_named(f.stem, name))
        if others:
            raise DataError(
                f"{folder}: has no {name} as DeePMD-kit writes it (energy.npy, force.npy, virial.npy), but "
                f"{', '.join(others)}.npy: rename it"
            )
    for k, positions in enumerate(coordinates):
        own = types if mixed is None else mixed[k].astype(int)
        if own.max(initial=0) >= len(names):
            raise DataError(f"{folder}: has atoms of type {own.max()}, and only the elements {', '.join(names)}")
        there = own >= 0
        cell = None if boxes is None else boxes[k]
        atoms = Atoms([names[t] for t in own[there]], positions=positions[there], cell=cell, pbc=not is_open)
        results = {}
        if energies is not None:
            results["energy"] = float(energies[k])
        if forces is not None:
            results["forces"] = forces[k][there]
        if virials is not None and cell is not None:
            if atoms.cell.rank < 3:
                raise DataError(f"{folder}, frame {k}: has a virial, and its box {np.asarray(cell).tolist()} no volume")
            stress = -0.5 * (virials[k] + virials[k].T) / atoms.get_volume()
            results["stress"] = full_3x3_to_voigt_6_stress(stress)
        atoms.calc = SinglePointCalculator(atoms, **results)
        yield atoms
