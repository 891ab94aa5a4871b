"""Running LAMMPS decks in a process of their own."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from so3krates.files import make_folder, write_text

from .environment import child_environment, lmp_path, mpi_file


class LammpsError(RuntimeError):
    """A deck that did not run to its end. The message has LAMMPS' own error and the path of the log."""

    refused = False  # LAMMPS said itself what is wrong, and would again


def run_deck(
    deck: Path | str,
    folder: Path,
    variables: Mapping[str, object] | None = None,
    ranks: int = 1,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """What `start_deck` does, with the text of the log `folder/log.lammps`."""
    return start_deck(deck, folder, variables, ranks, on_line).read_text(errors="replace")


def start_deck(
    deck: Path | str,
    folder: Path,
    variables: Mapping[str, object] | None = None,
    ranks: int = 1,
    on_line: Callable[[str], None] | None = None,
    log: Path | None = None,
) -> Path:
    """Run `deck` in `folder` (created if need be) to its end and return its log.

    Args:
        deck: a `Path` is a file; a `str` is the text of a deck, kept as `folder/in.deck`.
        variables: values of the deck's variables (`variable NAME index DEFAULT`), as by `-var NAME VALUE`.
        ranks: MPI ranks.
        on_line: called with every line of LAMMPS' output as it is written.
        log: by default `folder/log.lammps`.

    Raises:
        LammpsError: LAMMPS ended with an error or was killed.
        RuntimeError: LAMMPS or its MPI is not installed.
    """
    folder = Path(folder).resolve()
    make_folder(folder)
    if isinstance(deck, Path):
        deck_file = deck.resolve()
        if not deck_file.is_file():
            raise LammpsError(f"{deck_file}: no such deck")
    else:
        deck_file = folder / "in.deck"
        write_text(deck_file, deck)
    log = (log or folder / "log.lammps").resolve()

    command = [str(lmp_path()), "-in", str(deck_file), "-log", str(log), "-nonbuf"]
    for name, value in (variables or {}).items():
        # LAMMPS substitutes before it splits a line into words, and only quotes keep the name of a file together.
        text = str(value)
        command += ["-var", name, f'"{text}"' if " " in text and (folder / text).exists() else text]
    if ranks > 1:
        command = [str(mpi_file("mpiexec")), "-n", str(ranks), *command]

    tail: list[str] = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                tail = [*tail[-19:], line.rstrip("\n")]
                if on_line is not None:
                    on_line(line.rstrip("\n"))
        except BaseException:
            process.terminate()  # mpiexec passes it on
            raise
    if process.returncode != 0:
        errors = [line for line in tail if line.startswith("ERROR")] or tail[-5:]
        ended = f"exit status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        error = LammpsError(f"LAMMPS ended with {ended}: {' '.join(errors).strip()} (log: {log})")
        error.refused = any(line.startswith("ERROR") for line in tail)
        raise error
    return log
