"""Instructions of the two largest GPU kernels, loop by loop, from their machine code (nvdisasm)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

TILE = 16  # neighbours that a warp handles together
EDGES_AT_ONCE = {"messages": 4, "messages_adjoint": 1}  # in the loops over a tile's edges
UNIT_COLUMNS, PARTS = 4, 3  # of a product: eights of hidden units, products of parts for one of floats


@dataclass
class Loop:
    """Instructions [first, last]; those of loops within it apart."""

    first: int
    last: int
    own: list[str] = field(default_factory=list)

    def count(self, *names: str) -> int:
        return sum(any(name in text for name in names) for text in self.own)


class Count(NamedTuple):
    """Instructions of a warp for one edge of a full tile."""

    hidden: float
    products: float
    matrix: float  # of the products
    edges: float
    tile: float

    @property
    def total(self) -> float:
        return self.hidden + self.products + self.edges + self.tile


def machine_code(cubin: bytes, nvdisasm: Path, folder: Path) -> dict[str, list[str]]:
    """Instructions and labels of each kernel."""
    file = folder / "kernels.cubin"
    file.write_bytes(cubin)
    text = subprocess.run([nvdisasm, "-c", file], check=True, capture_output=True, text=True).stdout
    kernels: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if found := re.match(r"\.text\.(\w+):", line):
            lines = kernels.setdefault(found[1], [])
        elif found := re.match(r"(\.L_x_\d+:)|\s*/\*[0-9a-f]+\*/\s+(.*?);", line):
            lines.append((found[1] or found[2]).strip())
    return kernels


def loops_of(code: Iterable[str]) -> list[Loop]:
    """Loops of a kernel, the outer ones first. What lies behind the first exit are detours of diverged lanes."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    for line in code:
        if line.endswith(":"):
            labels[line[:-1]] = len(instructions)
        else:
            instructions.append(line)
    end = next(k for k, text in enumerate(instructions) if text.startswith("EXIT"))
    loops = []
    for k, text in enumerate(instructions[:end]):
        target = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", text)
        if target and labels[target[1]] <= k:
            loops.append(Loop(labels[target[1]], k))
    loops.sort(key=lambda loop: loop.first - loop.last)
    for k, text in enumerate(instructions[:end]):
        around = [loop for loop in loops if loop.first <= k <= loop.last]
        if around:
            around[-1].own.append(text)
    return loops


def whole(passes: float, what: str) -> int:
    if passes != int(passes) or passes < 1:
        raise SystemExit(f"{what} would be passed {passes:g} times: the loops are not those that are counted here")
    return int(passes)


def counted(name: str, code: Iterable[str], quads: int) -> Count:
    """Every loop's instructions times its passes, for filters of `quads` fours of features."""
    loops = loops_of(code)
    with_products = [loop for loop in loops if loop.count("HMMA") and "MUFU" not in " ".join(loop.own)]
    tile = next(
        loop
        for loop in reversed(loops)
        if loop not in with_products and all(loop.first < p.first and p.last < loop.last for p in with_products)
    )
    inner = [loop for loop in loops if tile.first < loop.first and loop.last < tile.last]
    forward = -(-quads // 4) * 2 * UNIT_COLUMNS * PARTS
    backward = -(-quads // 2) * UNIT_COLUMNS * PARTS
    hidden = products = matrix = edges = 0
    for loop in inner:
        size, exponentials, on_units = len(loop.own), loop.count("MUFU.EX2"), loop.count("HMMA")
        if exponentials:
            hidden += size * whole(2 * TILE / exponentials, "the loop of hidden layers")
        elif on_units:
            left = forward if loop.count("STS") else backward - tile.count("HMMA") / 2
            passes = whole(left / on_units, "a loop of products")
            products += size * passes
            matrix += on_units * passes
        elif loop.count("SHFL"):
            edges += size * whole(TILE / EDGES_AT_ONCE[name], "a loop over edges")
    matrix += tile.count("HMMA")
    return Count(*(number / TILE for number in (hidden, products, matrix, edges, len(tile.own))))
