"""Conductivities of `so3krates phonons --kappa` beside those of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from .conductivity import AXES, Conductivity, FluxError
from .conductivity_report import with_error

SAME_TEMPERATURE = 0.05  # largest relative difference of what is shown beside each other


class LatticeDynamics(NamedTuple):
    """Of the finest mesh, along x, y and z."""

    temperature: float  # K
    way: str
    mesh: str
    values: np.ndarray  # (3,) W/mK

    def along(self, name: str) -> float:
        """W/mK, the mean over a set of directions, as in xy."""
        return float(np.mean([self.values[AXES.index(axis)] for axis in name]))


def read_lattice_dynamics(path: Path, temperature: float) -> LatticeDynamics:
    """The conductivity in a phonons.json at the temperature (K) that is nearest.

    Raises OSError, and FluxError for another file, and where no temperature is within SAME_TEMPERATURE.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["conductivity"]
        kelvins = np.array(found["temperatures_K"], float)
        finest = found["meshes"][-1]
        direct = finest["direct_W_per_mK"]
        table = np.array(finest["relaxation_time_W_per_mK"] if direct is None else direct, float)[:, :3]
        mesh = "x".join(str(n) for n in finest["mesh"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise FluxError(f"{path} is no phonons.json of so3krates phonons --kappa ({error!r})") from error
    row = int(np.argmin(np.abs(kelvins - temperature)))
    if abs(kelvins[row] - temperature) > SAME_TEMPERATURE * temperature:
        listed = ", ".join(f"{kelvin:g}" for kelvin in kelvins)
        raise FluxError(
            f"{path} has conductivities at {listed} K, the runs are at {temperature:.4g} K: give so3krates phonons "
            f"--kappa --temperatures {temperature:.0f}"
        )
    return LatticeDynamics(float(kelvins[row]), "relaxation times" if direct is None else "direct", mesh, table[row])


def beside_table(result: Conductivity, lattice: LatticeDynamics) -> Table:
    """Both ways for each set of directions."""
    table = Table("direction", title="Runs beside lattice dynamics, W/mK")
    lattice_heading = f"lattice dynamics, {lattice.way}, {lattice.mesh}, {lattice.temperature:g} K"
    for heading in ("Green-Kubo", "cepstral", lattice_heading):
        table.add_column(heading, justify="right")
    for name, integral in result.green_kubo.items():
        cepstrum = result.cepstral[name]
        numbers = (with_error(one.value, one.error) for one in (integral, cepstrum))
        table.add_row(name, *numbers, f"{lattice.along(name):.4g}")
    return table
