"""The report of `so3krates phonons`: tables, JSON and a page; figures.py draws."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from so3krates.data import finite
from so3krates.files import write_frames, write_text
from so3krates.training.html_report import html_page

from .conductivity import FREE_PATHS, VOIGT, Conductivity, MeshConductivity
from .crystal import Rest
from .expansion import Expansion
from .figures import conductivity_figure, expansion_figure, harmonic_figure
from .harmonic import AXES, Harmonic

PER_CM = 33.35641  # 1/cm of 1 THz


@dataclasses.dataclass(frozen=True)
class Phonons:
    """All that was found of one crystal."""

    rest: Rest
    supercell: tuple[int, int, int]
    harmonic: Harmonic
    conductivity: Conductivity | None
    expansion: Expansion | None
    warnings: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.rest.crystal.get_chemical_formula()}, {self.rest.space_group}"


def tables_of(found: Phonons, temperatures: tuple[float, ...]) -> list[Table]:
    """The crystal, modes at Gamma, sound, thermal functions; conductivity and expansion where they were asked for."""
    tables = [_crystal(found), _gamma(found.harmonic), _sound(found.harmonic), _thermal(found.harmonic, temperatures)]
    if found.conductivity is not None:
        tables += [_meshes(found.conductivity), _free_paths(found.conductivity)]
    if found.expansion is not None:
        tables.append(_expansion(found.expansion, temperatures))
    return tables


def _crystal(found: Phonons) -> Table:
    table = Table("at rest", title=found.title)
    table.add_column("found", justify="right")
    table.add_column("unit")
    rest = found.rest
    for name, length in zip("abc", rest.crystal.cell.lengths(), strict=True):
        table.add_row(name, f"{length:.5g}", "A")
    table.add_row("largest force", f"{rest.force:.2g}", "eV/A")
    table.add_row("largest stress", f"{np.abs(rest.stress).max():.2g}", "GPa")
    atoms = len(rest.crystal) * int(np.prod(found.supercell))
    table.add_row("supercell", " x ".join(map(str, found.supercell)), f"{atoms} atoms")
    table.add_row("broken symmetry of force constants", f"{found.harmonic.asymmetry:.2g}", "eV/A^2")
    imaginary = found.harmonic.imaginary
    mesh = "x".join(map(str, found.harmonic.mesh))
    table.add_row("imaginary modes", str(0 if imaginary is None else imaginary.count), f"of the mesh {mesh}")
    if imaginary is not None:
        table.add_row("lowest frequency", f"{-imaginary.lowest:.3g}i", "THz")
    return table


def _gamma(found: Harmonic) -> Table:
    table = Table("mode", title="Modes at Gamma")
    for heading in ("THz", "1/cm", *(f"q along {axis}, 1/cm" for axis in found.split)):
        table.add_column(heading, justify="right")
    for number, frequency in enumerate(found.gamma):
        if number in np.argsort(np.abs(found.gamma))[:3]:
            continue  # translations
        label = found.irreps[number] if found.irreps else str(number + 1)
        others = (f"{PER_CM * along[number]:.1f}" for along in found.split.values())
        table.add_row(label, f"{frequency:.3f}", f"{PER_CM * frequency:.1f}", *others)
    return table


def _sound(found: Harmonic) -> Table:
    table = Table("direction", title="Sound, km/s")
    for heading in ("slowest", "", "fastest"):
        table.add_column(heading, justify="right")
    for axis, speeds in zip(AXES, found.sound, strict=True):
        table.add_row(axis, *(f"{speed:.3f}" for speed in speeds))
    return table


def _thermal(found: Harmonic, temperatures: tuple[float, ...]) -> Table:
    table = Table(title="Thermal functions of a mole of primitive cells, volume fixed")
    for heading in ("K", "F, kJ/mol", "S, J/K/mol", "C_v, J/K/mol"):
        table.add_column(heading, justify="right")
    for kelvin in temperatures:
        numbers = (
            np.interp(kelvin, found.temperatures, column)
            for column in (found.free_energy, found.entropy, found.heat_capacity)
        )
        table.add_row(f"{kelvin:g}", *(f"{number:.3f}" for number in numbers))
    return table


def _meshes(found: Conductivity) -> Table:
    isotopes = "natural isotopes" if found.isotopes else "one isotope of each element"
    table = Table("mesh", title=f"Thermal conductivity, W/mK, {isotopes}, {found.cells} cells of {found.atoms} atoms")
    table.add_column("points", justify="right")
    table.add_column("K", justify="right")
    names = _components(found)
    has_direct = any(mesh.direct is not None for mesh in found.meshes)
    for way in ("relaxation time", "direct")[: 1 + has_direct]:
        for name in names:
            table.add_column(f"{way}, {VOIGT[name]}", justify="right")
    for mesh in found.meshes:
        for row, kelvin in enumerate(found.temperatures):
            values = [mesh.relaxation[row], *([] if mesh.direct is None else [mesh.direct[row]])]
            numbers = [f"{value[name]:.4g}" for value in values for name in names]
            table.add_row("x".join(map(str, mesh.mesh)), str(mesh.points), f"{kelvin:g}", *numbers)
    return table


def _components(found: Conductivity) -> list[int]:
    """The diagonal, and what else is not zero by symmetry."""
    last = np.abs(found.meshes[-1].relaxation)
    return [k for k in range(6) if k < 3 or (last[:, k] > 1e-3 * last[:, :3].max(axis=1)).any()]


def _free_paths(found: Conductivity) -> Table:
    table = Table("share of the conductivity", title="Mean free paths up to which it is carried, nm")
    for kelvin in found.temperatures:
        for axis in AXES:
            table.add_column(f"{axis}, {kelvin:g} K", justify="right")
    finest = found.meshes[-1]
    for share in (0.1, 0.5, 0.9):
        cells = []
        for row in range(len(found.temperatures)):
            paths, sums = finest.cumulative(row)
            cells += [f"{paths[int(np.argmax(sums[:, k] >= share * sums[-1, k]))]:.3g}" for k in range(3)]
        table.add_row(f"{100 * share:.0f} %", *cells)
    return table


def _expansion(found: Expansion, temperatures: tuple[float, ...]) -> Table:
    table = Table(title="Thermal expansion (quasi-harmonic)")
    headings = ["K", "volume, A^3", "1e-6/K of the volume"]
    headings += [] if found.lattice is None else ["a, A", "b, A", "c, A", "a, 1e-6/K", "b, 1e-6/K", "c, 1e-6/K"]
    for heading in (*headings, "B, GPa", "C_p, J/K/mol"):
        table.add_column(heading, justify="right")

    def at(kelvin: float, column: np.ndarray) -> float:
        return float(np.interp(kelvin, found.temperatures, column))

    for kelvin in temperatures:
        cells = [f"{kelvin:g}", f"{at(kelvin, found.volume):.4f}", f"{1e6 * at(kelvin, found.expansion):.2f}"]
        if found.lattice is not None and found.axial is not None:
            cells += [f"{at(kelvin, found.lattice[:, k]):.4f}" for k in range(3)]
            cells += [f"{1e6 * at(kelvin, found.axial[:, k]):.2f}" for k in range(3)]
        table.add_row(*cells, f"{at(kelvin, found.bulk_modulus):.1f}", f"{at(kelvin, found.heat_capacity):.2f}")
    return table


def as_json(found: Phonons, settings: dict[str, Any]) -> dict[str, Any]:
    """All as plain values; names hold the units."""
    harmonic = found.harmonic
    values: dict[str, Any] = {
        "settings": settings,
        "crystal": {
            "formula": found.rest.crystal.get_chemical_formula(),
            "space_group": found.rest.space_group,
            "cell_A": found.rest.crystal.cell.tolist(),
            "energy_eV": found.rest.energy,
            "largest_force_eV_per_A": found.rest.force,
            "stress_GPa": found.rest.stress.tolist(),
        },
        "supercell": list(found.supercell),
        "broken_symmetry_eV_per_A2": harmonic.asymmetry,
        "gamma_THz": harmonic.gamma.tolist(),
        "gamma_irreps": list(harmonic.irreps),
        "gamma_along_THz": {axis: along.tolist() for axis, along in harmonic.split.items()},
        "sound_km_per_s": harmonic.sound.tolist(),
        "imaginary": None if harmonic.imaginary is None else dataclasses.asdict(harmonic.imaginary),
        "dos": {
            "mesh": list(harmonic.mesh),
            "frequencies_THz": harmonic.dos[0].tolist(),
            "states_per_THz": harmonic.dos[1].tolist(),
            "by_element": {element: part.tolist() for element, part in harmonic.parts.items()},
        },
        "thermal": {
            "temperatures_K": harmonic.temperatures.tolist(),
            "free_energy_kJ_per_mol": harmonic.free_energy.tolist(),
            "entropy_J_per_K_per_mol": harmonic.entropy.tolist(),
            "heat_capacity_J_per_K_per_mol": harmonic.heat_capacity.tolist(),
        },
        "warnings": list(found.warnings),
    }
    if (kappa := found.conductivity) is not None:
        values["conductivity"] = {
            "temperatures_K": list(kappa.temperatures),
            "components": list(VOIGT),
            "isotopes": kappa.isotopes,
            "cells": kappa.cells,
            "atoms": kappa.atoms,
            "pair_cutoff_A": kappa.pair_cutoff,
            "meshes": [_mesh_json(mesh) for mesh in kappa.meshes],
        }
    if found.expansion is not None:
        fields = dataclasses.asdict(found.expansion)
        values["expansion"] = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in fields.items()}
    return finite(values)


def _mesh_json(mesh: MeshConductivity) -> dict[str, Any]:
    return {
        "mesh": list(mesh.mesh),
        "points": mesh.points,
        "relaxation_time_W_per_mK": mesh.relaxation.tolist(),
        "direct_W_per_mK": None if mesh.direct is None else mesh.direct.tolist(),
        "free_paths_nm": FREE_PATHS.tolist(),
        "carried_W_per_mK": [mesh.carried(row, FREE_PATHS).tolist() for row in range(len(mesh.relaxation))],
    }


def write_phonons(
    folder: Path, found: Phonons, settings: dict[str, Any], temperatures: tuple[float, ...]
) -> list[Table]:
    """Writes phonons.json, relaxed.extxyz, figures and phonons.html; returns the tables. Raises WriteError."""
    tables = tables_of(found, temperatures)
    write_text(folder / "phonons.json", json.dumps(as_json(found, settings), indent=1, allow_nan=False) + "\n")
    write_frames(folder / "relaxed.extxyz", [found.rest.crystal])
    harmonic_figure(folder, found.harmonic)
    if found.conductivity is not None:
        conductivity_figure(folder, found.conductivity)
    if found.expansion is not None:
        expansion_figure(folder, found.expansion)
    facts = {f"warning {number}": text for number, text in enumerate(found.warnings, 1)}
    write_text(folder / "phonons.html", html_page(f"Lattice dynamics of {found.title}", facts, tables, folder))
    return tables
