"""Products on matrix units as the host computes them: their layout, and the precision of floats in three products."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

DOUBLE = 3e-15  # of the sum of the products' magnitudes
FLOAT = 1.2e-6  # likewise: three products of TF32 numbers, and sums that are cut off at each step
WITHOUT_UNITS = 6e-7  # float32, in HIP's language: one sum in float32
ONE_PRODUCT = 1e-4  # what the leading parts alone miss at least, in the worst element
STEPS = 17  # as many eights as 132 features take
HERE = Path(__file__).parent
KERNELS = HERE.parent.parent / "csrc" / "kernels" / "cuda"


def multiply(
    folder: Path, a: np.ndarray, b: np.ndarray, with_rests: bool = True, flags: tuple[str, ...] = ()
) -> np.ndarray:
    """a (16, 8 STEPS) times b (8 STEPS, 8) by csrc/kernels/cuda/matrix.h."""
    library = folder / f"products_{a.dtype}{''.join(flags)}.so"
    if not library.exists():
        real = {"float32": "float", "float64": "double"}[str(a.dtype)]
        options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", f"-DREAL={real}", f"-I{KERNELS}"]
        source = [f'-DHOST_CUDA="{HERE / "host_cuda.h"}"', HERE / "matrix_products.cpp"]
        subprocess.run(["c++", *options, *flags, *map(str, source), "-o", str(library)], check=True)
    d = np.full((16, 8), np.nan, a.dtype)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (a, b, d)]
    run = ctypes.CDLL(str(library)).multiply
    run(*pointers[:2], ctypes.c_int(a.shape[1] // 8), ctypes.c_bool(with_rests), pointers[2])
    return d


def error(d: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Largest error of an element in units of the sum of its products' magnitudes."""
    a, b = a.astype(np.longdouble), b.astype(np.longdouble)
    return float((abs(d - a @ b) / (abs(a) @ abs(b))).max())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(params=["random signs", "one sign"])
def factors(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Sums that cancel, and sums that grow, in which what a unit cuts off adds up."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(16, 8 * STEPS)), rng.normal(size=(8 * STEPS, 8))
    return (a, b) if request.param == "random signs" else (abs(a), abs(b))


def test_double_precision(folder, factors):
    a, b = factors
    assert error(multiply(folder, a, b), a, b) < DOUBLE


def test_single_precision_takes_three_products(folder, factors):
    a, b = (f.astype(np.float32) for f in factors)
    assert error(multiply(folder, a, b), a, b) < FLOAT
    assert error(multiply(folder, a, b, with_rests=False), a, b) > ONE_PRODUCT


def test_lanes_hand_each_other_factors_in_hip(folder, factors):
    """Where no matrix unit is used."""
    for precision, tolerance in ((np.float64, DOUBLE), (np.float32, WITHOUT_UNITS)):
        a, b = (f.astype(precision) for f in factors)
        assert error(multiply(folder, a, b, flags=("-D__HIP__",)), a, b) < tolerance
