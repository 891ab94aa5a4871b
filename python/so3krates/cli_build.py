"""The command `so3krates build-plugin`."""

from __future__ import annotations

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
) -> None:
    """Build the pair style for a LAMMPS of your own, with its MPI."""
    from .lammps.build_plugin import build_plugin as build

    screen = console()
    with busy(screen, "compiling"):
        path, found = build(lammps, output, mpi, version)
    folder = path.resolve().parent
    screen.print(f"Built {path} for LAMMPS {found}. LAMMPS loads it by itself where", soft_wrap=True, markup=False)
    screen.print(f"  export LAMMPS_PLUGIN_PATH={folder}", soft_wrap=True, highlight=False, markup=False)
    screen.print("is set, or in a deck by", soft_wrap=True)
    screen.print(f"  plugin load {path.resolve()}", soft_wrap=True, highlight=False, markup=False)
