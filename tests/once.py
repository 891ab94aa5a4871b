"""Files that are dear to make, made once for all processes of a run of the tests."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The file `name`, which the first process that asks makes, by `make(path)`, while others wait."""
    folder = factory.getbasetemp()
    if folder.name.startswith("popen-"):  # one process of several
        folder = folder.parent
    folder = folder / "once"
    folder.mkdir(exist_ok=True)
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).exists():
            part = folder / f"part-{name}"
            make(part)
            part.rename(folder / name)
    return folder / name
