"""Predictions of a potential on disk, whichever form it has: a model folder or a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from so3krates.storage import Model, ModelError
from so3krates.training import Properties, evaluate


def predictions_of(path: str | Path, frames: Sequence[Atoms], float64: bool = False) -> Properties:
    """Predictions by the Python path for a model folder, by the runtime for a bundle.

    `float64` concerns a model folder; a bundle has its own precision. Raises ModelError when `path` is neither.
    """
    path = Path(path)
    if path.is_dir():
        return evaluate(Model.load(path), frames, float64=float64)
    if not path.is_file():
        raise ModelError(f"{path}: no such model folder or bundle")
    return runtime_properties(path, frames)


def runtime_properties(bundle: Path, frames: Sequence[Atoms]) -> Properties:
    """Predictions of a bundle by the C++ evaluator on the CPU."""
    from so3krates.runtime import Runtime

    runtime = Runtime(bundle)
    results = [runtime.evaluate(atoms) for atoms in frames]
    unknown = np.full((3, 3), np.nan)
    return Properties(
        np.array([len(atoms) for atoms in frames]),
        np.array([found["energy"] for found in results]),
        [found["forces"] for found in results],
        np.array(
            [found["stress"] if atoms.pbc.all() else unknown for atoms, found in zip(frames, results, strict=True)]
        ),
        [found["energies"] for found in results],
    )
