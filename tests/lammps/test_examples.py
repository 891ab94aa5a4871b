"""The decks in examples/lammps run as they stand."""

from pathlib import Path

import numpy as np
from decks import Bench
from so3krates.lammps import run_deck
from so3krates.lammps.thermo import read_log

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
