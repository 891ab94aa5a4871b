"""Sampling: labels are derivatives of the energy, thermal displacements are those of the harmonic crystal."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from so3krates.lammps import LammpsError
from so3krates.sampling import (
    LammpsCalculator,
    SamplingError,
    SamplingPlan,
    ThermalDisplacements,
    force_constants,
    harmonic_frames,
    label_frames,
    relax_crystal,
    strained,
    wurtzite,
)

STEP = 3e-5  # A and strain of finite differences
FORCE_TOLERANCE = 1e-6  # eV/A
STRESS_TOLERANCE = 1e-7  # eV/A^3
ROTATION_TOLERANCE = 1e-9  # eV/A, eV/A^3
DRAWS = 3000
STATISTICAL_TOLERANCE = 0.02  # of mean squares over DRAWS draws


@pytest.fixture(scope="module")
def teacher() -> LammpsCalculator:
    return LammpsCalculator()


@pytest.fixture(scope="module")
def crystal(teacher: LammpsCalculator) -> Atoms:
    return relax_crystal(wurtzite(), teacher)


@pytest.fixture
def sheared(crystal: Atoms, teacher: LammpsCalculator) -> Atoms:
    """16 atoms off their sites in a triclinic cell."""
    random = np.random.default_rng(4)
    atoms = crystal.repeat((2, 2, 1))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * random.normal(size=(3, 3))), scale_atoms=True)
    atoms.positions += 0.05 * random.normal(size=atoms.positions.shape)
    atoms.calc = teacher
    return atoms


def test_labels_are_derivatives_of_the_energy(sheared: Atoms) -> None:
    forces, stress = sheared.get_forces(), sheared.get_stress(voigt=False)
    assert np.abs(forces).max() > 0.5
    assert np.abs(stress).max() > 0.01
    assert np.abs(forces.sum(0)).max() < ROTATION_TOLERANCE

    def energy(positions: np.ndarray, deformation: np.ndarray) -> float:
        atoms = sheared.copy()
        atoms.positions = positions
        atoms.set_cell(atoms.cell.array @ deformation.T, scale_atoms=True)
        atoms.calc = sheared.calc
        return atoms.get_potential_energy()

    for atom, axis in ((0, 0), (3, 1), (7, 2), (14, 0)):
        shift = np.zeros_like(forces)
        shift[atom, axis] = STEP
        change = energy(sheared.positions + shift, np.eye(3)) - energy(sheared.positions - shift, np.eye(3))
        assert abs(change / (2 * STEP) + forces[atom, axis]) < FORCE_TOLERANCE
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        strain = np.zeros((3, 3))
        strain[a, b] += STEP / 2
        strain[b, a] += STEP / 2
        change = energy(sheared.positions, np.eye(3) + strain) - energy(sheared.positions, np.eye(3) - strain)
        assert abs(change / (2 * STEP) / sheared.get_volume() - stress[a, b]) < STRESS_TOLERANCE


def test_labels_turn_with_the_crystal(sheared: Atoms) -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    turned = sheared.copy()
    turned.set_cell(sheared.cell.array @ turn.T)
    turned.positions = sheared.positions @ turn.T
    turned.calc = sheared.calc
    forces, stress = sheared.get_forces(), sheared.get_stress(voigt=False)
    np.testing.assert_allclose(turned.get_forces(), forces @ turn.T, atol=ROTATION_TOLERANCE)
    np.testing.assert_allclose(turned.get_stress(voigt=False), turn @ stress @ turn.T, atol=ROTATION_TOLERANCE)


def test_free_cluster(teacher: LammpsCalculator) -> None:
    pair = Atoms("GaN", [[0, 0, 0], [1.9, 0, 0]], calculator=teacher)
    force = pair.get_forces()[0, 0]
    pair.positions[1, 0] += STEP
    high = pair.get_potential_energy()
    pair.positions[1, 0] -= 2 * STEP
    low = pair.get_potential_energy()
    assert abs(force) > 0.1
    assert abs((high - low) / (2 * STEP) - force) < FORCE_TOLERANCE
    assert "stress" not in teacher.results


def test_force_constants(crystal: Atoms, teacher: LammpsCalculator) -> None:
    atoms = crystal.repeat((2, 1, 1))
    phi = force_constants(atoms, teacher)
    assert np.abs(phi).max() > 10.0
    np.testing.assert_allclose(phi, phi.T, atol=1e-12)
    np.testing.assert_allclose(phi.reshape(-1, len(atoms), 3).sum(1), 0.0, atol=1e-10)
    displacement = 1e-3 * np.random.default_rng(1).normal(size=atoms.positions.shape)
    atoms.calc = teacher
    flat = atoms.get_potential_energy()
    atoms.positions += displacement
    harmonic = 0.5 * displacement.ravel() @ phi @ displacement.ravel()
    assert abs(atoms.get_potential_energy() - flat - harmonic) < 0.03 * harmonic


def test_displacements_are_thermal(crystal: Atoms, teacher: LammpsCalculator) -> None:
    atoms = crystal.repeat((2, 1, 1))
    phi = force_constants(atoms, teacher)
    thermal = ThermalDisplacements(phi, atoms.get_masses())
    random = np.random.default_rng(2)
    mean_squares = {}
    for temperature in (150.0, 300.0, 900.0):
        draws = np.array([thermal.draw(temperature, random).ravel() for _ in range(DRAWS)])
        mean_squares[temperature] = (draws**2).mean()
        # Equipartition: k_B T / 2 for each of 3n - 3 vibrations.
        energy = 0.5 * np.einsum("si,ij,sj->s", draws, phi, draws).mean()
        assert energy == pytest.approx(0.5 * (3 * len(atoms) - 3) * units.kB * temperature, rel=STATISTICAL_TOLERANCE)
        exact = np.trace(thermal.covariance(temperature)) / (3 * len(atoms))
        assert mean_squares[temperature] == pytest.approx(exact, rel=STATISTICAL_TOLERANCE)
    assert mean_squares[300.0] / mean_squares[150.0] == pytest.approx(2.0, rel=2 * STATISTICAL_TOLERANCE)
    assert mean_squares[900.0] / mean_squares[150.0] == pytest.approx(6.0, rel=2 * STATISTICAL_TOLERANCE)
    assert 0.03 < np.sqrt(mean_squares[300.0]) < 0.2  # A
    # The centre of mass stays.
    momentum = atoms.get_masses() @ thermal.draw(300.0, random)
    assert np.abs(momentum).max() < 1e-8


def test_frames_are_reproducible_and_survive_a_file(crystal: Atoms, teacher: LammpsCalculator, tmp_path: Path) -> None:
    plan = SamplingPlan(repeats=(1, 1, 1), strains=(-0.01, 0.03), temperatures=(100.0, 900.0), frames=2, seed=5)
    frames = harmonic_frames(crystal, teacher, plan)
    assert len(frames) == plan.total == 8
    again = harmonic_frames(crystal, teacher, plan)
    other = harmonic_frames(
        crystal, teacher, SamplingPlan((1, 1, 1), plan.strains, plan.temperatures, frames=2, seed=6)
    )
    for first, second, third in zip(frames, again, other, strict=True):
        assert np.array_equal(first.positions, second.positions)
        assert np.abs(first.positions - third.positions).max() > 1e-3
    assert frames[-1].get_volume() / frames[0].get_volume() == pytest.approx((1.03 / 0.99) ** 3)

    labelled = label_frames(frames, teacher)
    ase.io.write(tmp_path / "data.extxyz", labelled)
    for frame, read in zip(labelled, ase.io.read(tmp_path / "data.extxyz", ":"), strict=True):
        assert np.array_equal(read.positions, frame.positions)  # labels belong to what is written
        assert read.info["temperature"] == frame.info["temperature"]
        assert read.info["strain"] == frame.info["strain"]
        assert read.get_potential_energy() == frame.get_potential_energy()
        np.testing.assert_allclose(read.get_forces(), frame.get_forces(), atol=1e-8)
        np.testing.assert_allclose(read.get_stress(), frame.get_stress(), rtol=1e-12)
    assert all(abs(frame.get_potential_energy()) > 1.0 for frame in labelled)


def test_progress_is_reported(crystal: Atoms, teacher: LammpsCalculator) -> None:
    seen: list[tuple[str, int, int]] = []
    plan = SamplingPlan(repeats=(1, 1, 1), strains=(0.0, 0.01), temperatures=(300.0,), frames=1)
    frames = harmonic_frames(crystal, teacher, plan, lambda *state: seen.append(state))
    label_frames(frames, teacher, lambda *state: seen.append(state))
    assert [state for state in seen if state[0] == "force constants"][-1] == ("force constants", 8, 8)
    assert seen[-1] == ("labels", 2, 2)


def test_refusals(crystal: Atoms, teacher: LammpsCalculator) -> None:
    with pytest.raises(LammpsError, match="element Al has no type"):
        Atoms("AlN", [[0, 0, 0], [1.9, 0, 0]], calculator=teacher).get_potential_energy()
    slab = crystal.copy()
    slab.pbc = (True, True, False)
    slab.calc = teacher
    with pytest.raises(LammpsError, match="all directions or in none"):
        slab.get_potential_energy()
    mirrored = crystal.copy()
    mirrored.set_cell(crystal.cell.array[[1, 0, 2]])
    mirrored.calc = teacher
    with pytest.raises(LammpsError, match="right-handed"):
        mirrored.get_potential_energy()
    typo = crystal.copy()
    typo.calc = LammpsCalculator(["pair_style tersof"])
    with pytest.raises(LammpsError, match="tersof"):
        typo.get_potential_energy()
    with pytest.raises(SamplingError, match="not stable"):
        squeezed = strained(crystal, 0.35)
        ThermalDisplacements(force_constants(squeezed, teacher), squeezed.get_masses())
    with pytest.raises(SamplingError, match="temperatures"):
        SamplingPlan(temperatures=(-5.0,))
    with pytest.raises(SamplingError, match="frames = 0"):
        SamplingPlan(frames=0)
    # The teacher still works after all of that.
    crystal = crystal.copy()
    crystal.calc = teacher
    assert crystal.get_potential_energy() < -10.0
