"""Reading labelled structures: any ASE format and the mlff npz layout, with labels brought to one place."""

from __future__ import annotations

import dataclasses
import re
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ase.io
import ase.io.formats
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from so3krates.files import looked_for
from so3krates.wording import counted

from .charge_labels import CHARGES, DIPOLE, RATIOS, ChargeLabels, charge_labels, known_labels, shaped, shaped_dipole
from .errors import DAMAGED, DataError, unreadable
from .extxyz import extxyz_frames
from .units import dipole_factor, energy_factor, force_factor, length_factor, stress_factor

if TYPE_CHECKING:
    from .names import OtherNames

# Rows and columns of the components of a stress.
AXES = {"xx": (0, 0), "yy": (1, 1), "zz": (2, 2), "yz": (1, 2), "xz": (0, 2), "xy": (0, 1)}
ASE_ORDER = " ".join(AXES)
AXES |= {"zy": (1, 2), "zx": (0, 2), "yx": (0, 1)}
# Arrays of the mlff layout for the default keys, which are looked for themselves where these are absent.
MLFF_NAMES = {"energy": "E", "forces": "F", "stress": "stress", "virial": "virial"}
# Entries beside a structure without a cell that hold one, of 3, 6 or 9 numbers.
CELL_NAMES = re.compile(
    r"^(unit|sim|super)?_?(cell|box|lat(t(ice)?)?)(_?(vec(tor)?s?|par(am(eter)?)?s?))?$", re.IGNORECASE
)
EXTXYZ = re.compile(r"\.(ext)?xyz(\.(gz|bz2|xz))?$")
# Larger asymmetry of a stress label, relative to its largest component, means a wrong array.
STRESS_ASYMMETRY = 0.02


@dataclasses.dataclass(frozen=True)
class LabelKeys:
    """Where a frame keeps its labels, and in which units and convention they and the structure are.

    A key names a calculator's result, an entry of `info`, or an array; None: do not read. Raises DataError, naming
    the setting, for what is unknown.
    """

    energy: str | None = "energy"
    forces: str | None = "forces"
    stress: str | None = "stress"
    virial: str | None = None  # -dE/d(strain); where given it takes the place of the stress
    energy_unit: str = "eV"
    length_unit: str = "A"
    forces_unit: str = ""  # empty: energy_unit/length_unit
    stress_unit: str = ""  # empty: energy_unit/length_unit^3
    stress_sign: int = 1  # 1: stress is +dE/d(strain)/V as in ASE, virial -dE/d(strain); -1: the other way round
    voigt_order: str = ASE_ORDER  # of six components, results of a calculator apart
    charges: str | None = None  # of atoms, in e
    dipole: str | None = None
    ratios: str | None = None  # Hirshfeld's, of atoms
    dipole_unit: str = "e A"

    def __post_init__(self) -> None:
        checks = {
            "energy_unit": energy_factor,
            "length_unit": length_factor,
            "forces_unit": force_factor,
            "stress_unit": stress_factor,
            "dipole_unit": dipole_factor,
        }
        for name, check in checks.items():
            try:
                if getattr(self, name) or name in ("energy_unit", "length_unit", "dipole_unit"):
                    check(getattr(self, name))
            except ValueError as error:
                raise DataError(f"{name} = {getattr(self, name)!r}: {error}") from error
        if self.stress_sign not in (1, -1):
            raise DataError(f"stress_sign = {self.stress_sign!r}: give 1 or -1")
        order = self.voigt_order.split()
        if len(order) != 6 or {AXES.get(name) for name in order} != set(AXES.values()):
            raise DataError(f"voigt_order = {self.voigt_order!r}: give xx yy zz yz xz xy in the order of the data")

    @staticmethod
    def setting_names() -> tuple[str, ...]:
        """The settings of section [data] that make these keys."""
        names = [field.name for field in dataclasses.fields(LabelKeys)]
        return tuple(f"{name}_key" if name in (*MLFF_NAMES, CHARGES, DIPOLE, "ratios") else name for name in names)

    @property
    def own_forces_unit(self) -> str:
        """The unit of the forces, written out."""
        return self.forces_unit or f"{self.energy_unit}/{self.length_unit}"

    @property
    def factors(self) -> tuple[float, float, float]:
        """Factors of energy, forces and stress to eV, eV/A and eV/A^3, without the sign."""
        energy, length = energy_factor(self.energy_unit), length_factor(self.length_unit)
        forces = force_factor(self.forces_unit) if self.forces_unit else energy / length
        return energy, forces, stress_factor(self.stress_unit) if self.stress_unit else energy / length**3


def canonical(component: str) -> str:
    """The first of the names of a component of a stress: yz of yz and zy."""
    return next(name for name, axes in AXES.items() if axes == AXES[component])


class Labels(NamedTuple):
    """Labels of one frame in float64; NaN where there is none."""

    energy: float  # eV
    forces: np.ndarray  # (n, 3) eV/A
    stress: np.ndarray  # (3, 3) eV/A^3, +dE/d(strain)/V


def read_frames(path: str | Path, keys: LabelKeys | None = None) -> list[Atoms]:
    """All frames of a file: `.npz` in the mlff layout, everything else through ASE; lengths in A, labels in eV and A.

    The labels under `keys` are moved to a SinglePointCalculator, so that `labels(atoms)` finds them; the default
    keys mean E, F and stress in an npz, or else arrays of their own names. Raises DataError for an unreadable file,
    an empty one, a key given by the caller that no frame has, and labels of a wrong shape.
    """
    return list(iter_frames(path, keys))


def iter_frames(path: str | Path, keys: LabelKeys | None = None, others: OtherNames | None = None) -> Iterator[Atoms]:
    """The frames of `read_frames` one after the other; a file that ASE reads frame by frame is never held whole.

    `others` counts labels that stand under other names.
    """
    path, keys = Path(path), keys or LabelKeys()
    require_file(path)
    if path.suffix == ".npz":
        frames, keys = _read_mlff(path, keys)
    else:
        frames = _file_frames(path)
    wanted = _keys_to_find(keys)
    names: set[str] = set()
    count = 0
    for atoms in frames:
        where = f"{path}, frame {count}"
        if atoms.cell.rank == 0:
            _refuse_other_cell(atoms.info, where, 'write it as Lattice="..." in an extxyz')
        found = labels(atoms, keys, where)
        if others is not None:
            others.add(atoms, found)
        yield with_labels(_in_angstrom(atoms, keys), found, _charge_labels(atoms, keys, where))
        count += 1
        if wanted:
            names |= _names(atoms)
            wanted = {field: key for field, key in wanted.items() if key not in names}
    if count == 0:
        raise DataError(f"{path}: holds no frame")
    for field, key in wanted.items():
        # A typing error would train on nothing.
        raise DataError(f"{path}: none of {counted(count, 'frame')} has {field} under {key!r}; found {sorted(names)}")


def raw_frames(path: str | Path) -> Iterator[Atoms]:
    """The frames of a file as they stand there, with everything they carry; those of an npz as `read_frames` does.

    Raises DataError as `read_frames` does.
    """
    path = Path(path)
    if path.suffix == ".npz":
        return iter_frames(path)
    require_file(path)
    return _file_frames(path)


def require_file(path: Path) -> None:
    """Raises DataError where there is no file to read."""
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file' + looked_for(path)}")


def last_frame(path: str | Path) -> Atoms:
    """The last frame of a file. Raises DataError as `read_frames` does, and for a file without frames."""
    found = deque(raw_frames(path), maxlen=1)
    if not found:
        raise DataError(f"{path}: holds no frame")
    return found[0]


def atom_values(atoms: Atoms, key: str, where: str = "frame") -> np.ndarray:
    """One number per atom (n,) under a key, looked for where labels are. Raises DataError where there is none."""
    values = _find(atoms, key, where)
    if values is None:
        raise DataError(f"{where}: has no {key!r}; found {sorted(_names(atoms))}")
    if values.size != len(atoms):
        raise DataError(f"{where}: {key!r} has shape {values.shape}, expected one number per atom, {len(atoms)}")
    return values.reshape(-1)


def labels(atoms: Atoms, keys: LabelKeys | None = None, where: str = "frame") -> Labels:
    """Labels of one frame in eV and A; `where` begins the message of an error.

    Its cell is in `keys.length_unit`. A calculator is asked for results that it has, never to compute. Stress and
    virial may be Voigt (6,), (9,) or (3, 3). Raises DataError for wrong shapes and for a stress or virial of a
    frame that is not periodic in three directions.
    """
    keys = keys or LabelKeys()
    n = len(atoms)
    energy_scale, forces_scale, stress_scale = keys.factors
    energy = _find(atoms, keys.energy, where)
    forces = _find(atoms, keys.forces, where)
    stress_key = keys.virial or keys.stress
    stress = _find(atoms, stress_key, where)
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
        # Results of a calculator are in ASE's order, whatever that of the file.
        order = ASE_ORDER if stress_key in _results(atoms) else keys.voigt_order
        stress = keys.stress_sign * _full_stress(stress, stress_key, order, where)
        if np.isfinite(stress).any() and not (np.all(atoms.pbc) and atoms.cell.rank == 3):
            raise DataError(
                f"{where}: has a stress under {stress_key!r} but is not periodic in three directions (pbc "
                f"{atoms.pbc.tolist()}, {atoms.cell.rank} independent cell vectors); correct pbc and cell, or leave "
                "the stress out (stress_key = '')"
            )
        if keys.virial:
            volume = atoms.cell.volume * length_factor(keys.length_unit) ** 3
            stress = -energy_scale / volume * stress
        else:
            stress = stress_scale * stress
    return Labels(energy_scale * float(energy.reshape(())), forces_scale * forces, stress)


def _charge_labels(atoms: Atoms, keys: LabelKeys, where: str) -> ChargeLabels:
    """Charges, dipole and Hirshfeld ratios under the keys, in e, e A and 1."""
    n = len(atoms)
    charges, dipole, ratios = (_find(atoms, key, where) for key in (keys.charges, keys.dipole, keys.ratios))
    return known_labels(
        shaped(charges, keys.charges or "", "charge", n, where),
        shaped_dipole(dipole, keys.dipole or "", dipole_factor(keys.dipole_unit), where),
        shaped(ratios, keys.ratios or "", "Hirshfeld ratio", n, where),
        n,
    )


def with_labels(atoms: Atoms, values: Labels, charges: ChargeLabels | None = None) -> Atoms:
    """A copy of a frame whose labels are the results of a SinglePointCalculator, and ratios an array; missing ones are
    absent.

    charges: with dipole and Hirshfeld ratios; None: those that the frame has.
    """
    charges = charge_labels(atoms) if charges is None else charges
    copy = atoms.copy()
    for name in ("energy", "forces", "stress"):
        # Where the calculator has no label the default keys would find what lies there.
        copy.info.pop(name, None)
        copy.arrays.pop(name, None)
    results: dict[str, Any] = {}
    if not np.isnan(values.energy):
        results["energy"] = values.energy
    if not np.isnan(values.forces).all():
        results["forces"] = values.forces
    if not np.isnan(values.stress).all():
        results["stress"] = full_3x3_to_voigt_6_stress(values.stress)
    more = {name: value for name, value in charges._asdict().items() if not np.isnan(value).all()}
    copy.arrays.pop(RATIOS, None)
    if RATIOS in more:
        copy.arrays[RATIOS] = more.pop(RATIOS)
    results |= more
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def _find(atoms: Atoms, key: str | None, where: str) -> np.ndarray | None:
    """The value under a key in float64, or None; a calculator's results go first."""
    if not key:
        return None
    value = None
    if atoms.calc is not None and key in _results(atoms):
        # ASE compares with a tolerance, which takes as long as reading the frame.
        own = atoms.calc.results[key] if _is_of(atoms.calc, atoms) else None
        value = atoms.calc.get_property(key, atoms, allow_calculation=False) if own is None else own
    if value is None:
        value = atoms.info.get(key, atoms.arrays.get(key))
    if value is None:
        return None
    try:
        if np.asarray(value).dtype.kind == "b":
            raise TypeError
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {key!r} is not made of numbers: {str(value)[:60]!r}") from error


def _results(atoms: Atoms) -> Mapping[str, Any]:
    return getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}


def _is_of(calculator: Calculator, atoms: Atoms) -> bool:
    """Whether the results of a calculator are of exactly this structure."""
    own = getattr(calculator, "atoms", None)
    return (
        own is not None
        and own.arrays.keys() == atoms.arrays.keys()
        and all(_same(own.arrays[name], array) for name, array in atoms.arrays.items())
        and _same(own.cell.array, atoms.cell.array)
        and np.array_equal(own.pbc, atoms.pbc)
    )


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether arrays are equal; a number that is none equals itself."""
    return np.array_equal(a, b) or (a.dtype.kind == b.dtype.kind == "f" and np.array_equal(a, b, equal_nan=True))


def _full_stress(stress: np.ndarray, key: str | None, order: str, where: str) -> np.ndarray:
    if stress.shape == (6,):
        full = np.zeros((3, 3))
        for name, value in zip(order.split(), stress, strict=True):
            a, b = AXES[name]
            full[a, b] = full[b, a] = value
        return full
    if stress.size != 9:
        raise DataError(f"{where}: {key!r} has shape {stress.shape}, expected 6 (Voigt: {order}) or 3x3")
    full = stress.reshape(3, 3)
    finite = np.where(np.isfinite(full), full, 0.0)
    asymmetry, largest = np.abs(finite - finite.T) * np.isfinite(full * full.T), np.abs(finite).max()
    if asymmetry.max() > STRESS_ASYMMETRY * largest:
        raise DataError(
            f"{where}: {key!r} is not symmetric: components differ by {asymmetry.max():.3g} "
            f"with a largest of {largest:.3g}"
        )
    return 0.5 * (full + full.T)


def _refuse_other_cell(entries: Mapping[str, Any], where: str, advice: str) -> None:
    """Raises DataError where a structure without a cell has one under a name that is not read."""
    for key, value in entries.items():
        if not (isinstance(key, str) and CELL_NAMES.match(key)):
            continue
        array = np.asarray(value)
        if array.dtype.kind not in "iuf" or not array.any():  # molecules may have a cell of zeros
            continue
        if array.size in (3, 6, 9) or array.shape[1:] in ((3,), (6,), (9,), (3, 3)):
            raise DataError(f"{where}: has no cell, but something like one under {key!r}: {advice}, or rename it")


def _in_angstrom(atoms: Atoms, keys: LabelKeys) -> Atoms:
    factor = length_factor(keys.length_unit)
    if factor == 1.0:
        return atoms
    scaled = atoms.copy()
    scaled.set_cell(factor * scaled.cell.array)
    scaled.positions *= factor
    return scaled


def _file_frames(path: Path) -> Iterator[Atoms]:
    """Frames of any file but an npz; what reads them is chosen as ASE does it."""
    count = 0
    try:
        # The ending goes before names that ASE knows: OUTCAR.extxyz is none of VASP.
        if EXTXYZ.search(path.name) or ase.io.formats.filetype(str(path)) == "extxyz":
            yield from extxyz_frames(path)
            return
        for atoms in ase.io.iread(path, index=":"):
            yield atoms
            count += 1
    except DataError:
        raise
    except Exception as error:
        raise unreadable(f"{path}, frame {count}", error) from error


def _keys_to_find(keys: LabelKeys) -> dict[str, str]:
    """Keys other than the default ones: some frame must have them."""
    fields = {field.name: field.default for field in dataclasses.fields(keys)}
    given = {name: getattr(keys, name) for name in MLFF_NAMES}
    return {name: key for name, key in given.items() if key and key != fields[name]}


def _names(atoms: Atoms) -> set[str]:
    return {*_results(atoms), *atoms.info, *atoms.arrays} - {"numbers", "positions"}


def _read_mlff(path: Path, keys: LabelKeys) -> tuple[Iterator[Atoms], LabelKeys]:
    """Frames of an npz with z, R and optionally E, F, stress, pbc, unit_cell, node_mask, and the keys that they have.

    The frame axis may be missing where all frames share a value. Atoms with z = 0 are padding. Keys other than the
    default ones name the arrays of the labels.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            data = {key: archive[key] for key in archive.files}
    except (*DAMAGED, ValueError, TypeError, zipfile.BadZipFile) as error:  # TypeError: a lone array
        raise DataError(f"{path}: cannot be read as an npz ({type(error).__name__}: {error})") from error
    for key in ("z", "R"):
        if key not in data:
            raise DataError(f"{path}: has no array {key!r}; the mlff layout needs z and R, found {sorted(data)}")
    positions = data["R"]
    if positions.ndim == 2:
        positions = positions[None]
    if positions.ndim != 3 or positions.shape[-1] != 3:
        raise DataError(f"{path}: 'R' has shape {data['R'].shape}, expected (frames, atoms, 3)")
    count, n = positions.shape[:2]
    if "unit_cell" not in data:
        _refuse_other_cell(data, str(path), "name the array unit_cell")
    shapes: dict[str, tuple[int, ...]] = {"z": (n,), "node_mask": (n,), "unit_cell": (3, 3), "pbc": (3,)}
    arrays = {key: _per_frame(path, key, data[key], count, shape) for key, shape in shapes.items() if key in data}
    chosen = _keys_to_find(keys)
    for name, shape in {"energy": (), "forces": (n, 3), "stress": (3, 3), "virial": (3, 3)}.items():
        key = chosen.get(name) or (MLFF_NAMES[name] if MLFF_NAMES[name] in data else getattr(keys, name))
        if key not in data and name in chosen:
            raise DataError(f"{path}: has no {name} under {key!r}; found {sorted(data)}")
        if getattr(keys, name) and key in data:
            value = data[key]
            own = (6,) if shape == (3, 3) and value.shape[-1:] == (6,) else shape
            arrays[name] = _per_frame(path, key, value, count, own)
    present = arrays["z"] > 0
    if "node_mask" in arrays:
        present &= arrays["node_mask"].astype(bool)
    taken = {"z", "R", "E", "F", "energy", "forces", "stress", "virial", *shapes, *chosen.values()}
    extra = {key: value for key, value in data.items() if key not in taken and value.shape[:1] == (count,)}
    frames = (
        _mlff_frame(
            positions[f],
            present[f],
            {key: value[f] for key, value in arrays.items()},
            {key: value[f] for key, value in extra.items()},
        )
        for f in range(count)
    )
    energy, forces, stress, virial = (name if name in arrays else None for name in MLFF_NAMES)
    return frames, dataclasses.replace(keys, energy=energy, forces=forces, stress=stress, virial=virial)


def _per_frame(path: Path, key: str, value: np.ndarray, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """An array with its frame axis: (count, *shape)."""
    if shape == () and value.size == count:
        return value.reshape(count)
    if value.shape == shape:
        return np.broadcast_to(value, (count, *shape))
    if value.shape == (count, *shape):
        return value
    raise DataError(f"{path}: {key!r} has shape {value.shape}, expected {(count, *shape)}")


def _mlff_frame(
    positions: np.ndarray, present: np.ndarray, values: Mapping[str, np.ndarray], extra: Mapping[str, np.ndarray]
) -> Atoms:
    cell = values.get("unit_cell")
    pbc = values.get("pbc", np.full(3, cell is not None))
    atoms = Atoms(numbers=values["z"][present], positions=positions[present], cell=cell, pbc=pbc)
    if "forces" in values:
        atoms.arrays["forces"] = np.asarray(values["forces"][present], np.float64)
    atoms.info.update({name: values[name] for name in ("energy", "stress", "virial") if name in values})
    for name, value in extra.items():
        if value.shape == (len(present), 3):
            atoms.arrays[name] = value[present]
        else:
            atoms.info[name] = value.item() if value.size == 1 else value
    return atoms
