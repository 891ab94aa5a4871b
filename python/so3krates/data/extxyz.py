"""Extended XYZ read whole: ASE parses each frame, and nothing in the file is passed over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.extxyz import key_val_str_to_dict, read_xyz
from ase.io.formats import open_with_compression

from .errors import DAMAGED, DataError, unreadable

# Keys of the structure, which some programs (GPUMD) write in any case.
STRUCTURE_KEYS = {"lattice": "Lattice", "properties": "Properties", "pbc": "pbc"}
PLAIN = "species:S:1:pos:R:3"  # columns where the file names none
# The keys of a comment, once what is quoted or in brackets is taken out.
QUOTED = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\{[^{}]*\}|\[[^\[\]]*\]")
KEYS = re.compile(r"(?:^|\s)([^\s=]+)\s*=")
# Entries that ASE takes for three rows of three, whatever stands there: they are read under another name.
MATRICES = ("stress", "virial")
MATRIX_KEY = re.compile(rf"(?:(?<=\s)|^)(?=(?:{'|'.join(MATRICES)})\s*=)")
READ_AS = "written_"
ASYMMETRY = 1e-6  # of a stress, relative to its largest component, that rounding leaves
NUMBERS: dict[str, Callable[[str], Any]] = {"R": float, "I": int}


class _Column(NamedTuple):
    name: str
    kind: str  # S, R, I or L


def extxyz_frames(path: Path) -> Iterator[Atoms]:
    """The frames of a file, which may be compressed; blank lines between frames are allowed.

    Raises DataError with frame (from 0) and line (from 1) for whatever is not a frame from end to end: text between
    or after frames, a cut frame, lines with more or fewer columns than `Properties` names, numbers that are none.
    """
    frame, line_number = 0, 0
    try:
        with open_with_compression(str(path), "r") as file:
            lines = _Lines(file)
            while (header := lines.next_header()) is not None:
                line_number = lines.number
                where = f"{path}, frame {frame}"
                yield _frame(lines, _count(header, f"{where}, line {line_number}", frame), where)
                frame += 1
    except (*DAMAGED, UnicodeDecodeError) as error:
        raise unreadable(f"{path}, frame {frame}", error) from error


class _Lines:
    """Lines of a file with their number, and one that was looked at before its turn."""

    def __init__(self, file: Iterator[str]) -> None:
        self._file = file
        self._ahead: str | None = None
        self.number = 0

    def next(self) -> str | None:
        """The next line; None at the end."""
        line = self._ahead if self._ahead is not None else next(self._file, None)
        self._ahead = None
        self.number += line is not None
        return line

    def peek(self) -> str:
        """The next line, which stays the next; empty at the end."""
        if self._ahead is None:
            self._ahead = next(self._file, None)
        return self._ahead or ""

    def next_header(self) -> str | None:
        """The next line that is not blank."""
        while (line := self.next()) is not None:
            if line.strip():
                return line
        return None


def _count(header: str, where: str, frame: int) -> int:
    try:
        count = int(header)
    except ValueError:
        count = -1
    if count < 0:
        before = f"; the number of atoms of frame {frame - 1} may be too small" if frame else ""
        raise DataError(f"{where}: expected a number of atoms, found {header.strip()[:60]!r}{before}")
    return count


def _frame(lines: _Lines, count: int, where: str) -> Atoms:
    first = lines.number
    text: list[str] = []
    for _ in range(count + 1):
        line = lines.next()
        if line is None:
            raise DataError(
                f"{where}, line {lines.number}: the file ends after {max(len(text) - 1, 0)} of {count} atoms: "
                "it was cut, or the number of atoms is wrong"
            )
        text.append(line)
    vectors = 0
    while vectors < 3 and lines.peek().lstrip().startswith("VEC"):
        text.append(lines.next() or "")
        vectors += 1
    comment_where = f"{where}, line {first + 1}"
    if not text[-1].endswith("\n"):
        _require_whole(text[1 : count + 1], f"{where}, line {lines.number}")
    info = {} if vectors else _comment(text[0], comment_where)
    columns = _columns(str(info.get("Properties", PLAIN)), comment_where)
    for number, line in enumerate(text[1 : count + 1], start=first + 2):
        found = len(line.split())
        if found != len(columns):
            named = "Properties names" if "Properties" in info else "a file without Properties has"
            raise DataError(
                f"{where}, line {number}: {found} columns, but {named} {len(columns)} "
                f"({' '.join(dict.fromkeys(column.name for column in columns))})"
            )
    _require_one_element(text[1 : count + 1], columns, where, first + 2)
    try:
        content = StringIO(f"{count}\n" + "".join(text) + ("" if text[-1].endswith("\n") else "\n"))
        entries = {key: value for key, value in info.items() if key != "stress" or _is_symmetric(value)}
        atoms = next(read_xyz(content, 0, properties_parser=lambda _: entries))
        if "stress" in info and not _is_symmetric(info["stress"]):
            # ASE keeps six numbers in an order of its own, which these are not in or cannot be.
            atoms.info["stress"] = info["stress"]
        return atoms
    except Exception as error:
        _require_numbers(text[1 : count + 1], columns, where, first + 2)
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{where}, line {first}: cannot be read ({reason})") from error


def _comment(text: str, where: str) -> dict[str, Any]:
    """Entries of the second line, keys of the structure as ASE spells them."""
    try:
        found = key_val_str_to_dict(_renamed(text.strip())) if text.strip() else {}
        for key in MATRICES:
            if READ_AS + key in found:
                value = found.pop(READ_AS + key)
                found[key] = value.reshape((3, 3)) if np.shape(value) == (9,) else value
    except Exception as error:
        raise DataError(f"{where}: cannot be read ({type(error).__name__}: {error})") from error
    names = [STRUCTURE_KEYS.get(key.lower(), key) for key in KEYS.findall(QUOTED.sub("", text))]
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise DataError(f"{where}: {twice} stands there twice: keep the one that is right")
    info = {STRUCTURE_KEYS.get(key.lower(), key): value for key, value in found.items()}
    if "pbc" in info:
        _require_pbc(info["pbc"], where)
    cell = np.asarray(info.get("Lattice", np.eye(3)))
    if cell.shape == (9,):
        # As ASE does it where the key has its spelling.
        info["Lattice"] = cell = cell.reshape((3, 3), order="F")
    if cell.shape != (3, 3) or cell.dtype.kind not in "if":
        raise DataError(f"{where}: Lattice is not made of nine numbers: {str(info['Lattice'])[:60]!r}")
    return info


def _require_pbc(value: Any, where: str) -> None:
    """Raises DataError for another entry than one or three of true and false: ASE takes any other word for true."""
    flags = np.asarray(value)
    if flags.dtype.kind not in "bi" or not np.isin(flags, (0, 1)).all() or flags.size not in (1, 3):
        raise DataError(f"{where}: pbc is {str(value)[:60]!r}: give three of T and F, or of 1 and 0")


def _renamed(text: str) -> str:
    """The comment with other names of the entries in MATRICES, what is quoted or in brackets left as it is."""
    plain = re.split(f"({QUOTED.pattern})", text)
    return "".join(part if n % 2 else MATRIX_KEY.sub(READ_AS, part) for n, part in enumerate(plain))


def _is_symmetric(value: Any) -> bool:
    """Whether six numbers hold a stress of three rows."""
    rows = np.asarray(value)
    if rows.shape != (3, 3) or rows.dtype.kind not in "if":
        return False
    largest = np.abs(rows[np.isfinite(rows)]).max(initial=0.0)
    return bool(np.allclose(rows, rows.T, rtol=0.0, atol=ASYMMETRY * largest, equal_nan=True))


def _columns(properties: str, where: str) -> list[_Column]:
    """Columns of an atom's line. Raises DataError where they are not those of atoms with positions."""
    fields = properties.split(":")
    columns: list[_Column] = []
    for name, kind, width in zip(fields[::3], fields[1::3], fields[2::3], strict=False):
        if kind not in "SRIL" or not width.isdigit():
            break
        columns += [_Column(name, kind)] * int(width)
    else:
        names = {column.name for column in columns}
        if len(fields) % 3 == 0 and names & {"pos", "positions"} and names & {"species", "Z", "symbols", "numbers"}:
            return columns
    raise DataError(
        f"{where}: Properties={properties[:80]}: give NAME:TYPE:COLUMNS with types S, R, I, L, among them "
        "species:S:1 and pos:R:3"
    )


def _require_whole(text: list[str], where: str) -> None:
    """Raises DataError where a file without an end of its last line ends within a number of a fixed width."""
    decimals = [len(line.split()[-1].partition(".")[2]) for line in text if line.strip()]
    if len(decimals) > 1 and len(set(decimals[:-1])) == 1 and decimals[-1] < decimals[0]:
        raise DataError(
            f"{where}: the file ends after {text[-1].split()[-1]!r}, without an end of the line and with "
            f"{decimals[-1]} decimals where the lines before have {decimals[0]}: it was cut; "
            "if it is whole, end its last line"
        )


def _require_one_element(text: list[str], columns: list[_Column], where: str, first: int) -> None:
    """Raises DataError where an atom has a symbol and another element's number: ASE would take the number."""
    names = [column.name for column in columns]
    symbol = next((k for k, name in enumerate(names) if name in ("species", "symbols")), None)
    atomic = next((k for k, name in enumerate(names) if name in ("Z", "numbers")), None)
    if symbol is None or atomic is None:
        return
    for number, line in enumerate(text, start=first):
        words = line.split()
        if str(atomic_numbers.get(words[symbol].capitalize())) != words[atomic]:
            raise DataError(
                f"{where}, line {number}: {names[symbol]} is {words[symbol]} and {names[atomic]} is {words[atomic]}: "
                "keep the column that is right"
            )


def _require_numbers(text: list[str], columns: list[_Column], where: str, first: int) -> None:
    """Raises DataError for the first entry of a column of numbers that is none, or of symbols that is no element's."""
    for number, line in enumerate(text, start=first):
        for column, entry in zip(columns, line.split(), strict=True):
            if column.name in ("species", "symbols") and entry.capitalize() not in atomic_numbers:
                raise DataError(f"{where}, line {number}: {column.name} is {entry!r}, which is no symbol of an element")
            try:
                NUMBERS.get(column.kind, str)(entry)
            except ValueError:
                raise DataError(f"{where}, line {number}: {column.name} is {entry!r}, which is no number") from None
