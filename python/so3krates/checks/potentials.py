"""A potential on disk as the checks see it, whichever form it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from so3krates.data import frame_graph
from so3krates.data.batches import BatchShape, collate
from so3krates.data.neighbours import round_up
from so3krates.storage import Model, ModelError


class Answer(NamedTuple):
    """What a potential says of a structure."""

    energy: float  # eV
    forces: np.ndarray  # (n, 3) eV/A
    stress: np.ndarray | None  # (3, 3) eV/A^3, where the structure is periodic in three directions


class Potential(Protocol):
    """A potential on disk, whichever form it has."""

    elements: Sequence[str]
    cutoff: float
    precision: str

    def __call__(self, atoms: Atoms) -> Answer: ...


def open_potential(path: str | Path) -> Potential:
    """A model folder, in float64 through the Python path, or a bundle in its own precision through the runtime.

    Raises ModelError when `path` is neither.
    """
    path = Path(path)
    if path.is_dir():
        return _ModelPotential(Model.load(path))
    if not path.is_file():
        raise ModelError(f"{path}: no such model folder or bundle")
    return _BundlePotential(path)


class _ModelPotential:
    """A model through the Python path; sizes only grow, so that few programs are compiled."""

    precision = "float64"

    def __init__(self, model: Model) -> None:
        import jax

        from so3krates.training.evaluate import precision

        dtype = precision(True)
        self.elements, self.cutoff = model.elements, model.config.cutoff
        self._model = model
        self._params = jax.tree.map(lambda p: np.asarray(p, dtype), model.params)
        self._atoms, self._width = 0, 0

    def __call__(self, atoms: Atoms) -> Answer:
        from so3krates.training.evaluate import predict_batch

        shifts = dict.fromkeys(self.elements, 0.0)
        graph = frame_graph(atoms, self.cutoff, shifts, read_labels=False)
        self._atoms = max(self._atoms, len(atoms))
        self._width = max(self._width, round_up(graph.table.neighbours.shape[1], 32))
        batch, _ = collate([graph], BatchShape(1, self._atoms, self._width), np.float64)
        found = predict_batch(self._model.config, self._params, batch)
        stress = np.asarray(found.strain_gradients[0]) / graph.volume if atoms.pbc.all() else None
        return Answer(float(found.energies[0]), np.asarray(found.forces[: len(atoms)]), stress)


class _BundlePotential:
    """A bundle through the runtime."""

    def __init__(self, path: Path) -> None:
        from so3krates_export.bundle import read_bundle

        from so3krates.runtime import Runtime

        self.precision = read_bundle(path).manifest["precision"]
        self._runtime = Runtime(path, shifts=False)
        self.elements, self.cutoff = self._runtime.elements, self._runtime.cutoff

    def __call__(self, atoms: Atoms) -> Answer:
        found = self._runtime.evaluate(atoms)
        return Answer(found["energy"], found["forces"], found["stress"] if atoms.pbc.all() else None)


class PotentialCalculator(Calculator):
    """A potential as ASE's dynamics want it."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        answer = self.potential(self.atoms)
        self.results = {"energy": answer.energy, "forces": answer.forces}
        if answer.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(answer.stress)
