"""Functions of an edge's vector, in Python, in the CPU's kernels and in a GPU's: all equal to scipy's."""

from __future__ import annotations

import dataclasses
import functools
import math
import subprocess
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.special import betainc, factorial, lpmv
from so3krates.model import ModelConfig
from so3krates.model.cutoff import cutoff_function
from so3krates.model.harmonics import spherical_harmonics
from so3krates.model.radial_basis import spline_basis, spline_range
from so3krates_export.cuda import kernel_sizes
from so3krates_export.fused import CUTOFF_NUMBERS

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "csrc" / "kernels"
DEGREES = (1, 2, 3, 4)
NODES, START = 40, 0.7  # of the splines; A
CONFIG = ModelConfig(
    features=16, heads=2, layers=2, degrees=DEGREES, cutoff=4.3, polynomial_order=5, radial_basis="spline",
    radial_functions=NODES, spline_start=START, radial_filter_features=(16,), spherical_filter_features=(4, 16),
)  # fmt: skip
EDGES = 40  # no whole number of batches
TOLERANCES = {
    "float64": 1e-13,
    "float32": 1.5e-5,
}  # of the largest value; slopes in float32 lose digits near the cutoff
SIGNAL = 0.05  # of the largest values

pytestmark = pytest.mark.usefixtures("x64")


class Edges(NamedTuple):
    """What one edge has, each (EDGES, ...); compared in this order with what the kernels write."""

    cutoff: np.ndarray
    cutoff_slope: np.ndarray  # 1/A
    spline: np.ndarray
    spline_slope: np.ndarray  # 1/A
    harmonics: np.ndarray  # (EDGES, 24)


def vectors() -> np.ndarray:
    """From well below the splines' first distance to beyond the cutoff, (EDGES, 3)."""
    generator = np.random.default_rng(3)
    directions = generator.normal(size=(EDGES, 3))
    lengths = np.concatenate([np.linspace(0.3, CONFIG.cutoff - 1e-3, EDGES - 2), [CONFIG.cutoff + 1e-9, 6.0]])
    return lengths[:, None] * directions / np.linalg.norm(directions, axis=1, keepdims=True)


COEFFICIENTS = np.random.default_rng(4).normal(size=NODES)
WEIGHTS = np.random.default_rng(5).normal(size=(EDGES, 24))


def cutoff_by_scipy(name: str, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """phi and its slope: the polynomials as 1 - I_x(p, 3), a regularised incomplete beta function."""
    x = np.minimum(d / CONFIG.cutoff, 1.0)
    if name == "cosine":
        value, slope = 0.5 * (1 + np.cos(np.pi * x)), -0.5 * np.pi * np.sin(np.pi * x)
    elif name == "exponential":
        room = np.where(x < 1, 1 - x * x, 1.0)
        value = np.where(x < 1, np.exp(1 - 1 / room), 0.0)
        slope = -2 * x / room**2 * value
    else:
        p = 3 if name == "phys" else CONFIG.polynomial_order
        value, slope = 1 - betainc(p, 3, x), -0.5 * p * (p + 1) * (p + 2) * x ** (p - 1) * (1 - x) ** 2
    return np.where(x < 1, value, 0.0), np.where(x < 1, slope, 0.0) / CONFIG.cutoff


def harmonics_by_scipy(r: np.ndarray) -> np.ndarray:
    """Real spherical harmonics from associated Legendre functions, without their (-1)^m."""
    azimuth, z = np.arctan2(r[:, 1], r[:, 0]), r[:, 2] / np.linalg.norm(r, axis=1)
    columns = []
    for degree in DEGREES:
        for order in range(-degree, degree + 1):
            m = abs(order)
            norm = math.sqrt((2 * degree + 1) / (4 * np.pi) * factorial(degree - m) / factorial(degree + m))
            around = math.sqrt(2) * (np.cos if order > 0 else np.sin)(m * azimuth) if m else 1.0
            columns.append((-1) ** m * norm * lpmv(m, degree, z) * around)
    return np.stack(columns, axis=1)


def by_scipy(name: str, r: np.ndarray) -> Edges:
    d = np.linalg.norm(r, axis=1)
    least, spacing = spline_range(NODES, CONFIG.cutoff, START)
    splines = BSpline(least + spacing * np.arange(-3, NODES + 1), COEFFICIENTS, 3)
    decay = np.exp(-d)
    inside = np.clip(decay, least, math.exp(-START))
    slope = np.where(inside == decay, -decay * splines(inside, 1), 0.0)
    return Edges(*cutoff_by_scipy(name, d), splines(inside), slope, harmonics_by_scipy(r))


def config_of(name: str) -> ModelConfig:
    return dataclasses.replace(CONFIG, cutoff_function=name)


def by_python(config: ModelConfig, r: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """phi, the spline and the harmonics of one vector (3,)."""
    d = jnp.sqrt(r @ r)
    spline = spline_basis(d, NODES, config.cutoff, config.spline_start) @ COEFFICIENTS
    return cutoff_function(d, config), spline, spherical_harmonics(r / d, DEGREES)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The kernels' functions as programs for the host."""
    folder = tmp_path_factory.mktemp("edges")
    sizes = folder / "sizes.h"
    sizes.write_text(kernel_sizes(CONFIG, "float64", 2, 1))
    gpu = ROOT / "tests" / "gpu" / "host_cuda.h"
    flags = {
        "cpu": ["-DSO3KRATES_KERNEL_SET=generic", f"-I{KERNELS}", "-Wno-psabi"],
        "gpu": [f'-DSIZES="{sizes}"', f'-DHOST_CUDA="{gpu}"', f"-I{KERNELS / 'cuda'}", f"-I{KERNELS / 'shared'}", "-w"],
    }
    source = str(Path(__file__).with_name("edge_kernels.cpp"))
    for name, own in flags.items():
        subprocess.run(["c++", "-std=c++17", "-O0", *own, source, "-o", str(folder / name)], check=True)
    return {name: folder / name for name in flags}


def run(program: Path, name: str, r: np.ndarray, precision: str) -> tuple[Edges, np.ndarray]:
    """And the gradient of phi + spline + WEIGHTS x harmonics, (EDGES, 3)."""
    least, spacing = spline_range(NODES, CONFIG.cutoff, START)
    sizes = [CUTOFF_NUMBERS[name], CONFIG.polynomial_order, CONFIG.cutoff, NODES, least, spacing, EDGES]
    task = b"".join(np.asarray(part, np.float64).tobytes() for part in (sizes, r, COEFFICIENTS, WEIGHTS))
    command = [str(program)] if precision == "float64" else [str(program), "single"]
    done = subprocess.run(command, input=task, capture_output=True, check=True)
    found = np.frombuffer(done.stdout).reshape(EDGES, -1)
    return Edges(*found[:, :4].T, found[:, 4:-3]), found[:, -3:]


def close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    largest = np.abs(expected).max()
    assert largest > SIGNAL
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("name", CUTOFF_NUMBERS)
def test_functions_of_edges_are_scipys(name: str, programs: dict[str, Path]) -> None:
    r, config = vectors(), config_of(name)
    table = by_scipy(name, r)
    assert not table.cutoff[-2:].any() and table.cutoff[-4] > 0

    def total(r: jax.Array, weights: jax.Array) -> jax.Array:
        cutoff, spline, harmonics = by_python(config, r)
        return cutoff + spline + weights @ harmonics

    cutoff, spline, harmonics = jax.vmap(functools.partial(by_python, config))(jnp.asarray(r))
    gradients = np.asarray(jax.vmap(jax.grad(total))(jnp.asarray(r), jnp.asarray(WEIGHTS)))
    exact = TOLERANCES["float64"]
    for found, expected in ((cutoff, table.cutoff), (spline, table.spline), (harmonics, table.harmonics)):
        close(np.asarray(found), expected, exact)
    for program, precision in (("cpu", "float64"), ("cpu", "float32"), ("gpu", "float64")):
        edges, kernel_gradients = run(programs[program], name, r, precision)
        for found, expected in zip(edges, table, strict=True):
            close(found, expected, TOLERANCES[precision])
        close(kernel_gradients, gradients, TOLERANCES[precision])
