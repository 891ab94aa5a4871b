"""The pair style built for a LAMMPS of one's own: `so3krates build-plugin` (docs/install.md)."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from so3krates.files import write_text
from so3krates.hints import reinstall

from .environment import plugin_directory

SOURCES = "plugin_source"  # beside the libraries of this package
PLUGIN = "so3kratesplugin.so"  # LAMMPS loads every file of LAMMPS_PLUGIN_PATH whose name ends so
VERSION = re.compile(r'^#define\s+LAMMPS_VERSION\s+"(\d{1,2} [A-Z][a-z]{2} \d{4})"', re.MULTILINE)
REGISTERS = {"plugin.cpp", "program.cpp"}  # how LAMMPS comes to know of the style; one of them, or a header


class BuildError(RuntimeError):
    """A plugin that could not be built; the message says what is missing, or what the compiler said."""


@dataclass(frozen=True)
class Headers:
    """LAMMPS' headers and their version, as "4 Feb 2025"."""

    folder: Path
    date: str

    @property
    def number(self) -> str:
        """As LAMMPS itself numbers its versions, "20250204"."""
        return f"{datetime.strptime(self.date, '%d %b %Y'):%Y%m%d}"


def find_headers(lammps: Path, version: str | None = None) -> Headers:
    """The headers in a folder of LAMMPS' source, or of an installation. Raises BuildError.

    `version`: where the headers do not say it.
    """
    folder = _header_folder(lammps.resolve())
    version = _version_of(folder) if version is None else version
    try:
        day = datetime.strptime(version, "%d %b %Y")
    except ValueError as error:
        raise BuildError(f'--version "{version}" is no date as LAMMPS prints it, as in "4 Feb 2025"') from error
    return Headers(folder, f"{day.day} {day:%b %Y}")


def build_plugin(headers: Headers, output: Path, compiler: str = "mpicxx") -> Path:
    """Compiles the plugin with MPI's compiler into `output`, a folder or a name ...plugin.so; its path.

    Raises BuildError.
    """
    target = output / PLUGIN if output.is_dir() else output
    if not target.name.endswith("plugin.so"):
        raise BuildError(f"-o {output}: give a folder, or a name that ends in plugin.so, as LAMMPS loads no other")
    _compile(headers, target, compiler, "plugin.cpp", ["-shared", "-Wl,-z,nodelete"])
    return target


def build_program(headers: Headers, target: Path, compiler: str = "mpicxx", library: Path | None = None) -> None:
    """Compiles a LAMMPS program that has the style, beside a shared liblammps.

    `library`: of the headers' LAMMPS; None: beside them, or where the linker finds it. Raises BuildError.
    """
    if target.is_dir():
        raise BuildError(f"--executable {target} is a folder: give the name of the program, as in lmp_so3krates")
    found = library or _library_of(headers.folder)
    if found is None:
        link = ["-llammps"]
    elif not found.is_file():
        raise BuildError(f"--library {found}: no such file")
    else:
        link = [str(found.resolve()), f"-Wl,-rpath,{found.resolve().parent}"]
    _compile(headers, target, compiler, "program.cpp", link)


def write_sources(lammps: Path) -> tuple[Headers, str]:
    """Puts the style into LAMMPS' source: files in `src` that include this package's, which LAMMPS' build then finds.

    Returns the headers, and what is to be linked. Raises BuildError.
    """
    headers = find_headers(lammps)
    source = headers.folder
    if not (source / "force.cpp").is_file():
        raise BuildError(f"{lammps} has LAMMPS' headers but not its source: --sources needs the folder with src")
    sources = _sources()
    names = source / "lammps"  # its files are named lammps/NAME.h
    try:
        if not names.exists():
            names.symlink_to(".")
        for file in sources:
            if file.name not in REGISTERS | {"creation.cpp"}:
                name = file.name if file.name.startswith("pair_so3krates") else f"pair_so3krates_{file.name}"
                write_text(source / name, f'#include "{file}"\n')
        header = sources[0].parent / "pair_so3krates.h"
        style = f'#ifdef PAIR_CLASS\nPairStyle(so3krates,PairSo3krates);\n#else\n#include "{header}"\n#endif\n'
        write_text(source / "pair_so3krates.h", style)
    except OSError as error:
        raise BuildError(f"{source} cannot be written to: {error}") from error
    return headers, " ".join(_link_options())


def _header_folder(lammps: Path) -> Path:
    for folder in (lammps / "src", lammps, lammps / "lammps", lammps / "include" / "lammps"):
        if (folder / "pair.h").is_file() and (folder / "lammps.h").is_file():
            return folder
    raise BuildError(
        f"{lammps} has no lammps.h and pair.h, nor have src, lammps and include/lammps in it: give the folder of "
        "LAMMPS' source, or of its installed headers (Debian: apt-get install liblammps-dev, then /usr/include)"
    )


def _version_of(headers: Path) -> str:
    file = headers / "version.h"
    found = VERSION.search(file.read_text(errors="replace")) if file.is_file() else None
    if found is None:
        raise BuildError(
            f"{headers} does not say which version of LAMMPS it is of: give the date in the first line that lmp "
            'prints, as in --version "4 Feb 2025"'
        )
    return found[1]


def _library_of(headers: Path) -> Path | None:
    """A shared liblammps that was built in a source's folders `build*`, or installed beside the headers."""
    places = [*headers.parent.glob("build*"), headers.parent, *headers.parents[1].glob("lib*")]
    found = sorted(file for place in places for file in place.glob("liblammps*.so"))
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise BuildError(f"there are several libraries of this LAMMPS, {names}: say which one, --library FILE")
    return found[0] if found else None


def _sources() -> list[Path]:
    folder = Path(plugin_directory()) / SOURCES
    sources = sorted(folder.glob("*.cpp"))
    if not sources:
        raise BuildError(f"{folder} has no source of the plugin: {reinstall()}")
    return sources


def _link_options() -> list[str]:
    libraries = Path(plugin_directory())
    return [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lso3krates_runtime", "-ldl"]


def _compile(headers: Headers, target: Path, compiler: str, register: str, link: list[str]) -> None:
    program = shutil.which(compiler)
    if program is None:
        raise BuildError(
            f"there is no {compiler}, the compiler of the MPI that LAMMPS was built with: load its module, or "
            "apt-get install libopenmpi-dev or libmpich-dev, or name it: --mpi /path/to/mpicxx"
        )
    sources = [file for file in _sources() if file.name not in REGISTERS - {register}]
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "lammps").symlink_to(headers.folder)  # its files are named lammps/NAME.h
        built = Path(scratch) / target.name
        command = [program, "-std=c++17", "-O2", "-DNDEBUG", "-fPIC", "-fvisibility=hidden"]
        command += ["-fvisibility-inlines-hidden", "-DOMPI_SKIP_MPICXX", "-DMPICH_SKIP_MPICXX"]
        command += [f"-DSO3KRATES_LAMMPS_VERSION={headers.number}", f'-DSO3KRATES_LAMMPS_DATE="{headers.date}"']
        command += ["-I", str(sources[0].parent), "-isystem", scratch, *map(str, sources), *link]
        command += [*_link_options(), "-o", str(built)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode != 0 and "-llammps" in done.stderr:
            raise BuildError(
                f"{headers.folder} has LAMMPS' headers, but there is no shared liblammps beside them or where the "
                "linker looks: build LAMMPS with -D BUILD_SHARED_LIBS=on, or name it: --library FILE"
            )
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            raise BuildError(
                f"{compiler} could not build {target.name} for LAMMPS {headers.date} of {headers.folder}: "
                f"{' | '.join(said[:3])}"
            )
        try:
            shutil.copyfile(built, target)
            shutil.copymode(built, target)
        except OSError as error:
            raise BuildError(f"{target} could not be written: {error}") from error
