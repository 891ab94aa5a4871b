"""SO3LR fine-tuned to GFN2-xTB: so3lr.py labels FOLDER makes the frames (tblite), so3lr.py train FOLDER the model.

Its table is in docs/so3lr.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

# Solute, its total charge (e), and the molecules of water about it.
SYSTEMS = (("methylamine", 0, 1), ("formate", -1, 2))
TEMPERATURE = 400  # K
TIMESTEP, BETWEEN, EQUILIBRATION = 0.5, 100, 1000  # fs, steps between frames, steps before the first
FRAMES = {"train": 50, "valid": 10, "test": 100}  # of all systems together, each set of a trajectory of its own
SIZE = 20  # frames that train


def solvated(name: str, charge: int, waters: int, random: np.random.Generator) -> Atoms:
    """A solute with molecules of water about it, at random places that are neither too near nor too far."""
    atoms = molecule("H3CNH2" if name == "methylamine" else "HCOOH")
    if name == "formate":
        del atoms[next(k for k in range(len(atoms)) if atoms.symbols[k] == "H" and bonded_to(atoms, k) == "O")]
    for _ in range(waters):
        while True:
            one = molecule("H2O")
            one.rotate(random.uniform(0, 360), random.normal(size=3))
            place = random.normal(size=3)
            one.translate(random.uniform(3.0, 4.5) * place / np.linalg.norm(place))
            apart = np.linalg.norm(one.positions[:, None] - atoms.positions, axis=-1).min()
            if 1.7 < apart < 2.6:
                break
        atoms += one
    return atoms


def bonded_to(atoms: Atoms, atom: int) -> str:
    """The element nearest to an atom."""
    distances = atoms.get_distances(atom, range(len(atoms)))
    return str(atoms.symbols[int(np.argsort(distances)[1])])


def labels(folder: Path) -> None:
    """Frames of molecular dynamics by GFN2-xTB, with its energies and forces."""
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    from tblite.ase import TBLite

    for seed, (part, count) in enumerate(FRAMES.items()):
        frames = []
        for number, (name, charge, waters) in enumerate(SYSTEMS):
            random = np.random.default_rng([seed, number])
            atoms = solvated(name, charge, waters, random)
            atoms.calc = TBLite(method="GFN2-xTB", charge=charge, verbosity=0)
            MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE, rng=random)
            run = Langevin(atoms, TIMESTEP * units.fs, temperature_K=TEMPERATURE, friction=0.02 / units.fs, rng=random)
            run.run(EQUILIBRATION)
            for _ in range(count // len(SYSTEMS)):
                run.run(BETWEEN)
                frame = Atoms(atoms.numbers, atoms.positions, info={"charge": charge, "config_type": name})
                found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
                frame.calc = SinglePointCalculator(frame, **found)
                frames.append(frame)
        write(folder / f"{part}.extxyz", [frames[k] for k in np.random.default_rng(0).permutation(len(frames))])


def train(folder: Path, steps: int) -> None:
    """A model that goes on from SO3LR, and the errors of both."""
    errors(folder, "so3lr", "as it is")
    first, model = folder / f"train-{SIZE}.extxyz", folder / f"tuned-{SIZE}"
    write(first, read(folder / "train.extxyz", f":{SIZE}"))
    settings = {"data.train_file": first, "data.valid_file": folder / "valid.extxyz", "training.steps": steps}
    words = ["so3krates", "train", "--from", "so3lr", "--preset", "fast", "-o", model, "--no-physics"]
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    used = processor_time()
    subprocess.run(list(map(str, words)), check=True)
    errors(folder, model, f"{processor_time() - used:.0f} s of processor")


def processor_time() -> float:
    found = os.times()
    return found.children_user + found.children_system


def errors(folder: Path, model: str | Path, said: str) -> None:
    """Prints the errors of a model on the test frames, of energies without the mean of each system."""
    from so3krates.predictions import predictions_of

    frames = read(folder / "test.extxyz", ":")
    found = predictions_of(model, frames)
    kinds = np.array([atoms.info["config_type"] for atoms in frames])
    off = np.array([(e - a.get_potential_energy()) / len(a) for e, a in zip(found.energies, frames, strict=True)])
    forces = np.array([np.sqrt(np.mean((f - a.get_forces()) ** 2)) for f, a in zip(found.forces, frames, strict=True)])
    print(f"{Path(model).name} ({said}), meV/atom and meV/A:")
    for kind in dict.fromkeys(kinds):
        own = kinds == kind
        print(f"  {kind}: {1000 * off[own].std():.2f}, {1000 * np.sqrt(np.mean(forces[own] ** 2)):.1f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["labels", "train"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=500, help="of fine-tuning")
    arguments = parser.parse_args()
    started = time.perf_counter()
    if arguments.what == "labels":
        labels(arguments.folder)
    else:
        train(arguments.folder, arguments.steps)
    print(f"{time.perf_counter() - started:.0f} s")
