"""What steps cost on this machine: a few short runs of LAMMPS, and the numbers that they give."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from so3krates.files import write_text
from so3krates.lammps.environment import child_environment, lmp_path, mpi_file
from so3krates.lammps.thermo import read_log

from .system import PlanError, System, copy_potential, write_deck, write_tile

SMALL, LARGE = 800, 6400  # atoms of the runs
STEPS = 30  # of the small run; the large ones have a third
# Starts a program and writes the most memory that it had; of each rank.
PEAK = (
    "import os,sys; p=os.spawnv(os.P_NOWAIT,sys.argv[2],sys.argv[2:]); s,u=os.wait4(p,0)[1:]; "
    "open(f'{sys.argv[1]}.{p}','w').write(str(u.ru_maxrss)); sys.exit(os.waitstatus_to_exitcode(s))"
)


@dataclass(frozen=True)
class Machine:
    """Costs of a step of one rank on one thread, and what a machine has. Times in s, memory in bytes."""

    cores: int
    memory: float
    start: float  # of a step, without atoms
    atom: float  # of an owned atom, where a rank has LARGE of them or more
    atom_small: float  # and where it has SMALL or fewer, whose data fit in caches
    row: float  # of a row of another rank: its pairs, which both ranks compute, and its exchange
    shared: float  # share of an atom's time that more threads divide
    lists: float  # of new neighbour lists, per owned atom
    builds: float  # new lists per step
    memory_start: float
    memory_atom: float
    memory_row: float
    unit: str = "core"  # what `cores` counts: "GPU" of machines whose GPUs compute, one rank on each

    def of_atoms(self, own: float) -> float:
        """What a rank's own atoms cost (s): between SMALL and LARGE, each costs linearly in the logarithm of `own`."""
        return _of_atoms(own, self.atom_small, self.atom)


@dataclass(frozen=True)
class Run:
    """One run: of the busiest rank where there are several."""

    atoms: int
    others: int
    step: float  # s
    memory: float  # bytes
    lists: float  # s, of one build
    builds: float  # per step


def _of_atoms(own: float, atom_small: float, atom: float) -> float:
    return own * float(np.interp(np.log(own), np.log([SMALL, LARGE]), [atom_small, atom]))


def write_machine(path: Path, machine: Machine) -> None:
    """Keeps a measurement, for plans that are made elsewhere."""
    write_text(path, json.dumps(asdict(machine), indent=1) + "\n")


def read_machine(path: Path) -> Machine:
    """Raises PlanError where the file is no measurement."""
    try:
        return Machine(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise PlanError(f"{path} is no measurement of so3krates plan: {error}. Remove it to measure again") from error


def measure(system: System, potential: Path, report: Callable[[str], None] = lambda _: None) -> Machine:
    """Measures on this machine, as it is: other work beside it makes steps slower.

    Raises PlanError where a run fails.
    """
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copy_potential(potential, folder)
        small = _run(system, SMALL, 1, 1, STEPS, folder, report)
        large = _run(system, LARGE, 1, 1, STEPS // 3, folder, report)
        threaded = _run(system, LARGE, 1, cores, STEPS // 3, folder, report) if cores > 1 else None
        near = _run(system, 2 * SMALL, 2, 1, STEPS, folder, report) if cores > 1 else None
        split = _run(system, LARGE, 2, 1, STEPS // 3, folder, report) if cores > 1 else None
    return fit(cores, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), small, large, threaded, near, split)


def fit(
    cores: int,
    memory: float,
    small: Run,
    large: Run,
    threaded: Run | None = None,
    near: Run | None = None,
    split: Run | None = None,
) -> Machine:
    """The costs that explain the runs: through two sizes, then what is left.

    Where an atom costs less in the larger system, a step has a start; else the smaller one was in caches.

    Args:
        cores, memory: of the machine.
        small, large: on one rank and thread.
        threaded: on one rank with all cores.
        near: of two small ranks, where rows of others weigh most, for their time.
        split: of two large ones, for their memory.
    """
    line = (large.step - small.step) / (large.atoms - small.atoms)
    start = max(small.step - line * small.atoms, 0.0)
    atom, atom_small = ((run.step - start) / run.atoms for run in (large, small))
    memory_atom = (large.memory - small.memory) / (large.atoms - small.atoms)
    memory_start = large.memory - memory_atom * large.atoms
    shared = 1.0
    if threaded is not None:  # Amdahl's law, of two points
        share = (threaded.step - start) / (atom * threaded.atoms)
        shared = min(max((1 - share) / (1 - 1 / cores), 0.0), 1.0)
    row, memory_row = 0.0, memory_atom
    if near is not None and near.others > 0:
        row = max((near.step - start - _of_atoms(near.atoms, atom_small, atom)) / near.others, 0.0)
    if split is not None and split.others > 0:
        memory_row = max((split.memory - memory_start - memory_atom * split.atoms) / split.others, 0.0)
    lists = large.lists / large.atoms
    return Machine(
        cores=cores,
        memory=memory,
        start=start,
        atom=atom,
        atom_small=atom_small,
        row=row,
        shared=shared,
        lists=lists,
        builds=small.builds,
        memory_start=memory_start,
        memory_atom=memory_atom,
        memory_row=memory_row,
    )


def run(system: System, atoms: int, ranks: int, threads: int, steps: int, potential: Path) -> Run:
    """One run of a system of this size, to compare a plan with. Raises PlanError where it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        copy_potential(potential, Path(scratch))
        return _run(system, atoms, ranks, threads, steps, Path(scratch), lambda _: None)


def _run(
    system: System, atoms: int, ranks: int, threads: int, steps: int, folder: Path, report: Callable[[str], None]
) -> Run:
    report(f"measuring: {atoms} atoms, {ranks} ranks, {threads} threads")
    _, elements, is_part = write_tile(system, atoms, folder)
    deck = write_deck(system, elements, is_part, threads, steps, folder)
    command = [sys.executable, "-c", PEAK, "peak", str(lmp_path()), "-in", deck.name, "-log", "log.lammps"]
    if ranks > 1:
        command = [str(mpi_file("mpiexec")), "-n", str(ranks), *command]
    for _ in range(2):  # the second time with the programs that the first compiled, which takes memory
        for old in folder.glob("peak.*"):
            old.unlink()
        done = subprocess.run(command, cwd=folder, env=child_environment(), capture_output=True, text=True)
        if done.returncode != 0:
            said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
            raise PlanError(f"the run that measures {atoms} atoms on {ranks} ranks failed: {' '.join(said[:2])}")
        log = (folder / "log.lammps").read_text()
        if not re.search(r"; [1-9]\d* programs compiled", log):
            break
    times = np.diff(read_log(folder / "log.lammps")[-1]["CPU"])
    found = re.findall(r"rank 0 has (\d+) atoms, (\d+) rows of other ranks", log)
    (number, *_) = re.findall(r"^Loop time of .* with (\d+) atoms", log, re.MULTILINE)
    own, others = map(int, found[-1] if found else (number, 0))
    neigh = re.findall(r"^Neigh\s*\|\s*\S+\s*\|\s*\S+\s*\|\s*(\S+)", log, re.MULTILINE)
    builds = re.findall(r"^Neighbor list builds = (\d+)", log, re.MULTILINE)
    style_lists = re.findall(r"lists ([\d.]+) s, results", log)  # ours, of the same builds
    count = int(builds[0])
    # Of the first run: LAMMPS' part of each build, and the style's, which has one more at the start.
    lists = float(neigh[0]) / count + float(style_lists[0]) / (count + 1)
    return Run(
        own,
        others,
        float(np.quantile(times, 0.1)),  # of what else the machine does a step knows nothing
        1024.0 * max(float(file.read_text()) for file in folder.glob("peak.*")),
        lists,
        int(builds[-1]) / steps,
    )
