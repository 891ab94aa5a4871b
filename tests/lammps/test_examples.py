"""The decks in examples/lammps and examples/learning run as they stand."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from decks import Bench
from so3krates.lammps import run_deck
from so3krates.lammps.thermo import read_log
from so3krates.learning import LearningSettings
from so3krates.learning.explore import explore, saved_frames
from so3krates.learning.labels import label
from so3krates.storage import Model
from so3krates_export.export import export_model
from so3krates_export.ladder import Rung

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "lammps"
DRIFT = 1e-3  # eV/atom over a few steps
SIGNAL = 1e-3  # eV/A


def test_gan(bench32: Bench) -> None:
    variables = {"potential": bench32.bundle, "cells": 2, "nvt": 20, "nve": 20, "every": 5}
    run_deck(EXAMPLES / "in.gan", bench32.folder, variables)
    _, nve = read_log(bench32.folder / "log.lammps")
    assert np.array_equal(nve["Step"], [20, 25, 30, 35, 40])
    assert 0 < np.ptp(nve["TotEng"]) < 64 * DRIFT
    rows = (bench32.folder / "last.dump").read_text().splitlines()[9:]
    assert len(rows) == 64 and {row.split()[1] for row in rows} == {"1", "2"}


def test_million(bench32: Bench) -> None:
    variables = {"potential": bench32.bundle, "nx": 3, "ny": 2, "nz": 2, "nve": 2, "every": 1}
    run_deck(EXAMPLES / "million" / "in.million", bench32.folder, variables)
    (run,) = read_log(bench32.folder / "log.lammps")
    assert np.array_equal(run["Step"], [0, 1, 2]) and np.array_equal(run["Atoms"], [96, 96, 96])
    run_deck(EXAMPLES / "million" / "in.million", bench32.folder, variables | {"restart": 2})
    (further,) = read_log(bench32.folder / "log.lammps")
    assert np.array_equal(further["Step"], [2, 3, 4])
    assert further["TotEng"][0] == pytest.approx(run["TotEng"][-1], rel=1e-7)
    assert 0 < np.ptp(run["TotEng"]) < 96 * DRIFT
    assert run["c_strongest[1]"].min() > SIGNAL


@pytest.fixture(scope="module")
def molecules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of SO3LR's decks with small structures and bundles."""
    folder = tmp_path_factory.mktemp("molecules") / "so3lr"
    shutil.copytree(EXAMPLES / "so3lr", folder)
    sizes = ["--edge", "2", "--repeats", "1"]
    command = [sys.executable, "structures.py", "water.data", "urea.data", "chloride.data", *sizes]
    said = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    assert [line.split(",")[0] for line in said.splitlines()] == [
        "water.data: 24 atoms",
        "urea.data: 16 atoms",
        "chloride.data: 22 atoms",
    ]
    model = Model.load(EXAMPLES.parent / "models" / "so3lr")
    export_model(model, folder / "so3lr.so3k", ladder=[Rung(256, 17408, 1536, 64)])
    return folder


PEAK = ((0.0, 0.0), (2.5, 1.0), (0.8, 1.5), (1.0, 2.0))  # g, neighbours
SHORT = {"relax": 2, "settle": 3, "measure": 4, "every": 2}


@pytest.mark.parametrize(
    ("what", "elements", "box", "density"), [("water", "O H", "iso", 0.997), ("urea", "C H N O", "aniso", 1.375)]
)
def test_molecules_at_constant_pressure(molecules: Path, what: str, elements: str, box: str, density: float) -> None:
    """The density is that of the structures; edges change as the deck says."""
    deck = molecules / "in.test"
    deck.write_text(f'variable elements index "{elements}"\ninclude in.npt\n')
    run_deck(deck, molecules, SHORT | {"what": what, "box": box})
    *_, run = read_log(molecules / "log.lammps")
    assert np.array_equal(run["Step"], [0, 2, 4])
    assert run["Density"] == pytest.approx(density, rel=0.01)
    edges = np.array([run[name][-1] / run[name][0] - 1 for name in ("Lx", "Ly", "Lz")])
    assert (np.abs(edges) > 1e-9).all() and (np.ptp(edges) > 1e-9) == (box == "aniso")
    step, mean, *_ = np.loadtxt(molecules / f"{what}.means")
    assert step == 4 and mean == pytest.approx(run["Density"][1:].mean(), rel=1e-5)


def test_the_distribution_is_drawn(molecules: Path) -> None:
    rows = [f"{k} {2.0 + 0.04 * (k - 0.5):.6g} {g} {n}" for k, (g, n) in enumerate(PEAK, 1)]
    (molecules / "drawn.rdf").write_text("\n".join(["# title", f"4 {len(rows)}", *rows]) + "\n")
    command = [sys.executable, "rdf.py", "drawn.rdf", "-o", "drawn.png"]
    said = subprocess.run(command, cwd=molecules, check=True, capture_output=True, text=True).stdout
    assert said.splitlines() == ["highest 2.50 at 2.06 A, lowest after it 0.80 at 2.10 A", "1.5 neighbours up to there"]
    assert (molecules / "drawn.png").stat().st_size > 5000


def test_an_ion_in_water(molecules: Path) -> None:
    """Most of the charge of the box is the ion's, and oxygen does not come closer than contact."""
    run_deck(molecules / "in.ion", molecules, SHORT)
    *_, run = read_log(molecules / "log.lammps")
    assert (run["c_q"] < -0.3).all() and (run["c_q"] > -1.0).all()
    assert "charge      -1 e in all, multiplicity 1" in (molecules / "log.lammps").read_text()
    rows = np.loadtxt(molecules / "chloride.rdf", skiprows=4)
    assert (rows[rows[:, 1] < 2.0, 2] == 0).all() and rows[:, 2].max() > 0


def test_the_decks_of_a_learning_loop(bench32: Bench) -> None:
    """Crystal and surface run with a potential that knows the crystal, and the teacher labels what they keep."""
    folder = bench32.folder / "learning"
    shutil.copytree(EXAMPLES.parent / "learning", folder)
    write(folder / "start.extxyz", bulk("GaN", "wurtzite", a=3.19, c=5.19))
    settings = LearningSettings.load(folder / "gan.toml")
    learn = dataclasses.replace(settings.learn, every=2, check_every=3, stop=1e6)
    found = []
    for number, run in enumerate(settings.runs):
        short = dataclasses.replace(run, variables=run.variables | {"steps": 10})
        summary = explore(short, bench32.folder / f"run-{number}", bench32.bundle, learn, 1)
        assert summary.looks == 6 and summary.ended == summary.error == ""
        found += saved_frames(bench32.folder / f"run-{number}")
        assert len(found[-1]) == 64 and found[-1].get_chemical_formula() == "Ga32N32"
    crystal, surface = (frame for frame in found if frame.info["look"] == 3)
    assert surface.cell[2, 2] == pytest.approx(crystal.cell[2, 2] + 10)
    assert surface.info["largest"] > 10 * crystal.info["largest"]
    labelled = label([crystal, surface], settings.label, bench32.folder / "labels", None)
    energies = [atoms.get_potential_energy() for atoms in labelled.frames]
    assert labelled.failed == {} and energies[1] > energies[0] + 1.0  # surfaces cost energy
