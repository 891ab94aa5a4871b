"""Fixtures of the Python tests."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from ase import Atoms

GPU = Path(__file__).parent.parent / "gpu"


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


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A driver and an NVRTC that run kernels on the host; JAX calls them for the custom call of the GPU kernels."""
    from so3krates import _harness
    from so3krates_export.cuda import CALL

    folder = tmp_path_factory.mktemp("cuda")
    library = folder / "cuda.so"
    flags = ["-std=c++17", "-shared", "-fPIC", f'-DHOST_CUDA="{GPU / "host_cuda.h"}"']
    subprocess.run(["c++", *flags, str(GPU / "fake_cuda.cpp"), "-o", str(library), "-ldl"], check=True)
    names = {"SO3KRATES_CUDA_DRIVER": library, "SO3KRATES_NVRTC": library, "SO3KRATES_CACHE": folder / "cache"}
    before = {name: os.environ.get(name) for name in names}
    os.environ |= {name: str(value) for name, value in names.items()}
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    handler = capsule(_harness.pjrt.cuda_kernel_handler(has_streams=False), None, None)
    jax.ffi.register_ffi_target(CALL, handler, platform="cpu")
    yield
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
