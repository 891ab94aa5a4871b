"""Decks in processes of their own, which a test may watch, kill and wait for."""

import re
import subprocess
import time
from pathlib import Path

import pytest
from so3krates.lammps.environment import child_environment, lmp_path, mpi_file

END_SECONDS = 180  # a failed run has ended by then, with programs to compile before


class Run:
    """A deck on several ranks, in processes of their own.

    `last` is put before the command of the last rank: `env`, a shell that sets a limit. `options` are LAMMPS' own.
    """

    def __init__(
        self, deck: str, folder: Path, ranks: int = 2, last: list[str] | None = None, options: tuple[str, ...] = ()
    ) -> None:
        (folder / "in.deck").write_text(deck)
        lmp = [lmp_path(), "-in", "in.deck", "-nonbuf", *options]
        command = [mpi_file("mpiexec"), "-n", str(ranks), *lmp]
        if last is not None:
            command = [mpi_file("mpiexec"), "-n", str(ranks - 1), *lmp, ":", "-n", "1", *last, *lmp]
        self.folder = folder
        self.output = folder / "output"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=folder,
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def ranks(self) -> list[int]:
        """Process numbers of the programs lmp."""
        found, seen = [], [self.process.pid]
        while seen:
            pid = seen.pop()
            with_arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if Path(with_arguments[0]).name == "lmp":
                found.append(pid)
            else:
                seen += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return sorted(found)

    def wait_for(self, pattern: str) -> None:
        """Until the output has the pattern."""
        start = time.monotonic()
        while not re.search(pattern, self.text(), re.MULTILINE):
            if self.process.poll() is not None or time.monotonic() - start > END_SECONDS:
                self.process.terminate()
                pytest.fail(f"{pattern} does not come: {self.text()[-2000:]}")
            time.sleep(0.02)

    def end(self) -> str:
        """Everything that was printed, after an end that is not good."""
        try:
            status = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.terminate()  # mpiexec passes it on
            pytest.fail(f"hangs: {self.text()[-2000:]}")
        assert status != 0
        return self.text()
