"""XLA's plugin for CUDA, where it is installed: it compiles for a GPU on machines that have none."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cuda_plugin() -> Path:
    """The PJRT plugin; skips the test where there is none."""
    for release in ("cuda13", "cuda12"):
        try:
            found = importlib.util.find_spec(f"jax_plugins.xla_{release}")
        except ModuleNotFoundError:
            found = None
        if found is not None and found.origin is not None:
            return Path(found.origin).with_name("xla_cuda_plugin.so")
    pytest.skip("needs XLA's plugin for CUDA: pip install --no-deps jax-cuda12-pjrt jax-cuda12-plugin (182 MB)")
