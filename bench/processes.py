"""What a step of a training takes in one and in two processes of this machine: `python bench/processes.py`.

Runs take turns, so that what else the machine does meets all alike. In a network of its own (`unshare -n`, loopback
up) the bytes are those of the training alone.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import ase.io
import jax
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from so3krates.cli_train import run_config
from so3krates.model.so3lr import initial_params

ATOMS, FRAMES, BATCH = 96, 26, 4
BLOCK = {"balanced": 20, "gan": 10}  # steps between validations
BLOCKS = 3  # that are timed, after the first, in which programs are compiled
SPRING = 8.0  # eV/A^2, of the labels: of a step's time they change nothing
TICKS = os.sysconf("SC_CLK_TCK")
# Name, and what stands before and behind the command.
WAYS: dict[str, tuple[list[str], list[str]]] = {
    "1 process, 1 core": (["taskset", "-c", "0"], []),
    "1 process, 2 cores": ([], []),
    "2 processes, 1 core each": ([], ["--processes", "2"]),
}


class Step(NamedTuple):
    """Of one step: time of the clock and of processors (s), bytes that went through loopback."""

    wall: float
    processor: float
    bytes: float


def write_frames(path: Path) -> None:
    """Crystals of GaN whose atoms are on springs."""
    random, frames = np.random.default_rng(0), []
    for _ in range(FRAMES):
        atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19, orthorhombic=True).repeat((3, 2, 2))
        assert isinstance(atoms, Atoms) and len(atoms) == ATOMS
        moved = random.normal(0.0, 0.08, (len(atoms), 3))
        atoms.positions += moved
        results = {"energy": SPRING / 2 * float((moved**2).sum()), "forces": -SPRING * moved}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    ase.io.write(path, frames)


def settings(preset: str) -> list[str]:
    """Of all runs of a preset, as options of `so3krates train`."""
    values = {
        "data.n_train": FRAMES - 2,
        "data.n_valid": 2,
        "training.batch_size": BATCH,
        "training.epochs": 100000,
        "training.eval_every": BLOCK[preset],
        "training.patience": 0,
        "training.stress_weight": 0,
        "training.checkpoint_minutes": 600,
    }
    return [f"--set={key}={value}" for key, value in values.items()]


def weights(preset: str, data: Path) -> int:
    """Numbers that a preset's network learns."""
    config = run_config(None, preset, data, ["model.radial_start=1.5"])
    return sum(np.size(leaf) for leaf in jax.tree.leaves(initial_params(config.model, 0)))


def measure(preset: str, way: str, data: Path, folder: Path) -> Step:
    """A run that is ended when all blocks are done. Raises RuntimeError where it ends by itself."""
    before, behind = WAYS[way]
    command = [*before, sys.executable, "-m", "so3krates.cli", "train", "--preset", preset, "--data", str(data)]
    command += [*settings(preset), "--no-physics", "-o", str(folder / "model"), *behind]
    metrics, marks = folder / "model" / "metrics.csv", []
    with (folder / "said").open("w") as said:
        started = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        try:
            while len(marks) < BLOCKS + 1:
                if started.poll() is not None:
                    raise RuntimeError(f"{way} ended: {(folder / 'said').read_text()[-1000:]}")
                time.sleep(0.02)
                if metrics.is_file() and len(rows(metrics)) > len(marks):
                    marks.append((processor_time(started.pid), loopback()))
        finally:
            for process in family(started.pid)[::-1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            started.wait()
    seconds = [float(row["seconds"]) for row in rows(metrics)]
    steps = BLOCKS * BLOCK[preset]
    wall = float(np.diff(seconds).min()) / BLOCK[preset]
    first, last = marks[0], marks[-1]
    return Step(wall, (last[0] - first[0]) / steps, (last[1] - first[1]) / steps)


def rows(metrics: Path) -> list[dict[str, str]]:
    """Whole lines of a table that grows."""
    text = metrics.read_text()
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def family(pid: int) -> list[int]:
    """A process and all that come from it."""
    found = [pid]
    for process in found:
        children = Path(f"/proc/{process}/task/{process}/children")
        found += map(int, children.read_text().split()) if children.exists() else []
    return found


def processor_time(pid: int) -> float:
    """Of a process and all that come from it, s."""
    total = 0
    for process in family(pid):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def loopback() -> int:
    """Bytes that this network's loopback has carried."""
    (line,) = (line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", action="append", choices=sorted(BLOCK), help="all, if not given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data.extxyz"
        write_frames(data)
        print("| preset | way | ms a step, fastest block: least, median of runs | processor ms a step | kB a step |")
        print("|---|---|---|---|---|")
        for preset in arguments.preset or BLOCK:
            found: dict[str, list[Step]] = {way: [] for way in WAYS}
            for turn in range(arguments.rounds):
                for number, way in enumerate(WAYS):
                    folder = Path(scratch) / f"{preset}-{turn}-{number}"
                    folder.mkdir()
                    found[way].append(measure(preset, way, data, folder))
            print(f"{preset}: {weights(preset, data)} weights of 4 bytes", flush=True)
            for way, steps in found.items():
                walls = sorted(1e3 * step.wall for step in steps)
                processor, sent = (statistics.median(column) for column in list(zip(*steps, strict=True))[1:])
                times = f"{walls[0]:.1f}, {statistics.median(walls):.1f}"
                print(f"| {preset} | {way} | {times} | {1e3 * processor:.0f} | {sent / 1e3:.0f} |", flush=True)


if __name__ == "__main__":
    main()
