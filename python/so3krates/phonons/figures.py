"""Figures of the report: bands with density of states and thermal functions, conductivity, expansion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from so3krates.files import empty_figure, write_figure

from .conductivity import Conductivity
from .expansion import Expansion
from .harmonic import AXES, Harmonic, run_bands

SMALLEST_POINT = 0.3  # of a marker's area


def harmonic_figure(folder: Path, found: Harmonic) -> None:
    """Bands along seekpath's path beside the density of states; group velocities and thermal functions below."""
    figure = empty_figure(10, 8)
    parts: Any = figure.subfigures(2, 1)
    upper, lower = parts
    bands, states = upper.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    _bands(bands, run_bands(found.phonopy))
    frequencies, total = found.dos
    states.plot(total, frequencies, color="0.3", label="all")
    for element, part in found.parts.items():
        states.plot(part, frequencies, lw=0.9, label=element)
    states.set(xlabel="states/THz", title="density of states", xlim=(0, None))
    states.legend(frameon=False, fontsize=8)
    speeds, thermal = lower.subplots(1, 2)
    velocity: Any = found.phonopy.band_structure
    for part, gradient in zip(velocity.frequencies, velocity.group_velocities, strict=True):
        speeds.scatter(part, 0.1 * np.linalg.norm(gradient, axis=2), s=SMALLEST_POINT, color="C0", rasterized=True)
    speeds.set(xlabel="frequency (THz)", ylabel="group velocity (km/s)", title="along the bands", ylim=(0, None))
    thermal.plot(found.temperatures, found.free_energy, label="F, kJ/mol")
    thermal.plot(found.temperatures, found.entropy, label="S, J/K/mol")
    thermal.plot(found.temperatures, found.heat_capacity, label="C_v, J/K/mol")
    thermal.set(xlabel="temperature (K)", title="of a mole of primitive cells")
    thermal.legend(frameon=False, fontsize=8)
    write_figure(folder / "phonons.png", figure)


def _bands(axes: Any, found: Any) -> None:
    places, names, labels = [], [], iter(found.labels)
    new = True
    for distances, frequencies, connected in zip(
        found.distances, found.frequencies, found.path_connections, strict=True
    ):
        axes.plot(distances, frequencies, color="C0", lw=0.8)
        if new:
            names.append(next(labels))
            places.append(distances[0])
        names.append(next(labels))
        places.append(distances[-1])
        new = not connected
    at: dict[float, list[str]] = {}
    for place, name in zip(places, names, strict=True):
        at.setdefault(round(float(place), 6), []).append(name)
    axes.set_xticks(list(at), ["|".join(dict.fromkeys(found)) for found in at.values()])
    for place in at:
        axes.axvline(place, color="0.8", lw=0.6)
    axes.axhline(0, color="0.6", lw=0.6)
    axes.set(ylabel="frequency (THz)", title="phonons", xlim=(min(at), max(at)))


def conductivity_figure(folder: Path, found: Conductivity) -> None:
    """Convergence with the mesh, dependence on temperature, and what modes of which mean free path carry."""
    figure = empty_figure(12, 4)
    convergence, temperature, paths = figure.subplots(1, 3)
    row = int(np.argmin(np.abs(np.array(found.temperatures) - 300)))
    kelvin = found.temperatures[row]
    sizes = [int(np.prod(mesh.mesh)) for mesh in found.meshes]
    finest = found.meshes[-1]
    for k, axis in enumerate(AXES):
        convergence.plot(sizes, [mesh.relaxation[row, k] for mesh in found.meshes], "o-", color=f"C{k}", label=axis)
        temperature.plot(found.temperatures, finest.relaxation[:, k], "o-", color=f"C{k}", label=axis)
        if finest.direct is not None:
            direct = [np.nan if mesh.direct is None else mesh.direct[row, k] for mesh in found.meshes]
            convergence.plot(sizes, direct, "s--", color=f"C{k}", label=f"{axis}, direct")
            temperature.plot(found.temperatures, finest.direct[:, k], "s--", color=f"C{k}", label=f"{axis}, direct")
        lengths, sums = finest.cumulative(row)
        paths.plot(lengths[lengths > 0], sums[lengths > 0, k], color=f"C{k}", label=axis)
    convergence.set(
        xlabel="points of the mesh", ylabel="kappa (W/mK)", title=f"convergence, {kelvin:g} K", xscale="log"
    )
    temperature.set(xlabel="temperature (K)", title="finest mesh")
    paths.set(xlabel="mean free path (nm)", xscale="log", title=f"carried by modes up to, {kelvin:g} K")
    for axes in (convergence, temperature, paths):
        axes.legend(frameon=False, fontsize=8)
    write_figure(folder / "conductivity.png", figure)


def expansion_figure(folder: Path, found: Expansion) -> None:
    """Coefficient of expansion and volume against temperature."""
    figure = empty_figure(9, 3.6)
    coefficient, volume = figure.subplots(1, 2)
    coefficient.plot(found.temperatures, 1e6 * found.expansion, color="0.3", label="volume")
    if found.axial is not None:
        for k, name in enumerate("abc"):
            coefficient.plot(found.temperatures, 1e6 * found.axial[:, k], lw=0.9, label=name)
    coefficient.set(xlabel="temperature (K)", ylabel="expansion (1e-6/K)")
    coefficient.legend(frameon=False, fontsize=8)
    volume.plot(found.temperatures, found.volume)
    volume.set(xlabel="temperature (K)", ylabel="volume (Å³)")
    write_figure(folder / "expansion.png", figure)
