"""Force constants by phonopy, and what follows: modes at Gamma, bands, density of states, thermal functions."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from scipy.optimize import linear_sum_assignment

from so3krates.checks import Potential
from so3krates.files import replacing
from so3krates.model.long_range import COULOMB
from so3krates.physics.crystal import IMAGINARY
from so3krates.progress import Callback

from .crystal import SYMPREC
from .forces import kept_forces
from .packages import PhononsError, to_ase, to_phonopy

if TYPE_CHECKING:
    from phonopy import Phonopy

DISPLACEMENT = {"float64": 0.01, "float32": 0.03, "tf32": 0.05}  # A; larger where forces are rounded
ROUNDS = 3  # of symmetries
MESH = 100.0  # A: points along a reciprocal vector per its length, of the density of states
PARTS_MESH = 50.0  # A, of the densities of elements, for which symmetry is no help
BAND_POINTS = 101  # of the longest segment
TEMPERATURES = np.arange(0.0, 1001.0, 10.0)  # K
DEGENERATE = 1e-3  # THz, between modes of one frequency at most
NEAR = 1e-3  # 1/A, from Gamma, where sound is looked at
KILOMETRES = 0.1  # km/s of 1 A THz
AXES = ("x", "y", "z")


@dataclasses.dataclass(frozen=True)
class Imaginary:
    """Modes of a mesh whose frequency is imaginary by more than rounding."""

    count: int
    of: int
    lowest: float  # THz, negative
    where: tuple[float, float, float]  # reduced coordinates of its point

    def __str__(self) -> str:
        q = ", ".join(f"{x:.3f}" for x in self.where)
        return f"{self.count} of {self.of} modes are imaginary, down to {-self.lowest:.2f}i THz at q = ({q})"


@dataclasses.dataclass(frozen=True)
class Harmonic:
    """Frequencies are in THz, imaginary ones negative; n atoms in the primitive cell."""

    phonopy: Phonopy
    asymmetry: float  # eV/A^2, largest change of a force constant by the symmetries that are imposed
    gamma: np.ndarray  # (3n,) rising
    irreps: tuple[str, ...]  # (3n,) labels, empty where phonopy knows none
    split: dict[str, np.ndarray]  # with charges, the same modes for q -> 0 along x, y, z
    sound: np.ndarray  # (3, 3) km/s of three branches along x, y, z
    mesh: tuple[int, int, int]
    imaginary: Imaginary | None
    dos: tuple[np.ndarray, np.ndarray]  # THz, states/THz of the primitive cell
    parts: dict[str, np.ndarray]  # the same by element
    temperatures: np.ndarray  # (t,) K
    free_energy: np.ndarray  # (t,) kJ/mol of primitive cells
    entropy: np.ndarray  # (t,) J/K/mol
    heat_capacity: np.ndarray  # (t,) J/K/mol, at constant volume


def force_constants(
    potential: Potential,
    of: str,
    crystal: Atoms,
    repeats: Sequence[int],
    folder: Path,
    born: Path | None = None,
    report: Callback | None = None,
    stage: str = "forces",
) -> tuple[Phonopy, float]:
    """phonopy with force constants, and the largest change (eV/A^2) that symmetries made to them.

    Displacements are phonopy's, of DISPLACEMENT; the forces of the crystal at rest are taken off. Derivatives are
    made equal in either order, and sums over uniform translations zero, in turn. Raises PhononsError.
    """
    from phonopy import Phonopy
    from phonopy.structure.cells import guess_primitive_matrix

    cell = to_phonopy(crystal)
    primitive = guess_primitive_matrix(cell, symprec=SYMPREC)
    phonon = Phonopy(cell, supercell_matrix=np.diag(repeats), primitive_matrix=primitive, symprec=SYMPREC)
    phonon.generate_displacements(distance=DISPLACEMENT[potential.precision])
    cells = [to_ase(cell) for cell in (phonon.supercell, *(phonon.supercells_with_displacements or ()))]
    forces = kept_forces(potential, of, cells, folder, stage, report)
    phonon.forces = forces[1:] - forces[0]
    phonon.produce_force_constants(calculate_full_force_constants=False, show_drift=False)
    raw = np.array(phonon.force_constants)
    phonon.symmetrize_force_constants(level=ROUNDS, show_drift=False)
    if born is not None and potential.charges:
        raise PhononsError(f"the potential has charges of its own, which split modes already: leave --born {born} out")
    if born is not None:
        phonon.nac_params = _born_charges(phonon, born)
    elif potential.charges:
        # Of rigid ions in a vacuum: what the potential itself does in waves longer than any supercell.
        tensors = np.array([potential.charges[symbol] * np.eye(3) for symbol in phonon.primitive.symbols])
        phonon.nac_params = {"born": tensors, "dielectric": np.eye(3), "factor": COULOMB}
    return phonon, float(np.abs(phonon.force_constants - raw).max())


def harmonic_of(phonon: Phonopy, asymmetry: float, mesh: float = MESH) -> Harmonic:
    """All that follows from force constants."""
    at_gamma = phonon.run_qpoints([[0, 0, 0]], with_eigenvectors=True)
    gamma = np.array(at_gamma.frequencies[0])
    split = {}
    to_reduced = np.asarray(phonon.primitive.cell)  # of a Cartesian vector q, by a_i q
    if phonon.nac_params is not None:
        for axis, name in enumerate(AXES):
            direction = to_reduced[:, axis]
            along = phonon.run_qpoints([[0, 0, 0]], nac_q_direction=direction, with_eigenvectors=True)
            same = _same_modes(gamma, np.asarray(at_gamma.eigenvectors)[0], np.asarray(along.eigenvectors)[0])
            split[name] = np.array(along.frequencies[0])[same]
    sound = np.zeros((3, 3))
    for axis in range(3):
        at = phonon.run_qpoints(NEAR * to_reduced[None, :, axis], with_group_velocities=True)
        sound[axis] = np.sort(KILOMETRES * np.linalg.norm(np.asarray(at.group_velocities)[0, :3], axis=1))
    grid = phonon.run_mesh(mesh)
    imaginary = imaginary_of(phonon)
    total = phonon.run_total_dos()
    thermal = phonon.run_thermal_properties(temperatures=TEMPERATURES, exclude_gamma_acoustic=True)
    return Harmonic(
        phonopy=phonon,
        asymmetry=asymmetry,
        gamma=gamma,
        irreps=_irreps(phonon),
        split=split,
        sound=sound,
        mesh=(int(grid.mesh_numbers[0]), int(grid.mesh_numbers[1]), int(grid.mesh_numbers[2])),
        imaginary=imaginary,
        dos=(np.array(total.frequency_points), np.array(total.dos)),
        parts=_dos_of_elements(phonon, np.array(total.frequency_points)),
        temperatures=np.array(thermal.temperatures),
        free_energy=np.array(thermal.free_energy),
        entropy=np.array(thermal.entropy),
        heat_capacity=np.array(thermal.heat_capacity),
    )


def _same_modes(frequencies: np.ndarray, modes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of `others` each of `modes` is: columns that overlap most, modes of one frequency taken together, [3n]."""
    overlaps = np.abs(modes.conj().T @ others) ** 2
    degenerate = np.abs(frequencies[:, None] - frequencies) < DEGENERATE
    return linear_sum_assignment(degenerate @ overlaps, maximize=True)[1]


def _dos_of_elements(phonon: Phonopy, frequencies: np.ndarray) -> dict[str, np.ndarray]:
    phonon.run_mesh(PARTS_MESH, with_eigenvectors=True, is_mesh_symmetry=False, is_time_reversal=False)
    found = phonon.run_projected_dos()
    parts = zip(phonon.primitive.symbols, np.asarray(found.projected_dos), strict=True)
    sums: dict[str, np.ndarray] = {}
    for element, part in parts:
        sums[element] = sums.get(element, 0.0) + np.interp(frequencies, found.frequency_points, part, 0.0, 0.0)
    return sums


def imaginary_of(phonon: Phonopy) -> Imaginary | None:
    """Of the mesh that phonopy has run last."""
    grid: Any = phonon.mesh
    frequencies, weights = np.array(grid.frequencies), np.array(grid.weights)
    below = frequencies < -IMAGINARY
    if not below.any():
        return None
    point, band = np.unravel_index(int(frequencies.argmin()), frequencies.shape)
    a, b, c = (float(x) for x in grid.qpoints[point])
    count, total = int((below.sum(axis=1) * weights).sum()), int(weights.sum()) * frequencies.shape[1]
    return Imaginary(count, total, float(frequencies[point, band]), (a, b, c))


def run_bands(phonon: Phonopy) -> Any:
    """Bands along the path of seekpath (Hinuma et al., Comput. Mater. Sci. 128, 140 (2017)), phonopy's object."""
    from phonopy.phonon.band_structure import get_band_qpoints_by_seekpath

    paths, labels, connections = get_band_qpoints_by_seekpath(phonon.primitive, BAND_POINTS, is_const_interval=True)
    return phonon.run_band_structure(paths, with_group_velocities=True, path_connections=connections, labels=labels)


def save_phonopy(phonon: Phonopy, folder: Path) -> None:
    """phonopy_params.yaml, which `phonopy-load` reads: cells, displacements, forces, Born charges."""
    with replacing(folder / "phonopy_params.yaml") as part:
        phonon.save(part)


def _irreps(phonon: Phonopy) -> tuple[str, ...]:
    """Labels of the modes at Gamma; none where phonopy has no table of characters for the point group's setting."""
    from phonopy.phonon.irreps import IrRepLabels

    names = [""] * (3 * len(phonon.primitive))
    try:
        found = phonon.run_irreps([0, 0, 0], symmetry_adapted=True)
        group = phonon.primitive_symmetry.pointgroup_symbol
        labels = IrRepLabels(found.characters, found.conventional_rotations, group, False).irrep_labels
    except (RuntimeError, KeyError):
        return ()
    for bands, label in zip(found.band_indices, labels or (), strict=False):
        for band in bands:
            names[band] = label or ""
    return tuple(names) if all(names) else ()


def _born_charges(phonon: Phonopy, path: Path) -> Any:
    from phonopy.file_IO import parse_BORN

    try:
        with warnings.catch_warnings(record=True):
            found = parse_BORN(phonon.primitive, filename=path, symprec=SYMPREC)
    except OSError:
        raise
    except Exception as error:
        raise PhononsError(f"{path} cannot be read as phonopy's file BORN: {error}") from error
    if found is None:
        raise PhononsError(f"{path} is no file BORN of phonopy: it holds no charges")
    return found
