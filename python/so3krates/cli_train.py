"""The command `so3krates train`."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_errors import TRACEBACK, say_error
from .cli_values import above_zero, at_least_one, set_value, use_float64, words
from .terminal import console, nowhere

if TYPE_CHECKING:
    from so3krates.training.config import RunConfig
    from so3krates.training.processes import Place

PATIENCE = 1.0  # s


def train(
    config: Annotated[
        Path | None,
        typer.Argument(help="Settings (a TOML file, or inputs.json of tools.mlff), or labelled frames as in --data."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Settings by name: fast, balanced (what is left out is its), accurate, gan.")
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            callback=above_zero, help="Wall time to fill: epochs and schedule follow from the measured time of steps."
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Labelled frames to be split into training and validation.")] = None,
    test: Annotated[Path | None, typer.Option(help="Labelled frames for the error table only.")] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="A model folder, or so3lr, to go on from: fine-tuning.")
    ] = None,
    add_elements: Annotated[
        str | None, typer.Option(help="Elements that this model does not know yet, as in Al,In.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="What is written.")] = Path("model"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    members: Annotated[
        int, typer.Option("--committee", callback=at_least_one, help="Models that differ in their seeds alone.")
    ] = 1,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, as in --set training.epochs=100; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Train although labels look wrong as a whole.")] = False,
    physics: Annotated[
        bool, typer.Option(help="Examine a crystal of the data in the end, as so3krates physics does.")
    ] = True,
    processes: Annotated[
        int,
        typer.Option(
            callback=at_least_one, help="Of this machine, that share each batch; mpiexec and srun are seen without it."
        ),
    ] = 1,
) -> None:
    """Train a potential and report its errors."""
    if config is not None and config.suffix not in (".toml", ".json"):
        if data is not None:
            raise ValueError(f"{config} and --data {data}: give one file of frames")
        config, data = None, config
    run = run_config(config, preset, data, setting or [], hours, start, words(add_elements or ""))
    if run.training.float64:
        use_float64()
    from so3krates.training import run_session
    from so3krates.training.launch import require_count, run_processes
    from so3krates.training.processes import joined, place

    from .cli_physics import physics_of_training

    here = place()
    if here.size == 1 and processes != 1:
        require_count(processes)
        raise typer.Exit(run_processes(sys.argv[1:], processes, output))
    if processes not in (1, here.size):
        raise ValueError(
            f"--processes {processes}, but {here.launcher} has started {here.size}: leave --processes out, and give "
            f"{here.launcher} the number"
        )
    screen = console() if here.rank == 0 else nowhere()
    with _ending_together(here), joined(here):
        run_session(run, output, screen, test, resume, members, force, physics_of_training if physics else None)


@contextlib.contextmanager
def _ending_together(here: Place) -> Iterator[None]:
    """Ends a process of several that fails at once: the others cannot be waited for."""
    from so3krates.training.processes import LOST, is_lost

    if here.size == 1:
        yield
        return
    try:
        yield
    except Exception as error:
        status = 1
        if is_lost(error):
            status = LOST
            if here.launcher != "--processes":  # which says it itself
                error = RuntimeError(
                    f"another of the {here.size} processes has ended, so this one does: the same command with "
                    "--resume goes on from the last state"
                )
                say_error(error)
        elif os.environ.get(TRACEBACK):
            traceback.print_exception(error)
        else:
            if here.rank:  # what all find wrong is said by the first, with which they end
                time.sleep(PATIENCE)
            say_error(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_config(
    config: Path | None,
    preset: str | None,
    data: Path | None,
    settings: Sequence[str],
    hours: float | None = None,
    start: Path | None = None,
    added: Sequence[str] = (),
) -> RunConfig:
    """Settings of a run from what was given on the command line. Raises ConfigError, ModelError for no model."""
    from so3krates.model.config import ConfigError
    from so3krates.training.checks import LENGTHS, require_one_length
    from so3krates.training.config import DEFAULT_PRESET, NO_PRESET, PRESETS, SECTIONS, RunConfig, read_settings

    if config is None and preset is None and data is None and start is None:
        raise ConfigError(f"give a file of settings, frames, or --preset {' or '.join(PRESETS)}")
    named = DEFAULT_PRESET if preset is None else preset
    content: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    if config is not None:
        named, content = read_settings(config)
        if preset is not None:
            raise ConfigError(f'{config} and --preset {preset}: write preset = "{preset}" into the file instead')
    lengths = {name for name in LENGTHS if any(one.partition("=")[0].strip() == f"training.{name}" for one in settings)}
    lengths |= set() if hours is None else {"hours"}
    # A length on the command line takes the place of that in the file; epochs may have hours as their limit.
    for name in LENGTHS if lengths - {"epochs"} else LENGTHS[:1] if lengths else ():
        content["training"].pop(name, None)
    if hours is not None:
        content["training"]["hours"] = hours
    for setting in settings:
        set_value(content, setting)
    if data is not None:
        for name in ("file", "train_file", "valid_file"):
            content["data"].pop(name, None)
        content["data"]["file"] = str(data)
    if start is not None:
        content["training"]["initial_model"] = str(start)
    if added:
        content["finetuning"]["add_elements"] = list(added)
    try:
        require_one_length({} if named == NO_PRESET else content["training"])
        return RunConfig.from_settings(named, content)
    except ConfigError as error:
        source = f"{config}: " if config is not None and not settings else ""
        raise ConfigError(f"{source}{error}") from error
