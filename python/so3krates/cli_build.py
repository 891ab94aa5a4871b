"""The command `so3krates build-plugin`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from .terminal import busy, console


def build_plugin(
    lammps: Annotated[
        Path, typer.Option("--lammps", help="LAMMPS' source folder, or a folder with its installed headers.")
    ],
    mpi: Annotated[str, typer.Option("--mpi", help="The C++ compiler of the MPI that this LAMMPS uses.")] = "mpicxx",
    version: Annotated[
        str | None, typer.Option("--version", help='Of LAMMPS, as in "4 Feb 2025"; headers of a source tell it.')
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder, or a name ...plugin.so.")] = Path("."),
    executable: Annotated[
        Path | None,
        typer.Option("--executable", help="Build a LAMMPS program of this name instead, beside a shared liblammps."),
    ] = None,
    library: Annotated[Path | None, typer.Option("--library", help="That liblammps, where it is not found.")] = None,
    sources: Annotated[
        bool, typer.Option("--sources", help="Put the style into LAMMPS' source instead, to be compiled with it.")
    ] = False,
) -> None:
    """Build the pair style for a LAMMPS of your own, with its MPI."""
    from .lammps import build_plugin as build

    def say(line: str) -> None:
        console().print(line, soft_wrap=True, highlight=False, markup=False)

    if executable is not None and sources:
        raise build.BuildError("--executable and --sources are two ways: give one of them")
    if sources:
        headers, link = build.write_sources(lammps)
        say(f"LAMMPS {headers.date} in {headers.folder} has the pair style now. Build it anew, with the further option")
        say(f"  cmake -D CMAKE_CXX_STANDARD_LIBRARIES={shlex.quote(link)}")
        return
    headers = build.find_headers(lammps, version)
    with busy(console(), "compiling"):
        if executable is not None:
            build.build_program(headers, executable, mpi, library)
        else:
            path = build.build_plugin(headers, output, mpi).resolve()
    if executable is not None:
        say(f"Built {executable} for LAMMPS {headers.date}. Run decks by")
        say(f"  {shlex.quote(str(executable.resolve()))} -in in.gan")
        return
    say(f"Built {path} for LAMMPS {headers.date}. LAMMPS loads it by itself where")
    say(f"  export LAMMPS_PLUGIN_PATH={shlex.quote(str(path.parent))}")
    say("is set, or in a deck by")
    say(f"  plugin load {path}")
