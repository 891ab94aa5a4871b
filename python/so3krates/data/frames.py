"""Reading labelled structures: any ASE format and the mlff npz layout, with labels brought to one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

# Larger asymmetry of a stress label, relative to its largest component, means a wrong array.
STRESS_ASYMMETRY = 0.02


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the frame and the key."""


@dataclasses.dataclass(frozen=True)
class LabelKeys:
    """Where a frame keeps its labels: a calculator's result, an entry of `info`, or an array; None: do not read.

    Units are eV, eV/A and eV/A^3; stress has ASE's sign, +dE/d(strain)/V.
    """

    energy: str | None = "energy"
    forces: str | None = "forces"
    stress: str | None = "stress"


class Labels(NamedTuple):
    """Labels of one frame in float64; NaN where there is none."""

    energy: float  # eV
    forces: np.ndarray  # (n, 3) eV/A
    stress: np.ndarray  # (3, 3) eV/A^3, +dE/d(strain)/V


def read_frames(path: str | Path, keys: LabelKeys | None = None) -> list[Atoms]:
    """All frames of a file: `.npz` in the mlff layout, everything else through ASE.

    The labels under `keys` are moved to a SinglePointCalculator, so that `labels(atoms)` finds them; the keys
    of an npz are fixed by its layout. Raises DataError for an unreadable file, an empty one, a key given by
    the caller that no frame has, and labels of a wrong shape.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if path.suffix == ".npz":
            frames = _read_mlff(path)
            keys = LabelKeys()
        else:
            frames = ase.io.read(path, index=":")
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    if not frames:
        raise DataError(f"{path}: holds no frame")
    keys = keys or LabelKeys()
    result = [with_labels(atoms, labels(atoms, keys, f"{path}, frame {n}")) for n, atoms in enumerate(frames)]
    _require_keys(path, frames, keys)
    return result


def labels(atoms: Atoms, keys: LabelKeys | None = None, where: str = "frame") -> Labels:
    """Labels of one frame; `where` begins the message of an error.

    A calculator is asked for results that it has, never to compute. Stress may be Voigt (6,), (9,) or (3, 3).
    Raises DataError for wrong shapes and for a stress label of a frame that is not periodic in three directions.
    """
    keys = keys or LabelKeys()
    n = len(atoms)
    energy = _find(atoms, keys.energy, where)
    forces = _find(atoms, keys.forces, where)
    stress = _find(atoms, keys.stress, where)
    if energy is None:
        energy = np.array(np.nan)
    elif energy.size != 1:
        raise DataError(f"{where}: {keys.energy!r} has shape {energy.shape}, a total energy is one number")
    if forces is None:
        forces = np.full((n, 3), np.nan)
    elif forces.shape != (n, 3):
        raise DataError(f"{where}: {keys.forces!r} has shape {forces.shape}, expected {(n, 3)}")
    if stress is None:
        stress = np.full((3, 3), np.nan)
    else:
        stress = _full_stress(stress, keys.stress, where)
        if np.isfinite(stress).any() and not (np.all(atoms.pbc) and atoms.cell.rank == 3):
            raise DataError(
                f"{where}: has a stress under {keys.stress!r} but is not periodic in three directions "
                f"(pbc {atoms.pbc.tolist()}); correct pbc or leave the stress out (stress_key = '')"
            )
    return Labels(float(energy.reshape(())), forces, stress)


def with_labels(atoms: Atoms, values: Labels) -> Atoms:
    """A copy of a frame whose labels are the results of a SinglePointCalculator; missing ones are absent."""
    copy = atoms.copy()
    results: dict[str, Any] = {}
    if np.isfinite(values.energy):
        results["energy"] = values.energy
    if np.isfinite(values.forces).any():
        results["forces"] = values.forces
    if np.isfinite(values.stress).any():
        results["stress"] = full_3x3_to_voigt_6_stress(values.stress)
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def _find(atoms: Atoms, key: str | None, where: str) -> np.ndarray | None:
    """The value under a key in float64, or None; a calculator's results go first."""
    if not key:
        return None
    value = None
    if atoms.calc is not None and key in getattr(atoms.calc, "results", {}):
        value = atoms.calc.get_property(key, atoms, allow_calculation=False)
    if value is None:
        value = atoms.info.get(key, atoms.arrays.get(key))
    if value is None:
        return None
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {key!r} is not made of numbers: {str(value)[:60]!r}") from error


def _full_stress(stress: np.ndarray, key: str | None, where: str) -> np.ndarray:
    if stress.shape == (6,):
        return voigt_6_to_full_3x3_stress(stress)
    if stress.size != 9:
        raise DataError(f"{where}: {key!r} has shape {stress.shape}, expected 6 (Voigt: xx yy zz yz xz xy) or 3x3")
    full = stress.reshape(3, 3)
    asymmetry = np.abs(full - full.T)
    largest = np.nanmax(np.abs(full)) if np.isfinite(full).any() else 0.0
    if np.nanmax(asymmetry, initial=0.0) > STRESS_ASYMMETRY * largest:
        raise DataError(
            f"{where}: {key!r} is not symmetric: components differ by {np.nanmax(asymmetry):.3g} "
            f"with a largest of {largest:.3g} eV/A^3"
        )
    return 0.5 * (full + full.T)


def _require_keys(path: Path, frames: list[Atoms], keys: LabelKeys) -> None:
    """Refuses keys other than the default ones that no frame has: a typing error would train on nothing."""
    for field in dataclasses.fields(keys):
        key = getattr(keys, field.name)
        if not key or key == field.default:
            continue
        if all(_find(atoms, key, str(path)) is None for atoms in frames):
            found = sorted({k for atoms in frames for k in _names(atoms)})
            raise DataError(f"{path}: none of {len(frames)} frames has {field.name} under {key!r}; found {found}")


def _names(atoms: Atoms) -> set[str]:
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    return {*results, *atoms.info, *atoms.arrays} - {"numbers", "positions"}


def _read_mlff(path: Path) -> list[Atoms]:
    """Frames of an npz with z, R and optionally E, F, stress, pbc, unit_cell, node_mask (docs/model.md).

    The frame axis may be missing where all frames share a value. Atoms with z = 0 are padding.
    """
    with np.load(path, allow_pickle=False) as archive:
        data = {key: archive[key] for key in archive.files}
    for key in ("z", "R"):
        if key not in data:
            raise DataError(f"{path}: has no array {key!r}; the mlff layout needs z and R, found {sorted(data)}")
    positions = data["R"]
    if positions.ndim == 2:
        positions = positions[None]
    if positions.ndim != 3 or positions.shape[-1] != 3:
        raise DataError(f"{path}: 'R' has shape {data['R'].shape}, expected (frames, atoms, 3)")
    count, n = positions.shape[:2]
    shapes = {
        "z": (n,),
        "node_mask": (n,),
        "E": (),
        "F": (n, 3),
        "stress": (3, 3),
        "unit_cell": (3, 3),
        "pbc": (3,),
    }
    arrays = {key: _per_frame(path, key, data[key], count, shape) for key, shape in shapes.items() if key in data}
    present = arrays["z"] > 0
    if "node_mask" in arrays:
        present &= arrays["node_mask"].astype(bool)
    return [
        _mlff_frame(positions[f], present[f], {key: value[f] for key, value in arrays.items()}) for f in range(count)
    ]


def _per_frame(path: Path, key: str, value: np.ndarray, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """An array with its frame axis: (count, *shape)."""
    if shape == () and value.size == count:
        return value.reshape(count)
    if value.shape == shape:
        return np.broadcast_to(value, (count, *shape))
    if value.shape == (count, *shape):
        return value
    raise DataError(f"{path}: {key!r} has shape {value.shape}, expected {(count, *shape)}")


def _mlff_frame(positions: np.ndarray, present: np.ndarray, values: Mapping[str, np.ndarray]) -> Atoms:
    cell = values.get("unit_cell")
    pbc = values.get("pbc", np.full(3, cell is not None))
    atoms = Atoms(numbers=values["z"][present], positions=positions[present], cell=cell, pbc=pbc)
    return with_labels(
        atoms,
        Labels(
            energy=float(values.get("E", np.nan)),
            forces=np.asarray(values["F"][present], np.float64) if "F" in values else np.full((len(atoms), 3), np.nan),
            stress=np.asarray(values.get("stress", np.full((3, 3), np.nan)), np.float64),
        ),
    )
