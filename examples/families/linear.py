"""Linear models: coefficients of descriptors from energies, forces and stresses, by ridge regression."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from ase import Atoms

PENALTIES = 10.0 ** np.arange(-12, -1.9)  # by the mean square of columns; that which validates best is taken
SEEN = 1e-8  # of the largest column: smaller ones, as of triples that no frame has, get hardly any coefficient
WEIGHTS = {"energy": 1.0, "forces": 1.0, "stress": 0.3}  # of rows, each over the spread of the labels


class Equations(NamedTuple):
    """Of one frame: its descriptors summed over atoms, their derivatives by positions and by strain over the volume."""

    energy: np.ndarray  # (features,)
    forces: np.ndarray  # (3 atoms, features)
    stress: np.ndarray | None  # (6, features), in the order xx yy zz yz xz xy


def ridge(train: Iterable[tuple[Atoms, Equations]], valid: Iterable[tuple[Atoms, Equations]]) -> np.ndarray:
    """Coefficients (features,) of frames' equations: energy = descriptors @ coefficients, and likewise the others."""
    first = [(atoms, equations) for atoms, equations in train]
    spread = {
        "energy": max(np.std([atoms.get_potential_energy() / len(atoms) for atoms, _ in first]), 1e-6),
        "forces": max(np.sqrt(np.mean([np.square(atoms.get_forces()).mean() for atoms, _ in first])), 1e-6),
        "stress": 1.0,
    }
    stresses = [atoms.get_stress() for atoms, _ in first if "stress" in atoms.calc.results]
    if len(stresses) > 1:
        spread["stress"] = max(float(np.std(stresses)), 1e-9)
    normal, right = 0.0, 0.0
    for matrix, labels in (_rows(atoms, equations, spread) for atoms, equations in first):
        normal = normal + matrix.T @ matrix
        right = right + matrix.T @ labels
    scale = np.sqrt(np.diag(normal))
    scale = np.maximum(scale, SEEN * scale.max())
    values, vectors = np.linalg.eigh(normal / scale / scale[:, None])
    projected = vectors.T @ (right / scale)
    held = [_rows(atoms, equations, spread) for atoms, equations in valid]
    found = []
    for penalty in PENALTIES:
        coefficients = vectors @ (projected / (np.maximum(values, 0) + penalty * values.mean())) / scale
        error = sum(float(np.square(matrix @ coefficients - labels).sum()) for matrix, labels in held)
        found.append((error, penalty, coefficients))
    error, penalty, coefficients = min(found, key=lambda one: one[0])
    print(f"{len(first)} frames, {len(coefficients)} coefficients, penalty {penalty:g}, error {error:.4g}", flush=True)
    return coefficients


def _rows(atoms: Atoms, equations: Equations, spread: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Weighted equations of a frame and their labels; an energy counts as much as its atoms' number of forces."""
    energy = WEIGHTS["energy"] * np.sqrt(len(atoms)) / spread["energy"] / len(atoms)
    forces, stress = WEIGHTS["forces"] / spread["forces"], WEIGHTS["stress"] * np.sqrt(len(atoms)) / spread["stress"]
    parts = [energy * equations.energy[None], forces * equations.forces]
    labels = [[energy * atoms.get_potential_energy()], forces * atoms.get_forces().ravel()]
    if equations.stress is not None and "stress" in atoms.calc.results:
        parts.append(stress * equations.stress)
        labels.append(stress * atoms.get_stress())
    return np.vstack(parts), np.concatenate(labels)
