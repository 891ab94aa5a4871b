"""Ways of saying how wrong forces are, for molten NaCl (README.md; docs/uncertainty.md has the table).

After study.py unsure: python uncertainty.py train | passes (the potential with dropout), then table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ase.io
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from so3krates.cli import app
from so3krates.data import read_frames
from so3krates.model import network
from so3krates.predictions import predictions_of
from so3krates.storage import Model
from so3krates.training import evaluate, pair_potential, reference
from so3krates.uncertainty import calibration
from study import HERE, SEEDS, START, START_VALID, STEPS

LEFT_OUT = 0.1  # share of the last features
PASSES = 8
SMALLEST = 1e-9  # eV/A
MILLI = 1000.0
Array = NDArray[np.float64]


class Dropout:
    """Leaves out features of the last layer, the same for all atoms, in this process's networks from now on.

    In a training others at every step; else those of `seed`, one network for all frames.
    """

    def __init__(self, training: bool) -> None:
        self.training, self.seed = training, 0
        kernels = pair_potential.applied

        def energies(module: network.So3krates, graph: Any) -> jax.Array:
            return module.readout(self.dropped(module.layered(graph)[0]))[..., 0]

        def applied(module: nn.Module, params: Any, x: jax.Array, *rest: Any, **words: Any) -> jax.Array:
            is_readout = isinstance(module, pair_potential.MLP) and not rest
            return kernels(module, params, self.dropped(x) if is_readout else x, *rest, **words)

        network.So3krates.__call__ = energies  # type: ignore[method-assign]
        pair_potential.applied = applied  # type: ignore[attr-defined]

    def dropped(self, features: jax.Array) -> jax.Array:
        """Features (atoms, F) without those left out, the others larger."""
        key = jax.random.PRNGKey(self.seed)
        if self.training:  # a batch's features serve as its random number
            total = jnp.asarray(jax.lax.stop_gradient(features), jnp.float32).sum()
            key = jax.random.fold_in(key, jax.lax.bitcast_convert_type(total, jnp.int32))
        kept = jax.random.bernoulli(key, 1 - LEFT_OUT, (features.shape[-1],))
        return jnp.where(kept, features / (1 - LEFT_OUT), 0.0)


def train(folder: Path) -> None:
    """The potential `dropout`, of the frames and steps of start-0."""
    data = folder / "start-0.extxyz"
    settings = {"data.n_train": START, "data.n_valid": START_VALID, "training.epochs": STEPS // START}
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    Dropout(training=True)
    app(["train", str(HERE / "nacl.toml"), "--data", str(data), "-o", str(folder / "dropout"), *options])


def passes(folder: Path) -> None:
    """Forces of its subnetworks on wide.extxyz: dropout.npy, (passes, atoms of all frames, 3), eV/A."""
    frames = read_frames(folder / "wide.extxyz")
    model, dropout = Model.load(folder / "dropout"), Dropout(training=False)
    found = []
    for dropout.seed in range(1, PASSES + 1):
        jax.clear_caches()  # the seed is a constant of the programs
        found.append(np.concatenate(evaluate(model, frames).forces))
    np.save(folder / "dropout.npy", found)


def table(folder: Path, families: list[Path]) -> None:
    """Rows of docs/uncertainty.md; `families` are answers of so3krates compare, forces on wide.extxyz."""
    frames = read_frames(folder / "wide.extxyz")
    labels = np.concatenate(reference(frames).forces)
    ends = np.cumsum([len(atoms) for atoms in frames])[:-1]

    def row(way: str, sigma: Array, forces: Array) -> None:
        errors = forces - labels
        factor = np.sqrt(np.mean(np.square(errors / sigma[:, None])))
        plain, scaled = (calibration(np.split(k * sigma, ends), np.split(errors, ends)) for k in (1.0, factor))
        rmse = MILLI * np.sqrt(np.mean(np.square(errors)))
        numbers = (plain.miscalibration, scaled.miscalibration, plain.rank_atoms, plain.rank_frames)
        print(f"| {way} | {rmse:.1f} | {plain.ratio:.2f} |", " | ".join(f"{number:.3f}" for number in numbers), "|")

    print("| way | meV/Å | error / uncertainty | miscalibration | with the factor | rank: atoms | frames |")
    print("|---|---|---|---|---|---|---|")
    starts = [predictions_of(folder / f"start-{seed}", frames) for seed in SEEDS]
    members = np.array([np.concatenate(start.forces) for start in starts])
    for seed, start, forces in zip(SEEDS, starts, members, strict=True):
        assert start.uncertainties is not None
        row(f"uncertainty of start-{seed}", np.concatenate(start.uncertainties), forces)
    row("committee, its mean", spread(members), members.mean(axis=0))
    row("committee, its first", spread(members), members[0])
    if (folder / "dropout.npy").exists():
        subnetworks = np.load(folder / "dropout.npy")
        row(f"dropout, mean of {PASSES}", spread(subnetworks), subnetworks.mean(axis=0))
    others = [members[0]]
    for path in families:
        answer: Any = ase.io.read(path, ":")
        others.append(np.concatenate([atoms.get_forces() for atoms in answer]))
        row(f"start-0 and {len(others) - 1} of other families", spread(np.array(others)), members[0])


def spread(forces: Array) -> Array:
    """Standard deviation of an atom's force (eV/A) over potentials, root mean square of its components."""
    return np.sqrt(np.mean(np.var(forces, axis=0, ddof=1), axis=1)) + SMALLEST


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["train", "passes", "table"])
    parser.add_argument("--folder", type=Path, default=Path(), help="where study.py wrote its files")
    parser.add_argument("--families", type=Path, nargs="*", default=[], help="answer.extxyz of trainings of compare")
    arguments = parser.parse_args()
    if arguments.step == "table":
        table(arguments.folder, arguments.families)
    else:
        globals()[arguments.step](arguments.folder)
