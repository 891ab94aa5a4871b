"""Metrics of a run for TensorBoard and Weights & Biases, beside metrics.csv, which stays the record."""

from __future__ import annotations

import importlib.util
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from so3krates.files import write_text
from so3krates.hints import pip_install

# Name in the settings -> the package that it needs.
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
TENSORBOARD_FOLDER = "tensorboard"
WANDB_ID_FILE = "wandb.id"


class LoggerError(RuntimeError):
    """A place for metrics that cannot be used; the message says what to install."""


class Logger(Protocol):
    """A place for metrics."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def require_packages(names: Sequence[str]) -> None:
    """Raises LoggerError for a name whose package is missing."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise LoggerError(
                f"training.log_to has {name!r}, which needs the package {PACKAGES[name]}: "
                f"{pip_install('so3krates[logging]')}, or leave it out"
            )


def open_loggers(names: Sequence[str], folder: str | Path, settings: Mapping[str, Any], step: int) -> list[Logger]:
    """Loggers of a run in its folder, which stands at `step`. Raises LoggerError for a missing package."""
    require_packages(names)
    makers: dict[str, Callable[[], Logger]] = {
        "tensorboard": lambda: _TensorBoard(Path(folder), step),
        "wandb": lambda: _Wandb(Path(folder), settings),
    }
    return [makers[name]() for name in names]


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Without what is not known."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


class _TensorBoard:
    """Event files in a folder of the run; what a resumed run repeats is marked as gone."""

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        # A name of its own: by itself it tells seconds apart, and a run may go on within one.
        self._writer = SummaryWriter(
            str(folder / TENSORBOARD_FOLDER),
            purge_step=step + 1 if step else None,
            filename_suffix=f".{time.time_ns()}",
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in finite(values).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of wandb, online or by WANDB_MODE=offline; a resumed run goes on in the same one."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        path = folder / WANDB_ID_FILE
        if not path.exists():
            write_text(path, secrets.token_hex(4))
        self._run = wandb.init(
            dir=folder, id=path.read_text(), resume="allow", name=folder.resolve().name, config=dict(settings)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(finite(values), step=step)

    def close(self) -> None:
        self._run.finish()
