"""Processes of a runner, with limits of time and memory: training, and a server of predictions."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .families import SHIPPED, Family, FamilyError

LATE = 1.5  # times its budget that a training may take
GRACE = 60.0  # CPU seconds beyond that, of starting and compiling
IDLE = 6.0  # wall time by CPU time at which a process counts as hanging
LOOK = 0.25  # s between looks
TICKS = os.sysconf("SC_CLK_TCK")
THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"),
    *("NPROC", "PJRT_NPROC"),
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "DP_INTRA_OP_PARALLELISM_THREADS", "RAYON_NUM_THREADS"),
    "DP_INTER_OP_PARALLELISM_THREADS",
)


class Usage(NamedTuple):
    """What a process and those below it took."""

    wall: float  # s
    cpu: float  # s
    memory: float  # GB, the largest sum of what they held at a time


class Limits(NamedTuple):
    """What they may take; CPU seconds from the start of the process."""

    cpu: float
    memory: float  # GB


class RunnerProcess:
    """A runner at work, in a group of its own, which is ended with it."""

    def __init__(self, python: Path, family: Family, verb: str, folder: Path, limits: Limits, threads: int) -> None:
        """verb: train or serve; folder: of the job."""
        self.limits, self.log = limits, folder / f"{verb}.log"
        self._began = self._looked = time.monotonic()
        self._usage = Usage(0.0, 0.0, 0.0)
        self._read = b""  # beyond the last line
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        environment["PYTHONPATH"] = f"{family.folder.parent}{os.pathsep}{SHIPPED}"  # where protocol.py is
        environment["COMPARE_PARENT"] = str(os.getpid())
        with open(self.log, "w") as words:
            self.process = subprocess.Popen(
                [str(python), str(family.runner), verb, str(folder)],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                start_new_session=True,
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self.stdout.fileno(), False)

    def look(self) -> Usage:
        """What was taken so far. Raises FamilyError, and ends the process, where it is more than the limits."""
        cpu, memory = _taken(self.process.pid)
        self._looked = time.monotonic()
        wall = self._looked - self._began
        self._usage = Usage(wall, max(cpu, self._usage.cpu), max(memory, self._usage.memory))
        for kind, value, most, unit in (
            ("memory", memory, self.limits.memory, "GB"),
            ("time", cpu, self.limits.cpu, "CPU seconds"),
            ("time", wall, IDLE * self.limits.cpu, "seconds by the clock"),
        ):
            if value > most:
                self.end()
                raise FamilyError(f"it ran out of its {kind}: {value:.1f} {unit} of {most:.1f}")
        return self._usage

    def wait(self) -> Usage:
        """Until it ends. Raises FamilyError where it ends with an error, or is beyond its limits."""
        while self.process.poll() is None:
            self.look()
            self.stdout.read()  # nothing is expected there, and a full pipe would stop it
            time.sleep(LOOK)
        self.require_success()
        return self._usage

    def require_success(self) -> None:
        """Raises FamilyError where the process has ended with an error."""
        code = self.process.wait()
        if code != 0:
            how = f"exit status {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
            raise FamilyError(f"it ended with {how}: {self.last_words()} (all of it: {self.log})")

    def last_words(self) -> str:
        """The last line of the log that tells of an error, or else the last."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(errors="replace"))  # colours
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|ERROR|Exception|Exit)\b", line)]
        return (errors or lines or ["no word was said"])[-1][:300]

    def end(self) -> None:
        """Ends the process and those that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()


class Server(RunnerProcess):
    """A runner that predicts: a line of JSON for each question and each answer."""

    def start(self) -> None:
        """Waits until it can predict, whatever packages print while they are imported. Raises FamilyError."""
        while not (line := self._line()).startswith(b"{"):
            pass
        _answer(line)

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a question. Raises FamilyError."""
        try:
            self.stdin.write(json.dumps(question).encode() + b"\n")
            self.stdin.flush()
        except BrokenPipeError:
            self.require_success()
        return _answer(self._line())

    def _line(self) -> bytes:
        """The next line that it writes."""
        while b"\n" not in self._read:
            self._wait_for_more()
        line, self._read = self._read.split(b"\n", 1)
        return line

    def _wait_for_more(self) -> None:
        pause = 1e-4
        while not (part := self.stdout.read()):
            if part == b"" and self.process.poll() is not None:
                self.require_success()
                raise FamilyError(f"it ended without an answer: {self.last_words()} (all of it: {self.log})")
            if time.monotonic() > self._looked + LOOK:
                self.look()
            time.sleep(pause)
            pause = min(2 * pause, LOOK)
        self._read += part


def _answer(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise FamilyError(f"its answer is no JSON: {line[:100]!r}") from error
    if not isinstance(answer, dict):
        raise FamilyError(f"its answer is no object of JSON: {line[:100]!r}")
    if "error" in answer:
        raise FamilyError(f"it cannot predict: {answer['error']}")
    return answer


def _taken(group: int) -> tuple[float, float]:
    """CPU seconds and GB of the processes of a group, those included that they waited for."""
    ticks, pages = 0, 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name of the program, in parentheses, may hold anything.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[2]) == group:
            ticks += sum(int(field) for field in fields[11:15])
            pages += int(fields[21])
    return ticks / TICKS, pages * os.sysconf("SC_PAGE_SIZE") / 1e9
