"""A deck in units real (kcal/mol, A, fs) has what the same deck has in units metal (eV, A, ps)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.io import read
from decks import Bench, by_tag, lammps_instance, results_of
from so3krates.lammps import run_deck
from so3krates.storage import Model
from structures import structure

SAME = 2e-7  # relative: LAMMPS' own constants of the two systems agree to 6e-8
KCAL = units.mol / units.kcal  # kcal/mol in one eV
BAR_PER_ATMOSPHERE = 1.01325
STEPS, STEP = 20, 1.0  # fs
MOVED = 0.05  # A, in these steps
LARGE = 0.1  # eV/A, of the largest force: what is compared is not zero


@pytest.fixture
def bench(committee: Path, program_cache: Path, tmp_path: Path) -> Bench:
    return Bench(committee, program_cache, tmp_path)


def deck(bench: Bench, atoms: Atoms, style: str, options: str = "") -> str:
    text = bench.deck(atoms).replace("threads 1", f"threads 1 {options}").replace("units metal", f"units {style}")
    if style == "metal":
        return text
    return text.replace("timestep 0.001", f"timestep {STEP}")


def test_results_are_the_same_in_both(bench: Bench, members: list[Model], gan_cell: Atoms) -> None:
    found = {}
    for style in ("metal", "real"):
        lines = (
            "fix c all pair 1 so3krates committee_forces 1 feature_norm 1\n"
            "compute k all ke/atom\ncompute w all centroid/stress/atom NULL virial\n"
            "compute e all pe/atom\ncompute j all heat/flux k e w\n"
            "compute s all reduce sum c_w[1]\ncompute m all pair so3krates\n"
            "thermo_style custom step pe press c_sum c_virial[1] c_j[1] c_s c_m[1] c_m[2]\nthermo_modify norm no\n"
            "velocity all create 900 11 loop geom\nfix 1 all nve\nrun 0\n"
        )
        with lammps_instance() as instance:
            instance.commands_string(deck(bench, structure("crystal", gan_cell), style) + lines)
            results = results_of(instance)
            peratom = instance.numpy.extract_fix("c", 1, 2)[: instance.extract_setting("nlocal")].copy()
            vectors = [instance.numpy.extract_compute(name, 0, 1).copy() for name in ("j", "m")]
            stress = instance.extract_compute("s", 0, 0)
            pressure = instance.get_thermo("press")
            instance.commands_string(f"run {STEPS}\n")
            found[style] = results, peratom, vectors, stress, pressure, by_tag(instance, "x")
    metal, real = found["metal"], found["real"]
    assert np.abs(metal[0].forces).max() > LARGE

    def agree(value: np.ndarray | float, of_metal: np.ndarray | float, factor: float) -> None:
        expected = factor * np.asarray(of_metal)
        np.testing.assert_allclose(value, expected, rtol=0, atol=SAME * np.abs(expected).max())
        assert np.abs(expected).max() > 0

    agree(real[0].energy, metal[0].energy, KCAL)
    agree(real[0].forces, metal[0].forces, KCAL)
    agree(real[0].atom_energies, metal[0].atom_energies, KCAL)
    agree(real[1][:, 0], metal[1][:, 0], KCAL)  # eV/A
    agree(real[1][:, 1], metal[1][:, 1], 1.0)  # a number
    agree(real[2][0], metal[2][0], KCAL / 1000)  # heat flux, per fs
    agree(real[2][1][: len(members)], metal[2][1][: len(members)], KCAL)  # energies of the members
    agree(real[3] * BAR_PER_ATMOSPHERE, metal[3], 1.0)  # bar A^3
    agree(real[4] * BAR_PER_ATMOSPHERE, metal[4], 1.0)
    start = structure("crystal", gan_cell).positions
    assert np.abs(metal[5] - start).max() > MOVED
    np.testing.assert_allclose(real[5], metal[5], rtol=0, atol=20 * SAME)


def test_files_and_limits(bench: Bench, gan_cell: Atoms) -> None:
    """Lines of deviations and limits are in the deck's units; frames are in eV and A."""
    atoms = structure("crystal", gan_cell)
    heads, lines = {}, {}
    for style in ("metal", "real"):
        limit = 1e-3 * (KCAL if style == "real" else 1.0)
        options = (
            f"deviation {style}.out every 1 save {style}.extxyz committee_forces {limit:.9g} {1e6 * limit:.9g} every 1"
        )
        log = run_deck(deck(bench, atoms, style, options) + "fix 1 all nve\nrun 2\n", bench.folder)
        lines[style] = np.loadtxt(bench.folder / f"{style}.out")
        heads[style] = read(bench.folder / f"{style}.extxyz", ":")
        unit = "eV/A" if style == "metal" else "kcal/mol/A"
        assert f"committee_forces was above {limit:g} {unit} in 3 of 3 frames" in log
    np.testing.assert_allclose(lines["real"][:, 1:], KCAL * lines["metal"][:, 1:], rtol=1e-5)
    for real, metal in zip(heads["real"], heads["metal"], strict=True):
        np.testing.assert_allclose(real.get_forces(), metal.get_forces(), rtol=0, atol=1e-5)
        assert np.abs(metal.get_forces()).max() > LARGE
