"""Programs that end with their time, and with whoever started them; standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# The program dies with its parent (PR_SET_PDEATHSIG): asked for by a process that then becomes it.
FOLLOW = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
TAIL = 1500  # characters of a log that are passed on


class CommandError(RuntimeError):
    """A program that failed or ran out of time; the message has the end of what it wrote."""


class Done(NamedTuple):
    """What a program wrote, on both streams, and how long it ran (s)."""

    output: str
    seconds: float


def start(
    command: Sequence[str | Path], environment: dict[str, str] | None = None, folder: Path | None = None
) -> subprocess.Popen[str]:
    """A program that leads a session of its own and dies with this process. Raises CommandError where there is none."""
    words = [str(word) for word in command]
    program = shutil.which(words[0])
    if program is None:
        raise CommandError(f"starting {words[0]} failed: there is no such program")
    return subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", FOLLOW, program, *words[1:]], cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip


def run_command(
    command: Sequence[str | Path], timeout: float, environment: dict[str, str] | None = None, folder: Path | None = None
) -> Done:
    """Raises CommandError where the program cannot be started, fails, or takes more than `timeout` seconds."""
    begin, name = time.perf_counter(), Path(command[0]).name
    child = start(command, environment, folder)
    try:
        output, _ = child.communicate(timeout=max(timeout, 0.1))
    except subprocess.TimeoutExpired as expired:
        kill_group(child)
        output, _ = child.communicate()
        raise CommandError(f"{name} took more than {timeout:.0f} s: {tail(output)}") from expired
    finally:
        kill_group(child)
    if child.returncode != 0:
        raise CommandError(f"{name} ended with {_status(child.returncode)}: {tail(output)}")
    return Done(output, time.perf_counter() - begin)


def _status(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def kill_group(child: subprocess.Popen[str]) -> None:
    """End a program that leads a session, and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def tail(text: str, most: int = TAIL) -> str:
    """The end of a log, from the start of a line."""
    text = text.strip()
    return text if len(text) <= most else "... " + text[-most:].partition("\n")[2]
