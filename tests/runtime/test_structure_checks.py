"""Structures that cannot be computed: the same words at every door, with the names that each gives to atoms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from so3krates._harness import Error, Evaluator, StructureError
from so3krates.calculator import So3kratesCalculator
from so3krates_export import read_bundle, write_bundle
from toy_bundle import write_toy_bundle
from toy_systems import SIGNAL, evaluate, gan, lists


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "toy.so3k")


@pytest.fixture(scope="module")
def calculator(path: Path) -> So3kratesCalculator:
    return So3kratesCalculator(path, threads=1)


@pytest.fixture(scope="module")
def evaluator(path: Path) -> Evaluator:
    return Evaluator(str(path), threads=1)


def moved(atom: int, position: Any) -> Callable[[], Atoms]:
    def make() -> Atoms:
        atoms = gan()
        atoms.positions[atom] = position
        return atoms

    return make


def together(distance: float) -> Callable[[], Atoms]:
    """Atom 3 beside atom 1, by way of an image of it."""

    def make() -> Atoms:
        atoms = gan()
        atoms.positions[3] = atoms.positions[1] + atoms.cell.array[0] + np.array([distance, 0, 0])
        return atoms

    return make


def with_cell(value: float) -> Callable[[], Atoms]:
    def make() -> Atoms:
        atoms = gan()
        atoms.cell.array[1, 2] = value
        return atoms

    return make


NAN = "the position of atom {} is not finite: "
REFUSALS: dict[str, tuple[Callable[[], Atoms], str]] = {
    "nan": (moved(2, [0.5, np.nan, 1]), NAN.format(r"2 \(Ga\)") + r"\(0.5, nan, 1\) A"),
    "inf": (moved(0, [np.inf, 0, 0]), NAN.format(r"0 \(Ga\)") + r"\(inf, 0, 0\) A"),
    "two": (
        lambda: Atoms("GaN", np.full((2, 3), np.nan)),
        "the positions of 2 atoms are not finite, the first of them a",
    ),
    "minus inf": (moved(1, [1, 1, -np.inf]), NAN.format(r"1 \(N\)") + r"\(1, 1, -inf\) A"),
    "same place": (
        together(0.0),
        r"atom [13] \((Ga|N)\) and atom [13] \((Ga|N)\) are at the same place: \S+ A apart, at ",
    ),
    "nearly": (together(1e-12), r"atom [13] \(.*\) and atom [13] \(.*\) are at the same place: \S+ A apart, at "),
    "a thousandth of a bond": (together(9e-4), r"are at the same place: 0.0009 A apart"),
    "far away in the cell": (moved(1, [1e15, 0, 0]), r"atom 1 \(N\) is at .* A, beyond 1e\+07 A"),
    "nan in the cell": (with_cell(np.nan), r"cell vector 1 is .* A, which is not finite"),
    "inf in the cell": (with_cell(np.inf), r"cell vector 1 is .* A, which is not finite"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_structures_that_the_calculator_refuses(case: str, calculator: So3kratesCalculator) -> None:
    make, message = REFUSALS[case]
    atoms = make()
    atoms.calc = calculator
    with pytest.raises(ValueError, match=message):
        atoms.get_potential_energy()
    sound = gan()
    sound.calc = calculator
    assert np.abs(sound.get_forces()).max() > SIGNAL


@pytest.mark.parametrize("case", [case for case in REFUSALS if "cell" not in case])
def test_structures_that_the_evaluator_refuses(case: str, evaluator: Evaluator) -> None:
    """The lists are those of a sound structure where none can be made."""
    make, message = REFUSALS[case]
    atoms = make()
    host = lists(atoms if np.isfinite(atoms.positions).all() else gan())
    positions = host.positions.copy()
    positions[: len(atoms)] = atoms.positions
    evaluator.set_neighbourhood(**host.arguments)
    with pytest.raises(StructureError, match=message):
        evaluator.evaluate(positions)
    assert np.abs(evaluate(evaluator, gan())["forces"]).max() > SIGNAL


def test_atoms_that_meet_within_the_life_of_a_list(evaluator: Evaluator) -> None:
    pair = Atoms("Ga2", [[0, 0, 0], [0, 0, 0.2]])
    host = lists(pair)
    evaluator.set_neighbourhood(**host.arguments)
    assert np.abs(evaluator.evaluate(host.positions)["forces"]).max() > SIGNAL
    with pytest.raises(StructureError, match=r"atom 0 \(Ga\) and atom 1 \(Ga\) are at the same place: 1e-09 A apart"):
        evaluator.evaluate(np.array([[0, 0, 0], [0, 0, 1e-9]]))


def test_a_position_of_no_concern_may_be_anything(evaluator: Evaluator) -> None:
    """Atoms without a row are another potential's."""
    host = lists(gan())
    expected = evaluate(evaluator, gan())["energy"]
    arguments = {**host.arguments, "row_of_atom": np.append(host.arguments["row_of_atom"], -1)}
    evaluator.set_neighbourhood(**arguments)
    assert evaluator.evaluate(np.vstack([host.positions, [np.nan] * 3]))["energy"] == expected


def test_results_that_are_no_numbers_name_the_atom(path: Path, tmp_path: Path) -> None:
    """A potential with a broken weight: nitrogen's, so that gallium far from it is sound."""
    bundle = read_bundle(path)
    depth = bundle.tensors["weights/depth"].copy()
    depth[1, 1] = np.nan
    write_bundle(tmp_path / "broken.so3k", bundle.manifest, {**bundle.tensors, "weights/depth": depth})
    atoms = Atoms("Ga2N2", [[0, 0, 0], [2, 0, 0], [50, 0, 0], [52, 0, 0]])
    atoms.calc = So3kratesCalculator(tmp_path / "broken.so3k", threads=1)
    message = (
        r"^energy nan eV, force \(.*\) eV/A or virial on atom 2 \(N\) at \(50, 0, 0\) A are not finite\. .*timestep"
    )
    with pytest.raises(Error, match=message):
        atoms.get_forces()
