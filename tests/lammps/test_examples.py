"""The decks in examples/lammps and examples/learning run as they stand."""

import dataclasses
import shutil
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
    variables = {"potential": bench32.bundle, "nx": 3, "ny": 2, "nz": 2, "nve": 2}
    run_deck(EXAMPLES / "million" / "in.million", bench32.folder, variables)
    (run,) = read_log(bench32.folder / "log.lammps")
    assert np.array_equal(run["Step"], [0, 1, 2]) and np.array_equal(run["Atoms"], [96, 96, 96])
    assert 0 < np.ptp(run["TotEng"]) < 96 * DRIFT
    assert run["c_strongest[1]"].min() > SIGNAL


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
