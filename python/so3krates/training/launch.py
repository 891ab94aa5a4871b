"""`so3krates train --processes N`: this command N times on this machine, which begin and end together."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import IO

from so3krates.hints import command

from .processes import INTEL_GPUS, LOST, PLACE, free_port, gpus, require_address
from .run_folder import CHECKPOINT_FOLDER, TrainingError

GRACE = 3.0  # s in which the others may end by themselves
PAUSE = 0.1  # s between looks
DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG


def require_count(count: int) -> None:
    """Refuses what this machine does not have. Raises TrainingError."""
    cards, cores = gpus(), len(os.sched_getaffinity(0))
    most, what = (cards, "GPU") if cards else (cores, "core")
    if not 1 <= count <= most:
        raise TrainingError(
            f"--processes {count}: this machine has {most} {what}{'s' * (most != 1)}, and each process wants one: "
            f"give 1 to {most}; on several machines start the command by mpiexec or srun"
        )


def run_processes(arguments: Sequence[str], count: int, folder: Path) -> int:
    """Runs `so3krates ARGUMENTS` in so many processes, of which the first writes to this terminal.

    Returns its exit status. Raises TrainingError where another process ended first, after having ended all, and
    where they cannot meet.
    """
    require_address()
    address, cores = f"127.0.0.1:{free_port()}", len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        outputs: list[IO[str]] = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(count - 1)]
        started: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, started)
        for rank in range(count):
            environment = os.environ | {PLACE: f"{address},{rank},{count}", "NPROC": str(max(1, cores // count))}
            if gpus():
                environment |= {"JAX_LOCAL_DEVICE_IDS": str(rank), INTEL_GPUS: str(rank)}
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "so3krates.cli", *arguments],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=outputs[rank - 1] if rank else None,
                    stderr=subprocess.STDOUT if rank else None,
                    start_new_session=True,  # signals come through this process, once
                    preexec_fn=_end_with_parent,
                )
            )

        def forward(number: int, _: FrameType | None) -> None:
            for one in started:
                one.send_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, forward))
        _wait(started)
        statuses = [one.poll() for one in started]
        failed = [rank for rank, status in enumerate(statuses) if status not in (None, 0, LOST)]
        if not failed and LOST not in statuses:
            return 0
        rank = failed[0] if failed else statuses.index(LOST)
        status = statuses[rank]
        if rank == 0 and status is not None and 0 < status != LOST:
            return status  # it has said why
        raise TrainingError(_what_happened(rank, status, count, outputs, folder))


def _wait(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all have ended well, or one has not and the others had their time."""
    limit = float("inf")
    while time.monotonic() < limit:
        statuses = [one.poll() for one in started]
        if None not in statuses:
            return
        if limit == float("inf") and any(statuses):
            limit = time.monotonic() + GRACE
        time.sleep(PAUSE)


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Processes that wait for one that is gone listen to nothing else."""
    for one in started:
        if one.poll() is None:
            one.kill()
        one.wait()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(DEATH_OF_PARENT, signal.SIGTERM)


def _what_happened(rank: int, status: int | None, count: int, outputs: Sequence[IO[str]], folder: Path) -> str:
    said = ""
    if rank:
        outputs[rank - 1].seek(0)
        lines = [line.strip() for line in outputs[rank - 1] if line.strip()]
        said = f" ({lines[-1].removeprefix('Error: ')})" if lines and (status or 0) > 0 else ""
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        said += ", perhaps for want of memory" if name == "SIGKILL" else ""
        how = f"was ended by {name}"
    else:
        how = f"ended with status {status}"
    states = [int(one.name) for one in folder.glob(f"**/{CHECKPOINT_FOLDER}/[0-9]*") if one.name.isdecimal()]
    left = f"from the state of step {max(states)}" if states else "from the beginning, as no state was saved yet"
    return (
        f"process {rank + 1} of {count} {how}{said}; the others were ended too. The same command with --resume goes on "
        f"{left}, with as many processes as you like: {command('so3krates', 'train', '...', '-o', folder, '--resume')}"
    )
