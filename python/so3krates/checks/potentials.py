"""A potential on disk as the checks see it, whichever form it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from so3krates import exporting
from so3krates.predictions import ModelRuntime
from so3krates.shipped import located, missing
from so3krates.storage import ModelError

if TYPE_CHECKING:
    from so3krates.runtime import Runtime


class Answer(NamedTuple):
    """What a potential says of a structure."""

    energy: float  # eV
    forces: np.ndarray  # (n, 3) eV/A
    stress: np.ndarray | None  # (3, 3) eV/A^3, where the structure is periodic in three directions


class Potential(Protocol):
    """A potential on disk, whichever form it has."""

    @property
    def elements(self) -> Sequence[str]: ...
    @property
    def cutoff(self) -> float: ...
    @property
    def precision(self) -> str: ...
    @property
    def charges(self) -> Mapping[str, float]:
        """Of elements (e), where they act on each other without end: they split modes at Gamma."""
        ...

    def __call__(self, atoms: Atoms) -> Answer: ...


def open_potential(path: str | Path) -> Potential:
    """A model folder, in float64 through the Python path, or a bundle in its own precision through the runtime.

    Raises ModelError when `path` is neither.
    """
    path = located(path)
    if path.is_dir():
        return _OnDisk(ModelRuntime(path, shifts=False), "float64")
    if not path.is_file():
        raise ModelError(missing(path))
    from so3krates.runtime import Runtime

    return _OnDisk(Runtime(path, shifts=False), exporting.read_bundle(path).manifest["precision"])


class _OnDisk:
    """A model folder through the Python path, or a bundle through the runtime."""

    def __init__(self, runtime: ModelRuntime | Runtime, precision: str) -> None:
        self._runtime, self.precision = runtime, precision
        self.elements, self.cutoff = runtime.elements, runtime.cutoff
        self.charges: Mapping[str, float] = runtime.baselines.charges

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
