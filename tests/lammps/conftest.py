"""Fixtures of the LAMMPS tests."""

from pathlib import Path

import pytest
from decks import Bench


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
