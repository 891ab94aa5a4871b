"""The command `so3krates phonons`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_values import above_zero, numbers, use_float64, words
from .terminal import console, said


def phonons(
    model: Annotated[Path, typer.Argument(help="A model folder or a bundle.")],
    structure: Annotated[
        Path | None,
        typer.Argument(help="A crystal in any format of ASE; without it, a simple one of the first elements."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder that is written; a second call goes on in it.")
    ] = Path("phonons"),
    supercell: Annotated[
        str, typer.Option(help="Repeats of the cell, as in 4,4,3; else six times as wide as the cutoff.")
    ] = "",
    relax: Annotated[
        bool, typer.Option("--relax/--no-relax", help="Bring cell and atoms to rest first, the space group kept.")
    ] = True,
    born: Annotated[
        Path | None, typer.Option(help="Born charges and dielectric tensor, a file BORN of phonopy: LO-TO splitting.")
    ] = None,
    temperatures: Annotated[str, typer.Option(help="Of the tables and of conductivities, K.")] = "300",
    expansion: Annotated[
        bool, typer.Option("--expansion", help="Thermal expansion, from the phonons of seven volumes.")
    ] = False,
    kappa: Annotated[bool, typer.Option("--kappa", help="Thermal conductivity, by phono3py.")] = False,
    direct: Annotated[
        bool, typer.Option("--direct", help="Of the Boltzmann equation itself, beside relaxation times.")
    ] = False,
    isotopes: Annotated[
        bool, typer.Option("--isotopes/--no-isotopes", help="Scattering by the natural mixture of isotopes.")
    ] = True,
    meshes: Annotated[
        str, typer.Option(help="From coarse to fine: lengths in A, or points, as in 11x11x7,15x15x9.")
    ] = "30,45,60",
    supercell3: Annotated[
        str, typer.Option("--supercell-kappa", help="Repeats for third derivatives; else twice as wide as the cutoff.")
    ] = "",
    pair_cutoff: Annotated[
        float | None,
        typer.Option(callback=above_zero, help="A, of displaced pairs of atoms; the potential's cutoff if not given."),
    ] = None,
    allow_imaginary: Annotated[
        bool, typer.Option("--allow-imaginary", help="A conductivity in spite of imaginary modes, which are left out.")
    ] = False,
) -> None:
    """Phonons, thermal functions and expansion of a crystal, and its thermal conductivity from lattice dynamics."""
    from .files import make_folder, require_folder
    from .phonons import ConductivitySettings, PhononsError, find_phonons, require_packages, write_phonons

    require_packages()
    require_folder(output)
    if not kappa:
        options = {
            "--direct": direct,
            "--no-isotopes": not isotopes,
            "--supercell-kappa": bool(supercell3),
            "--pair-cutoff": pair_cutoff is not None,
            "--allow-imaginary": allow_imaginary,
        }
        if given := [name for name, value in options.items() if value]:
            raise PhononsError(f"{given[0]} is for thermal conductivities: give --kappa too")
    kelvin = tuple(float(number) for number in numbers("temperatures", temperatures, float))
    if not kelvin or min(kelvin) <= 0:
        raise PhononsError(f"--temperatures {temperatures}: give numbers above 0, in K")
    repeats = _repeats("supercell", supercell)
    settings = ConductivitySettings(
        temperatures=kelvin,
        meshes=tuple(_mesh(word) for word in words(meshes)),
        direct=direct,
        isotopes=isotopes,
        repeats=_repeats("supercell-kappa", supercell3),
        pair_cutoff=pair_cutoff,
        allow_imaginary=allow_imaginary,
    )
    if not settings.meshes:
        raise PhononsError("--meshes is empty: give lengths in A, or points, as in 11x11x7")
    use_float64()
    from .checks import open_potential, perfect_crystal
    from .data import last_frame
    from .progress import progress_display

    screen = console()
    potential = open_potential(model)
    elements = potential.elements
    crystal = last_frame(structure) if structure is not None else perfect_crystal(elements[0], elements[-1])
    make_folder(output)
    with progress_display(console(stderr=True)) as report:
        found = find_phonons(
            model,
            potential,
            crystal,
            output,
            repeats=repeats,
            relax=relax,
            born=born,
            kappa=settings if kappa else None,
            expansion=expansion,
            report=report,
        )
    values = {
        "potential": str(model),
        "structure": None if structure is None else str(structure),
        "born": None if born is None else str(born),
        "meshes": meshes,
    }
    for table in write_phonons(output, found, values, kelvin):
        screen.print(table)
    for warning in found.warnings:
        said(screen, "Warning:", warning)
    screen.print(f"Report: {output / 'phonons.html'}", soft_wrap=True, markup=False)


def _repeats(name: str, text: str) -> tuple[int, int, int] | None:
    if not text:
        return None
    found = numbers(name, text, int)
    if len(found) != 3 or min(found) < 1:
        raise ValueError(f"--{name} {text}: give three numbers from 1 on, as in 4,4,3")
    a, b, c = found
    return a, b, c


def _mesh(word: str) -> float | tuple[int, int, int]:
    """A length, or three numbers of points. Raises ValueError."""
    try:
        parts = [int(part) for part in word.split("x")] if "x" in word else [float(word)]
    except ValueError:
        parts = []
    if len(parts) == 1 and 0 < parts[0] < float("inf"):
        return float(parts[0])
    if len(parts) == 3 and min(parts) >= 1:
        a, b, c = (int(part) for part in parts)
        return a, b, c
    raise ValueError(f"--meshes {word}: give a length in A, as in 60, or points, as in 11x11x7")
