"""How many frames another level of theory needs: from nothing, and from a model of the first level.

    python study.py FOLDER                   trains; results are lines of FOLDER/results.jsonl
    python study.py FOLDER --figure OUT.png  draws these, and prints them as a table

Teachers are cheap, so that truth is free: the GaN potential of examples/models stands for the first functional ("old"),
and for the second one ("new") its surface with lengths 1 % larger, energies 5 % stiffer, and a further interaction of
Ga with N. A run that was stopped goes on where it was. Those of docs/finetuning.md lie beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from so3krates.calculator import So3kratesCalculator
from so3krates.data import Labels, with_labels
from so3krates.model.config import ModelConfig
from so3krates.sampling.harmonic import ThermalDisplacements, force_constants
from so3krates.storage import Model
from so3krates.training import (
    DataConfig,
    FineTuningConfig,
    RunConfig,
    TrainingConfig,
    error_table,
    evaluate,
    reference,
    train,
)
from so3krates.training.sources import labelled_by

POTENTIAL = Path(__file__).resolve().parents[1] / "models" / "gan-pbesol.so3k"
LONGER, STIFFER = 1.01, 1.05
PAIR, CENTRE, WIDTH = 0.15, 2.3, 0.4  # eV, A, A of the interaction that is added to pairs of Ga and N
NETWORK = ModelConfig(
    features=32, layers=2, degrees=(1, 2), radial_basis="spline", radial_functions=24, spline_start=1.5
)
COMMON: dict[str, Any] = {
    "batch_size": 1,
    "optimiser": "muon",
    "schedule": "cosine",
    "energy_weight": 0.1,
    "checkpoint_minutes": 1e6,
    "eval_every": 100,
}
SCRATCH_STEPS, TUNED_STEPS = 6000, 2000
TUNED_RATE = 3e-4
SIZES = (30, 100, 10)  # new frames that train
WAYS = {"scratch": "from nothing", "full": "full", "last-layers": "last-layers, 1", "readout": "readout",
        "replay": "full, as many replayed"}  # fmt: skip
RESULTS = "results.jsonl"


def old_level(atoms: Atoms, calculator: So3kratesCalculator) -> Atoms:
    """The structure with labels of the first level."""
    found = calculator.runtime.evaluate(atoms, ["energy", "forces", "stress"])
    return with_labels(atoms.copy(), Labels(found["energy"], found["forces"], found["stress"]))


def new_level(atoms: Atoms, calculator: So3kratesCalculator) -> Atoms:
    """The structure with labels of the second level."""
    shrunk = atoms.copy()
    shrunk.set_cell(atoms.cell.array / LONGER, scale_atoms=True)
    found = calculator.runtime.evaluate(shrunk, ["energy", "forces", "stress"])
    i, j, vectors = neighbor_list("ijD", atoms, CENTRE + 4 * WIDTH)
    mixed = atoms.numbers[i] != atoms.numbers[j]
    i, vectors = i[mixed], vectors[mixed]
    distances = np.linalg.norm(vectors, axis=1)
    pair = PAIR * np.exp(-(((distances - CENTRE) / WIDTH) ** 2))
    pulls = (-2 * (distances - CENTRE) / WIDTH**2 * pair / distances)[:, None] * vectors
    forces = STIFFER / LONGER * found["forces"]
    np.add.at(forces, i, pulls)
    stress = STIFFER * found["stress"] * shrunk.get_volume() + 0.5 * vectors.T @ pulls
    energy = STIFFER * found["energy"] + 0.5 * pair.sum()
    return with_labels(atoms.copy(), Labels(energy, forces, stress / atoms.get_volume()))


def frames_of(cell: Atoms, count: int, hottest: float, seed: int, calculator: So3kratesCalculator) -> list[Atoms]:
    """Cells at 100 K to the hottest temperature and strains of -2 to 4 %."""
    rng = np.random.default_rng(seed)
    thermal = ThermalDisplacements(force_constants(cell, calculator), cell.get_masses())
    frames = []
    for _ in range(count):
        atoms = cell.copy()
        atoms.set_cell(cell.cell.array * (1 + rng.uniform(-0.02, 0.04)), scale_atoms=True)
        atoms.positions += thermal.draw(rng.uniform(100, hottest), rng)
        frames.append(atoms)
    return frames


@dataclasses.dataclass
class Study:
    """Frames of both levels, and where results go."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.results = self.folder / RESULTS
        calculator = So3kratesCalculator(POTENTIAL, threads=1)
        wurtzite = bulk("GaN", "wurtzite", a=3.19, c=5.19, u=0.377).repeat((2, 2, 2))
        zincblende = bulk("GaN", "zincblende", a=4.51, cubic=True).repeat((2, 2, 1))
        cells = frames_of(wurtzite, 550, 900.0, 0, calculator)
        self.old = [old_level(atoms, calculator) for atoms in cells[:300]]
        self.new = [new_level(atoms, calculator) for atoms in cells[300:]]
        cubic = frames_of(zincblende, 80, 300.0, 1, calculator)
        self.cubic = [old_level(atoms, calculator) for atoms in cubic]

    def done(self) -> set[str]:
        """Names of runs whose results are there."""
        if not self.results.is_file():
            return set()
        return {json.loads(line)["name"] for line in self.results.read_text().splitlines()}

    def run(
        self, name: str, config: RunConfig, frames: list[Atoms], tests: dict[str, list[Atoms]], **more: list[Atoms]
    ) -> None:
        """Trains unless it is done; the last ten frames validate."""
        if name in self.done():
            return
        place = self.folder / name
        resume = (place / "run.json").is_file()
        result = train(config, frames[:-10], frames[-10:], place, lambda status: None, resume, **more)
        rows = {key: error_table(evaluate(result.model, some), reference(some)) for key, some in tests.items()}
        errors = {key: [table[row].rmse for row in ("forces", "energy, means removed")] for key, table in rows.items()}
        line = {"name": name, "errors": errors, "steps": result.steps, "seconds": result.seconds}
        with open(self.results, "a") as handle:
            handle.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def start(self) -> Path:
        """The model of the old level."""
        training = TrainingConfig(**COMMON, epochs=45)
        tests = {"old": self.old[250:], "new": self.new[210:]}
        self.run("old", RunConfig(NETWORK, DataConfig(), training), self.old[:250], tests)
        return self.folder / "old"

    def all(self, seeds: int) -> None:
        """Every way and number of frames, seed by seed."""
        model = self.start()
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(200)
            valid, tests = self.new[200:210], {"new": self.new[210:], "old": self.old[250:]}
            cubic = {"new": self.cubic[40:], "old": self.old[250:]}
            shuffled = [self.old[i] for i in np.random.default_rng(seed).permutation(250)]
            for number in SIZES:
                frames = [*(self.new[i] for i in order[:number]), *valid]
                scratch = TrainingConfig(**COMMON, epochs=SCRATCH_STEPS // number, seed_model=seed, seed_training=seed)
                self.run(f"scratch-{number}-{seed}", RunConfig(NETWORK, DataConfig(), scratch), frames, tests)
                for way in ("full", "last-layers", "readout"):
                    config = self.tuned(model, number, seed, strategy=way)
                    self.run(f"{way}-{number}-{seed}", config, frames, tests)
                if number == 30:
                    replay = labelled_by(Model.load(model), shuffled[:number])
                    config = self.tuned(model, 2 * number, seed)
                    self.run(f"replay-{number}-{seed}", config, frames, tests, replay=replay)
                    # Another phase at the old level.
                    new = [*(self.cubic[i] for i in np.random.default_rng(seed).permutation(30)), *self.cubic[30:40]]
                    self.run(f"zincblende-full-{seed}", self.tuned(model, number, seed), new, cubic)
                    self.run(f"zincblende-replay-{seed}", config, new, cubic, replay=replay)

    def tuned(self, model: Path, frames: int, seed: int, **tuning: object) -> RunConfig:
        """A run from the old model over so many frames in each epoch."""
        training = TrainingConfig(
            **COMMON,
            epochs=TUNED_STEPS // frames,
            learning_rate=TUNED_RATE,
            seed_training=seed,
            initial_model=str(model),
        )
        return RunConfig(NETWORK, DataConfig(), training, {}, FineTuningConfig(**tuning))


def figure(folder: Path, path: Path) -> None:
    """Draws RMSE of forces (meV/A) on new frames by their number, and prints all errors: mean (least to most)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]
    errors = {line["name"]: line["errors"] for line in lines}

    def found(name: str, test: str, row: int) -> list[float]:
        """Of each seed: forces (row 0, meV/A) or energies without their mean (1, meV/atom)."""
        return [own[test][row] for run, own in errors.items() if run.rpartition("-")[0] == name]

    for name in dict.fromkeys(name.rpartition("-")[0] or name for name in errors):
        cells = [
            spread(found(name, test, row)) if name != "old" else f"{errors[name][test][row]:.3g}"
            for test in ("new", "old")
            for row in (0, 1)
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    shape, axes = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
    axes.axhline(errors["old"]["new"][0], color="grey", linestyle=":", label="the old model as it is")
    for way, label in WAYS.items():
        sizes = [size for size in sorted(SIZES) if found(f"{way}-{size}", "new", 0)]
        forces = [found(f"{way}-{size}", "new", 0) for size in sizes]
        means = np.array([np.mean(own) for own in forces])
        reach = np.abs(np.array([(min(own), max(own)) for own in forces]).T - means)
        axes.errorbar(sizes, means, reach, fmt="o-", markersize=4, capsize=3, label=label)
    axes.set(xlabel="new frames", ylabel="RMSE of forces (meV/Å)", xscale="log", yscale="log")
    axes.set_xticks(sorted(SIZES), [str(size) for size in sorted(SIZES)])
    axes.set_yticks([30, 50, 100, 150], ["30", "50", "100", "150"])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    shape.savefig(path, dpi=130)


def spread(values: Sequence[float]) -> str:
    """Mean, and least and largest in brackets."""
    return f"{np.mean(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help=f"where runs and their {RESULTS} are")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figure", type=Path, help="draw what is there, and train nothing")
    arguments = parser.parse_args()
    if arguments.figure is not None:
        figure(arguments.folder, arguments.figure)
    else:
        jax.config.update("jax_compilation_cache_dir", str(arguments.folder / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        Study(arguments.folder).all(arguments.seeds)
