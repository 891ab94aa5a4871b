"""Fixtures of the LAMMPS tests."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from decks import Bench
from once import made_once
from so3krates.storage import Model
from so3krates_export.export import export_model
from so3krates_export.ladder import Rung

MEMBERS = 3


@pytest.fixture(scope="session")
def program_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs, shared by all tests and by all workers."""
    folder = tmp_path_factory.getbasetemp().parent / "lammps_program_cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def bench64(gan_bundle64: Path, program_cache: Path, tmp_path: Path) -> Bench:
    """Decks with the float64 potential."""
    return Bench(gan_bundle64, program_cache, tmp_path)


@pytest.fixture
def bench32(gan_bundle32: Path, program_cache: Path, tmp_path: Path) -> Bench:
    """Decks with the float32 potential."""
    return Bench(gan_bundle32, program_cache, tmp_path)


@pytest.fixture(scope="session")
def members(small_model_folder: Path) -> list[Model]:
    """Models that differ by a percent in every parameter."""
    model = Model.load(small_model_folder)
    others = []
    for seed in range(1, MEMBERS):
        random = np.random.default_rng(seed)
        params = jax.tree.map(lambda p, r=random: p * (1 + 0.01 * r.normal(size=p.shape)), model.params)
        others.append(dataclasses.replace(model, params=params))
    return [model, *others]


@pytest.fixture(scope="session")
def committee(members: list[Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of them, float64."""

    def export(path: Path) -> None:
        ladder = [Rung(256, 4608, 192, 64)]
        export_model(members[0], path, precision="float64", others=members[1:], ladder=ladder)

    return made_once(tmp_path_factory, "committee.so3k", export)
