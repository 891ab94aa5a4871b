"""XLA's plugin for CUDA, where it is installed: it compiles for a GPU on machines that have none."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cuda_plugin() -> Path:
    """The PJRT plugin; skips the test where there is none."""
    found = installed("jax_plugins.xla_cuda13", "xla_cuda_plugin.so") or installed(
        "jax_plugins.xla_cuda12", "xla_cuda_plugin.so"
    )
    if found is not None:
        return found
    pytest.skip("needs XLA's plugin for CUDA: pip install --no-deps jax-cuda12-pjrt jax-cuda12-plugin (182 MB)")


def installed(module: str, *files: str) -> Path | None:
    """The first of `files` beside or below a module's folder."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    folders = found.submodule_search_locations or [] if found is not None else []
    paths = (Path(folder) / file for folder in folders for file in files)
    return next((path for path in paths if path.is_file()), None)


@pytest.fixture(scope="session")
def nvrtc() -> Path:
    """NVIDIA's compiler at run time; skips the test where there is none."""
    found = installed("nvidia.cu13", "lib/libnvrtc.so.13") or installed("nvidia.cuda_nvrtc", "lib/libnvrtc.so.12")
    if found is None:
        pytest.skip("needs NVRTC: pip install --no-deps nvidia-cuda-nvrtc-cu12 (90 MB)")
    return found


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of the driver's functions that answers as the environment says."""
    library = tmp_path_factory.mktemp("driver") / "cuda.so"
    flags = ["-std=c++17", "-shared", "-fPIC", '-DHOST_CUDA="none"']
    subprocess.run(
        ["c++", *flags, str(Path(__file__).with_name("fake_cuda.cpp")), "-o", str(library), "-ldl"], check=True
    )
    return library
