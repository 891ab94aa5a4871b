"""The study of molten NaCl: pool, selections, trainings, molecular dynamics, table and figure (README.md).

Every step goes on where it was stopped: python study.py pool | select | train | unsure | dynamics | report
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from so3krates.training import Properties, reference

HERE = Path(__file__).parent
TEMPERATURES = (1200, 1400, 1800, 2500, 3500)  # K
DENSITIES = (1.1, 1.25, 1.38, 1.6, 1.8)  # g/cm^3
TARGET = (1400, 1.38)  # the melt that the potentials are for
POOL_FRAMES, TEST_FRAMES, TARGET_FRAMES = 160, 20, 100  # of each state; of the target in the test set
LABELS = ("random", "energy", "force", "atomic-energy")  # choose by labels, or by nothing
UNSURE = ("uncertainty", "committee")  # choose by potentials that are trained on a start of random frames
METHODS = LABELS + UNSURE
SIZES = (128, 256)
START, START_VALID = 128, 32  # random frames of a start that train, and further ones that validate
SEEDS = (0, 1, 2)  # of the choice and of the weights
NEAR = 3.0  # A; g of Na-Na is below 0.2 there
FORCES = (0, 1, 2, 3, 4, 5)  # eV/A, where the bins of the figure begin; the last is open
STEPS = 4096  # of every training


def so3krates(*words: object) -> None:
    """Run a command of this package."""
    subprocess.run(["so3krates", *map(str, words)], check=True)


def lammps(deck: str, log: Path | str = "none", check: bool = True, **variables: object) -> None:
    """Run a deck of this folder here."""
    words = [word for name, value in variables.items() for word in ("-var", name, str(value))]
    words = ["-in", HERE / deck, "-screen", "none", "-log", log, "-var", "here", HERE, *words]
    subprocess.run(["lmp", *words], check=check)


def read_dump(path: Path, temperature: float, density: float) -> list[Atoms]:
    """Frames of in.pool with labels: energy, forces, and the atoms' energies in the array `atomic_energies`."""
    frames = []
    for atoms in ase.io.iread(path, format="lammps-dump-text", index=":", specorder=["Na", "Cl"]):
        forces, energies = atoms.get_forces(), atoms.arrays["c_energy"].ravel()
        frame = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=True)
        frame.info = {"temperature_K": temperature, "density": density}
        frame.arrays["atomic_energies"] = energies
        frame.calc = SinglePointCalculator(frame, energy=energies.sum(), forces=forces)
        frames.append(frame)
    return frames


def pool(folder: Path) -> None:
    """pool.extxyz, target.extxyz (the melt at 1400 K) and wide.extxyz (all states): other seeds for the tests."""
    sets: dict[str, list[Atoms]] = {"pool": [], "target": [], "wide": []}
    for number, state in enumerate(itertools.product(TEMPERATURES, DENSITIES)):
        wanted = {"pool": POOL_FRAMES, "wide": TEST_FRAMES, "target": TARGET_FRAMES if state == TARGET else 0}
        for seed, (name, frames) in enumerate(wanted.items(), 1):
            if frames:
                dump = folder / "frames.dump"
                values = {"temperature": state[0], "density": state[1], "seed": 10 * number + seed}
                lammps("in.pool", **values, frames=frames, dump=dump)
                sets[name] += read_dump(dump, *state)
    for name, frames in sets.items():
        ase.io.write(folder / f"{name}.extxyz", frames, format="extxyz")
        print(f"{name}.extxyz: {len(frames)} frames")


def select(folder: Path) -> None:
    """The selections of the largest size; their first frames are the smaller ones."""
    for seed, method in itertools.product(SEEDS, LABELS):
        chosen(folder, folder / "pool.extxyz", f"{method}-{seed}", max(SIZES), "--by", method, "--seed", seed)


def chosen(folder: Path, pool: Path, name: str, number: int, *words: object) -> None:
    """A selection of a pool as NAME.extxyz, unless it is there."""
    if not (folder / f"{name}.extxyz").exists():
        so3krates("select", pool, "-n", number, *words, "-o", folder / f"{name}.extxyz")


def train(folder: Path) -> None:
    """A potential of every size, seed and method, each with the same number of steps."""
    for size, seed, method in itertools.product(SIZES, SEEDS, LABELS):
        frames = ase.io.read(folder / f"{method}-{seed}.extxyz", f":{size}")
        potential(folder / name_of(method, size, seed), frames, size, seed)


def unsure(folder: Path) -> None:
    """Potentials of a random start and of the frames besides of which those of the starts are least sure."""
    starts = [folder / f"start-{seed}" for seed in SEEDS]
    for seed, start in zip(SEEDS, starts, strict=True):
        frames = ase.io.read(folder / f"random-{seed}.extxyz", f":{START + START_VALID}")
        potential(start, frames, START, seed, valid=START_VALID)
    for seed, method in itertools.product(SEEDS, UNSURE):
        begun = ase.io.read(folder / f"random-{seed}.extxyz", f":{START}")
        taken = {atoms.info["pool_index"] for atoms in begun}
        rest = folder / "rest.extxyz"
        pool = [atoms for n, atoms in enumerate(ase.io.iread(folder / "pool.extxyz")) if n not in taken]
        ase.io.write(rest, pool, format="extxyz")
        models = starts if method == "committee" else [starts[seed]]
        words = [word for model in models for word in ("--model", model)]
        chosen(folder, rest, f"{method}-{seed}", max(SIZES) - START, "--by", method, *words)
        for size in SIZES[1:]:
            more = ase.io.read(folder / f"{method}-{seed}.extxyz", f":{size - START}")
            potential(folder / name_of(method, size, seed), begun + more, size, seed)


def potential(model: Path, frames: list[Atoms], size: int, seed: int, valid: int = 0) -> None:
    """A training that goes on where it was stopped; a start's first frames need not be those that train."""
    if trained(model):
        return
    data = model.with_suffix(".extxyz")
    ase.io.write(data, frames, format="extxyz")
    settings = {"data.n_train": size, "data.n_valid": valid, "training.epochs": STEPS // size}
    settings |= {"training.seed_model": seed, "training.seed_training": seed}
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    begun = ["--resume"] if model.exists() else []
    so3krates("train", HERE / "nacl.toml", "--data", data, "-o", model, *begun, *options)


def trained(model: Path) -> bool:
    """Whether a training came to its end, which is its report; weights lie there earlier."""
    return (model / "report" / "report.html").exists()


def dynamics(folder: Path) -> None:
    """Pair distances of the melt: the reference, again with another start, with its Coulomb whole, the potentials."""
    melt(folder, "reference")
    melt(folder, "reference-again", seed=2)
    melt(folder, "long", interaction="long")
    for size, method in itertools.product(SIZES, METHODS):
        name = name_of(method, size, SEEDS[0])
        if trained(folder / name):
            melt(folder, name, interaction="so3krates", potential=bundle(folder, name))


def name_of(method: str, size: int, seed: int) -> str:
    """Name of a model."""
    return f"{method}-{size}-{seed}"


def bundle(folder: Path, name: str) -> Path:
    """The exported model."""
    path = folder / f"{name}.so3k"
    if not path.exists():
        so3krates("export", folder / name, "-o", path)
    return path


def melt(folder: Path, name: str, **variables: object) -> None:
    """One run of in.melt, unless it has ended already; a run that breaks down is the potential's result."""
    log = folder / f"log.{name}"
    if not log.exists() or not any(words in log.read_text() for words in ("Total wall time", "ERROR")):
        lammps("in.melt", file=folder / name, log=log, check=False, **variables)


def rdf(path: Path) -> np.ndarray:
    """Distance (A) and g of Na-Na, Na-Cl, Cl-Cl (rows, 4), the last average of a file of in.melt."""
    rows = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    return np.array([row for row in rows if len(row) > 2], float)[:, [1, 2, 4, 6]]


def report(folder: Path) -> None:
    """Errors of the models on target.extxyz and wide.extxyz, and Na-Na in the melt: results.json, nacl.png, tables."""
    from so3krates.data import read_frames
    from so3krates.predictions import predictions_of

    tests = {name: read_frames(folder / f"{name}.extxyz") for name in ("target", "wide")}
    labels = {name: reference(frames) for name, frames in tests.items()}
    store = folder / "results.json"
    results = json.loads(store.read_text()) if store.exists() else {}
    for size, seed, method in itertools.product(SIZES, SEEDS, METHODS):
        name = name_of(method, size, seed)
        if name not in results and trained(folder / name):
            path = bundle(folder, name)
            results[name] = {test: errors(predictions_of(path, tests[test]), labels[test]) for test in tests}
            store.write_text(json.dumps(results, indent=1) + "\n")
    columns = list(itertools.product(tests, ("rms", "largest", "energy")))
    print("|", " | ".join(["frames", "chosen by", *(f"{test}: {key}" for test, key in columns)]), "|")
    for size, method in itertools.product(SIZES, METHODS):
        found = [results[name_of(method, size, seed)] for seed in SEEDS if name_of(method, size, seed) in results]
        if found:
            cells = [spread([one[test][key] for one in found]) for test, key in columns]
            print("|", " | ".join([str(size), method, *cells]), "|")
    curves = {path.stem: rdf(path) for path in sorted(folder.glob("*.rdf"))}
    for name, curve in curves.items():
        off = np.abs(curve - curves["reference"])[curve[:, 0] < NEAR, 1].max()
        first = curve[curve[:, 1] > 0, 0].min()
        print(f"{name}: Na-Na from {first:.2f} A, g below {NEAR:g} A off by {off:.4f} at most")
    figure(folder / "nacl.png", results, curves)


def spread(values: list[float]) -> str:
    """Mean, and least and largest in brackets."""
    return f"{np.mean(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def errors(found: Properties, labels: Properties) -> dict[str, object]:
    """Rms over force components, largest error of an atom's force (meV/A), energy without its mean (meV/atom)."""
    expected = np.concatenate(labels.forces)
    error = np.concatenate(found.forces) - expected
    bins = np.minimum(np.linalg.norm(expected, axis=1).astype(int), len(FORCES) - 1)
    offset = (found.energies - labels.energies) / found.atoms
    return {
        "rms": 1e3 * float(np.sqrt(np.mean(error**2))),
        "largest": 1e3 * float(np.linalg.norm(error, axis=1).max()),
        "energy": 1e3 * float(offset.std()),
        "by_force": [1e3 * float(np.sqrt(np.mean(error[bins == k] ** 2))) for k in np.unique(bins)],
    }


def figure(path: Path, results: dict[str, dict], curves: dict[str, np.ndarray]) -> None:
    """Force errors by the size of the force (mean, least and most of the seeds), and g of Na-Na at short range."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shape, axes = plt.subplots(2, len(SIZES), figsize=(9, 6.4), layout="constrained", sharey="row")
    for column, size in enumerate(SIZES):
        above, below = axes[:, column]
        above.set(title=f"{size} frames", xlabel="force (eV/Å)", ylabel="rms error (meV/Å)", yscale="log")
        below.set(xlabel="Na-Na distance (Å)", ylabel="g", yscale="log", xlim=(2.2, 3.6), ylim=(3e-4, 2))
        for method in METHODS:
            names = [name_of(method, size, seed) for seed in SEEDS]
            bins = [results[name]["wide"]["by_force"] for name in names if name in results]
            if bins:
                means = np.mean(bins, axis=0)
                reach = [means - np.min(bins, axis=0), np.max(bins, axis=0) - means]
                places = np.array(FORCES[: len(means)]) + 0.3 + 0.08 * METHODS.index(method)
                above.errorbar(places, means, reach, fmt="o-", markersize=3, capsize=2, linewidth=1, label=method)
            if names[0] in curves:
                below.plot(curves[names[0]][:, 0], curves[names[0]][:, 1], label=method)
        below.plot(curves["reference"][:, 0], curves["reference"][:, 1], "k--", label="reference")
        above.yaxis.set_major_formatter("{x:g}")
        above.yaxis.set_minor_formatter("{x:g}")
        above.legend(fontsize=8)
        below.legend(fontsize=8)
    shape.savefig(path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["pool", "select", "train", "unsure", "dynamics", "report"])
    parser.add_argument("--folder", type=Path, default=Path(), help="where everything is written")
    arguments = parser.parse_args()
    globals()[arguments.step](arguments.folder)
