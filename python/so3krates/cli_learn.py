"""The command `so3krates learn`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .hints import command
from .terminal import console
from .wording import counted


def learn(
    settings: Annotated[Path, typer.Argument(help="Settings: those of a training, and [learn], [label], [[run]].")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the loop, with one for each round.")] = Path(
        "learning"
    ),
) -> None:
    """Learn on the fly: train, run decks, label what is uncertain, train again; called again, it goes on."""
    from so3krates.learning import LabelsAwaited, LearningSettings
    from so3krates.learning import learn as run_loop

    loaded = LearningSettings.load(settings)
    if loaded.training.training.float64:
        import jax

        jax.config.update("jax_enable_x64", True)
    screen = console()
    try:
        outcome = run_loop(loaded, output, screen)
    except LabelsAwaited as awaited:
        screen.print(str(awaited), highlight=False, markup=False, soft_wrap=True)
        return
    screen.print(
        f"Ended: {outcome.reason}; {counted(outcome.labels, 'label')} in {counted(len(outcome.rounds) - 1, 'round')}.\n"
        f"Potential: {outcome.potential}. Report: {output / 'report' / 'report.html'}. Next: "
        + command("so3krates", "info", outcome.potential),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
