"""Whether a potential on disk obeys its symmetries, derivatives and conservation laws (docs/training.md)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.data import atomic_numbers, covalent_radii, reference_states
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet
from ase.stress import full_3x3_to_voigt_6_stress
from rich.table import Table

from .analysis import energy_drift
from .data import LabelKeys, frame_graph
from .data.batches import BatchShape, collate
from .data.neighbours import round_up
from .progress import Callback
from .storage import Model, ModelError

DISPLACEMENT = 0.05  # A, of the atoms of the disturbed structure
STRAIN = 0.01  # of its cell
DIRECTIONS = 3  # random ones of each finite difference
CUTOFF_STEP = 1e-4  # A, either side of the cutoff
SHAKES = (0.05, 0.1, 0.15)  # A, displacements of the structures that are searched for abnormal forces
SQUEEZE = 0.97  # of the cell of such a structure
TEMPERATURE = 300.0  # K
TIME_STEP = 1.0  # fs; half of it with hydrogen
STEPS = 300
DRIFT = 1.0  # meV/atom/ps
LARGE_FORCE = 50.0  # eV/A
TEST_RATIO = 2.0  # test error over training error


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What rounding may do in one precision."""

    energy: float  # eV/atom
    forces: float  # eV/A
    stress: float  # eV/A^3
    derivative: float  # relative
    step: float  # A, of finite differences; strains take a tenth of it
    cutoff: float = 1e-3  # eV/A, change of a force within 2 CUTOFF_STEP


BOUNDS = {
    "float64": Bounds(energy=1e-9, forces=1e-8, stress=1e-9, derivative=1e-5, step=1e-3),
    "float32": Bounds(energy=1e-6, forces=1e-4, stress=2e-6, derivative=5e-3, step=1e-2),
}


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


class Check(NamedTuple):
    """One finding; a check that could not be made has no number and says why in `note`."""

    name: str
    value: float
    bound: float
    unit: str
    note: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether the number keeps its bound; None where there is none."""
        return None if self.note else bool(self.value <= self.bound)


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


def check_potential(
    potential: Potential,
    structure: Atoms | None = None,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callback | None = None,
) -> list[Check]:
    """All checks that need no data, on a structure or on a crystal of the potential's first elements.

    Raises ModelError for elements that the potential does not know.
    """
    structure = default_structure(potential.elements) if structure is None else structure.copy()
    structure.calc = None
    unknown = sorted(set(structure.get_chemical_symbols()) - set(potential.elements))
    if unknown:
        raise ModelError(f"the structure has {', '.join(unknown)}, the potential knows {', '.join(potential.elements)}")
    rng = np.random.default_rng(seed)
    bounds = BOUNDS[potential.precision]
    disturbed = _disturbed(structure, rng)
    parts: dict[str, Callable[[], Iterator[Check]]] = {
        "symmetries": lambda: _symmetries(potential, disturbed, bounds, rng),
        "derivatives": lambda: _derivatives(potential, disturbed, bounds, rng),
        "cutoff": lambda: _cutoff(potential, bounds),
        "crystals": lambda: _crystals(potential, bounds),
        "forces": lambda: _abnormal_forces(potential, structure, rng),
        "dynamics": lambda: _dynamics(potential, structure, steps, rng),
    }
    found: list[Check] = []
    for index, (name, part) in enumerate(parts.items()):
        if progress:
            progress(f"checks, {name}", index, len(parts))
        found += part()
    if progress:
        progress("checks", len(parts), len(parts))
    return found


def check_errors(errors: Mapping[str, Mapping[str, Mapping[str, Any]]], test: str, train: str = "train") -> list[Check]:
    """Whether the errors on frames that trained nothing keep to TEST_RATIO times those on the training frames.

    `errors` are those of a report's errors.json: set -> property -> {"rmse": ...}.
    """
    found = []
    for row in ("energy, means removed", "forces", "stress"):
        pair = [errors[name][row]["rmse"] for name in (test, train)]
        name = f"{test} / {train} error, {row.partition(',')[0]}"
        if None in pair or not pair[1] > 0:
            found.append(_skipped(name, "no labels"))
        else:
            found.append(Check(name, pair[0] / pair[1], TEST_RATIO, "of RMSEs"))
    return found


def error_checks(
    path: str | Path, train_data: Path | None = None, test_data: Path | None = None, keys: LabelKeys | None = None
) -> list[Check]:
    """`check_errors` on two files of frames, or of the report that training left in a model folder."""
    from .data import read_frames
    from .predictions import predictions_of
    from .training import as_json as plain
    from .training import error_table, reference

    name = "test / training error"
    if train_data and test_data:
        errors = {}
        for part, file in (("train", train_data), ("test", test_data)):
            frames = read_frames(file, keys)
            errors[part] = plain(error_table(predictions_of(path, frames, float64=True), reference(frames)))
        return check_errors(errors, "test")
    if train_data or test_data:
        raise ModelError("give both --train-data and --test-data, or neither")
    file = Path(path) / "report" / "errors.json"
    if not file.is_file():
        return [_skipped(name, "no report beside the model: give --train-data and --test-data")]
    errors = json.loads(file.read_text())
    test = next((part for part in ("test", "valid") if part in errors), None)
    if test is None or "train" not in errors:
        return [_skipped(name, "the report has no test or validation set: give --train-data and --test-data")]
    return check_errors(errors, test)


def check_table(checks: Sequence[Check]) -> Table:
    """Findings as a table to print."""
    table = Table(title="Checks")
    for heading in ("check", "found", "bound", "unit", ""):
        table.add_column(
            heading, no_wrap=heading != "unit", justify="right" if heading in ("found", "bound") else "left"
        )
    marks = {True: "[green]pass[/]", False: "[bold red]FAIL[/]", None: "[yellow]not made[/]"}
    for check in checks:
        numbers = ("-", "-") if check.passed is None else (f"{check.value:.3g}", f"{check.bound:.3g}")
        table.add_row(check.name, *numbers, check.note or check.unit, marks[check.passed])
    return table


def as_json(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Findings as plain values; numbers that are not finite are null."""
    return [
        {**c._asdict(), "value": c.value if math.isfinite(c.value) else None, "passed": c.passed}
        | ({"bound": None} if c.passed is None else {})
        for c in checks
    ]


def default_structure(elements: Sequence[str]) -> Atoms:
    """A crystal of 32 to 64 atoms of the first one or two elements."""
    return perfect_crystal(elements[0], elements[min(1, len(elements) - 1)]) * (2, 2, 2)


def perfect_crystal(first: str, second: str) -> Atoms:
    """The cubic cell of an element as it is found, or zincblende of two; forces and shear stress are zero in it."""
    z = atomic_numbers[first]
    state = reference_states[z]
    if first == second and state is not None and state["symmetry"] in ("fcc", "bcc", "diamond"):
        return bulk(first, cubic=True)
    bond = covalent_radii[z] + covalent_radii[atomic_numbers[second]]
    crystal = bulk("ZnS", "zincblende", a=4 / math.sqrt(3) * bond, cubic=True)
    crystal.symbols = [first if symbol == "Zn" else second for symbol in crystal.symbols]
    return crystal


class _ModelPotential:
    """A model through the Python path; sizes only grow, so that few programs are compiled."""

    precision = "float64"

    def __init__(self, model: Model) -> None:
        import jax

        from .training.evaluate import precision

        dtype = precision(True)
        self.elements, self.cutoff = model.elements, model.config.cutoff
        self._model = model
        self._params = jax.tree.map(lambda p: np.asarray(p, dtype), model.params)
        self._atoms, self._width = 0, 0

    def __call__(self, atoms: Atoms) -> Answer:
        from .training.evaluate import predict_batch

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

        from .runtime import Runtime

        self.precision = read_bundle(path).manifest["precision"]
        self._runtime = Runtime(path)
        self.elements, self.cutoff = self._runtime.elements, self._runtime.cutoff

    def __call__(self, atoms: Atoms) -> Answer:
        found = self._runtime.evaluate(atoms)
        return Answer(found["energy"], found["forces"], found["stress"] if atoms.pbc.all() else None)


class _AseCalculator(Calculator):
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


def _skipped(name: str, why: str) -> Check:
    return Check(name, math.nan, math.nan, "", why)


def _strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    moved = atoms.copy()
    deform = np.eye(3) + strain
    moved.set_cell(atoms.cell.array @ deform)
    moved.positions = atoms.positions @ deform
    return moved


def _disturbed(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Atoms off their places and a cell off its shape, so that forces and stress are not zero."""
    strain = STRAIN * rng.uniform(-1, 1, (3, 3))
    moved = _strained(atoms, 0.5 * (strain + strain.T)) if atoms.pbc.all() else atoms.copy()
    moved.positions += rng.normal(0, DISPLACEMENT, moved.positions.shape)
    return moved


def _largest(values: np.ndarray) -> float:
    """Largest absolute value; infinite where one is not a number."""
    return float(np.abs(values).max()) if np.isfinite(values).all() else math.inf


def _symmetries(potential: Potential, atoms: Atoms, bounds: Bounds, rng: np.random.Generator) -> Iterator[Check]:
    n = len(atoms)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    order = rng.permutation(n)
    rotated, shifted, permuted = atoms.copy(), atoms.copy(), atoms[order]
    rotated.set_cell(atoms.cell.array @ rotation)
    rotated.positions = atoms.positions @ rotation
    shifted.positions += rng.uniform(-20, 20, 3)
    before = potential(atoms)
    cases = (
        ("rotation", rotated, before.forces @ rotation),
        ("translation", shifted, before.forces),
        ("permutation", permuted, before.forces[order]),
    )
    for name, moved, forces in cases:
        after = potential(moved)
        yield Check(f"{name}, energy", _largest(np.array(after.energy - before.energy)) / n, bounds.energy, "eV/atom")
        yield Check(f"{name}, forces", _largest(after.forces - forces), bounds.forces, "eV/A")
        if name == "rotation" and before.stress is not None and after.stress is not None:
            stress = rotation.T @ before.stress @ rotation
            yield Check(f"{name}, stress", _largest(after.stress - stress), bounds.stress, "eV/A^3")


def _slope(energy: Callable[[float], float], step: float) -> float:
    """Derivative at 0 by central differences of fourth order."""
    near, far = energy(step) - energy(-step), energy(2 * step) - energy(-2 * step)
    return (8 * near - far) / (12 * step)


def _derivatives(potential: Potential, atoms: Atoms, bounds: Bounds, rng: np.random.Generator) -> Iterator[Check]:
    answer = potential(atoms)
    worst = 0.0
    for _ in range(DIRECTIONS):
        direction = rng.normal(size=atoms.positions.shape)

        def along(step: float, direction: np.ndarray = direction) -> float:
            moved = atoms.copy()
            moved.positions += step * direction
            return potential(moved).energy

        error = _slope(along, bounds.step) + np.sum(answer.forces * direction)
        worst = max(worst, _largest(np.array(error)) / float(np.linalg.norm(answer.forces)))
    yield Check("force = -dE/dx", worst, bounds.derivative, "of the forces' norm")
    if answer.stress is None:
        yield _skipped("stress = dE/dstrain / V", "the structure is not periodic in three directions")
        return
    worst, volume = 0.0, atoms.cell.volume
    for _ in range(DIRECTIONS):
        strain = rng.normal(size=(3, 3))
        strain = 0.5 * (strain + strain.T)

        def under(step: float, strain: np.ndarray = strain) -> float:
            return potential(_strained(atoms, step * strain)).energy

        error = _slope(under, 0.1 * bounds.step) - volume * np.sum(answer.stress * strain)
        worst = max(worst, _largest(np.array(error)) / float(volume * np.linalg.norm(answer.stress)))
    yield Check("stress = dE/dstrain / V", worst, bounds.derivative, "of the stress' norm")


def _cutoff(potential: Potential, bounds: Bounds) -> Iterator[Check]:
    """Three atoms, one of which leaves the cutoff of another: nothing may jump."""
    worst = 0.0
    for first, second in combinations_with_replacement(potential.elements, 2):
        bond = covalent_radii[[atomic_numbers[first], atomic_numbers[second]]].sum()
        answers = []
        for side in (-CUTOFF_STEP, CUTOFF_STEP):
            places = [[0, 0, 0], [potential.cutoff + side, 0, 0], [0.5, bond, 0.3]]
            answers.append(potential(Atoms([first, second, second], places)))
        worst = max(worst, _largest(answers[1].forces - answers[0].forces))
    yield Check("force step at the cutoff", worst, bounds.cutoff, "eV/A")


def _crystals(potential: Potential, bounds: Bounds) -> Iterator[Check]:
    forces, shear = 0.0, 0.0
    for first, second in combinations_with_replacement(potential.elements, 2):
        answer = potential(perfect_crystal(first, second))
        forces = max(forces, _largest(answer.forces))
        shear = max(shear, _largest(answer.stress - np.eye(3) * answer.stress.trace() / 3))
    yield Check("forces in perfect crystals", forces, bounds.forces, "eV/A")
    yield Check("shear stress in perfect crystals", shear, bounds.stress, "eV/A^3")


def _abnormal_forces(potential: Potential, atoms: Atoms, rng: np.random.Generator) -> Iterator[Check]:
    largest = 0.0
    for shake in SHAKES:
        for scale in (1.0, SQUEEZE):
            moved = _strained(atoms, (scale - 1) * np.eye(3))
            moved.positions += rng.normal(0, shake, moved.positions.shape)
            largest = max(largest, _largest(potential(moved).forces))
    yield Check("largest force, shaken and squeezed", largest, LARGE_FORCE, "eV/A")


def _dynamics(potential: Potential, atoms: Atoms, steps: int, rng: np.random.Generator) -> Iterator[Check]:
    names = "NVE drift", "largest force in NVE"
    if steps < 10:
        yield from (_skipped(name, "fewer than 10 steps wanted") for name in names)
        return
    moving = atoms.copy()
    moving.calc = _AseCalculator(potential)
    # Half of the kinetic energy of a perfect crystal goes into its vibrations.
    spread = np.sqrt(2 * TEMPERATURE * units.kB * moving.get_masses())
    moving.set_momenta(spread[:, None] * rng.normal(size=moving.positions.shape))
    Stationary(moving)
    step = TIME_STEP * (0.5 if 1 in atoms.numbers else 1.0)
    dynamics = VelocityVerlet(moving, timestep=step * units.fs)
    energies, largest = [], 0.0
    for _ in range(steps):
        dynamics.run(1)
        energies.append(moving.get_total_energy())
        largest = max(largest, _largest(moving.get_forces()))
        if not math.isfinite(largest) or not math.isfinite(energies[-1]):
            break
    if math.isfinite(largest):
        drift = 1000 * abs(energy_drift(1e-3 * step * np.arange(len(energies)), np.array(energies), len(atoms)))
    else:
        drift = math.inf
    yield Check(names[0], drift, DRIFT, f"meV/atom/ps, {steps} steps of {step:g} fs")
    yield Check(names[1], largest, LARGE_FORCE, "eV/A")
