"""The wurtzite crystal of one or more potentials, as a Markdown table: python crystal.py tersoff gan.so3k ..."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from so3krates.calculator import So3kratesCalculator
from so3krates.sampling import (
    LammpsCalculator,
    ThermalDisplacements,
    force_constants,
    relax_crystal,
    relax_positions,
    wurtzite,
)

STRAIN = 2e-3
THERMAL_STRAIN = 0.01
DRAWS = 8  # of displacements, each with both signs
FORCE = 1e-4  # eV/A, largest that relaxations leave
CM = units._hbar * 1e10 / np.sqrt(units._e * units._amu) / units.invcm  # 1/cm of 1 sqrt(eV / (A^2 u))


def lattice(crystal: Atoms) -> dict[str, float]:
    """Lattice constants in A, and u, the length of a bond along c as a fraction of c."""
    a, _, c = crystal.cell.lengths()
    heights = crystal.get_scaled_positions()[:, 2]
    cations = crystal.numbers == crystal.numbers.max()
    gaps = np.subtract.outer(heights[cations], heights[~cations]) % 1.0
    gaps = np.minimum(gaps, 1.0 - gaps)  # 3/8 along a bond, 1/8 to the anions of the other sublattice
    return {"a (Å)": a, "c (Å)": c, "u": gaps[gaps > 0.25].mean()}


def elastic_constants(crystal: Atoms, calculator: Calculator) -> dict[str, float]:
    """Relaxed-ion elastic constants and the bulk modulus in GPa, from stresses at small strains of both signs."""
    columns = {}
    for voigt in (0, 2, 3):
        stresses = []
        for sign in (1, -1):
            strain = np.zeros(6)
            strain[voigt] = sign * STRAIN
            xx, yy, zz, yz, xz, xy = strain
            strained = crystal.copy()
            gradient = np.eye(3) + np.array([[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]])
            strained.set_cell(crystal.cell.array @ gradient, scale_atoms=True)
            strained = relax_positions(strained, calculator, FORCE)
            strained.calc = calculator
            stresses.append(strained.get_stress())
        columns[voigt] = (stresses[0] - stresses[1]) / (2 * STRAIN * units.GPa)
    c11, c12, c13 = columns[0][:3]
    c33, c44 = columns[2][2], columns[3][3]
    bulk = (c33 * (c11 + c12) - 2 * c13**2) / (c11 + c12 + 2 * c33 - 4 * c13)
    names = ("bulk modulus", "C11", "C12", "C13", "C33", "C44")
    return {f"{name} (GPa)": value for name, value in zip(names, (bulk, c11, c12, c13, c33, c44), strict=True)}


def gamma_phonons(crystal: Atoms, calculator: Calculator) -> dict[str, float]:
    """Optical modes at Gamma in 1/cm by symmetry; a short-ranged potential has no splitting of LO and TO."""
    weights = np.repeat(1.0 / np.sqrt(crystal.get_masses()), 3)
    phi = force_constants(crystal, calculator)
    eigenvalues, modes = np.linalg.eigh(weights[:, None] * phi * weights[None, :])
    found: dict[str, list[float]] = {"E2": [], "B1": [], "A1": [], "E1": []}
    for eigenvalue, mode in list(zip(eigenvalues, modes.T, strict=True))[3:]:
        motion = mode.reshape(4, 3)
        along_c = np.square(motion[:, 2]).sum() > 0.5
        # Atoms of one element move together in A1 and E1, against each other in B1 and E2.
        together = sum(
            motion[first] @ motion[second]
            for first, second in zip(*np.triu_indices(4, 1), strict=True)
            if crystal.numbers[first] == crystal.numbers[second]
        )
        name = ("A1" if together > 0 else "B1") if along_c else ("E1" if together > 0 else "E2")
        found[name].append(np.sign(eigenvalue) * np.sqrt(abs(eigenvalue)) * CM)
    e2, b1 = sorted(found["E2"]), sorted(found["B1"])
    return {
        "E2 low (1/cm)": np.mean(e2[:2]),
        "B1 low (1/cm)": b1[0],
        "A1 (1/cm)": np.mean(found["A1"]),
        "E1 (1/cm)": np.mean(found["E1"]),
        "E2 high (1/cm)": np.mean(e2[2:]),
        "B1 high (1/cm)": b1[-1],
    }


def thermal_stiffness(calculators: Sequence[Calculator], temperatures: Sequence[float]) -> np.ndarray:
    """C33 in GPa from mean stresses of thermally displaced supercells, (temperatures in K, calculators).

    All get the same structures: those of the first one's harmonic crystal.
    """
    crystal = relax_crystal(wurtzite(), calculators[0], FORCE)
    found = np.zeros((len(temperatures), len(calculators)))
    for sign in (1, -1):
        cell = crystal.copy()
        cell.set_cell(crystal.cell.array * [[1], [1], [1 + sign * THERMAL_STRAIN]], scale_atoms=True)
        supercell = relax_positions(cell, calculators[0], FORCE).repeat((2, 2, 2))
        thermal = ThermalDisplacements(force_constants(supercell, calculators[0]), supercell.get_masses())
        for row, temperature in enumerate(temperatures):
            random = np.random.default_rng(0)
            draws = [thermal.draw(temperature, random) for _ in range(DRAWS)]
            for displacements in (*draws, *(-draw for draw in draws)):
                frame = supercell.copy()
                frame.positions += displacements
                for column, calculator in enumerate(calculators):
                    frame.calc = calculator
                    found[row, column] += sign * frame.get_stress()[2]
    return found / (2 * DRAWS * 2 * THERMAL_STRAIN * units.GPa)


def describe(calculator: Calculator) -> dict[str, float]:
    """All rows of the table."""
    crystal = relax_crystal(wurtzite(), calculator, FORCE)
    return lattice(crystal) | elastic_constants(crystal, calculator) | gamma_phonons(crystal, calculator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("potentials", nargs="+", help="bundles, or `tersoff` for LAMMPS' GaN.tersoff")
    parser.add_argument("--thermal", type=float, nargs="+", default=[], help="K, of rows with the stiffness along c")
    parser.add_argument("--json", type=Path, help="a file for the table, by potential and row")
    options = parser.parse_args()
    names = options.potentials
    calculators = [LammpsCalculator() if name == "tersoff" else So3kratesCalculator(name) for name in names]
    columns = [describe(calculator) for calculator in calculators]
    if options.thermal:
        for temperature, values in zip(options.thermal, thermal_stiffness(calculators, options.thermal), strict=True):
            for column, value in zip(columns, values, strict=True):
                column[f"C33, atoms displaced as at {temperature:g} K (GPa)"] = value
    if options.json:
        table = dict(zip(names, columns, strict=True))
        options.json.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print("| |", " | ".join(Path(name).stem for name in names), "|")
    print("|---" * (1 + len(names)) + "|")
    for row in columns[0]:
        digits = 4 if "Å" in row or row == "u" else 1
        print(f"| {row} |", " | ".join(f"{column[row]:.{digits}f}" for column in columns), "|")


if __name__ == "__main__":
    main()
