"""Long runs that go on after what ended them, from the newest of their restart files that is whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from so3krates.wording import counted

from .run import LammpsError, start_deck

MAGIC = b"LammpS RestartT\0"  # how LAMMPS begins and ends a restart file
FINISHED = "Total wall time:"  # the last line of a log whose run came to its end
VARIABLE = re.compile(r"^\s*variable\s+(\w+)\s+(?:index|string)\s+(\"[^\"]*\"|'[^']*'|[^\s#]+)")
RESTART = re.compile(r"^\s*restart\s+(\S+)\s+(\S+)\s+(\S+)\s*(?:#.*)?$")
REFERENCE = re.compile(r"\$\{(\w+)\}|\$(\w)")


class LongRunError(ValueError):
    """A deck that cannot go on by itself, or a run that did not come to its end; the message says why."""


class LongRun(NamedTuple):
    """A run that came to its end."""

    logs: list[Path]  # of all attempts, in order
    attempts: int  # of this call; 0: it had come to its end before


def run_long(
    deck: Path,
    folder: Path,
    variables: Mapping[str, object] | None = None,
    ranks: int = 1,
    retries: int = 3,
    say: Callable[[str], None] = lambda _: None,
    on_line: Callable[[str], None] | None = None,
) -> LongRun:
    """Runs a deck in a folder until it comes to its end: from its newest whole restart file, where there is one.

    The deck has `restart N FILE.1 FILE.2` and reads FILE.1 or FILE.2 where its variable `restart` is 1 or 2
    (docs/cluster.md). A run whose log says that it came to its end is not repeated. What LAMMPS itself refuses is not
    tried again. Raises LongRunError, LammpsError where no attempt is left, and what `start_deck` raises.
    """
    given = {name: str(value) for name, value in (variables or {}).items()}
    known = variables_of(deck) | given
    files = restart_files(deck, known, folder)
    stem = known.get("file", deck.name.removeprefix("in.").split(".")[0])
    logs = _logs(folder, stem)
    if logs and FINISHED in _end_of(logs[-1]):
        say(f"{logs[-1]}: came to its end before; take the log away to run it again")
        return LongRun(logs, 0)
    attempt = 0
    while True:
        attempt += 1
        number, said = newest(files)
        for text in said:
            say(text)
        if number:
            say(f"goes on from {files[number - 1]}")
        log = folder / (f"{stem}.log" if not logs else f"{stem}.{len(logs) + 1}.log")
        logs.append(log)
        try:
            start_deck(deck, folder, given | {"restart": number}, ranks, on_line, log)
            return LongRun(logs, attempt)
        except LammpsError as error:
            if error.refused or attempt > retries:
                raise
            say(f"{error}; attempt {attempt + 1} of {retries + 1}")


def run_remotely(
    deck: str, folder: str, variables: Mapping[str, str], ranks: int, retries: int
) -> tuple[list[str], int, list[str]]:
    """`run_long` in a process of an engine: its logs, its attempts, and what it said of them."""
    said: list[str] = []
    done = run_long(Path(deck), Path(folder), variables, ranks, retries, said.append)
    return [str(log) for log in done.logs], done.attempts, said if done.attempts else []


def variables_of(deck: Path) -> dict[str, str]:
    """Values of a deck's variables of style index or string, as they stand there. Raises LongRunError for no deck."""
    try:
        lines = deck.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise LongRunError(f"{deck}: no such deck") from None
    except UnicodeDecodeError as error:
        raise LongRunError(f"{deck}: is no deck: byte {error.start} is no text in UTF-8") from error
    found = (VARIABLE.match(line) for line in lines)
    return {match[1]: match[2].strip("\"'") for match in found if match}


def restart_files(deck: Path, variables: Mapping[str, str], folder: Path) -> tuple[Path, Path]:
    """The two files that a deck writes in turn. Raises LongRunError for a deck without them."""
    for line in deck.read_text(encoding="utf-8").splitlines():
        if match := RESTART.match(line):
            first, second = (_with_values(name, variables, deck) for name in match.groups()[1:])
            break
    else:
        raise LongRunError(
            f"{deck}: writes no two restart files in turn, so that a run could go on: add restart 10000 restart.1 "
            "restart.2, and read_restart where the variable restart is 1 or 2 (docs/cluster.md)"
        )
    if "restart" not in variables:
        raise LongRunError(
            f"{deck}: has no line variable restart index 0, which says from which of {first} and {second} to go on "
            "(docs/cluster.md)"
        )
    return folder / first, folder / second


def _with_values(text: str, variables: Mapping[str, str], deck: Path) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in variables:
            raise LongRunError(f"{deck}: names its restart files by {name}, which is no variable of style index")
        return variables[name]

    return REFERENCE.sub(value, text)


def newest(files: tuple[Path, Path]) -> tuple[int, list[str]]:
    """1 or 2, the newest file that is whole, 0 where there is none; and what to say of those that are not."""
    there = sorted((file for file in files if file.is_file()), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    said: list[str] = []
    for file in there:
        if is_whole(file):
            return files.index(file) + 1, said
        said.append(f"{file} is not whole ({counted(file.stat().st_size, 'byte')}): left out")
    return 0, said


def is_whole(file: Path) -> bool:
    """Whether LAMMPS wrote a restart file to its end."""
    with file.open("rb") as content:
        if content.read(len(MAGIC)) != MAGIC:
            return False
        content.seek(0, 2)
        if content.tell() < 2 * len(MAGIC):
            return False
        content.seek(-len(MAGIC), 2)
        return content.read() == MAGIC


def _logs(folder: Path, stem: str) -> list[Path]:
    """Logs of earlier attempts, in order."""
    logs, number = [], 1
    while (log := folder / (f"{stem}.log" if number == 1 else f"{stem}.{number}.log")).exists():
        logs.append(log)
        number += 1
    return logs


def _end_of(log: Path) -> str:
    with log.open("rb") as content:
        content.seek(0, 2)
        content.seek(max(0, content.tell() - 1000))
        return content.read().decode(errors="replace")
