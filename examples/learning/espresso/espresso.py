"""Quantum ESPRESSO as the labeller of so3krates learn, and the structures that its loops begin with.

calculator = "espresso:water()" or "espresso:carbide()" in the settings; python espresso.py start writes the structures.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.espresso import Espresso, EspressoProfile

PROGRAM = os.environ.get("ESPRESSO_COMMAND", "pw.x")  # or "mpiexec -n 8 pw.x"
PSEUDOPOTENTIALS = os.environ.get("ESPRESSO_PSEUDO", "/usr/share/espresso/pseudo")  # where Debian's package has them
BOX, LATTICE = 7.0, 4.38  # A
FRAMES = 8  # to begin with, of each


def water(cutoff: float = 40.0) -> Espresso:
    """PBE, a molecule in a box: the point Gamma alone. cutoff: of the wave functions, Ry."""
    return calculator({"O": "O.pbe-kjpaw.UPF", "H": "H.pbe-kjpaw.UPF"}, cutoff)


def carbide(cutoff: float = 40.0) -> Espresso:
    """PBE, cubic cells of eight atoms: 2 x 2 x 2 points beside Gamma."""
    potentials = {"Si": "Si.pbe-nl-rrkjus_psl.1.0.0.UPF", "C": "C.pbe-rrkjus.UPF"}
    return calculator(potentials, cutoff, kpts=(2, 2, 2), koffset=(1, 1, 1))


def calculator(potentials: dict[str, str], cutoff: float, **options: Any) -> Espresso:
    """With forces and stress, and no file larger than a page left in the folder of a frame."""
    settings = {
        "control": {"tprnfor": True, "tstress": True, "disk_io": "none"},
        "system": {"ecutwfc": cutoff, "ecutrho": 8 * cutoff},
        "electrons": {"conv_thr": 1e-8},
    }
    profile = EspressoProfile(PROGRAM, PSEUDOPOTENTIALS)
    return Espresso(profile=profile, input_data=settings, pseudopotentials=potentials, **options)


def start() -> None:
    """water.extxyz and sic.extxyz: displaced atoms, without labels; the loop has them labelled first."""
    random = np.random.default_rng(0)
    one = molecule("H2O", cell=[BOX, BOX, BOX], pbc=True)
    one.center()
    ase.io.write("water.extxyz", [displaced(one, size, random) for size in np.linspace(0.02, 0.1, FRAMES)])
    crystal = bulk("SiC", "zincblende", a=LATTICE, cubic=True)
    ase.io.write("sic.extxyz", [displaced(crystal, size, random) for size in np.linspace(0.02, 0.16, FRAMES)])


def displaced(atoms: Atoms, size: float, random: np.random.Generator) -> Atoms:
    """A copy whose coordinates are off by numbers with the standard deviation `size`, A."""
    moved = atoms.copy()
    moved.positions += random.normal(0, size, moved.positions.shape)
    return moved


if __name__ == "__main__":
    if sys.argv[1:] != ["start"]:
        sys.exit("python espresso.py start")
    start()
