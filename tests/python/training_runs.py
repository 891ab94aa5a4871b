"""Small training runs: frames, settings and what they leave behind."""

from __future__ import annotations

import csv
from pathlib import Path

import jax
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from so3krates.data import Labels
from so3krates.data import with_labels as label
from so3krates.model.config import ModelConfig
from so3krates.training import DataConfig, RunConfig, Status, TrainingConfig

SMALL = ModelConfig(features=12, heads=2, layers=1, degrees=(1, 2), radial_functions=8, cutoff=4.0)


def make_frames(count: int, seed: int = 0, repeat: tuple[int, ...] = (1,)) -> list[Atoms]:
    """Copper with EMT labels and a constant of -1e5 eV per atom."""
    rng = np.random.default_rng(seed)
    frames = []
    for n in range(count):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True) * (repeat[n % len(repeat)], 1, 1)
        atoms.set_cell(atoms.cell.array * (1 + 0.02 * rng.normal()), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        atoms.calc = EMT()
        energy = atoms.get_potential_energy() - 1e5 * len(atoms)
        frames.append(label(atoms, Labels(energy, atoms.get_forces(), atoms.get_stress(voigt=False))))
    return frames


def settings(**training: object) -> RunConfig:
    defaults = {"epochs": 3, "batch_size": 2, "learning_rate": 3e-3, "checkpoint_minutes": 60.0}
    defaults |= {"energy_weight": 0.001, "force_weight": 1.0, "stress_weight": 0.01}
    return RunConfig(SMALL, DataConfig(), TrainingConfig(**{**defaults, **training}))


def quiet(_: Status) -> None:
    """A run that says nothing."""


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def assert_same(a: dict, b: dict) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)
