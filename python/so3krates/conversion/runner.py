"""RuNNer's and n2p2's input.data: one block begin ... end a frame, in Hartree and Bohr."""

from __future__ import annotations

from collections.abc import Iterable

from ..data.errors import DataError


def require_blocks(lines: Iterable[str], where: object) -> None:
    """Raises DataError for a frame that is cut: ASE takes the atoms that are there for all."""
    start = 0
    for number, line in enumerate(lines, 1):
        word = line.split()[0].lower() if line.split() else ""
        if word == "begin" and start:
            raise DataError(f"{where}, line {number}: begin within the frame of line {start}, which was cut")
        if word in ("begin", "end"):
            start = number if word == "begin" else 0
    if start:
        raise DataError(f"{where}: ends within the frame of line {start}: it was cut; copy it again")
