"""Several ranks in one process: a system that is divided among evaluators, which exchange rows in threads."""

from __future__ import annotations

import queue
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
from ase import Atoms
from ase.neighborlist import primitive_neighbor_list
from so3krates._harness import Evaluator
from toy_bundle import CUTOFF, ELEMENTS
from toy_systems import Lists, lists

WAIT = 60  # seconds for a message


def divided(
    atoms: Atoms,
    parts: list[np.ndarray],
    skin: float = 0.4,
    reach: float = CUTOFF,
    elements: Sequence[str] = ELEMENTS,
) -> list[Lists]:
    """The same for ranks that own `parts`, each with the rows of others that its lists hold."""
    i, j = primitive_neighbor_list("ij", atoms.pbc, atoms.cell.array, atoms.positions, reach + skin)
    listed = [set(j[np.isin(i, part)]) for part in parts]
    ranks = range(len(parts))
    # Own rows of the first rank that the second reads.
    read = {
        (a, b): np.array([r for r, k in enumerate(parts[a]) if a != b and k in listed[b]], int)
        for a in ranks
        for b in ranks
    }
    hosts = []
    for me in ranks:
        host = lists(atoms, parts[me], np.concatenate([parts[a][read[a, me]] for a in ranks]), skin, reach, elements)
        host.arguments["peers"] = [
            (
                other,
                read[me, other],
                len(read[other, me]),
                sum(len(read[a, other]) for a in range(me)),
                sum(len(read[other, b]) for b in range(me)),
            )
            for other in ranks
            if len(read[me, other]) + len(read[other, me])
        ]
        hosts.append(host)
    return hosts


class Ranks:
    """Evaluators that exchange rows with each other, in threads."""

    def __init__(
        self,
        path: Path,
        cache: Path | str,
        hosts: list[Lists],
        device_memory: bool = False,
        outputs: Sequence[str] = (),
        adds_up: bool = False,
        **options: Any,
    ) -> None:
        self.hosts, self.device_memory, self.outputs, self.adds_up = hosts, device_memory, outputs, adds_up
        self.evaluators = [Evaluator(str(path), cache=str(cache), threads=1, **options) for _ in hosts]
        self.post: dict[tuple[int, int], queue.Queue[np.ndarray]] = defaultdict(queue.Queue)
        self.sizes: list[int] = []  # of messages
        self.sums: list[np.ndarray] = [np.zeros(0)] * len(hosts)  # of each rank, on their way to `reduce`
        self.meeting = Barrier(len(hosts), timeout=WAIT)
        for evaluator, host in zip(self.evaluators, hosts, strict=True):
            evaluator.set_neighbourhood(**host.arguments)

    def evaluate(self, moves: np.ndarray | float = 0.0) -> list[dict[str, Any]]:
        """`moves`: (atoms, 3) of the whole system."""
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            return list(pool.map(self._evaluate, range(len(self.hosts)), len(self.hosts) * [moves]))

    def _evaluate(self, me: int, moves: np.ndarray | float) -> dict[str, Any]:
        host = self.hosts[me]
        moved = moves[host.order][host.arguments["row_of_atom"]] if isinstance(moves, np.ndarray) else moves

        def exchange(sent: list[tuple[int, np.ndarray]], received: list[tuple[int, np.ndarray]]) -> None:
            for other, data in sent:
                self.post[me, other].put(data.copy())
            for other, data in received:
                came = self.post[other, me].get(timeout=WAIT)
                assert came.shape == data.shape
                self.sizes.append(len(data))
                data[:] = came

        def reduce(values: np.ndarray) -> None:
            self.sums[me] = values.copy()
            self.meeting.wait()
            values[:] = sum(self.sums)
            self.meeting.wait()

        return self.evaluators[me].evaluate(
            host.positions + moved,
            exchange,
            list(self.outputs),
            device_memory=self.device_memory,
            reduce=reduce if self.adds_up else None,
        )
