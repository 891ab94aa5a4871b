"""What a number of threads could gain at most, from the schedule that the kernels make for it (docs/kernels.md).

Pairs of the busiest thread count round by round, since all threads wait for it; the work on rows of atoms is shared
evenly, the guard's pass by some threads; what the host does besides is one thread's.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.build import bulk

ATOMS = {62500: (25, 25, 25), 340736: (44, 44, 44)}
THREADS = (2, 16, 64, 128)
GUARD_THREADS = 8  # that its pass over near pairs gains at least; more are used, whose start takes time
ROW_PROGRAMS = ("project", "readout", "exchange_adjoint")  # the others are pairs' work


class Parts(NamedTuple):
    """Times of one thread, s per atom and step."""

    pairs: float
    rows: float
    guard: float
    host: float

    def speedup(self, threads: int, pairs: float) -> float:
        """Of `threads` threads, where the work on pairs gains the factor `pairs`."""
        guard = self.guard / min(threads, GUARD_THREADS)
        return sum(self) / (self.pairs / pairs + self.rows / threads + guard + self.host)


def crystal(atoms: int) -> Atoms:
    """Wurtzite GaN with thermal displacements, in no order."""
    made = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat(ATOMS[atoms])
    random = np.random.default_rng(0)
    made.positions += random.normal(0.0, 0.05, made.positions.shape)
    return made[random.permutation(len(made))]


def parts(bundle: Path, stages: dict[str, float], atoms: Atoms) -> Parts:
    """stages: times of the programs on one thread, s per atom; what an evaluation does besides is the host's."""
    from so3krates.runtime import Runtime

    runtime = Runtime(bundle, threads=1, cache="off")
    for _ in range(2):
        runtime.evaluate(atoms)
    before, steps = runtime.report(), 5
    for _ in range(steps):
        runtime.evaluate(atoms)
    after = runtime.report()
    names = ("evaluation_seconds", "program_seconds", "guard_seconds")
    whole, programs, guard = ((after[name] - before[name]) / steps / len(atoms) for name in names)
    rows = sum(stages.get(name, 0.0) for name in ROW_PROGRAMS)
    return Parts(sum(stages.values()) - rows, rows, guard, whole - programs - guard)


def pair_bound(config, inputs: dict[str, np.ndarray], threads: int) -> float:
    """All pairs over those of the busiest thread, summed over the rounds of the schedule.

    config: of a tabulated network; inputs: the host's arrays.
    """
    import jax
    import jax.numpy as jnp
    from so3krates_export.fused_body import FusedBody

    body = FusedBody(config, "float32", 2, threads=threads)
    stage = body.pairs()
    sizes = {"rows": len(inputs["species"]), "neighbours": 48}
    arrays = {
        name: jnp.zeros([sizes.get(d, d) for d in body.arrays[name].shape], body.arrays[name].dtype)
        for name in stage.call.inputs
        if name in body.arrays
    } | {
        "vectors": jnp.zeros((sizes["rows"], sizes["neighbours"], 3), "float32"),
        "neighbours": jnp.zeros((sizes["rows"], sizes["neighbours"]), "int32"),
    }
    given = arrays | {name: jnp.asarray(value) for name, value in inputs.items()}
    results = jax.jit(stage.function)(*[given[name] for name in stage.call.inputs])
    found = {name: np.asarray(value) for name, value in zip(stage.call.outputs, results, strict=True)}
    shared = int(found["schedule"][0])
    bounds = found["schedule"][1 : 1 + 2 * shared]  # where blocks begin
    listed = np.diff(found["ends"], axis=1, prepend=0)[found["order"]]
    loads = np.add.reduceat(listed, bounds, axis=0)  # (blocks, rounds)
    own = loads[:, 0].reshape(shared, 2).sum(axis=1).max()
    # In a round each block's pairs are one task; the last one is one thread's.
    between = loads[:, 1:-1].max(axis=0).sum() + loads[:, -1].sum()
    return float(listed.sum() / (own + between))


def table(times: Parts, bounds: dict[tuple[int, int], float]) -> str:
    """One line for each number of atoms and threads."""
    lines = [
        "on one thread, us/atom: pairs {:.1f}, rows {:.1f}, guard {:.3f}, host {:.3f}".format(
            *(1e6 * seconds for seconds in times)
        ),
        "{:>8} {:>8} {:>8} {:>8} {:>6}".format("atoms", "threads", "pairs", "step", "share"),
    ]
    for (atoms, threads), bound in bounds.items():
        whole = times.speedup(threads, bound)
        lines.append(f"{atoms:8} {threads:8} {bound:8.1f} {whole:8.1f} {whole / threads:6.2f}")
    return "\n".join(lines)
