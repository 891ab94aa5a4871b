"""LAMMPS gives what Python gives, in every kind of box."""

import numpy as np
import pytest
from ase import Atoms
from decks import Bench, Evaluation, any_body, python_evaluation
from structures import KINDS, structure

FORCE_64 = 1e-9  # eV/A
ENERGY_64 = 1e-9  # eV per atom
GRADIENT_64 = 1e-8  # eV
FORCE_32 = 2e-5  # of the largest force
ENERGY_32 = 2e-6  # of the sum of the atomic energies' sizes
GRADIENT_32 = 1e-4  # of the largest component
SAME = 1e-10  # eV/A and eV: the same potential through different lists
SIGNAL = 0.05  # eV/A and eV


def assert_signal(evaluation: Evaluation) -> None:
    assert np.abs(evaluation.forces).max() > SIGNAL
    assert np.abs(evaluation.gradient).max() > SIGNAL
    assert np.ptp(evaluation.atom_energies) > SIGNAL / 10


def assert_same(found: Evaluation, expected: Evaluation, tolerance: float = SAME) -> None:
    assert_signal(expected)
    assert np.abs(found.forces - expected.forces).max() < tolerance
    assert abs(found.energy - expected.energy) < tolerance * len(expected.forces)
    assert np.abs(found.gradient - expected.gradient).max() < 10 * tolerance
    assert np.abs(found.atom_energies - expected.atom_energies).max() < tolerance


@pytest.mark.parametrize(
    ("gan_bundle64", "newton"),
    [("fused", "on"), ("fused", "off"), ("xla", "on"), pytest.param("xla", "off", marks=pytest.mark.torture)],
    indirect=["gan_bundle64"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_float64(bench64: Bench, gan_cell: Atoms, kind: str, newton: str) -> None:
    atoms = structure(kind, gan_cell)
    found = bench64.evaluate(atoms, newton=newton)
    expected = python_evaluation(bench64.bundle, atoms)
    assert_signal(expected)
    assert np.abs(found.forces - expected.forces).max() < FORCE_64
    assert np.abs(found.atom_energies - expected.atom_energies).max() < ENERGY_64
    assert abs(found.energy - expected.energy) < ENERGY_64 * len(atoms)
    assert np.abs(found.gradient - expected.gradient).max() < GRADIENT_64
    assert abs(found.energy) > SIGNAL
    assert found.atom_energies.sum() == pytest.approx(found.energy, rel=1e-13)


@pytest.mark.parametrize("kind", ["crystal", "tiny"])
def test_float32(bench32: Bench, gan_cell: Atoms, kind: str) -> None:
    atoms = structure(kind, gan_cell)
    found = bench32.evaluate(atoms)
    expected = python_evaluation(bench32.bundle, atoms)
    assert_signal(expected)
    assert np.abs(found.forces - expected.forces).max() < FORCE_32 * np.abs(expected.forces).max()
    assert abs(found.energy - expected.energy) < ENERGY_32 * np.abs(expected.atom_energies).sum()
    assert np.abs(found.gradient - expected.gradient).max() < GRADIENT_32 * np.abs(expected.gradient).max()


@pytest.mark.parametrize("elements", [("N", "Ga"), ("Ga", "N", "Ga"), ("N", "N", "Ga")])
def test_numbering_of_types_does_not_matter(bench64: Bench, gan_cell: Atoms, elements: tuple[str, ...]) -> None:
    atoms = structure("triclinic", gan_cell)
    assert_same(bench64.evaluate(atoms, elements), bench64.evaluate(atoms))


def test_supercell_has_the_forces_of_its_cell(bench64: Bench, gan_cell: Atoms) -> None:
    atoms = structure("tiny", gan_cell)
    one, many = bench64.evaluate(atoms), bench64.evaluate(atoms.repeat(3))
    assert_signal(one)
    assert np.abs(many.forces - np.tile(one.forces, (27, 1))).max() < SAME
    assert np.abs(many.gradient - 27 * one.gradient).max() < 1000 * SAME


@any_body
@pytest.mark.parametrize("line", ["neighbor 0.0 bin", "neighbor 2.5 nsq", "comm_style tiled", "atom_modify sort 0 0"])
def test_lists_of_any_make_give_the_same(bench64: Bench, gan_cell: Atoms, line: str) -> None:
    atoms = structure("crystal", gan_cell)
    pair = bench64.pair() + line + "\n"
    assert_same(bench64.evaluate(atoms, pair=pair), bench64.evaluate(atoms))
