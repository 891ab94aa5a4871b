"""Static sizes for which programs are written, and programs for all of them from one trace."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from so3krates.model.rows import GPU_ROW_BLOCK, SLOT_BLOCK

from .lowering import lower_text, serialise
from .plan import Array


class Rung(NamedTuple):
    """Capacities of one set of programs; see docs/bundle.md."""

    rows: int
    atoms: int
    candidates: int
    neighbours: int


def default_ladder(most_rows: int = 4 * 1024**2) -> list[Rung]:
    """Rungs in the order in which they are tried: few neighbours before many, few rows before many.

    Sizes grow by powers of two because memory beyond the actual counts is reserved and never touched on a CPU. The
    room for periodic images (`atoms`) suits thin cells: 4096 plus as many again as there are rows.
    """
    rows = [256, 1024, 4096, 16384, 65536]
    while rows[-1] < most_rows:
        rows.append(2 * rows[-1])
    return [
        Rung(rows=r, atoms=2 * r + 4096, candidates=3 * k, neighbours=k)
        for k in (64, 128, 256, 512, 1024)
        for r in rows
    ]


def long_ladder(has_long_lists: bool, most_rows: int = 4 * 1024**2) -> list[Rung]:
    """The same as `default_ladder` where pairs far beyond the network's cutoff count: small cells have many images.

    Where lists hold these pairs, neighbours are few and candidates many: 722 atoms of water are within 12 A, 920 within
    13 A, 1150 within 14 A.
    """
    rows = [rung.rows for rung in default_ladder(most_rows) if rung.neighbours == 64]
    return _with_images(rows, _LONG_LISTS if has_long_lists else tuple((k, 3 * k) for k in (64, 128, 256, 512)))


def gpu_long_ladder(has_long_lists: bool, most_rows: int = 16 * 1024**2) -> list[Rung]:
    """The same as `long_ladder` with the rows of `gpu_ladder`, and lists of small skins where pairs have none."""
    rows = list(dict.fromkeys(rung.rows for rung in gpu_ladder(most_rows) if rung.neighbours == 64))
    short = ((64, 96), (64, 192), (128, 192), (128, 384), (256, 768), (512, 1536))
    return _with_images(rows, _LONG_LISTS if has_long_lists else short)


# Neighbours and candidates of a row.
_LONG_LISTS = ((64, 192), (64, 1024), (64, 1280), (64, 1536), (128, 3072), (256, 6144), (512, 12288))


def _with_images(rows: Sequence[int], sizes: Sequence[tuple[int, int]]) -> list[Rung]:
    return [Rung(rows=r, atoms=4 * r + 16384, candidates=c, neighbours=k) for k, c in sizes for r in rows]


def gpu_ladder(most_rows: int = 16 * 1024**2) -> list[Rung]:
    """The same for a GPU, whose arrays take memory to their full size: rows grow by steps of at most 1.5
    (of 2 where neighbours are many) and there is less room for periodic images. Lists of candidates go up whole, so
    small skins have rungs of their own: these share all programs with the next but the one that reads the lists."""
    rows = [GPU_ROW_BLOCK]
    while rows[-1] < most_rows:
        rows += [rows[-1] * 3 // 2, rows[-1] * 2] if rows[-1] > GPU_ROW_BLOCK else [rows[-1] * 2]
    return [
        Rung(rows=r, atoms=3 * r // 2 + 8192, candidates=candidates, neighbours=k)
        for k in (64, 128, 256, 512, 1024)
        for r in (rows if k <= 128 else rows[:1] + rows[1::2])
        for candidates in ((3 * k // 2, 3 * k) if k <= 128 else (3 * k,))
    ]


# Two sets of sizes that no other number in a program equals.
_TRACED = (
    Rung(rows=GPU_ROW_BLOCK * 32771, atoms=1299709, candidates=7919, neighbours=SLOT_BLOCK * 1201),
    Rung(rows=GPU_ROW_BLOCK * 34537, atoms=1362187, candidates=6841, neighbours=SLOT_BLOCK * 1213),
)


def lower_ladder(
    function: Callable[..., Any],
    arguments: Sequence[Array],
    donated: Sequence[int],
    ladder: Sequence[Rung],
    platform: str,
    products: str = "highest",
) -> dict[tuple[int, ...], bytes]:
    """Artifacts of function(*arguments) for all rungs, keyed by the sizes that its arguments use (see `sizes_key`).

    The function is traced for two sets of sizes only. Writing the second set's numbers into the first program must
    give the second program to the letter, which shows that a program depends on its sizes through these numbers alone;
    those of the other rungs are then written the same way. Raises AssertionError if it does not. A function that is
    equal to one of an export before is not traced again.
    """
    text = _traced(function, tuple(arguments), tuple(donated), platform, products, jax.config.read("jax_enable_x64"))
    artifacts: dict[tuple[int, ...], bytes] = {}
    for rung in ladder:
        key = sizes_key(arguments, rung)
        if key not in artifacts:
            artifacts[key] = serialise(_resized(text, _TRACED[0], rung))
    return artifacts


@functools.lru_cache(maxsize=128)
def _traced(
    function: Callable[..., Any],
    arguments: tuple[Array, ...],
    donated: tuple[int, ...],
    platform: str,
    products: str,
    is_x64: bool,
) -> str:
    """The program's text for the first set of sizes; is_x64: jax's mode, on which a trace depends."""
    texts = [_text(function, arguments, donated, platform, products, rung) for rung in _TRACED]
    if _resized(texts[0], _TRACED[0], _TRACED[1]) != texts[1]:
        raise AssertionError("a program depends on its capacities by more than their values")
    return texts[0]


def _text(
    function: Callable[..., Any],
    arguments: tuple[Array, ...],
    donated: tuple[int, ...],
    platform: str,
    products: str,
    rung: Rung,
) -> str:
    """The program's text for a rung."""
    specs = [jax.ShapeDtypeStruct(tuple(_size(d, rung) for d in a.shape), a.dtype) for a in arguments]
    return lower_text(function, specs, donated, platform, products)


def sizes_key(arguments: Sequence[Array], rung: Rung) -> tuple[int, ...]:
    """The sizes of a rung that a program with these arguments depends on."""
    used = {d for a in arguments for d in a.shape if isinstance(d, str)}
    return tuple(getattr(rung, name) for name in Rung._fields if name in used)


def _size(size: int | str, rung: Rung) -> int:
    return getattr(rung, size) if isinstance(size, str) else size


def _resized(text: str, old: Rung, new: Rung) -> str:
    values = {str(a): str(b) for a, b in zip(old, new, strict=True)}
    return re.sub(rf"(?<!\d)({'|'.join(values)})(?!\d)", lambda match: values[match[0]], text)
