"""Thermal expansion: phonons at several volumes, their free energies minimised (quasi-harmonic), by phonopy."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms, units

from so3krates.checks import Potential
from so3krates.progress import Callback

from .crystal import at_rest
from .harmonic import MESH, force_constants, imaginary_of
from .packages import PhononsError

VOLUMES = np.linspace(0.97, 1.05, 7)  # of the crystal at rest; heat makes most crystals larger
TEMPERATURES = np.arange(0.0, 1031.0, 10.0)  # K; differences take the last


@dataclasses.dataclass(frozen=True)
class Expansion:
    """At temperatures (t,) in K and no pressure; volumes are those of the primitive cell."""

    temperatures: np.ndarray
    volume: np.ndarray  # (t,) A^3
    expansion: np.ndarray  # (t,) 1/K, of the volume
    bulk_modulus: np.ndarray  # (t,) GPa, isothermal
    heat_capacity: np.ndarray  # (t,) J/K/mol of primitive cells, at constant pressure
    lattice: np.ndarray | None  # (t, 3) A, lengths of the cell's vectors; None where angles are free
    axial: np.ndarray | None  # (t, 3) 1/K, likewise
    volumes: np.ndarray  # (v,) A^3, at which phonons were computed
    warnings: tuple[str, ...]


def expansion_of(
    potential: Potential,
    of: str,
    crystal: Atoms,
    repeats: Sequence[int],
    folder: Path,
    born: Path | None = None,
    report: Callback | None = None,
) -> Expansion:
    """Of a crystal at rest; at each volume its shape and atoms relax with the space group kept.

    Equation of state of Vinet. Raises PhononsError where phonons of too few volumes are real.
    """
    from phonopy import run_qha

    made, energies, said = [], [], []
    for number, ratio in enumerate(VOLUMES):
        atoms = crystal.copy()
        atoms.set_cell(crystal.cell.array * ratio ** (1 / 3), scale_atoms=True)
        rest = at_rest(potential, atoms, volume=False)
        stage = f"forces at volume {number + 1} of {len(VOLUMES)}"
        phonon, _ = force_constants(potential, of, rest.crystal, repeats, folder, born, report, stage)
        phonon.run_mesh(MESH)
        if (imaginary := imaginary_of(phonon)) is not None:
            said.append(f"at {100 * ratio:.1f} % of the volume {imaginary}: this volume is left out")
            continue
        made.append(phonon)
        energies.append(rest.energy * len(phonon.primitive) / len(rest.crystal))
    if len(made) < 5:
        raise PhononsError(
            f"thermal expansion needs five volumes with real modes, and there are {len(made)}: {said[0]}"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = run_qha(made, TEMPERATURES, energies, mesh=MESH, exclude_gamma_acoustic=True)
    said += [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    hottest = float(found.equilibrium_volumes.max())
    if hottest > found.volumes.max():
        kelvin = found.temperatures[np.argmax(found.equilibrium_volumes > found.volumes.max())]
        said.append(
            f"from {kelvin:.0f} K on the volume is beyond those that were computed: it grows to {hottest:.2f} A^3, and "
            f"they end at {found.volumes.max():.2f} A^3"
        )
    joule = units.mol / units.J  # J/mol of 1 eV
    return Expansion(
        temperatures=found.temperatures,
        volume=found.equilibrium_volumes,
        expansion=found.thermal_expansion,
        bulk_modulus=found.bulk_moduli / units.GPa,
        heat_capacity=found.heat_capacity_P.heat_capacities * joule,
        lattice=None if found.lattice is None else found.lattice.lattice_parameters,
        axial=None if found.lattice is None else found.lattice.axial_thermal_expansions,
        volumes=found.volumes,
        warnings=tuple(dict.fromkeys(said)),
    )
