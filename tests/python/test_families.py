"""The runners of real families: each trains a moment on a few crystals, and what it predicts obeys the laws.

Those that need an environment run where `so3krates compare` has made it in the checkout's .compare.
"""

from __future__ import annotations

import io
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console
from so3krates.comparison import CompareSettings, compare, families
from so3krates.comparison.families import MADE, REQUIREMENTS

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".compare"
NEEDS_GPU = ("nep",)  # to train
SLOW = ("so3krates",)  # compiles for most of a minute; what it calls has tests of its own
LAWS = ("rotation", "translation", "permutation", "force = ", "stress = ")
FORCES = 0.9  # of the spread of the labels: errors of a training of seconds
SETTINGS = """
[compare]
families = ["{name}"]
test_file = "test.extxyz"
minutes = {minutes}
check_minutes = 2
drift_steps = 0
speed_atoms = 0
structure = "crystal.extxyz"
environments = "{environments}"

[data]
file = "train.extxyz"
n_valid = 2
{options}
"""
MINUTES = {"so3krates": 1.0}  # of the training; others: 0.3
SMALL = {
    "so3krates": '[options.so3krates]\npreset = "fast"\nsettings = ["training.learning_rate=0.01"]',
    "snap": "[options.snap]\ncutoff = 4.0\ntwojmax = 4",
    "soap": "[options.soap]\ncutoff = 4.0\nn_max = 3\nl_max = 3",
}


def write(path: Path, count: int, rng: np.random.Generator) -> None:
    """Shaken copper with forces of pairs."""
    frames = []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * (1 + 0.02 * rng.uniform(-1, 1)), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        atoms.calc = LennardJones(sigma=2.3, epsilon=0.2, rc=4.0, smooth=True)
        results = {key: atoms.calc.get_property(key, atoms) for key in ("energy", "forces", "stress")}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    ase.io.write(path, frames)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.torture] * (name in SLOW)) for name in sorted(families())]
)
def test_a_runner_trains_and_predicts(name: str, tmp_path: Path) -> None:
    family = families()[name]
    if name in NEEDS_GPU:
        pytest.skip("it is trained on a GPU alone")
    if (family.folder / REQUIREMENTS).is_file() and not (ENVIRONMENTS / family.environment_name / MADE).is_file():
        pytest.skip(f"its environment is not made: so3krates compare makes it in {ENVIRONMENTS.name}")
    rng = np.random.default_rng(0)
    for file, count in (("train", 10), ("test", 2)):
        write(tmp_path / f"{file}.extxyz", count, rng)
    ase.io.write(tmp_path / "crystal.extxyz", bulk("Cu", cubic=True))
    text = SETTINGS.format(
        name=name, environments=ENVIRONMENTS, options=SMALL.get(name, ""), minutes=MINUTES.get(name, 0.3)
    )
    (tmp_path / "settings.toml").write_text(text)
    (row,) = compare(CompareSettings.load(tmp_path / "settings.toml"), tmp_path / "out", Console(file=io.StringIO()))
    assert row.get("problem") is None and row["problems"].keys() <= {"crystal"}, row
    assert row["errors"]["forces"]["rmse_over_std"] < FORCES or not family.options.get("fine_tune", True)
    laws = {check["name"]: check for check in row["laws"] if check["name"].startswith(LAWS)}
    assert len(laws) == 9
    assert [name for name, check in laws.items() if check["passed"] is False] == []


def test_descriptors_that_no_frame_has_get_no_coefficient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of three elements, where all frames have two: their columns are zero but for rounding."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "families"))
    import linear

    rng = np.random.default_rng(0)
    sizes = np.array([1.0, 10.0, 1e-15, 0.0])
    true = np.array([0.5, -0.2, 0.0, 0.0])
    pairs = []
    for _ in range(9):
        atoms = bulk("Cu", cubic=True)
        own = linear.Equations(sizes * rng.normal(size=4), sizes * rng.normal(size=(12, 4)), None)
        results = {"energy": own.energy @ true, "forces": (own.forces @ true).reshape(4, 3)}
        atoms.calc = SinglePointCalculator(atoms, **results)
        pairs.append((atoms, own))
    found = linear.ridge(pairs[:6], pairs[6:])
    np.testing.assert_allclose(found[:2], true[:2], atol=1e-6)
    assert np.abs(found[2:]).max() < 0.01
