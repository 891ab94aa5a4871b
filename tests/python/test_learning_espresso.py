"""`so3krates learn` with Quantum ESPRESSO, where it is installed: examples/learning/espresso, a round of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from rich.console import Console
from so3krates.learning import LearningSettings, learn

EXAMPLE = Path(__file__).parents[2] / "examples" / "learning" / "espresso"
PROGRAM = os.environ.get("ESPRESSO_COMMAND", "pw.x").split()[0]
BOX, CUTOFF = 5.0, 25.0  # A, Ry: coarse, for seconds instead of minutes
STEP = 0.02  # A
DERIVATIVE = 0.05  # eV/A: of finite differences with such a coarse basis
SIGNAL = 1.0  # eV/A
SETTINGS = f"""
[model]
cutoff = 3.0
features = 12
heads = 2
layers = 1
degrees = [1, 2]
radial_functions = 8

[training]
epochs = 4
batch_size = 2
stress_weight = 0

[learn]
structures = "start.extxyz"
save = 1e-4
stop = 1e4
every = 1
check_every = 1
labels_per_round = 1
checks_per_round = 1
max_rounds = 1

[label]
calculator = "espresso:water(cutoff={CUTOFF})"

[[run]]
deck = "in.water"
variables = {{ steps = 4 }}
"""

pytestmark = pytest.mark.skipif(
    shutil.which(PROGRAM) is None, reason=f"no {PROGRAM}: docs/learning.md says how to get Quantum ESPRESSO"
)


def stretched(by: float) -> Atoms:
    atoms = molecule("H2O", cell=[BOX] * 3, pbc=True)
    atoms.center()
    bond = atoms.positions[1] - atoms.positions[0]
    atoms.positions[1] += by * bond / np.linalg.norm(bond)
    return atoms


def test_a_round_labelled_by_electronic_structure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are those of the program, forces the derivatives of energies; each frame has its own folder."""
    monkeypatch.syspath_prepend(EXAMPLE)
    (tmp_path / "in.water").write_text((EXAMPLE / "in.water").read_text().replace("0 7 0 7 0 7", "0 5 0 5 0 5"))
    frames = [stretched(by) for by in (0.1 - STEP, 0.1, 0.1 + STEP)]
    write(tmp_path / "start.extxyz", frames)
    (tmp_path / "settings.toml").write_text(SETTINGS)
    outcome = learn(LearningSettings.load(tmp_path / "settings.toml"), tmp_path / "out", Console(quiet=True))
    assert outcome.labels == len(frames) + 2
    below, middle, above = read(tmp_path / "out" / "round-00" / "labelled.extxyz", ":")
    along = frames[2].positions - frames[0].positions
    work = -float((middle.get_forces() * along).sum())
    rise = above.get_potential_energy() - below.get_potential_energy()
    assert abs(rise) > SIGNAL * 2 * STEP
    assert rise == pytest.approx(work, abs=DERIVATIVE * 2 * STEP)
    for k in range(len(frames)):
        assert "JOB DONE" in (tmp_path / "out" / "round-00" / "labels" / f"frame-{k:04d}" / "espresso.pwo").read_text()
