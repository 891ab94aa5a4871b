"""Text of files that may be packed."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ase.data import atomic_numbers
from ase.io.formats import open_with_compression

from ..data.errors import DataError

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


def require_symbols(names: Sequence[str], where: object) -> None:
    """Raises DataError for a name that is no element's symbol."""
    unknown = [name for name in names if atomic_numbers.get(name, 0) < 1]
    if unknown:
        raise DataError(f"{where}: {', '.join(map(repr, unknown))}: no symbol of an element, as in Ga,N")
