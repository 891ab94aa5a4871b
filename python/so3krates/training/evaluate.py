"""A model's answers for frames, in batches, through the Python path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from ase import Atoms

from so3krates.data import (
    Buckets,
    FrameGraph,
    Targets,
    charge_labels,
    collate,
    frame_graphs,
    labels,
    sizes_of,
    terms_of_atoms,
    total_shift,
    usable_dipole,
)
from so3krates.model.config import ModelConfig
from so3krates.model.long_range import Dispersion
from so3krates.model.network import Graph, Params, environments
from so3krates.model.potential import Batch, edge_vectors, predict
from so3krates.storage import Model

from .pair_potential import predict_pairs

# Energies, forces and strain gradients of a batch, compiled; and those of a network of the architecture so3lr.
predict_batch = jax.jit(predict, static_argnums=0)
predict_systems = jax.jit(predict_pairs, static_argnums=(0, 3, 4))


class Properties(NamedTuple):
    """Energies, forces and stresses of frames, predicted or labels; float64, NaN where there is none."""

    atoms: np.ndarray  # (M,) atoms of each frame
    energies: np.ndarray  # (M,) eV, shifts included
    forces: list[np.ndarray]  # M times (n, 3) eV/A
    stresses: np.ndarray  # (M, 3, 3) eV/A^3, +dE/d(strain)/V; NaN unless periodic in three directions
    atom_energies: list[np.ndarray] | None = None  # M times (n,) eV, shifts included; of predictions only
    uncertainties: list[np.ndarray] | None = None  # M times (n,) eV/A, of a component of the force; where there are any
    charges: list[np.ndarray] | None = None  # M times (n,) e; predictions of a potential that has them, all labels
    dipoles: np.ndarray | None = None  # (M, 3) e A, NaN where they are not defined
    ratios: list[np.ndarray] | None = None  # M times (n,), Hirshfeld's; the same as of charges


def evaluate(
    model: Model,
    frames: Sequence[Atoms],
    batch_size: int = 8,
    float64: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Properties:
    """Predictions for frames, in their order.

    The network runs in one precision, energy shifts and terms are added in float64. `on_progress` is called with the
    number of frames done. Raises DataError for an element that the model does not know, and for a total charge and
    multiplicity that a frame cannot have.
    """
    dtype = precision(float64)
    graphs = frame_graphs(frames, model.config.cutoff, model.energy_shifts, read_labels=False, reach=model.long_reach)
    params = jax.tree.map(lambda p: np.asarray(p, dtype), model.params)
    energies = np.zeros(len(frames))
    forces: list[np.ndarray] = [np.zeros((0, 3))] * len(frames)
    stresses = np.full((len(frames), 3, 3), np.nan)
    atom_energies: list[np.ndarray] = [np.zeros(0)] * len(frames)
    charges, dipoles, ratios = list(atom_energies), np.full((len(frames), 3), np.nan), list(atom_energies)
    done = 0
    for indices, batch, _ in ordered_batches(graphs, batch_size, dtype):
        found = (
            predict_batch(model.config, params, batch)
            if model.long_reach is None
            else predict_systems(model.config, params, batch, None, model.interactions)
        )
        answer = jax.tree.map(lambda x: np.asarray(x, np.float64), found)
        start = 0
        for slot, index in enumerate(indices):
            atoms = frames[index]
            rows = slice(start, start + len(atoms))
            added = terms_of_atoms(model.terms, atoms)
            energies[index] = answer.energies[slot] + total_shift(atoms.numbers, model.energy_shifts) + added.energy
            forces[index] = answer.forces[rows] + added.forces
            shifts = [model.energy_shifts[symbol] for symbol in atoms.symbols]
            atom_energies[index] = answer.atom_energies[rows] + shifts + added.atom_energies
            if atoms.pbc.all():
                stresses[index] = (answer.strain_gradients[slot] + added.strain_gradient) / graphs[index].volume
            if answer.charges is not None:
                charges[index], ratios[index] = answer.charges[rows], answer.ratios[rows]
                if usable_dipole(atoms, graphs[index].system.state.charge):
                    dipoles[index] = answer.dipoles[slot]
            start = rows.stop
        done += len(indices)
        if on_progress is not None:
            on_progress(done)
    found = Properties(np.array([len(a) for a in frames]), energies, forces, stresses, atom_energies)
    if model.long_reach is None:
        return found
    has_ratios = any(isinstance(part, Dispersion) for part in model.interactions)  # else they were never trained
    return found._replace(charges=charges, dipoles=dipoles, ratios=ratios if has_ratios else None)


@partial(jax.jit, static_argnums=0)
def _environments(config: ModelConfig, params: Params, batch: Batch) -> jax.Array:
    vectors = edge_vectors(batch, batch.positions, batch.cells)
    return environments(config, params, Graph(batch.species, batch.neighbours, vectors, batch.mask))


def environments_of(model: Model, frames: Sequence[Atoms], batch_size: int = 8) -> list[np.ndarray]:
    """Features and invariants of the atoms of each frame after the last layer, (n, F + degrees), in float32."""
    graphs = frame_graphs(frames, model.config.cutoff, model.energy_shifts, read_labels=False)
    params = jax.tree.map(lambda p: np.asarray(p, np.float32), model.params)
    found: list[np.ndarray] = [np.zeros((0, 0))] * len(frames)
    for indices, batch, _ in ordered_batches(graphs, batch_size, np.float32):
        rows = np.asarray(_environments(model.config, params, batch), np.float64)
        start = 0
        for index in indices:
            found[index] = rows[start : start + len(frames[index])]
            start += len(frames[index])
    return found


def uncertainties_of(model: Model, frames: Sequence[Atoms], batch_size: int = 8) -> list[np.ndarray] | None:
    """Of the atoms of each frame, (n,) eV/A; None where the model has none."""
    if model.uncertainty is None:
        return None
    return [
        model.uncertainty.uncertainties(rows, elements_of(model, [atoms]))
        for atoms, rows in zip(frames, environments_of(model, frames, batch_size), strict=True)
    ]


def elements_of(model: Model, frames: Sequence[Atoms]) -> np.ndarray:
    """Indices into the model's elements of all atoms."""
    index = {symbol: k for k, symbol in enumerate(model.elements)}
    return np.array([index[symbol] for atoms in frames for symbol in atoms.symbols], int)


def reference(frames: Sequence[Atoms]) -> Properties:
    """The labels of frames in the form of predictions."""
    found = [labels(atoms, where=f"frame {n}") for n, atoms in enumerate(frames)]
    charges, dipoles, ratios = zip(*map(charge_labels, frames), strict=True) if frames else ((), (), ())
    return Properties(
        np.array([len(a) for a in frames]),
        np.array([f.energy for f in found]),
        [f.forces for f in found],
        np.array([f.stress for f in found]).reshape(-1, 3, 3),
        charges=list(charges),
        dipoles=np.array(dipoles).reshape(-1, 3),
        ratios=list(ratios),
    )


def ordered_batches(
    graphs: Sequence[FrameGraph], batch_size: int, dtype: type, share: tuple[int, int] = (0, 1), times: float = 1.0
) -> Iterator[tuple[np.ndarray, Batch, Targets]]:
    """Every graph once, as (indices, batch, targets); frames of like size share a batch, to pad little.

    share: (k, n), only the k-th, (k + n)-th, ... of the batches, counted from 0; times: how often they will be asked
    for.
    """
    if len(graphs) == 0:
        return
    order = np.argsort(sizes_of(graphs)[0], kind="stable")
    # Parts of nearly equal length take fewer shapes than full ones and a remainder.
    parts = np.array_split(order, -(-len(graphs) // min(batch_size, len(graphs))))
    buckets = Buckets(graphs, batch_size, parts, times)
    for indices in parts[share[0] :: share[1]]:
        yield indices, *collate([graphs[i] for i in indices], buckets.shape(indices), dtype)


def precision(float64: bool) -> type:
    """The numpy type of a run. Raises RuntimeError where float64 is wanted and JAX would round it away."""
    if float64 and not jax.config.values["jax_enable_x64"]:
        raise RuntimeError(
            'float64 = true needs JAX in 64 bits: call jax.config.update("jax_enable_x64", True) before anything '
            "is computed (the so3krates command does), or set JAX_ENABLE_X64=1"
        )
    return np.float64 if float64 else np.float32
