"""The commands that turn models of other programs into model folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import exporting
from .cli_values import above_zero, words
from .files import require_folder
from .hints import command
from .terminal import console

Output = Annotated[Path, typer.Option("--output", "-o", help="The model folder that is written.")]


def import_mlff(
    module_dir: Annotated[Path, typer.Argument(help="The module folder of mlff or tools.mlff.")],
    output: Output = Path("model"),
    checkpoint: Annotated[Path | None, typer.Option(help="A checkpoint other than the newest.")] = None,
    elements: Annotated[str | None, typer.Option(help="Elements of the model, as in Ga,N.")] = None,
) -> None:
    """Turn a model trained with the original code into a model folder."""
    require_folder(output)
    symbols = words(elements) if elements is not None else None
    model = exporting.import_mlff(module_dir, elements=symbols, checkpoint=checkpoint)
    model.save(output)
    shifts = ", ".join(f"{symbol} {model.energy_shifts[symbol]:.6f}" for symbol in model.elements)
    screen = console()
    screen.print(
        f"Read {model.training['checkpoint'] if model.training else module_dir} of {module_dir}", soft_wrap=True
    )
    screen.print(f"Elements and energy shifts (eV): {shifts}", soft_wrap=True, highlight=False)
    screen.print(
        f"Model: {output}. Next: {command('so3krates', 'export', output, '-o', output.name + '.so3k')}", soft_wrap=True
    )


def import_so3lr(
    params: Annotated[Path, typer.Argument(help="params.pkl of SO3LR, or the folder that holds it.")],
    output: Output = Path("so3lr"),
    cutoff_long: Annotated[
        float, typer.Option(callback=above_zero, help="Where electrostatics and dispersion end, A.")
    ] = 12.0,
) -> None:
    """Turn the published SO3LR model into a model folder."""
    require_folder(output)
    model = exporting.import_so3lr(params, cutoff_long)
    model.save(output)
    screen = console()
    training = model.training or {}
    lines = [
        f"Read {training['weights']}, with the settings of {training['settings_of']}. "
        f"Elements: {', '.join(model.elements)}",
        *(term.describe() for term in model.terms),
        *(interaction.describe() for interaction in model.interactions),
        f"Model: {output}. Next: {command('so3krates', 'evaluate', output, 'FRAMES.extxyz')}",
    ]
    for line in lines:
        screen.print(line, soft_wrap=True, highlight=False, markup=False)
