"""Sampling: labels are derivatives of the energy, thermal displacements are those of the harmonic crystal."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from so3krates.cli import app
from so3krates.lammps import LammpsError
from so3krates.sampling import (
    DynamicsPlan,
    EinsteinDisplacements,
    EinsteinPlan,
    LammpsCalculator,
    RattlePlan,
    Recipe,
    SamplingError,
    SamplingPlan,
    ThermalDisplacements,
    Workers,
    force_constants,
    label_frames,
    parts_folder,
    relax_crystal,
    sample,
    strained,
    structures,
    wurtzite,
)
from so3krates.sampling.harmonic import displacement_forces, force_constants_of, springs_of
from typer.testing import CliRunner

STEP = 3e-5  # A and strain of finite differences
FORCE_TOLERANCE = 1e-6  # eV/A
STRESS_TOLERANCE = 1e-7  # eV/A^3
ROTATION_TOLERANCE = 1e-9  # eV/A, eV/A^3
DRAWS = 3000
STATISTICAL_TOLERANCE = 0.02  # of mean squares over DRAWS draws
COVARIANCE_TOLERANCE = 0.12  # of the norm of a matrix of 12 x 12 over DRAWS draws: twice what chance gives
SIGMAS = 4.0
EXPANSION = 0.006  # around the thermal expansion of copper from 0 to 150 K by EMT, and the error of a mean volume
LONGEST_JOB = 15  # evaluations of a piece of dynamics or a relaxation
COULOMB = 14.399645  # eV A of two unit charges, as LAMMPS has it


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


def test_charges_of_types_are_lines_of_the_deck() -> None:
    """Two ions in vacuum have the energy and the force of Coulomb's law."""
    charges = ("fix q all property/atom q ghost yes", "set type 1 charge 1.0", "set type 2 charge -0.5")
    lines = (*charges, "pair_style coul/cut 10.0", "pair_coeff * *")
    ions = Atoms("NaCl", positions=[[0, 0, 0], [0, 0, 3.0]])
    ions.calc = LammpsCalculator(lines, ("Na", "Cl"))
    assert ions.get_potential_energy() == pytest.approx(-0.5 * COULOMB / 3.0, rel=1e-6)
    assert ions.get_forces()[0] == pytest.approx([0, 0, 0.5 * COULOMB / 3.0**2], rel=1e-6, abs=1e-12)


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


def test_displacements_have_the_covariance_of_their_crystal(crystal: Atoms, teacher: LammpsCalculator) -> None:
    thermal = ThermalDisplacements(force_constants(crystal, teacher), crystal.get_masses())
    springs = {"Ga": 8.0, "N": 2.0}
    einstein = EinsteinDisplacements(springs, list(crystal.symbols))
    variances = np.repeat([units.kB * 300.0 / springs[symbol] for symbol in crystal.symbols], 3)
    random = np.random.default_rng(3)
    for displacements, exact in ((thermal, thermal.covariance(300.0)), (einstein, np.diag(variances))):
        draws = np.array([displacements.draw(300.0, random).ravel() for _ in range(DRAWS)])
        error = np.linalg.norm(draws.T @ draws / DRAWS - exact) / np.linalg.norm(exact)
        assert error < COVARIANCE_TOLERANCE
        assert np.linalg.norm(exact) > 1e-3  # A^2


def test_force_constants_of_one_cell_are_those_of_all(crystal: Atoms, teacher: LammpsCalculator) -> None:
    repeats = (2, 1, 3)
    supercell = crystal.repeat(repeats)
    forces = [displacement_forces(teacher, supercell, atom)["forces"] for atom in range(len(crystal))]
    phi, all_atoms = force_constants_of(forces, repeats), force_constants(supercell, teacher)
    assert np.abs(all_atoms).max() > 10.0
    np.testing.assert_allclose(phi, all_atoms, atol=1e-4)
    springs = springs_of(forces, list(crystal.symbols))
    own = np.diag(all_atoms).reshape(-1, 3).mean(1)
    expected = {symbol: own[supercell.symbols == symbol].mean() for symbol in ("Ga", "N")}
    assert springs == pytest.approx(expected, rel=0.03)


def test_frames_are_reproducible_and_survive_a_file(crystal: Atoms, teacher: LammpsCalculator, tmp_path: Path) -> None:
    plan = SamplingPlan((1, 1, 1), 2, 5, strains=(-0.01, 0.03), temperatures=(100.0, 900.0))
    other = dataclasses.replace(plan, seed=6)
    with Workers(teacher) as workers:
        frames, again, others = (structures(p, crystal, workers) for p in (plan, plan, other))
        assert len(frames) == plan.total == 8
        for first, second, third in zip(frames, again, others, strict=True):
            assert np.array_equal(first.positions, second.positions)
            assert np.abs(first.positions - third.positions).max() > 1e-3
        assert frames[-1].get_volume() / frames[0].get_volume() == pytest.approx((1.03 / 0.99) ** 3)
        labelled = label_frames(frames, workers)

    ase.io.write(tmp_path / "data.extxyz", labelled)
    for frame, read in zip(labelled, ase.io.read(tmp_path / "data.extxyz", ":"), strict=True):
        assert np.array_equal(read.positions, frame.positions)  # labels belong to what is written
        assert read.info == frame.info
        assert read.info.keys() == {"method", "temperature_K", "strain", "seed", "calculator"}
        assert read.get_potential_energy() == frame.get_potential_energy()
        np.testing.assert_allclose(read.get_forces(), frame.get_forces(), atol=1e-8)
        np.testing.assert_allclose(read.get_stress(), frame.get_stress(), rtol=1e-12)
    assert all(abs(frame.get_potential_energy()) > 1.0 for frame in labelled)


def test_progress_is_reported(crystal: Atoms, teacher: LammpsCalculator) -> None:
    seen: list[tuple[str, int, int]] = []
    plan = SamplingPlan((1, 1, 1), 1, strains=(0.0, 0.01), temperatures=(300.0,))
    with Workers(teacher, on_progress=lambda *state: seen.append(state)) as workers:
        label_frames(structures(plan, crystal, workers), workers)
    assert [state for state in seen if state[0] == "force constants"][-1] == ("force constants", 8, 8)
    assert seen[-1] == ("labels", 2, 2)


@pytest.fixture
def copper() -> Atoms:
    return bulk("Cu", "fcc", a=3.6)


@pytest.mark.long
def test_dynamics_has_its_temperature_and_pressure(copper: Atoms) -> None:
    times = {"timestep": 5.0, "equilibration": 1.0, "interval": 0.1}
    count, volumes = 20, {}
    for temperatures, pressure in (((150.0, 600.0), 0.0), ((150.0,), 10.0)):
        plan = DynamicsPlan((3, 3, 3), count, temperatures=temperatures, pressures=(pressure,), **times)
        with Workers(EMT()) as workers:
            frames = structures(plan, relax_crystal(copper, EMT()), workers)
        assert len(frames) == plan.total == count * len(temperatures)
        for n, temperature in enumerate(temperatures):
            state = frames[count * n : count * (n + 1)]
            assert all(frame.info["temperature_K"] == temperature for frame in state)
            assert all(frame.info["pressure_GPa"] == pressure for frame in state)
            mean = np.mean([frame.info["kinetic_temperature_K"] for frame in state])
            error = temperature * np.sqrt(2.0 / (3 * 27) / count)
            assert abs(mean - temperature) < SIGMAS * error < 0.15 * temperature
            volumes[temperature, pressure] = np.mean([frame.get_volume() for frame in state]) / 27
    # The volume is that of the crystal under the same pressure, but for its thermal expansion.
    for pressure in (0.0, 10.0):
        assert volumes[150.0, pressure] / squeezed_volume(copper, pressure) == pytest.approx(1.007, abs=EXPANSION)
    assert volumes[150.0, 10.0] / volumes[150.0, 0.0] < 0.96
    assert volumes[600.0, 0.0] / volumes[150.0, 0.0] > 1.01


def squeezed_volume(crystal: Atoms, pressure: float) -> float:
    """Volume of an atom of a crystal at 0 K under a pressure in GPa."""
    crystal = crystal.copy()
    crystal.calc = EMT()
    BFGS(FrechetCellFilter(crystal, scalar_pressure=pressure * units.GPa), logfile=None).run(fmax=1e-4)
    return crystal.get_volume() / len(crystal)


def test_rattled_frames(copper: Atoms) -> None:
    plan = RattlePlan((3, 3, 3), 8, strains=(0.0, 0.02), amplitudes=(0.02, 0.1), shear=0.01)
    with Workers(EMT()) as workers:
        frames = structures(plan, copper, workers)
        (labelled,) = label_frames(frames[:1], workers)
    assert labelled.info["calculator"] == "EMT"
    ideal = copper.repeat((3, 3, 3))
    for strain, amplitude in itertools.product(plan.strains, plan.amplitudes):
        chosen = [f for f in frames if (f.info["strain"], f.info["amplitude_A"]) == (strain, amplitude)]
        assert len(chosen) == 8
        moved = [f.positions - ideal.get_scaled_positions(wrap=False) @ f.cell.array for f in chosen]
        assert np.std(moved) == pytest.approx(amplitude, rel=0.1)  # 648 components
        deformation = [np.linalg.solve(ideal.cell.array, f.cell.array) for f in chosen]
        assert np.mean([np.trace(d) / 3 for d in deformation]) == pytest.approx(1 + strain, abs=0.01)
        assert 0.003 < np.std([d[0, 1] for d in deformation]) < 0.014


class Counting(EMT):
    """Counts what it calculates and stops, as a kill would, after so much."""

    def __init__(self, limit: int = 10**9) -> None:
        super().__init__()
        self.count, self.limit = 0, limit

    def calculate(self, *args: object, **kwargs: object) -> None:
        if self.count == self.limit:
            raise KeyboardInterrupt
        self.count += 1
        super().calculate(*args, **kwargs)


PLANS = {
    "harmonic": SamplingPlan((2, 2, 2), 3, strains=(0.0, 0.01), temperatures=(100.0, 300.0)),
    "einstein": EinsteinPlan((2, 2, 2), 3, strains=(0.0, 0.01), temperatures=(100.0, 300.0)),
    "md": DynamicsPlan((2, 2, 2), 3, temperatures=(100.0, 300.0), equilibration=0.02, interval=0.01),
    "rattle": RattlePlan((2, 2, 2), 5),
}


@pytest.mark.parametrize("method", PLANS)
def test_a_killed_sampling_goes_on(copper: Atoms, tmp_path: Path, method: str) -> None:
    whole = Counting()
    sample(tmp_path / "whole.extxyz", copper, PLANS[method], whole, relax=True)
    assert len(ase.io.read(tmp_path / "whole.extxyz", ":")) == PLANS[method].total
    calls, output = 0, tmp_path / "killed.extxyz"
    for limit in (whole.count // 3, whole.count // 2):
        killed = Counting(limit)
        with pytest.raises(KeyboardInterrupt):
            sample(output, copper, PLANS[method], killed, relax=True)
        assert not output.exists()
        calls += killed.count
    last = Counting()
    sample(output, copper, PLANS[method], last, relax=True)
    assert output.read_bytes() == (tmp_path / "whole.extxyz").read_bytes()
    assert not parts_folder(output).exists()
    # What a kill interrupts is begun again: at most one relaxation, displacement or piece of dynamics for each.
    assert whole.count <= calls + last.count <= whole.count + 2 * LONGEST_JOB
    assert last.count < whole.count


def test_two_processes_make_the_frames_of_one(copper: Atoms, tmp_path: Path) -> None:
    emt = Recipe("ase.calculators.emt:EMT()")
    soft = Recipe("ase.calculators.lj:LennardJones(epsilon=0.4, sigma=2.3, rc=5)")
    for method in ("harmonic", "md"):
        for processes in (1, 2):
            sample(tmp_path / f"{processes}.extxyz", copper, PLANS[method], soft, emt, processes=processes)
        assert (tmp_path / "1.extxyz").read_bytes() == (tmp_path / "2.extxyz").read_bytes()
        frames = ase.io.read(tmp_path / "2.extxyz", ":")
        assert {f.info["calculator"] for f in frames} == {soft.text}
        assert {f.info["driver"] for f in frames} == {emt.text}
        frames[0].calc, energy = soft.make(), frames[0].get_potential_energy()
        assert frames[0].get_potential_energy() == pytest.approx(energy, rel=1e-12)
        assert abs(energy) > 1.0
        for processes in (1, 2):
            (tmp_path / f"{processes}.extxyz").unlink()


def test_programs_leave_no_files_beside_the_frames(
    copper: Atoms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that share a folder would overwrite each other's."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("program", "teachers:Program()"), ("emt", "ase.calculators.emt:EMT()")):
        sample(f"{name}.extxyz", copper, PLANS["rattle"], Recipe(text), relax=False)
    assert {path.name for path in tmp_path.iterdir()} == {"program.extxyz", "emt.extxyz"}
    for own, other in zip(ase.io.read("program.extxyz", ":"), ase.io.read("emt.extxyz", ":"), strict=True):
        np.testing.assert_allclose(own.get_forces(), other.get_forces(), atol=FORCE_TOLERANCE)


def test_command(copper: Atoms, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "cu.xyz", copper, format="extxyz")
    common = ["--structure", str(tmp_path / "cu.xyz"), "--calculator", "ase.calculators.emt:EMT", "--frames", "2"]
    for method, options, count in (
        ("harmonic", ["--strains", "0", "--temperatures", "100,200"], 4),
        ("einstein", ["--strains", "0", "--temperatures", "100", "--springs", "Cu=6"], 2),
        ("md", ["--temperatures", "100", "--pressures", "0,1", "--equilibrate", "0.01", "--every", "0.01"], 4),
        ("rattle", ["--amplitudes", "0.05", "--shear", "0.01"], 2),
    ):
        output = tmp_path / f"{method}.extxyz"
        result = CliRunner().invoke(app, ["sample", method, "-o", str(output), *common, *options])
        assert result.exit_code == 0, result.output
        frames = ase.io.read(output, ":")
        assert len(frames) == count
        assert {frame.info["method"] for frame in frames} == {method}
        assert all(np.abs(frame.get_forces()).max() > 0.01 and frame.get_stress().any() for frame in frames)
    result = CliRunner().invoke(app, ["sample", "rattle", "-o", str(output), *common])
    assert result.exit_code == 1
    assert "exists already" in result.output
    deck = tmp_path / "in.tersoff"
    deck.write_text("# the teacher\npair_style tersoff\npair_coeff * * GaN.tersoff Ga N\n")
    output = tmp_path / "gan.extxyz"
    options = ["--deck", str(deck), "--amplitudes", "0.05", "--frames", "1", "--repeats", "1,1,1"]
    assert CliRunner().invoke(app, ["sample", "rattle", "-o", str(output), *options]).exit_code == 0
    assert "GaN.tersoff" in ase.io.read(output).info["calculator"]


def test_molecules_have_no_stress(tmp_path: Path) -> None:
    dimer = Atoms("Cu2", [[0, 0, 0], [2.3, 0, 0]])
    (frame,) = sample(tmp_path / "a.extxyz", dimer, RattlePlan((1, 1, 1), 1, amplitudes=(0.05,)), EMT(), relax=True)
    assert np.abs(frame.get_forces()).max() > 0.01
    assert "stress" not in ase.io.read(tmp_path / "a.extxyz").calc.results


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("emt", "neither a file nor a folder"),
        ("ase.calculators.emt:EMTT", "cannot be imported"),
        ("no.such.module:EMT", "cannot be imported"),
        ("ase.calculators.emt:EMT(3, no=open)", "not understood"),
        ("ase.calculators.lj:LennardJones.x()", "not understood"),
        ("ase.calculators.singlepoint:SinglePointCalculator()", "cannot be made"),
    ],
)
def test_calculators_that_cannot_be_made_are_refused(text: str, message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        Recipe(text).make()


def test_other_settings_do_not_go_on(copper: Atoms, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        sample(tmp_path / "a.extxyz", copper, PLANS["rattle"], Counting(4))
    other = dataclasses.replace(PLANS["rattle"], seed=1)
    with pytest.raises(SamplingError, match=r"seed = 0, not 1"):
        sample(tmp_path / "a.extxyz", copper, other, Counting())
    with pytest.raises(SamplingError, match="give a Recipe"):
        sample(tmp_path / "b.extxyz", copper, PLANS["rattle"], EMT(), processes=2)


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
    nan = float("nan")
    for bad in ({"amplitudes": (0.1, nan)}, {"shear": nan}, {"strains": (nan,)}, {"seed": -1}):
        with pytest.raises(SamplingError, match=f"{next(iter(bad))} = .*: give"):
            RattlePlan(**bad)
    with pytest.raises(SamplingError, match=r"temperatures = .*: give finite numbers"):
        SamplingPlan(temperatures=(300.0, nan))
    with pytest.raises(SamplingError, match="frames = 0"):
        SamplingPlan(frames=0)
    with pytest.raises(SamplingError, match=r"processes = 1000000: give 1 to \d+ on this machine of \d+ cores"):
        Workers(teacher, processes=1_000_000)
    # The teacher still works after all of that.
    crystal = crystal.copy()
    crystal.calc = teacher
    assert crystal.get_potential_energy() < -10.0
