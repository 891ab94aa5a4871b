"""The few padded shapes that the batches of a set take: each costs a compilation, and each spares padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from .batches import BatchShape, FrameGraph, KnownSizes, long_pairs_of, sizes_of
from .neighbours import WIDTH_STEP, round_up

PAIR_STEPS = 8  # room for pairs comes in this many parts of what the slots hold
BUCKET_RATIO = 1.25  # between neighbouring sizes
# Slots and pairs that one core trains on while it compiles a step (F = 72, two layers, degrees 1 to 3).
COMPILATION = 4e6
STEPS = 5000  # of a training at least, which pay for its shapes
DRAWN = 1000  # batches, drawn at random, that stand for them

Rows = Sequence[int] | np.ndarray


def random_batches(frames: int, batch_size: int) -> Iterator[np.ndarray]:
    """DRAWN batches of so many frames as a training draws them; the same ones in each run."""
    random = np.random.default_rng(0)
    for _ in range(DRAWN):
        yield random.choice(frames, min(batch_size, frames), replace=False)


class Buckets:
    """Padded shapes for batches of a set of graphs.

    Of the batches that are to come so many shapes are kept as spare more padding than their compilation costs. Without
    such batches each takes the smallest shape that holds it.
    """

    def __init__(
        self, graphs: Sequence[FrameGraph], batch_size: int, batches: Iterable[Rows] = (), times: float = 1.0
    ) -> None:
        """`batches`: rows of graphs that are to come, each so many times."""
        self._sizes = atoms, widths, _ = sizes_of(graphs)
        self.structures = min(batch_size, len(graphs))
        largest = np.sort(atoms)[::-1][: self.structures]
        self._atoms = _rungs(int(largest.sum()), int(atoms.min()))
        self._widths = _rungs(round_up(int(widths.max()), WIDTH_STEP), int(widths.min()))
        # Room for the most that any batch has: these pairs cost little, and further shapes their compilation.
        long_pairs = [] if isinstance(graphs, KnownSizes) else sorted(map(long_pairs_of, graphs), reverse=True)
        self._long_pairs = sum(long_pairs[: self.structures])
        self._kept = _worth_compiling(Counter(map(self._smallest, batches)), times)

    def shape(self, *batches: Rows) -> BatchShape:
        """The shape that each of some batches of the set takes, whose graphs are not read."""
        needed = _joined([self._smallest(rows) for rows in batches])
        if not self._kept:
            return needed
        # One that was not foreseen: few shapes for all like it.
        seldom = needed._replace(neighbours=self._widths[0], pairs=None)
        return next((kept for kept in self._kept if kept.holds(needed)), seldom)

    def _smallest(self, rows: Rows) -> BatchShape:
        """The smallest shape that holds these graphs."""
        sizes, widths, pairs = (known[np.asarray(rows)] for known in self._sizes)
        atoms, width = sizes.sum(), widths.max()
        shape = BatchShape(
            self.structures,
            min(rung for rung in self._atoms if rung >= atoms),
            min(rung for rung in self._widths if rung >= width),
        )
        step = -(-shape.most_pairs // PAIR_STEPS)
        return shape._replace(pairs=max(step, round_up(int(pairs.sum()), step)), long_pairs=self._long_pairs)


def _worth_compiling(counts: Counter[BatchShape], times: float) -> tuple[BatchShape, ...]:
    """Shapes for batches with these smallest ones, the cheapest first: one that holds all, and further ones as long as
    the next spares more than its compilation."""
    if not counts:
        return ()
    shapes = list(counts)
    weights = times * np.array([counts[shape] for shape in shapes])
    costs = np.array([_cost(shape) for shape in shapes])
    sizes = np.array([(shape.atoms, shape.neighbours, shape.most_pairs, shape.long_pairs) for shape in shapes])
    holds = np.asarray((sizes[:, None] >= sizes).all(axis=2))
    kept = [_joined(shapes)]
    paid = np.full(len(shapes), _cost(kept[0]))
    while True:
        spared = (np.maximum(paid - costs[:, None], 0) * holds) @ weights
        best = int(spared.argmax())
        if spared[best] <= COMPILATION:
            return tuple(sorted(dict.fromkeys(kept), key=_cost))
        kept.append(shapes[best])
        paid = np.where(holds[best], np.minimum(paid, costs[best]), paid)


def _cost(shape: BatchShape) -> int:
    """Of a step: slots and pairs."""
    return shape.atoms * shape.neighbours + shape.most_pairs


def _joined(shapes: Sequence[BatchShape]) -> BatchShape:
    """The smallest shape that holds all."""
    return BatchShape(*np.max(np.array(shapes), axis=0).tolist())


def _rungs(top: int, bottom: int) -> list[int]:
    """Sizes from `top` down to the first that just holds `bottom`, each a multiple of 8 but the top."""
    rungs = [top]
    while True:
        below = round_up(int(np.ceil(rungs[-1] / BUCKET_RATIO)), 8)
        if below < bottom or below >= rungs[-1]:
            return rungs
        rungs.append(below)
