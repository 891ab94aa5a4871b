"""Outputs by name: what is asked for is given, and what only others need is not run."""

import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read
from extra_outputs import EXTRA, NEWER, write_extra_bundle
from so3krates._harness import Error, Evaluator, StructureError
from so3krates.calculator import So3kratesCalculator
from so3krates.outputs import STANDARD
from so3krates.runtime import Runtime
from so3krates.storage import Model
from so3krates_export.guard import guard_entry
from toy_bundle import write_toy_bundle
from toy_systems import SAME, SIGNAL, gan, lists

SHIPPED = Path(__file__).parents[2] / "examples/models/gan-pbesol.so3k"
NEAR = ["closest_ratio", "close_pairs"]
STANDARD_NAMES = ["atom_energies", "energy", "forces", "strain_gradient"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_extra_bundle(tmp_path_factory.mktemp("extra") / "extra.so3k")


@pytest.fixture(scope="module")
def runtime(path: Path) -> Runtime:
    return Runtime(path, threads=1)


def evaluator_on(path: Path, **options: str) -> tuple[Evaluator, np.ndarray]:
    evaluator, host = Evaluator(str(path), threads=1, **options), lists(gan())
    evaluator.set_neighbourhood(**host.arguments)
    return evaluator, host.positions


def test_only_the_steps_that_a_request_needs_are_run(path: Path) -> None:
    evaluator, positions = evaluator_on(path, cache="off")
    assert sorted(evaluator.evaluate(positions, outputs=["coordination"])) == ["coordination"]
    assert evaluator.report()["programs_compiled"] == 2  # neighbours and counting
    assert sorted(evaluator.evaluate(positions, outputs=["forces"])) == ["forces"]
    assert evaluator.report()["programs_compiled"] == 4  # density and pair, but not total
    assert sorted(evaluator.evaluate(positions)) == STANDARD_NAMES
    assert evaluator.report()["programs_compiled"] == 5


@pytest.mark.parametrize("name", STANDARD_NAMES)
def test_one_output_alone_is_what_it_is_among_all(path: Path, name: str) -> None:
    evaluator, positions = evaluator_on(path)
    expected = np.asarray(evaluator.evaluate(positions)[name])
    evaluator, positions = evaluator_on(path)
    assert np.abs(expected).max() > SIGNAL
    assert np.array_equal(evaluator.evaluate(positions, outputs=[name])[name], expected)


def test_outputs_of_every_kind(path: Path) -> None:
    evaluator, positions = evaluator_on(path)
    found = evaluator.evaluate(positions, outputs=[*EXTRA, *STANDARD_NAMES])
    counts = found["coordination"]
    assert counts.shape == (4,) and counts.min() > 2
    assert np.array_equal(found["moments"], np.stack([counts**2, counts**3], axis=1))
    assert (found["pairs"], found["most"]) == (counts.sum(), counts.max())
    assert np.array_equal(found["extent"], [counts.min(), -counts.max()])
    again = evaluator.evaluate(positions)
    assert all(np.array_equal(again[name], found[name]) for name in STANDARD_NAMES)


def test_a_rank_without_atoms_changes_no_other(path: Path) -> None:
    evaluator = Evaluator(str(path), threads=1)
    empty = np.zeros(0, np.int32)
    evaluator.set_neighbourhood(0, 0, empty, empty, empty, empty, empty)
    found = evaluator.evaluate(np.zeros((0, 3)), outputs=[*EXTRA, "energy"])
    assert (found["pairs"], found["most"], found["energy"]) == (0.0, -np.inf, 0.0)
    assert np.array_equal(found["extent"], [np.inf, np.inf]) and found["moments"].shape == (0, 2)


@pytest.mark.parametrize("name", ["charges", "Forces", "", "neighbours_needed", "slopes"])
def test_unknown_outputs(path: Path, runtime: Runtime, name: str) -> None:
    evaluator, positions = evaluator_on(path)
    with pytest.raises(Error, match=f'has no output "{name}": it has atom_energies, coordination, energy, extent, '):
        evaluator.evaluate(positions, outputs=["forces", name])
    with pytest.raises(ValueError, match=f"has no output '{name}': it has energy, energies, forces, virial, stress, "):
        runtime.evaluate(gan(), ["forces", name])
    assert sorted(evaluator.evaluate(positions, outputs=["forces"])) == ["forces"]


def test_an_output_of_a_newer_version_is_refused_where_it_is_asked_for(path: Path, runtime: Runtime) -> None:
    evaluator, positions = evaluator_on(path)
    message = 'output .hardness. is of type uint8, shape .4. and ranks "mean", .* update so3krates'
    with pytest.raises(Error, match=message):
        evaluator.evaluate(positions, outputs=[NEWER])
    with pytest.raises(ValueError, match=message):
        runtime.evaluate(gan(), [NEWER])
    assert NEWER not in runtime.outputs and "forces" in evaluator.evaluate(positions)


def test_per_atom_virials_of_a_bundle_without(path: Path, runtime: Runtime) -> None:
    evaluator, positions = evaluator_on(path)
    with pytest.raises(Error, match="has no per-atom virials: export the model again"):
        evaluator.evaluate(positions, outputs=["atom_virials"])
    with pytest.raises(ValueError, match="has no output 'atom_virials'"):
        runtime.evaluate(gan(), ["atom_virials"])


def test_the_runtime_has_names_units_and_meanings(runtime: Runtime) -> None:
    assert set(runtime.outputs) == {*STANDARD, *EXTRA}
    coordination, pairs = runtime.outputs["coordination"], runtime.outputs["pairs"]
    assert (coordination.unit, coordination.per_atom, coordination.shape) == ("1", True, ())
    assert (pairs.per_atom, pairs.standard, runtime.outputs["stress"].unit) == (False, False, "eV/A^3")
    atoms = gan()
    found, standard = runtime.evaluate(atoms, ["pairs", "stress", "energies"]), runtime.evaluate(atoms)
    assert set(found) == {"pairs", "stress", "energies"} and set(standard) == set(STANDARD)
    np.testing.assert_allclose(found["stress"], standard["stress"], rtol=0, atol=SAME)
    with pytest.raises(ValueError, match="outputs is the text 'forces': give a list of names"):
        runtime.evaluate(atoms, "forces")


def test_the_calculator_gives_further_outputs_by_name(path: Path) -> None:
    atoms = gan()
    atoms.calc = So3kratesCalculator(path, threads=1)
    forces = atoms.get_forces()
    assert "coordination" not in atoms.calc.results and np.abs(forces).max() > SIGNAL
    evaluations = atoms.calc.runtime.report()["evaluations"]
    counts = atoms.calc.get_property("coordination", atoms)
    assert counts.shape == (4,) and counts.min() > 2
    assert np.array_equal(atoms.get_forces(), forces)  # kept
    assert atoms.calc.runtime.report()["evaluations"] == evaluations + 1
    atoms.positions[0] += 0.1
    atoms.get_forces()
    assert "coordination" not in atoms.calc.results

    atoms.calc = So3kratesCalculator(path, threads=1, outputs=["coordination", "most"])
    atoms.get_potential_energy()
    assert atoms.calc.results["most"] == atoms.calc.results["coordination"].max() > 2
    with pytest.raises(ValueError, match="has no output 'charges'"):
        So3kratesCalculator(path, threads=1, outputs=["charges"])


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    guard = {"distances": [[2.6, 1.8], [1.8, None]], "largest_force": 20.0}
    return write_toy_bundle(tmp_path_factory.mktemp("guarded") / "toy.so3k", guard=guard)


def test_the_guard_of_the_calculator(guarded: Path, tmp_path: Path) -> None:
    near = gan()
    near.set_cell(near.cell.array * 0.8, scale_atoms=True)
    words = r"atom \d \(\w+\) and atom \d \(\w+\) are [\d.]+ A apart, nearer than 0.9 of the 1.8 A"
    calculator = So3kratesCalculator(guarded, threads=1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        for atoms in (gan(), near, gan(), near):
            atoms.calc = calculator
            atoms.get_forces()
    (warning,) = said  # once
    assert re.search(words, str(warning.message)) and 'guard="stop"' in str(warning.message)
    assert calculator.get_property("close_pairs", near) > 0 and calculator.get_property("closest_ratio", near) < 0.9
    assert calculator.get_property("close_pairs", gan()) == 0

    near.calc = So3kratesCalculator(guarded, threads=1, guard="stop", directory=str(tmp_path))
    with pytest.raises(StructureError, match=words):
        near.get_forces()
    frame = read(tmp_path / "guard-evaluation-1.extxyz")
    assert np.array_equal(frame.arrays["id"], range(len(near))) and "A apart" in frame.info["reason"]
    assert np.allclose(frame.positions, near.positions) and np.abs(frame.get_forces()).max() > SIGNAL
    near.calc = So3kratesCalculator(guarded, threads=1, guard="off")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert np.abs(near.get_forces()).max() > SIGNAL
    with pytest.raises(ValueError, match="guard is 'maybe': give one of off, warn, stop"):
        So3kratesCalculator(guarded, guard="maybe")
    blind = write_toy_bundle(tmp_path / "blind.so3k")
    with pytest.warns(UserWarning, match='blind.so3k: guard="stop" ends nothing, as the file does not say'):
        So3kratesCalculator(blind, threads=1, guard="stop")


def test_the_guard_of_a_model_folder(small_model_folder: Path, tmp_path: Path) -> None:
    """In the words of its bundle."""
    model = Model.load(small_model_folder)
    training = {**(model.training or {}), "distances": {"Ga-N": 1.85}, "largest_force": 3.0}
    folder = dataclasses.replace(model, training=training).save(tmp_path / "model")
    near = gan()
    near.set_cell(near.cell.array * 0.8, scale_atoms=True)
    near.calc = So3kratesCalculator(folder, guard="stop", directory=str(tmp_path))
    words = r"atom \d \((Ga|N)\) and atom \d \((Ga|N)\) are 1\.\d+ A apart, nearer than 0.9 of the 1.85 A"
    with pytest.raises(StructureError, match=rf"{words}.*; the force on atom \d .* more than 1.5 times the 3 eV/A"):
        near.get_forces()
    far = bulk("GaN", "wurtzite", a=3.19, c=5.19)
    far.calc = So3kratesCalculator(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert np.linalg.norm(far.get_forces(), axis=1).max() < 4.5


def test_the_guard_takes_an_uncertainty(gan_bundle32: Path, guarded: Path, tmp_path: Path) -> None:
    """Of the force on the atom that is most uncertain; a potential without is refused."""
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19)
    far = atoms.copy()
    far.positions += np.random.default_rng(0).normal(0.0, 0.3, far.positions.shape)
    near, most = (Runtime(gan_bundle32).evaluate(a, ["uncertainty"])["uncertainty"].max() for a in (atoms, far))
    limit = float(np.sqrt(near * most))
    assert most > 2 * near
    options = {"guard": "stop", "guard_uncertainty": limit, "directory": str(tmp_path)}
    atoms.calc = far.calc = So3kratesCalculator(gan_bundle32, **options)
    assert np.isfinite(atoms.get_forces()).all() and not list(tmp_path.iterdir())
    words = rf"the uncertainty of the force on atom \d \(\w+\) is {most:.4g} eV/A, more than the {limit:g} eV/A"
    with pytest.raises(StructureError, match=rf"{words}.*The frame is in .*guard-evaluation-2"):
        far.get_forces()
    assert read(tmp_path / "guard-evaluation-2.extxyz").arrays["uncertainty"].max() == pytest.approx(most, rel=1e-6)
    with pytest.raises(ValueError, match=r"tells no uncertainties; .*so3krates export MODEL"):
        So3kratesCalculator(guarded, guard_uncertainty=1.0)
    with pytest.raises(ValueError, match=r"guard = 'off', guard_uncertainty = 1\.0: give warn or stop"):
        So3kratesCalculator(gan_bundle32, guard="off", guard_uncertainty=1.0)


def test_the_guard_of_moving_atoms(guarded: Path) -> None:
    """With lists that hold for a skin, what fresh lists find."""
    runtime, atoms = Runtime(guarded, threads=1, skin=0.8), gan((2, 2, 1))
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(12):
        atoms.positions += rng.normal(0, 0.04, atoms.positions.shape)
        found = runtime.evaluate(atoms, NEAR)
        fresh = Runtime(guarded, threads=1, skin=0.0).evaluate(atoms, NEAR)
        assert found == fresh
        ratios.append(found["closest_ratio"])
    assert len(set(ratios)) > 6 and min(ratios) < 1.0
    assert runtime.report()["programs_compiled"] <= 2  # of neighbours alone, on its rungs


def test_the_guard_of_threads() -> None:
    """Of a system so large that lists and near pairs are shared between threads, in pieces."""
    atoms = gan((20, 20, 20))  # 32000 atoms, some 8 near pairs of each
    atoms.positions[15001] += 0.5
    found = [Runtime(SHIPPED, threads=n, skin=0.8).evaluate(atoms, NEAR) for n in (1, 3)]
    assert found[0] == found[1]
    assert found[0]["close_pairs"] > 0 and found[0]["closest_ratio"] < 0.9


def test_what_a_model_knows_of_its_training_goes_into_the_bundle(small_model_folder: Path) -> None:
    model = Model.load(small_model_folder)
    assert model.elements == ("N", "Ga")
    training: dict[str, Any] = {"distances": {"Ga-Ga": 2.7, "Ga-N": 1.85}, "largest_force": 12.5}
    entry = guard_entry(dataclasses.replace(model, training=training))
    assert entry == {"guard": {"distances": [[None, 1.85], [1.85, 2.7]], "largest_force": 12.5}}
    del training["largest_force"]
    assert guard_entry(dataclasses.replace(model, training=training))["guard"]["largest_force"] is None
    assert guard_entry(dataclasses.replace(model, training={"best_step": 7})) == {}


def test_a_model_folder_has_the_outputs_of_all_potentials(small_model_folder: Path) -> None:
    advice = r"no output 'feature_norm': .* given by a bundle: .*so3krates export .*gan-small"
    with pytest.raises(ValueError, match=advice):
        So3kratesCalculator(small_model_folder, outputs=["feature_norm"])
    atoms = gan()
    atoms.calc = So3kratesCalculator(small_model_folder, outputs=["virial"])
    assert np.abs(atoms.calc.get_property("virial", atoms)).max() > SIGNAL
    assert set(atoms.calc.results) >= {"virial", "stress", "energy", "forces"}
