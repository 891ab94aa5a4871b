"""The pair style built for a LAMMPS of one's own: `so3krates build-plugin` (docs/install.md)."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from datetime import datetime
from pathlib import Path

from so3krates.hints import reinstall

from .environment import plugin_directory

SOURCES = "plugin_source"  # beside the libraries of this package
PLUGIN = "so3kratesplugin.so"  # LAMMPS loads every file of LAMMPS_PLUGIN_PATH whose name ends so
VERSION = re.compile(r'^#define\s+LAMMPS_VERSION\s+"(\d{1,2} [A-Z][a-z]{2} \d{4})"', re.MULTILINE)


class BuildError(RuntimeError):
    """A plugin that could not be built; the message says what is missing, or what the compiler said."""


def header_folder(lammps: Path) -> Path:
    """The folder with LAMMPS' headers in a folder of its source, or of an installation. Raises BuildError."""
    for folder in (lammps / "src", lammps, lammps / "lammps", lammps / "include" / "lammps"):
        if (folder / "pair.h").is_file() and (folder / "lammps.h").is_file():
            return folder
    raise BuildError(
        f"{lammps} has no lammps.h and pair.h, nor have src, lammps and include/lammps in it: give the folder of "
        "LAMMPS' source, or of its installed headers (Debian: apt-get install liblammps-dev, then /usr/include)"
    )


def version_of(headers: Path) -> str:
    """The version that the headers are of, as "4 Feb 2025". Raises BuildError; installed headers do not say it."""
    file = headers / "version.h"
    found = VERSION.search(file.read_text(errors="replace")) if file.is_file() else None
    if found is None:
        raise BuildError(
            f"{headers} does not say which version of LAMMPS it is of: give the date in the first line that lmp "
            'prints, as in --version "4 Feb 2025"'
        )
    return found[1]


def build_plugin(lammps: Path, output: Path, compiler: str = "mpicxx", version: str | None = None) -> tuple[Path, str]:
    """Compiles the plugin for the LAMMPS whose source or headers lie in `lammps`, with MPI's compiler.

    `version`: of this LAMMPS, where the headers do not say. Returns the plugin's path and the version. Raises
    BuildError.
    """
    program = shutil.which(compiler)
    if program is None:
        raise BuildError(
            f"there is no {compiler}, the compiler of the MPI that LAMMPS was built with: load its module, or "
            "apt-get install libopenmpi-dev or libmpich-dev, or name it: --mpi /path/to/mpicxx"
        )
    headers = header_folder(lammps.resolve())
    version = version_of(headers) if version is None else version
    try:
        day = datetime.strptime(version, "%d %b %Y")
    except ValueError as error:
        raise BuildError(f'--version "{version}" is no date as LAMMPS prints it, as in "4 Feb 2025"') from error
    libraries = Path(plugin_directory())
    sources = sorted((libraries / SOURCES).glob("*.cpp"))
    if not sources:
        raise BuildError(f"{libraries / SOURCES} has no source of the plugin: {reinstall()}")
    target = output / PLUGIN if output.is_dir() else output
    if not target.name.endswith("plugin.so"):
        raise BuildError(f"-o {output}: give a folder, or a name that ends in plugin.so, as LAMMPS loads no other")
    date = f"{day.day} {day:%b %Y}"
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "lammps").symlink_to(headers)  # its files are named lammps/NAME.h
        built = Path(scratch) / PLUGIN
        command = [program, "-std=c++17", "-O2", "-DNDEBUG", "-fPIC", "-shared", "-fvisibility=hidden"]
        command += ["-fvisibility-inlines-hidden", f"-DSO3KRATES_LAMMPS_VERSION={day:%Y%m%d}"]
        command += [f'-DSO3KRATES_LAMMPS_DATE="{date}"', "-I", str(libraries / SOURCES), "-isystem", scratch]
        command += [*map(str, sources), "-L", str(libraries), "-lso3krates_runtime", "-ldl"]
        command += [f"-Wl,-rpath,{libraries}", "-Wl,-z,nodelete", "-o", str(built)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            raise BuildError(
                f"{compiler} could not build the plugin for LAMMPS {date} of {headers}: {' | '.join(said[:3])}"
            )
        try:
            shutil.copyfile(built, target)
        except OSError as error:
            raise BuildError(f"{target} could not be written: {error}") from error
    return target, date
