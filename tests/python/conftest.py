"""Fixtures of the Python tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from ase import Atoms


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 while the test runs."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, list[Atoms], Path]:
    """A result of training, its frames and its folder."""
    from so3krates.training import train
    from training_runs import make_frames, quiet, settings

    folder = tmp_path_factory.mktemp("trained") / "run"
    frames = make_frames(10)
    result = train(settings(epochs=30, ema_decay=0.9), frames[:8], frames[8:], folder, quiet)
    return result, frames, folder
