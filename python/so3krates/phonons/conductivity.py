"""Lattice thermal conductivity by phono3py: phonons scattered by phonons and isotopes, in two approximations."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from so3krates.checks import Potential
from so3krates.files import replacing
from so3krates.progress import Callback

from .crystal import SYMPREC
from .forces import kept_forces
from .packages import PhononsError, to_ase, to_phonopy

if TYPE_CHECKING:
    from phono3py import Phono3py
    from phonopy import Phonopy

DISPLACEMENT = 0.03  # A
CHUNK = 8  # points of a mesh that are kept together
NANOMETRES = 0.1  # of 1 A
FREE_PATHS = np.logspace(0, 5, 51)  # nm, at which it is written what modes carry
ENDLESS = 1e6  # nm; longer free paths are of modes that a coarse mesh leaves without a partner to scatter with
UNSETTLED = 0.05  # change from the last mesh but one above which it is said
VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")


@dataclasses.dataclass(frozen=True)
class MeshConductivity:
    """Of one mesh, t temperatures; modes are those of the irreducible points, with the weight of their stars."""

    mesh: tuple[int, int, int]
    points: int  # irreducible
    relaxation: np.ndarray  # (t, 6) W/mK, relaxation-time approximation, order VOIGT
    direct: np.ndarray | None  # (t, 6) W/mK, direct solution of the linearised Boltzmann equation
    mode: np.ndarray  # (t, modes, 6) W/mK, parts of `relaxation`
    free_path: np.ndarray  # (t, modes) nm

    @property
    def best(self) -> np.ndarray:
        """(t, 6) W/mK: the direct solution where there is one."""
        return self.relaxation if self.direct is None else self.direct

    def cumulative(self, temperature: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean free paths (nm, rising) and the conductivity (., 3) along x, y, z of the modes up to each."""
        order = np.argsort(self.free_path[temperature], kind="stable")
        return self.free_path[temperature][order], np.cumsum(self.mode[temperature][order, :3], axis=0)

    def carried(self, temperature: int, lengths: np.ndarray) -> np.ndarray:
        """(lengths, 3) W/mK along x, y, z of the modes whose mean free paths are no longer than each length (nm)."""
        paths, sums = self.cumulative(temperature)
        return np.vstack([np.zeros((1, 3)), sums])[np.searchsorted(paths, lengths, side="right")]


@dataclasses.dataclass(frozen=True)
class Conductivity:
    """What was found on each mesh, the last the finest."""

    temperatures: tuple[float, ...]  # K
    isotopes: bool
    cells: int  # displaced ones, of
    atoms: int  # so many atoms
    pair_cutoff: float  # A
    meshes: tuple[MeshConductivity, ...]

    def warnings(self) -> list[str]:
        """What is not settled on the finest mesh: modes that nothing scatters, and the difference to the one before."""
        finest, said = self.meshes[-1], []
        name = "x".join(map(str, finest.mesh))
        for row, kelvin in enumerate(self.temperatures):
            best = finest.best[row, :3]
            if not (best > 0).all():
                said.append(f"at {kelvin:g} K nothing is conducted on the mesh {name}: give finer --meshes")
                continue
            endless = finest.mode[row][finest.free_path[row] > ENDLESS, :3].sum(axis=0)
            if (share := float(np.max(endless / finest.relaxation[row, :3]))) > 0.01:
                said.append(
                    f"at {kelvin:g} K {100 * share:.0f} % of the conductivity is that of modes with free paths above 1 "
                    f"mm, which nothing scatters on the mesh {name}: give finer --meshes"
                )
            elif len(self.meshes) > 1:
                before = self.meshes[-2]
                change = np.abs(1 - before.best[row, :3] / best)
                if (largest := float(change.max())) > UNSETTLED:
                    axis = int(change.argmax())
                    said.append(
                        f"at {kelvin:g} K the conductivity along {'xyz'[axis]} changes by {100 * largest:.0f} % from "
                        f"the mesh {'x'.join(map(str, before.mesh))} to {name}: give finer --meshes"
                    )
        return said


def third_order(
    potential: Potential,
    of: str,
    crystal: Atoms,
    repeats: Sequence[int],
    pair_cutoff: float,
    phonon: Phonopy,
    folder: Path,
    report: Callback | None = None,
) -> tuple[Phono3py, int]:
    """phono3py with force constants of both orders, and how many displaced cells it took.

    Third derivatives with respect to atoms of which two are further apart than `pair_cutoff` (A) are taken as zero; the
    second order, and the charges, are those of `phonon`. Raises PhononsError.
    """
    from phono3py import Phono3py

    made = Phono3py(
        to_phonopy(crystal),
        supercell_matrix=np.diag(repeats),
        phonon_supercell_matrix=phonon.supercell_matrix,
        primitive_matrix=phonon.primitive_matrix,
        symprec=SYMPREC,
    )
    made.generate_displacements(distance=DISPLACEMENT, cutoff_pair_distance=pair_cutoff)
    supercells = made.supercells_with_displacements
    included = [number for number, cell in enumerate(supercells) if cell is not None]
    if len(included) < 2:
        raise PhononsError(f"no two atoms are within {pair_cutoff:g} A: give a longer --pair-cutoff")
    cells = [to_ase(cell) for cell in (made.supercell, *(supercells[number] for number in included))]
    forces = kept_forces(potential, of, cells, folder, "forces of pairs", report)
    every = np.zeros((len(supercells), *forces.shape[1:]))
    every[included] = forces[1:] - forces[0]
    made.forces = every
    made.produce_fc3()
    made.symmetrize_fc3()
    made.fc2 = phonon.force_constants
    made.nac_params = phonon.nac_params
    return made, len(included)


def conductivity_of(
    made: Phono3py,
    mesh: float | Sequence[int],
    temperatures: Sequence[float],
    isotopes: bool,
    direct: bool,
    folder: Path,
    report: Callback | None = None,
) -> MeshConductivity:
    """On one mesh, integrated by tetrahedra; results are kept in `folder` and not computed again.

    mesh: points along the three axes, or their number times the cell's size (A), for the direct solution made odd:
    with points on the faces of the zone it is too small (GaN along c by 15 %).
    """
    made.mesh_numbers = mesh
    if direct and isinstance(mesh, float):
        made.mesh_numbers = np.asarray(made.mesh_numbers) | 1
    made.init_phph_interaction()
    numbers = tuple(int(n) for n in made.mesh_numbers)
    name = "x".join(map(str, numbers))
    digest = hashlib.sha256(repr((numbers, list(temperatures), isotopes, made.nac_params)).encode())
    for array in (made.fc3, made.fc2, made.primitive.cell, made.primitive.masses):
        digest.update(np.ascontiguousarray(array).tobytes())
    key = f"{name}-{digest.hexdigest()[:16]}"
    options: dict[str, Any] = {"temperatures": temperatures, "is_isotope": isotopes, "log_level": 0}
    stage = f"conductivity, mesh {name}"
    if direct:
        (found,) = _kept([key + "-direct"], folder, stage, report, lambda _: _direct(made, options))
        return _joined(numbers, [found])
    points = made.grid.grg2bzg[_irreducible(made)]
    chunks = [points[k : k + CHUNK] for k in range(0, len(points), CHUNK)]
    names = [f"{key}-{k}" for k in range(len(chunks))]
    parts = _kept(names, folder, stage, report, lambda k: _relaxation(made, options, chunks[k]))
    return _joined(numbers, parts)


def _irreducible(made: Phono3py) -> np.ndarray:
    from phonopy.phonon.grid import get_ir_grid_points

    return np.asarray(get_ir_grid_points(made.grid)[0])


def _relaxation(made: Phono3py, options: dict[str, Any], points: np.ndarray) -> dict[str, np.ndarray]:
    made.run_thermal_conductivity(grid_points=points, **options)
    return _modes(made.thermal_conductivity, "")


def _direct(made: Phono3py, options: dict[str, Any]) -> dict[str, np.ndarray]:
    made.run_thermal_conductivity(is_LBTE=True, **options)
    found: Any = made.thermal_conductivity
    return _modes(found, "_RTA") | {"direct": np.asarray(found.kappa)[0]}


def _modes(found: Any, suffix: str) -> dict[str, np.ndarray]:
    """Conductivities of modes, (t, points, bands, 6), which add up to the whole, and mean free paths."""
    from phono3py.conductivity.utils import get_mfp

    widths = np.asarray(found.gamma)[0]
    if found.gamma_isotope is not None:
        widths = widths + np.asarray(found.gamma_isotope)[0]
    speeds = np.asarray(found.group_velocities)
    mode = np.asarray(getattr(found, f"mode_kappa{suffix}"))[0] / np.prod(found.mesh_numbers)
    return {"mode": mode, "free_path": NANOMETRES * np.array([get_mfp(width, speeds) for width in widths])}


def _kept(names: Sequence[str], folder: Path, stage: str, report: Callback | None, make: Any) -> list[dict[str, Any]]:
    """Arrays by name from files of an earlier run, or made and written."""
    found = []
    for number, name in enumerate(names):
        path = folder / f"kappa-{name}.npz"
        if not path.is_file():
            made = make(number)
            with replacing(path) as part:
                np.savez(part, **made)
        with np.load(path) as arrays:
            found.append(dict(arrays))
        if report is not None:
            report(stage, number + 1, len(names))
    return found


def _joined(mesh: Any, parts: Sequence[dict[str, np.ndarray]]) -> MeshConductivity:
    mode = np.concatenate([part["mode"] for part in parts], axis=1)
    paths = np.concatenate([part["free_path"] for part in parts], axis=1)
    kinds = len(mode)
    return MeshConductivity(
        mesh=mesh,
        points=mode.shape[1],
        relaxation=mode.sum(axis=(1, 2)),
        direct=parts[0].get("direct"),
        mode=mode.reshape(kinds, -1, 6),
        free_path=paths.reshape(kinds, -1),
    )
