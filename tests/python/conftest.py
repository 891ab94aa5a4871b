"""Fixtures of the Python tests: JAX's settings while a test or a module runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from ase import Atoms


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """Most of the time would be compilation of programs that run a few times."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 while the test runs."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs of one test module share their programs, compiled quickly: most of its time would be compilation."""
    wanted = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def trained(compile_cache: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, list[Atoms], Path]:
    """A result of training, its frames and its folder."""
    from so3krates.training import train
    from training_runs import make_frames, quiet, settings

    folder = tmp_path_factory.mktemp("trained") / "run"
    frames = make_frames(10)
    result = train(settings(epochs=30, ema_decay=0.9), frames[:8], frames[8:], folder, quiet)
    return result, frames, folder
