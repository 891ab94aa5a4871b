"""Predictions of a potential on disk, whichever form it has: a model folder or a bundle."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ase import Atoms

from so3krates import exporting
from so3krates._harness import check_pair, extrapolations
from so3krates.baselines import BaselineError, Baselines
from so3krates.data import DataError, frame_graph, terms_of_atoms, total_shift, usable_dipole
from so3krates.data.batches import BatchShape, FrameGraph, collate
from so3krates.data.neighbours import round_up
from so3krates.hints import command
from so3krates.model.config import So3lrConfig
from so3krates.outputs import COMMON, Output, wanted
from so3krates.runtime import Runtime, require_structure
from so3krates.shipped import located, missing
from so3krates.storage import Model, ModelError
from so3krates.system_evaluator import SystemEvaluator, system_outputs
from so3krates.total_charge import Electrons, State, summary
from so3krates.training import Properties, evaluate
from so3krates.training.charges import ALL_KEYS
from so3krates.training.evaluate import predict_batch, uncertainties_of
from so3krates.training.sources import own_reading, reading_of
from so3krates.wording import counted


class ModelRuntime:
    """A model folder as `Runtime` is a bundle: energy and derivatives of one structure, through the Python path.

    In float64, whatever JAX's setting. Sizes only grow, so that few programs are compiled.
    """

    def __init__(
        self,
        model: Model | str | Path,
        shifts: bool = True,
        charge: int | None = None,
        multiplicity: int | None = None,
    ) -> None:
        """`shifts`: whether energies hold the model's energy shifts.

        charge (e), multiplicity: of every structure, for models that know them; None: what `atoms.info` says, else 0
        and 1. Raises ModelError for a folder without model, ValueError where the model knows no charges.
        """
        self.path = "" if isinstance(model, Model) else str(model)
        self.model = model if isinstance(model, Model) else Model.load(model)
        self.elements: list[str] = list(self.model.elements)
        self.cutoff: float = self.model.config.cutoff
        self.outputs: dict[str, Output] = COMMON
        self.baselines = Baselines(self.model.baselines)
        self._shifts = self.model.energy_shifts if shifts else dict.fromkeys(self.elements, 0.0)
        self._params = jax.tree.map(lambda p: np.asarray(p, np.float64), self.model.params)
        self._electrons: Electrons | None = None
        self._system: SystemEvaluator | None = None
        if isinstance(self.model.config, So3lrConfig):
            self._system = SystemEvaluator(self.model)
            self._electrons = Electrons(self.path or "the model", charge, multiplicity)
            self.outputs = COMMON | system_outputs(self.model)
        elif charge is not None or multiplicity is not None:
            raise ValueError(f"{self.path or 'the model'} knows no charge or multiplicity of a structure: leave it out")
        self._atoms, self._width = 0, 0
        self._extrapolations: list[str] = []

    def forget_structure(self) -> None:
        """Nothing is kept from one structure to the next."""

    @property
    def knows_limits(self) -> bool:
        """As `Runtime.knows_limits`."""
        return bool((self.model.training or {}).get("distances"))

    def extrapolations(self) -> list[str]:
        """As `Runtime.extrapolations`."""
        return self._extrapolations

    def require(self, outputs: Sequence[str]) -> list[str]:
        """These outputs, or all. Raises ValueError where one is unknown."""
        advice = f"; others are given by a bundle: {command('so3krates', 'export', self.path or 'MODEL')}"
        return wanted(outputs, self.outputs, self.path or "a model", advice)

    def evaluate(self, atoms: Atoms, outputs: Sequence[str] = ()) -> dict[str, Any]:
        """As `Runtime.evaluate`, of what all potentials have; other outputs are given by bundles alone.

        Raises ValueError for structures that cannot be computed and for other outputs (BaselineError: by baselines).
        """
        names = self.require(outputs)
        self._extrapolations = []
        if len(atoms) == 0:
            zero = np.zeros((3, 3))
            found: dict[str, Any] = {"energy": 0.0, "energies": np.zeros(0), "forces": np.zeros((0, 3)), "virial": zero}
            found |= {"stress": zero} if atoms.cell.rank == 3 else {}
            return {name: found[name] for name in names if name in found}
        unknown = sorted(set(atoms.symbols) - set(self.elements))
        if unknown:
            known = ", ".join(self.elements)
            raise ValueError(f"{self.path} knows the elements {known}, but the structure has {', '.join(unknown)}")
        require_structure(atoms)
        graph = frame_graph(atoms, self.cutoff, self._shifts, read_labels=False)
        _require_apart(atoms, graph)
        found = self._of_network(atoms, graph) if self._system is None else self._of_system(self._system, atoms, graph)
        gradient = found.pop("strain_gradient")
        found["virial"] = -gradient
        if atoms.cell.rank == 3:
            found["stress"] = gradient / atoms.get_volume()
        self._extrapolations = _extrapolations(self.model.training or {}, atoms, graph, found["forces"])
        found = {name: found[name] for name in names if name in found}
        self.baselines.add_to(found, atoms)
        return found

    def _of_network(self, atoms: Atoms, graph: FrameGraph) -> dict[str, Any]:
        self._atoms = max(self._atoms, len(atoms))
        self._width = max(self._width, round_up(graph.table.neighbours.shape[1], 32))
        batch, _ = collate([graph], BatchShape(1, self._atoms, self._width), np.float64)
        with jax.enable_x64(True):
            answer = jax.tree.map(np.asarray, predict_batch(self.model.config, self._params, batch))
        added = terms_of_atoms(self.model.terms, atoms)
        shifts = [self._shifts[symbol] for symbol in atoms.symbols]
        return {
            "energy": float(answer.energies[0]) + total_shift(atoms.numbers, self._shifts) + added.energy,
            "energies": answer.atom_energies[: len(atoms)] + shifts + added.atom_energies,
            "forces": answer.forces[: len(atoms)] + added.forces,
            "strain_gradient": answer.strain_gradients[0] + added.strain_gradient,
        }

    def _of_system(self, system: SystemEvaluator, atoms: Atoms, graph: FrameGraph) -> dict[str, Any]:
        assert self._electrons is not None  # as the system is not
        state = self._electrons.of(atoms)
        self._electrons.warn(atoms, state)
        answer = system(atoms, graph, state)
        added = {term.section: terms_of_atoms([term], atoms) for term in self.model.terms}
        parts = {name: float(value) for name, value in answer.energies.items()}
        parts |= {name: sums.energy for name, sums in added.items()}
        shifts = np.array([self._shifts[symbol] for symbol in atoms.symbols])
        charges = answer.properties.charges
        return {
            "energy": sum(parts.values()) + total_shift(atoms.numbers, self._shifts),
            "energies": answer.atom_energies + shifts + sum(sums.atom_energies for sums in added.values()),
            "forces": answer.forces + sum(sums.forces for sums in added.values()),
            "strain_gradient": answer.strain_gradient + sum(sums.strain_gradient for sums in added.values()),
            "charges": charges,
            "hirshfeld_ratios": answer.properties.hirshfeld_ratios,
            "dipole": charges @ atoms.positions,
        } | {f"energy_{name}": value for name, value in parts.items()}

    def state_of(self, atoms: Atoms) -> State | None:
        """Charge and multiplicity that a structure is computed with; None where the model knows none.

        Raises ChargeError.
        """
        return None if self._electrons is None else self._electrons.of(atoms)


def _require_apart(atoms: Atoms, graph: FrameGraph) -> None:
    """Raises StructureError for two atoms at the same place, in the words of `Runtime`."""
    i, j, vectors = _neighbours(graph)
    if len(vectors):
        k = int(np.square(vectors).sum(axis=1).argmin())
        own = atoms.positions[i[k]]
        check_pair([own, own + vectors[k]], [f"atom {n} ({atoms.symbols[n]})" for n in (i[k], j[k])])


def _neighbours(graph: FrameGraph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms of all directed pairs within the cutoff, and the vectors between them (A)."""
    i, slot = np.nonzero(graph.table.used)
    j = graph.table.neighbours[i, slot]
    return i, j, graph.positions[j] - graph.positions[i] + graph.table.shifts[i, slot] @ graph.cell


def _extrapolations(training: dict[str, Any], atoms: Atoms, graph: FrameGraph, forces: np.ndarray) -> list[str]:
    """What of a structure is beyond the training data, in the words of `Runtime`."""
    seen, names = training.get("distances") or {}, [f"atom {n} ({s})" for n, s in enumerate(atoms.symbols)]
    i, j, vectors = _neighbours(graph)
    kinds = sorted(set(atoms.symbols))
    table = np.array([[seen.get("-".join(sorted((a, b))), 0.0) for b in kinds] for a in kinds])
    index = np.array([kinds.index(symbol) for symbol in atoms.symbols])
    limits, lengths = table[index[i], index[j]], np.sqrt(np.square(vectors).sum(axis=1))
    distance, limit, pair = 0.0, 0.0, ("", "")
    if (limits > 0).any():
        k = int(np.where(limits > 0, lengths / np.maximum(limits, 1e-9), np.inf).argmin())
        distance, limit, pair = float(lengths[k]), float(limits[k]), (names[i[k]], names[j[k]])
    sizes = np.sqrt(np.square(forces).sum(axis=1))
    largest = int(sizes.argmax())
    force = float(training.get("largest_force") or 0.0)
    return extrapolations(distance, limit, pair, float(sizes[largest]), force, names[largest])


def predictions_of(path: str | Path, frames: Sequence[Atoms], float64: bool = False) -> Properties:
    """Predictions by the Python path for a model folder, by the runtime for a bundle.

    `float64` concerns a model folder; a bundle has its own precision. Raises ModelError when `path` is neither.
    """
    path = _located_potential(path)
    if path.is_dir():
        model = Model.load(path)
        found = evaluate(model, frames, float64=float64)
        found = found._replace(uncertainties=uncertainties_of(model, frames))
        return _with_baselines(Baselines(model.baselines), found, frames)
    return runtime_properties(path, frames)


def _with_baselines(baselines: Baselines, found: Properties, frames: Sequence[Atoms]) -> Properties:
    """Predictions with the baselines added. Raises DataError for a frame that they cannot be computed of."""
    if not baselines:
        return found
    energies, stresses, forces = found.energies.copy(), found.stresses.copy(), list(found.forces)
    for number, atoms in enumerate(frames):
        try:
            sums = baselines.sums(atoms)
        except BaselineError as error:
            raise DataError(f"frame {number}: {error}") from error
        energies[number] += sums.energy
        forces[number] = forces[number] + sums.forces
        if atoms.pbc.all():
            stresses[number] += sums.strain_gradient / atoms.get_volume()
    return found._replace(energies=energies, forces=forces, stresses=stresses)


def _located_potential(path: str | Path) -> Path:
    path = located(path)
    if not path.is_dir() and not path.is_file():
        raise ModelError(missing(path))
    return path


def runtime_properties(bundle: Path, frames: Sequence[Atoms]) -> Properties:
    """Predictions of a bundle by the C++ evaluator on the CPU."""
    return _properties(Runtime(bundle), frames)


def charges_said(path: str | Path, frames: Sequence[Atoms]) -> str:
    """What charges and multiplicities a potential takes frames to have; "" where it knows none. Raises DataError."""
    path = _located_potential(path)
    if path.is_dir():
        if not isinstance(Model.load(path).config, So3lrConfig):
            return ""
    elif "electrons" not in exporting.read_bundle(path).manifest:
        return ""
    runtime = ModelRuntime(path) if path.is_dir() else Runtime(path)
    states = []
    for number, atoms in enumerate(frames):
        try:
            states.append(runtime.state_of(atoms))
        except ValueError as error:
            raise DataError(f"frame {number}: {error}") from error
    known = [state for state in states if state is not None]
    return f"total charges and multiplicities: {summary(known)}" if known else ""


def _properties(runtime: Runtime | ModelRuntime, frames: Sequence[Atoms]) -> Properties:
    has_uncertainty = "uncertainty" in runtime.outputs
    # Of a bundle only the common ones are standard.
    wanted = ("uncertainty", "charges", "dipole", "hirshfeld_ratios")
    names = [name for name, output in runtime.outputs.items() if output.standard or name in wanted]
    results: list[dict[str, Any]] = [{}] * len(frames)
    # The largest first, as sizes for which programs are compiled only grow.
    for number in sorted(range(len(frames)), key=lambda n: -len(frames[n])):
        try:
            results[number] = runtime.evaluate(frames[number], names)
        except ValueError as error:
            raise DataError(f"frame {number}: {error}") from error
    unknown = np.full((3, 3), np.nan)
    return Properties(
        np.array([len(atoms) for atoms in frames]),
        np.array([found["energy"] for found in results]),
        [found["forces"] for found in results],
        np.array(
            [found["stress"] if atoms.pbc.all() else unknown for atoms, found in zip(frames, results, strict=True)]
        ),
        [found["energies"] for found in results],
        [found["uncertainty"] for found in results] if has_uncertainty else None,
        *_charges_among(runtime, frames, results),
        [found["hirshfeld_ratios"] for found in results] if "hirshfeld_ratios" in runtime.outputs else None,
    )


def _charges_among(
    runtime: Runtime | ModelRuntime, frames: Sequence[Atoms], results: Sequence[dict[str, Any]]
) -> tuple[list[np.ndarray] | None, np.ndarray | None]:
    """Charges and dipoles among results, the latter NaN where they are not defined; None where there are none."""
    if not {"charges", "dipole"} <= runtime.outputs.keys():
        return None, None
    dipoles = np.full((len(frames), 3), np.nan)
    for number, (atoms, found) in enumerate(zip(frames, results, strict=True)):
        state = runtime.state_of(atoms)
        if state is not None and usable_dipole(atoms, state.charge):
            dipoles[number] = found["dipole"]
    return [found["charges"] for found in results], dipoles


def require_finite(path: str | Path, data: str | Path, found: Properties) -> None:
    """Raises DataError that names the frames of a file for which a potential gives numbers that are not finite."""
    lost = [
        n
        for n, (energy, forces) in enumerate(zip(found.energies, found.forces, strict=True))
        if not (np.isfinite(energy) and np.isfinite(forces).all())
    ]
    if lost:
        named = ", ".join(map(str, lost[:5])) + (", ..." if len(lost) > 5 else "")
        raise DataError(
            f"{data}: the energy or forces by {path} are not finite for {counted(len(lost), 'frame')} ({named})"
        )


def training_record(path: str | Path) -> dict[str, Any]:
    """What a model folder or a bundle tells of its training (docs/bundle.md); empty where it tells nothing."""
    path = located(path)
    if path.is_dir():
        return Model.load(path).training or {}
    if not path.is_file():
        return {}
    return exporting.read_bundle(path).manifest.get("training") or {}


def data_settings(path: str | Path) -> dict[str, Any]:
    """Settings of section [data] by which the data of a potential were read; those that it does not know are absent.

    Keys of charges, dipoles and ratios are the usual ones where it predicts them and knows no others.
    """
    path = located(path)
    if path.is_dir():
        return own_reading(Model.load(path))
    outputs = exporting.read_bundle(path).manifest.get("outputs", {}) if path.is_file() else {}
    return {key: name for key, name in ALL_KEYS.items() if name in outputs} | reading_of(training_record(path))


def common_data_settings(paths: Sequence[str | Path], given: Container[str] = ()) -> dict[str, Any]:
    """`data_settings` that hold for all of some potentials, those left out that are given anyway.

    Raises ModelError where the potentials differ in another one.
    """
    common: dict[str, Any] = {}
    for number, path in enumerate(paths):
        own = {name: value for name, value in data_settings(path).items() if name not in given}
        differ = sorted(name for name in common.keys() | own.keys() if common.get(name) != own.get(name))
        if number and differ:
            name = differ[0]
            raise ModelError(
                f"{path} was trained with data.{name} = {own.get(name)!r}, {paths[0]} with {common.get(name)!r}: "
                f"say how this file is to be read with --set data.{name}=VALUE"
            )
        common = own
    return common
