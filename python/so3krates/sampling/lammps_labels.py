"""A LAMMPS pair style as an ASE calculator, in this process: the teacher that labels structures."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import atomic_masses, atomic_numbers
from ase.stress import full_3x3_to_voigt_6_stress

from so3krates.hints import pip_install
from so3krates.lammps import LammpsError

# Deck lines of the teacher that comes with LAMMPS; Ga and N are types 1 and 2.
GAN_TERSOFF = ("pair_style tersoff", "pair_coeff * * GaN.tersoff Ga N")

_VIRIAL_ORDER = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # of LAMMPS' pressure vector
_MARGIN = 1.0  # A around a free cluster


class LammpsCalculator(Calculator):
    """Energy (eV), forces (eV/A) and stress (eV/A^3, ASE's sign, no kinetic part) of a pair style in units metal.

    `deck` holds the lines that define the interaction, fixed charges included (`fix q all property/atom q ghost yes`,
    `set type 1 charge 1`). Types are numbered in the order of `elements`. Potential files are looked for in the working
    directory, in LAMMPS_POTENTIALS and among those that come with LAMMPS. Structures are periodic in all directions or
    in none.

    Raises so3krates.lammps.LammpsError with LAMMPS' own words for lines or structures that it refuses.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 (as ASE declares it)

    def __init__(self, deck: Sequence[str] = GAN_TERSOFF, elements: Sequence[str] = ("Ga", "N")) -> None:
        super().__init__()
        self.deck = tuple(deck)
        self.elements = tuple(elements)
        self._types = {atomic_numbers[symbol]: k + 1 for k, symbol in enumerate(self.elements)}
        self._lammps: Any = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """ASE's entry point; results go to `self.results`."""
        super().calculate(atoms, properties, system_changes)
        unknown = sorted(set(self.atoms.symbols) - set(self.elements))
        if unknown:
            raise LammpsError(f"element {unknown[0]} has no type: this teacher knows {' '.join(self.elements)}")
        try:
            self.results = self._evaluate(self.atoms)
        except Exception as error:  # the lammps module raises bare Exceptions
            self.close()
            if isinstance(error, LammpsError):
                raise
            raise LammpsError(f"LAMMPS refused a structure of {len(self.atoms)} atoms: {_first_line(error)}") from error

    def close(self) -> None:
        """End LAMMPS; the next calculation starts it again."""
        if self._lammps is not None:
            self._lammps.close()
            self._lammps = None

    def _evaluate(self, atoms: Atoms) -> dict[str, Any]:
        box, positions, rotation = _lammps_frame(atoms)
        periodic = bool(atoms.pbc.all())
        lammps = self._start()
        lammps.command("clear")
        (xlo, ylo, zlo), (xhi, yhi, zhi) = box[0], box[1]
        xy, xz, yz = box[2]
        lammps.commands_list(
            [
                "units metal",
                "atom_style atomic",
                "atom_modify map array",
                "box tilt large",
                "boundary p p p" if periodic else "boundary f f f",
                f"region all prism {_numbers(xlo, xhi, ylo, yhi, zlo, zhi, xy, xz, yz)}",
                f"create_box {len(self.elements)} all",
                *(f"mass {k} {atomic_masses[z]}" for z, k in self._types.items()),
            ]
        )
        count = len(atoms)
        types = [self._types[z] for z in atoms.numbers]
        created = lammps.create_atoms(count, list(range(1, count + 1)), types, positions.ravel().tolist())
        if created != count:
            raise LammpsError(f"LAMMPS took {created} of {count} atoms: positions or cell are not finite or do not fit")
        lammps.commands_list([*self.deck, "compute potential all pressure NULL virial", "run 0 post no"])

        from lammps import LMP_STYLE_GLOBAL, LMP_TYPE_VECTOR

        order = np.argsort(lammps.numpy.extract_atom("id")[:count])
        forces = np.array(lammps.numpy.extract_atom("f")[:count][order]) @ rotation
        energy = float(lammps.get_thermo("pe"))
        results: dict[str, Any] = {"energy": energy, "free_energy": energy, "forces": forces}
        if periodic:
            pressure = lammps.numpy.extract_compute("potential", LMP_STYLE_GLOBAL, LMP_TYPE_VECTOR)
            stress = np.zeros((3, 3))
            for value, (a, b) in zip(pressure, _VIRIAL_ORDER, strict=True):
                stress[a, b] = stress[b, a] = -value / lammps.extract_global("nktv2p")  # bar -> eV/A^3 as LAMMPS does
            results["stress"] = full_3x3_to_voigt_6_stress(rotation.T @ stress @ rotation)
        return results

    def _start(self) -> Any:
        if self._lammps is None:
            os.environ.setdefault("LAMMPS_POTENTIALS", str(_potentials_folder()))
            from lammps import lammps

            self._lammps = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
        return self._lammps


def _lammps_frame(atoms: Atoms) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Box (lower corner, upper corner, tilts xy xz yz), positions in it, and the rotation R with x_lammps = R x."""
    if atoms.pbc.all():
        if atoms.cell.rank < 3 or atoms.cell.handedness != 1:
            raise LammpsError(f"cell {atoms.cell.array.tolist()}: give three vectors that form a right-handed system")
        cell, rotation = atoms.cell.standard_form()
        box = (np.zeros(3), np.diag(cell.array), np.array([cell[1, 0], cell[2, 0], cell[2, 1]]))
        return box, atoms.get_positions(wrap=True) @ rotation.T, rotation
    if atoms.pbc.any():
        raise LammpsError(
            f"pbc = {atoms.pbc.tolist()}: labels are for structures periodic in all directions or in none"
        )
    positions = atoms.get_positions()
    return (positions.min(0) - _MARGIN, positions.max(0) + _MARGIN, np.zeros(3)), positions, np.eye(3)


def _potentials_folder() -> Path:
    spec = importlib.util.find_spec("lammps")
    if spec is None or not spec.submodule_search_locations:
        raise LammpsError(f"LAMMPS is not installed: {pip_install('lammps[mpi]')}")
    return Path(spec.submodule_search_locations[0]) / "share" / "lammps" / "potentials"


def _numbers(*values: float) -> str:
    return " ".join(repr(float(value)) for value in values)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
