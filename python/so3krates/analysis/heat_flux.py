"""Heat flux of one frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase import Atoms, units

if TYPE_CHECKING:
    from so3krates.runtime import Runtime

PICOSECOND = 1000.0 * units.fs  # in ASE's unit of time


class HeatFlux(NamedTuple):
    """Extensive, (3,) each, in eV A/ps as by LAMMPS' `compute heat/flux` in units metal."""

    convective: np.ndarray  # sum_i e_i v_i
    potential: np.ndarray  # sum_j W_j v_j

    @property
    def total(self) -> np.ndarray:
        """(3,) eV A/ps."""
        return self.convective + self.potential


def heat_flux(atoms: Atoms, runtime: Runtime) -> HeatFlux:
    """Time derivative of the energy barycentre sum_i r_i e_i, with e_i = m_i v_i^2 / 2 + U_i.

    J = sum_i e_i v_i + sum_i sum_j (r_i - r_j) (dU_i/dr_j . v_j), the second sum over all atoms and images j that U_i
    depends on: Langer, Knoop, Carbogno, Scheffler, Rupp, Phys. Rev. B 108, L100302 (2023), from `atom_virials` of
    `Runtime.evaluate`. Velocities are read in ASE's unit, A sqrt(u/eV)^-1. U_i holds the energy shifts unless `runtime`
    was made with shifts=False, as the pair style's with `shifts no`; they change the convective part only.
    Raises what `Runtime.evaluate` raises, and ValueError for atoms without velocities and potentials with baselines.
    """
    if runtime.baselines:
        raise ValueError(
            f"{runtime.path} has a baseline ({runtime.baselines.parts[0].describe()}), whose virials of atoms are not "
            "known here: compute the flux in LAMMPS, by a deck that adds it"
        )
    if not atoms.has("momenta"):
        raise ValueError("the structure has no velocities: set them, or read them with the positions")
    found = runtime.evaluate(atoms, ["energies", "atom_virials"])
    velocities = atoms.get_velocities()
    kinetic = 0.5 * atoms.get_masses() * np.square(velocities).sum(axis=1)
    velocities = velocities * PICOSECOND  # A/ps
    return HeatFlux(
        convective=(found["energies"] + kinetic) @ velocities,
        potential=np.einsum("jab,jb->a", found["atom_virials"], velocities),
    )
