"""The ASE calculator on a small many-body potential: any boundaries, many structures, ASE's own tools."""

import copy
import itertools
import multiprocessing
import os
import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import UnitCellFilter
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress
from so3krates._harness import Error
from so3krates.calculator import So3kratesCalculator
from so3krates.runtime import Runtime, require_structure
from toy_bundle import (
    ENERGY_SHIFTS,
    reference_energies,
    reference_forces,
    reference_strain_gradient,
    write_toy_bundle,
)

ENERGY = 1e-12  # relative to shifts of 27314 eV
DIFFERENCE = 2e-7  # eV/A, error of the reference's finite differences
STRESS = 1e-7  # eV/A^3, the same
SAME = 1e-10  # eV/A, between two ways to the same numbers
FORCE_CONSTANT = 1e-5  # eV/A^2, error of the displacements
SIGNAL = 0.1  # eV/A, smallest force that proves anything
STRESS_SIGNAL = 0.005  # eV/A^3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "toy.so3k")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def calculator(bundle: Path, cache: str) -> So3kratesCalculator:
    return So3kratesCalculator(bundle, cache=cache, threads=1)


def gan(seed: int = 1) -> Atoms:
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19)
    rng = np.random.default_rng(seed)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    return atoms


def square(**cell: object) -> Atoms:
    positions = np.array([[0, 0, 0], [1.9, 0, 0.4], [0, 2.1, 0], [1.8, 2.0, 1.7]])
    return Atoms("GaNGaN", positions + np.random.default_rng(3).normal(0, 0.1, positions.shape), **cell)


def outside() -> Atoms:
    """Atoms that have left their cell in periodic and in open directions."""
    atoms = square(cell=[[3.1, 0.3, 0], [0, 3.3, 0.2], [0, 0, 9]], pbc=[True, True, False])
    atoms.positions[0] += 2 * atoms.cell[0] - 3 * atoms.cell[1]
    atoms.positions[:, 2] -= 20.0
    return atoms


STRUCTURES: dict[str, Callable[[], Atoms]] = {
    "triclinic crystal": gan,
    "cell smaller than the cutoff": lambda: bulk("Ga", "fcc", a=3.9),
    "slab without a third vector": lambda: square(cell=[3.1, 3.3, 0], pbc=[True, True, False]),
    "atoms outside their cell": outside,
    "wire": lambda: square(cell=[0, 0, 2.9], pbc=[False, False, True]),
    "cluster": square,
    "cluster in a box": lambda: square(cell=[9, 9, 9]),
    "two clusters out of reach": lambda: square() + Atoms("N", [[50.0, 0, 0]]),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_against_the_reference(name, calculator):
    atoms = STRUCTURES[name]()
    atoms.calc = calculator
    energies = reference_energies(atoms)
    assert atoms.get_potential_energy() == pytest.approx(energies.sum(), rel=ENERGY)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_potential_energies(), energies, rtol=ENERGY)
    np.testing.assert_allclose(atoms.get_forces(), reference_forces(atoms), atol=DIFFERENCE)
    assert len(atoms) == 1 or np.abs(atoms.get_forces()).max() > SIGNAL
    gradient = reference_strain_gradient(atoms)
    if atoms.cell.rank == 3:
        expected = full_3x3_to_voigt_6_stress(gradient) / atoms.get_volume()
        np.testing.assert_allclose(atoms.get_stress(), expected, atol=STRESS)
        assert np.abs(expected).max() > STRESS_SIGNAL or not atoms.pbc.all()
    else:
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_stress()


def test_virial_and_stress(bundle, cache):
    atoms = gan()
    found = Runtime(bundle, cache=cache).evaluate(atoms)
    np.testing.assert_allclose(found["stress"] * atoms.get_volume(), -found["virial"], rtol=1e-14)
    np.testing.assert_array_equal(found["stress"], found["stress"].T)
    assert np.abs(found["virial"]).max() > SIGNAL


def test_a_cache_that_cannot_be_used_is_said(bundle, tmp_path):
    (tmp_path / "file").write_text("")
    runtime = Runtime(bundle, cache=str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"programs are not kept .*file failed: Not a directory .*SO3KRATES_CACHE may"):
        first = runtime.evaluate(gan())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = runtime.evaluate(gan())
        Runtime(bundle, cache=str(tmp_path / "folder")).evaluate(gan())
    assert first["energy"] == again["energy"]


def test_small_moves_keep_the_lists_and_large_ones_do_not(bundle, cache, monkeypatch):
    """A walk with a skin gives what fresh lists give at every step, and builds few lists."""
    builds = []
    build = Runtime._build_lists
    monkeypatch.setattr(Runtime, "_build_lists", lambda self, atoms: builds.append(1) or build(self, atoms))
    lazy, eager = (Runtime(bundle, cache=cache, skin=skin) for skin in (0.6, 0.0))
    atoms, rng = gan(), np.random.default_rng(0)
    steps, lazy_builds = 20, 0
    for step in range(steps):
        atoms.positions += rng.normal(0, 0.03, atoms.positions.shape)
        if step == 12:
            atoms.wrap()
        builds.clear()
        found = lazy.evaluate(atoms)
        lazy_builds += len(builds)
        np.testing.assert_allclose(found["forces"], eager.evaluate(atoms)["forces"], atol=SAME)
    assert 2 <= lazy_builds <= 8


CHANGES: dict[str, Callable[[Atoms], object]] = {
    "cell": lambda atoms: atoms.set_cell(atoms.cell.array * 1.02, scale_atoms=False),
    "periodicity": lambda atoms: atoms.set_pbc([True, False, True]),
    "elements": lambda atoms: atoms.set_chemical_symbols("Ga2N2"),
    "fewer atoms": lambda atoms: atoms.pop(),
    "one atom far": lambda atoms: atoms.positions.__setitem__((2, 1), 30.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_lists_follow_a_change(change, calculator):
    atoms = gan()
    atoms.calc = calculator
    before = atoms.get_potential_energy()
    CHANGES[change](atoms)
    after = atoms.get_potential_energy()
    assert after == pytest.approx(reference_energies(atoms).sum(), rel=ENERGY)
    assert abs(after - before) > 1e-3
    np.testing.assert_allclose(atoms.get_forces(), reference_forces(atoms), atol=DIFFERENCE)


def test_size_of_the_cell_does_not_matter(calculator):
    small, large = gan(), gan().repeat((2, 2, 3))
    small.calc = large.calc = calculator
    np.testing.assert_allclose(large.get_forces()[:4], small.get_forces(), atol=SAME)
    np.testing.assert_allclose(large.get_stress(), small.get_stress(), atol=SAME)
    assert np.abs(small.get_stress()).max() > STRESS_SIGNAL


def test_skew_of_the_cell_does_not_matter(calculator):
    atoms = gan()
    results = []
    for turn in (np.eye(3), np.array([[1, 0, 0], [37, 1, 0], [11, 55, 1]])):
        same = atoms.copy()
        same.set_cell(turn @ atoms.cell.array)
        same.calc = calculator
        results.append((same.get_potential_energy(), same.get_forces()))
    assert np.abs(results[0][1]).max() > SIGNAL
    assert abs(results[0][0] - results[1][0]) < SAME * len(atoms)
    assert np.abs(results[0][1] - results[1][1]).max() < SAME


def test_no_atom_is_said():
    with pytest.raises(ValueError, match="the structure has no atoms"):
        require_structure(Atoms())


def test_finite_displacements(calculator):
    """As phonopy does it: displaced supercells, each a new structure; force constants obey their symmetries."""
    perfect = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat((2, 2, 1))
    step = 1e-3
    constants = np.zeros((3, len(perfect), 3))
    for k in range(3):
        forces = []
        for sign in (1, -1):
            displaced = perfect.copy()
            displaced.positions[0, k] += sign * step
            displaced.calc = calculator
            forces.append(displaced.get_forces())
        constants[k] = -(forces[0] - forces[1]) / (2 * step)
    assert np.abs(constants[:, 0]).max() > 1.0
    np.testing.assert_allclose(constants[:, 0], constants[:, 0].T, atol=FORCE_CONSTANT)
    np.testing.assert_allclose(constants.sum(axis=1), 0.0, atol=FORCE_CONSTANT)
    # The threefold axis of the site.
    assert constants[0, 0, 0] == pytest.approx(constants[1, 0, 1], abs=FORCE_CONSTANT)


def test_relaxation_of_atoms_and_cell(calculator):
    atoms = bulk("Ga", "fcc", a=3.1, cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * np.eye(3, k=1)), scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = calculator
    start, pressed = atoms.get_potential_energy(), np.abs(atoms.get_stress()).max()
    assert BFGS(UnitCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=100)
    assert atoms.get_potential_energy() < start - 0.01
    assert np.abs(atoms.get_stress()).max() < 0.01 * pressed and pressed > STRESS_SIGNAL


def test_an_isolated_atom_and_no_atom(calculator):
    atom = Atoms("N", [[1.0, 2.0, 3.0]])
    atom.calc = calculator
    assert atom.get_potential_energy() == pytest.approx(ENERGY_SHIFTS[1] - 1.0, rel=ENERGY)
    assert not atom.get_forces().any()
    none = Atoms(cell=[3, 3, 3], pbc=True)
    none.calc = calculator
    assert none.get_potential_energy() == 0.0 and none.get_forces().shape == (0, 3) and not none.get_stress().any()


def infinite() -> Atoms:
    atoms = gan()
    atoms.positions[2, 1] = np.nan
    return atoms


REFUSALS: dict[str, tuple[Callable[[], Atoms], str]] = {
    "unknown elements": (
        lambda: Atoms("AlNO", np.eye(3)),
        r"toy\.so3k knows the elements Ga, N, but the structure has Al, O",
    ),
    "lost atom": (infinite, r"the position of atom 2 \(.*\) is not finite: \("),
    "no cell": (lambda: square(pbc=True), "periodic along .* but its cell vectors"),
    "collapsed cell": (
        lambda: square(cell=[[3, 0, 0], [3, 0.05, 0], [0, 0, 3]], pbc=True),
        "0.05 A from its own image",
    ),
    "flat cell": (lambda: square(cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True), "but its cell vectors"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_structures_that_cannot_be_computed(case, calculator):
    make, message = REFUSALS[case]
    atoms = make()
    atoms.calc = calculator
    with pytest.raises(ValueError, match=message):
        atoms.get_potential_energy()
    again = gan()
    again.calc = calculator
    assert np.abs(again.get_forces()).max() > SIGNAL


def test_arguments_that_cannot_be_used(bundle):
    with pytest.raises(ValueError, match="skin is -1 A"):
        So3kratesCalculator(bundle, skin=-1)
    with pytest.raises(Error, match=r"none\.so3k: cannot be read"):
        So3kratesCalculator(bundle.parent / "none.so3k")
    with pytest.raises(TypeError, match="unknown option thread: known are device, threads"):
        So3kratesCalculator(bundle, thread=1)
    for threads in (2**31, -(2**40), 1.5, "2", None):
        with pytest.raises(ValueError, match=f"threads is {threads!r}: give a number of threads"):
            So3kratesCalculator(bundle, threads=threads)


def test_threads_that_share_a_calculator(calculator):
    """Each its own structures, of different sizes: every result is that of a calculator of its own."""
    structures = [gan(seed).repeat((1, 1, 1 + seed % 2)) for seed in range(6)]
    expected = []
    for atoms in structures:
        atoms.calc = calculator
        expected.append(atoms.get_forces())
    assert max(np.abs(a[0] - b[0]).max() for a, b in itertools.pairwise(expected)) > SIGNAL

    def work(k: int) -> float:
        worst = 0.0
        for _ in range(20):
            atoms = structures[k].copy()
            atoms.calc = calculator
            worst = max(worst, np.abs(atoms.get_forces() - expected[k]).max())
            worst = max(worst, abs(atoms.get_potential_energy() - reference_energies(atoms).sum()) / 1e6)
        return worst

    with ThreadPoolExecutor(len(structures)) as pool:
        assert max(pool.map(work, range(len(structures)))) < SAME


COPIES: dict[str, Callable[[So3kratesCalculator], So3kratesCalculator]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda calculator: pickle.loads(pickle.dumps(calculator)),
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_compute_the_same_for_themselves(way, calculator):
    atoms, other = gan(), gan(seed=2)
    atoms.calc = calculator
    forces = atoms.get_forces()
    copied = COPIES[way](calculator)
    other.calc = copied
    assert np.abs(other.get_forces() - forces).max() > SIGNAL
    assert copied.runtime is not calculator.runtime
    again = gan()
    again.calc = copied
    np.testing.assert_array_equal(again.get_forces(), forces)
    np.testing.assert_array_equal(atoms.get_forces(), forces)
    # A structure takes its calculator with it, before and after its first use.
    whole = copy.deepcopy(atoms)
    np.testing.assert_array_equal(whole.get_forces(), forces)
    whole.positions[0, 0] += 0.1
    assert np.abs(whole.get_forces() - forces).max() > SIGNAL


def test_other_processes_compute_the_same(calculator, monkeypatch, tmp_path):
    """Workers are started elsewhere, so that a relative path must not be kept."""
    frames = [gan(seed) for seed in range(3)]
    for atoms in frames:
        atoms.calc = calculator
    expected = [atoms.get_forces() for atoms in frames]
    monkeypatch.chdir(tmp_path)
    copies = [atoms.copy() for atoms in frames]
    for atoms in copies:
        atoms.calc = calculator
    calculator.reset()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(Atoms.get_forces, copies))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_fork_is_told_so(calculator, monkeypatch):
    """In place of waiting for threads that are not there."""
    atoms = gan()
    atoms.calc = calculator
    monkeypatch.setattr(os, "getpid", lambda: -1)
    for used in (calculator, copy.deepcopy(calculator)):
        atoms.calc = used
        with pytest.raises(ValueError, match=r'get_context\("spawn"\)'):
            atoms.get_forces()


def test_a_copy_does_not_take_another_file(bundle, cache, tmp_path):
    path = tmp_path / "copy.so3k"
    path.write_bytes(bundle.read_bytes())
    stored = pickle.dumps(So3kratesCalculator(path, cache=cache, threads=1))
    write_toy_bundle(path, producer="another")
    atoms = gan()
    atoms.calc = pickle.loads(stored)
    with pytest.raises(ValueError, match=r"copy\.so3k is no longer the file that was copied"):
        atoms.get_forces()
