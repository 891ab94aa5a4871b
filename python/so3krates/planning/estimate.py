"""Predictions from a measurement: memory, time, rows of other ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from .measure import Machine

SECONDS_PER_DAY = 86400.0
LARGEST_SHARE = 0.9  # of a machine's memory that a run may take
FEW = 1.0  # rows of other ranks for each own atom, from which on more ranks bring little


@dataclass(frozen=True)
class Layout:
    """Ranks on all machines together, threads of each."""

    ranks: int
    threads: int


@dataclass(frozen=True)
class Estimate:
    """What a rank has and does: time in s, memory in bytes."""

    layout: Layout
    grid: tuple[int, int, int]  # of ranks, along the box's edges
    own: float  # atoms
    others: float  # rows of other ranks
    parts: dict[str, float]  # of a step
    memory: float

    @property
    def step(self) -> float:
        return sum(self.parts.values())

    def ns_per_day(self, timestep: float) -> float:
        """timestep in ps."""
        return SECONDS_PER_DAY / self.step * timestep * 1e-3


def grid_of(ranks: int, edges: np.ndarray) -> tuple[int, int, int]:
    """How LAMMPS cuts a box: the grid with the least surface between ranks."""
    grids = [(x, y, ranks // (x * y)) for x, y in product(range(1, ranks + 1), repeat=2) if ranks % (x * y) == 0]
    return min(grids, key=lambda grid: (_surface(edges / grid), grid))


def _surface(edges: np.ndarray) -> float:
    x, y, z = edges
    return float(x * y + y * z + z * x)


def estimate(machine: Machine, atoms: int, edges: np.ndarray, reach: float, layout: Layout) -> Estimate:
    """A step of this layout.

    Args:
        machine: what was measured.
        atoms: of the whole system, evenly in the box.
        edges: of the box, A, [3].
        reach: of neighbour lists: cutoff and skin, A.
        layout: ranks and threads.
    """
    grid = grid_of(layout.ranks, edges)
    own_edges = edges / grid
    # Others' rows lie around the rank's part of the box, along the edges that are cut; each atom is one row.
    around = np.minimum(own_edges + np.where(np.array(grid) > 1, 2 * reach, 0.0), edges)
    own = atoms / layout.ranks
    others = atoms * float(np.prod(around / edges) - np.prod(own_edges / edges))
    slower = 1 - machine.shared + machine.shared / layout.threads
    parts = {
        "atoms": machine.of_atoms(own) * slower,
        "rows of other ranks": machine.row * others * slower,
        "neighbour lists": machine.lists * machine.builds * own,
        "start of a step": machine.start,
    }
    memory = machine.memory_start + machine.memory_atom * own + machine.memory_row * others
    return Estimate(layout, grid, own, others, parts, memory)


def layouts(cores: int, nodes: int = 1, unit: str = "core") -> list[Layout]:
    """Ways to use all cores of some machines, from one rank on each to one on every core; of GPUs one to all."""
    if unit == "GPU":
        return [Layout(nodes * gpus, 1) for gpus in range(1, cores + 1) if cores % gpus == 0]
    return [Layout(nodes * cores // threads, threads) for threads in range(cores, 0, -1) if cores % threads == 0]


def largest_system(
    machine: Machine, atoms: int, edges: np.ndarray, reach: float, layout: Layout, nodes: int = 1
) -> int:
    """The largest number of atoms, of the same density and shape, whose ranks fit in the machines' memory."""
    room = LARGEST_SHARE * machine.memory * nodes

    def fits(count: int) -> bool:
        scale = (count / atoms) ** (1 / 3)
        return estimate(machine, count, edges * scale, reach, layout).memory * layout.ranks <= room

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def reach_of(manifest: Mapping[str, Any]) -> float:
    """How far atoms of other ranks are needed without the skin, A."""
    return float(manifest.get("atoms_reach", manifest.get("reach", manifest["cutoff"])))


def limit_of(found: Estimate, machine: Machine, nodes: int = 1) -> str:
    """What keeps the run from being faster or larger, in words with numbers."""
    needed = found.memory * found.layout.ranks / nodes
    if needed > LARGEST_SHARE * machine.memory:
        return (
            f"memory: {needed / 2**30:.1f} GiB of a machine's {machine.memory / 2**30:.1f}. Use more machines, fewer "
            "ranks, or a smaller skin"
        )
    name, seconds = max(found.parts.items(), key=lambda part: part[1])
    share = f"{name}, {100 * seconds / found.step:.0f} % of a step"
    if found.others > FEW * found.own:
        rows = f"a rank has {found.own:.0f} atoms and {found.others:.0f} rows of others"
        return f"{share}; {rows}: fewer ranks, more threads"
    return share
