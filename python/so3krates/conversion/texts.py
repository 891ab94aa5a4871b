"""Text of files that may be packed."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers
from ase.io.formats import open_with_compression

from ..data.errors import DataError
from ..wording import counted

PACKED = (".gz", ".bz2", ".xz")


def text_of(path: Path) -> str:
    """All of it, unpacked. Raises one of DAMAGED where it is not packed as its name says."""
    with open_with_compression(str(path), "rt") as file:
        return str(file.read())


def last_lines(path: Path, count: int) -> list[str]:
    """At most `count` lines from the end, without holding the others."""
    with open_with_compression(str(path), "rt") as file:
        return list(deque(file, maxlen=count))


def unpacked_name(path: Path) -> str:
    """The name without the packing's ending."""
    return path.stem if path.suffix in PACKED else path.name


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The file, or a copy without its packing: not every reader of ASE's takes each kind."""
    if path.suffix not in PACKED:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.stem
        plain.write_text(text_of(path))
        yield plain


@contextmanager
def runs_of(plain: Path, head: bytes) -> Iterator[Iterator[Path]]:
    """The file, or copies of the runs in it where several were written one after the other: the readers of ASE take
    the atoms of the first for all.

    head: what the first line of a run begins with, and no other.
    """
    starts, place = [], 0
    with plain.open("rb") as file:
        for line in file:
            if line.lstrip().startswith(head):
                starts.append(place)
            place += len(line)
    if len(starts) < 2:
        yield iter([plain])
        return
    with tempfile.TemporaryDirectory() as folder:

        def copies() -> Iterator[Path]:
            part = Path(folder) / plain.name
            with plain.open("rb") as file:
                for start, end in pairwise([0, *starts[1:], place]):
                    part.write_bytes(file.read(end - start))
                    yield part

        yield copies()


def table(lines: Sequence[str], count: int, width: int, where: str) -> np.ndarray:
    """Numbers (count, width) of lines. Raises DataError, which `where` begins, for other lines."""
    if len(lines) < count:
        raise DataError(f"{where} has {counted(len(lines), 'line')}, and {count} are needed")
    rows = []
    for line in lines[:count]:
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            row = []
        if len(row) != width:
            raise DataError(f"{where}: {line.strip()[:60]!r} is no line of {counted(width, 'number')}")
        rows.append(row)
    return np.array(rows).reshape(count, width)


def require_symbols(names: Sequence[str], where: object) -> None:
    """Raises DataError for a name that is no element's symbol."""
    unknown = [name for name in names if atomic_numbers.get(name, 0) < 1]
    if unknown:
        raise DataError(f"{where}: {', '.join(map(repr, unknown))}: no symbol of an element, as in Ga,N")
