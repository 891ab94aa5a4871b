"""The command `so3krates physics`, and its part in the report of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_values import use_float64
from .terminal import console, said

if TYPE_CHECKING:
    from ase import Atoms
    from rich.table import Table


def physics(
    model: Annotated[Path, typer.Argument(help="A model folder or a bundle.")],
    structure: Annotated[
        Path | None,
        typer.Argument(help="A crystal in any format of ASE; without it, a simple one of the first elements."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder that is written.")] = Path("physics"),
    reference: Annotated[
        Path | None, typer.Option(help='Values to compare with, as JSON: {"C11": 359, "bulk_modulus": 195}.')
    ] = None,
) -> None:
    """Equation of state, elastic constants, a vacancy, phonons at Gamma and pairs of atoms of a potential."""
    use_float64()
    from .checks import open_potential, perfect_crystal
    from .data import last_frame
    from .physics import physics_of, read_reference, write_physics
    from .progress import progress_display

    screen = console()
    values = None if reference is None else read_reference(reference)
    potential = open_potential(model)
    elements = potential.elements
    crystal = last_frame(structure) if structure is not None else perfect_crystal(elements[0], elements[-1])
    with progress_display(console(stderr=True)) as report:
        found = physics_of(potential, crystal, report)
    for table in write_physics(output, found, values):
        screen.print(table)
    for warning in found.warnings:
        said(screen, "Warning:", warning)
    screen.print(f"Report: {output / 'physics.html'}", soft_wrap=True, markup=False)


def physics_of_training(folder: Path, frames: Sequence[Atoms]) -> list[Table]:
    """The same for a model that has just been trained, of the frame that is nearest to a crystal at rest.

    Writes report/physics in the model's folder; returns the tables, none where no frame is near to one.
    """
    import jax

    from .checks import open_potential
    from .physics import PhysicsError, crystal_of, physics_of, write_physics
    from .progress import progress_display

    screen = console()
    crystal = crystal_of(frames)
    if crystal is None:
        return []
    try:
        with jax.enable_x64(True), progress_display(console(stderr=True)) as report:
            found = physics_of(open_potential(folder), crystal, report)
    except PhysicsError as problem:
        said(screen, "Note:", f"no physics of a crystal: {problem}")
        return []
    tables = write_physics(folder / "report" / "physics", found)
    for warning in found.warnings:
        said(screen, "Warning:", warning)
    return tables
