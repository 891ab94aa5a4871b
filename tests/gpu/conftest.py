"""XLA's plugin for CUDA, where it is installed: it compiles for a GPU on machines that have none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from once import made_once
from quick import quick_generator

BESIDE = Path(sys.prefix) / "cuda"  # where `make test` puts it
BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))  # for gpu_kit


@pytest.fixture(scope="session")
def cuda_plugin() -> Path:
    """The PJRT plugin; skips the test where there is none."""
    return installed(
        "XLA's plugin for CUDA",
        "pip install --no-deps jax-cuda12-pjrt (175 MB)",
        "jax_plugins/xla_cuda13/xla_cuda_plugin.so",
        "jax_plugins/xla_cuda12/xla_cuda_plugin.so",
    )


@pytest.fixture(scope="session")
def nvrtc() -> Path:
    """NVIDIA's compiler at run time; skips the test where there is none."""
    return installed(
        "NVRTC",
        "pip install --no-deps nvidia-cuda-nvrtc-cu12 (90 MB)",
        "nvidia/cu13/lib/libnvrtc.so.13",
        "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
    )


def installed(what: str, how: str, *files: str) -> Path:
    """The first of `files` of a package; skips the test where there is none."""
    paths = (Path(folder) / file for file in files for folder in (*sys.path, BESIDE))
    for path in paths:
        if path.is_file():
            return path
    pytest.skip(f"needs {what}: make test, or {how}")


@pytest.fixture(scope="session")
def little_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `bench/gpu --pack` makes, with one small network, for the CPU; once for all processes of the tests."""
    program = "import pathlib, sys; from gpu_kit import pack; pack.pack(pathlib.Path(sys.argv[1]), pack.LITTLE)"
    environment = os.environ | {"XLA_FLAGS": quick_generator()}
    return made_once(
        tmp_path_factory,
        "kit.tar",
        lambda path: subprocess.run([sys.executable, "-c", program, path], cwd=BENCH, env=environment, check=True),
    )
