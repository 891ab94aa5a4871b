"""SO3LR as an ASE calculator and in the commands: charges by `atoms.info` or arguments, outputs by name, refusals."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from so3krates.calculator import So3kratesCalculator
from so3krates.cli import app
from so3krates.predictions import ModelRuntime
from so3krates.total_charge import ChargeError
from typer.testing import CliRunner, Result

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "models" / "so3lr"
EXPECTED = ROOT / "tests" / "reference" / "so3lr"

ENERGY_TOLERANCE = 1e-9  # eV
FORCE_TOLERANCE = 1e-9  # eV/A
CHARGE_TOLERANCE = 1e-10  # e
DIFFERENCE = 0.01  # eV, of energies with another charge or spin
OUTPUTS = {
    "energy",
    "energies",
    "forces",
    "free_energy",
    "charges",
    "hirshfeld_ratios",
    "dipole",
    "energy_network",
    "energy_repulsion",
    "energy_electrostatics",
    "energy_dispersion",
}


@pytest.fixture(scope="module")
def calculator() -> So3kratesCalculator:
    return So3kratesCalculator(FOLDER)


@pytest.fixture
def methyl() -> Atoms:
    """A radical of nine electrons, multiplicity 2."""
    return next(a for a in ase.io.read(EXPECTED / "molecules.extxyz", ":") if a.info["name"] == "methyl_radical")


def test_outputs_by_name(calculator: So3kratesCalculator, methyl: Atoms) -> None:
    methyl.calc = calculator
    with np.load(EXPECTED / "expected.npz") as archive:
        assert abs(methyl.get_potential_energy() - archive["methyl_radical/energy"]) < ENERGY_TOLERANCE
        np.testing.assert_allclose(methyl.get_forces(), archive["methyl_radical/forces"], rtol=0, atol=FORCE_TOLERANCE)
        dipole = archive["methyl_radical/dipole"]
    np.testing.assert_allclose(methyl.get_dipole_moment(), dipole, rtol=0, atol=CHARGE_TOLERANCE)
    assert abs(methyl.get_charges().sum()) < CHARGE_TOLERANCE
    assert calculator.results.keys() == OUTPUTS
    parts = [value for name, value in calculator.results.items() if name.startswith("energy_")]
    assert abs(sum(parts) - calculator.results["energy"]) < ENERGY_TOLERANCE
    assert abs(calculator.results["energies"].sum() - calculator.results["energy"]) < ENERGY_TOLERANCE
    # The dipole of a charged molecule is that of the positions as they are given.
    methyl.info |= {"charge": 1, "multiplicity": 1}
    before = methyl.get_dipole_moment()
    methyl.positions += [1.0, 2.0, 3.0]
    np.testing.assert_allclose(methyl.get_dipole_moment() - before, [1, 2, 3], rtol=0, atol=CHARGE_TOLERANCE)


def test_charge_by_info_and_by_argument(calculator: So3kratesCalculator, methyl: Atoms) -> None:
    methyl.calc = calculator
    energies = [methyl.get_potential_energy()]
    for charge, multiplicity in ((0, 4), (1, 1), (-1, 1)):
        methyl.info |= {"charge": charge, "multiplicity": multiplicity}
        energies.append(methyl.get_potential_energy())  # asked for again, with no atom moved
        assert abs(methyl.get_charges().sum() - charge) < CHARGE_TOLERANCE
        plain = methyl.copy()
        plain.info = {}
        plain.calc = So3kratesCalculator(FOLDER, charge=charge, multiplicity=multiplicity)
        assert abs(plain.get_potential_energy() - energies[-1]) < ENERGY_TOLERANCE
    assert np.abs(np.subtract.outer(energies, energies) + np.eye(4)).min() > DIFFERENCE
    methyl.info |= {"charge": 0, "multiplicity": 2}
    assert abs(methyl.get_potential_energy() - energies[0]) < ENERGY_TOLERANCE


def test_charges_that_cannot_be(calculator: So3kratesCalculator, methyl: Atoms) -> None:
    methyl.calc = calculator
    methyl.get_potential_energy()
    methyl.info["multiplicity"] = 1  # no atom moved either
    with pytest.raises(ChargeError, match="give the multiplicity 2 instead of 1"):
        methyl.get_potential_energy()
    methyl.info["multiplicity"] = 2
    methyl.calc = So3kratesCalculator(FOLDER, charge=1)
    with pytest.raises(ChargeError, match=r"info\['charge'\] is 0, .* charge = 1: say it in one place"):
        methyl.get_forces()


def test_copies_keep_the_charge(methyl: Atoms) -> None:
    methyl.info = {}
    calculator = So3kratesCalculator(FOLDER, charge=-1, multiplicity=1)
    for again in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        methyl.calc = again
        assert abs(methyl.get_charges().sum() + 1) < CHARGE_TOLERANCE


def test_a_charged_cell_is_said_once(methyl: Atoms) -> None:
    methyl.info |= {"charge": 1, "multiplicity": 1}
    methyl.calc = So3kratesCalculator(FOLDER)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        methyl.get_potential_energy()
    methyl.set_cell([9.0, 9.0, 9.0])
    methyl.pbc = True
    with pytest.warns(UserWarning, match=r"total charge is \+1 e in a periodic cell") as caught:
        methyl.get_stress()
    assert len([one for one in caught if one.category is UserWarning]) == 1
    methyl.rattle(0.01, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        stress = methyl.get_stress()
        assert np.abs(stress).max() > 1e-4
        methyl.info |= {"charge": 0, "multiplicity": 2}
        methyl.calc = So3kratesCalculator(FOLDER)
        methyl.get_stress()


def test_charges_of_the_atoms_that_are_of_another_system(methyl: Atoms) -> None:
    """A warning, said once; charges that nobody has set say nothing, and those of the system fit."""
    methyl.info |= {"charge": -1, "multiplicity": 1}
    methyl.calc = So3kratesCalculator(FOLDER)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        methyl.get_potential_energy()
        methyl.set_initial_charges([-0.7, -0.1, -0.1, -0.1])
        methyl.get_potential_energy()
    methyl.set_initial_charges([0.7, 0.1, 0.1, 0.1])
    with pytest.warns(
        UserWarning, match="initial charges of the atoms add up to 1 e, and .* computed with -1 e"
    ) as caught:
        for _ in range(2):
            methyl.rattle(0.01, seed=1)
            methyl.get_potential_energy()
    assert len([one for one in caught if one.category is UserWarning]) == 1


def test_unknown_elements_and_nothing(calculator: So3kratesCalculator) -> None:
    with pytest.raises(ValueError, match=r"knows the elements H, C, N, O, F, P, S, Cl, but the structure has Na"):
        calculator.get_property("energy", Atoms("NaCl", [[0, 0, 0], [2.4, 0, 0]]))
    with pytest.raises(ValueError, match="knows the elements"):  # a row between those that were trained
        calculator.get_property("energy", Atoms("Ne"))
    assert calculator.get_property("energy", Atoms()) == 0.0


def test_models_that_know_no_charge(small_model_folder: Path, gan_bundle32: Path, gan_cell: Atoms) -> None:
    for path in (small_model_folder, gan_bundle32):
        with pytest.raises(ValueError, match="knows no charge or multiplicity"):
            So3kratesCalculator(path, charge=0)
    gan_cell.info["charge"] = 0.5  # of a data set, which such a model does not look at
    assert np.isfinite(So3kratesCalculator(small_model_folder).get_property("energy", gan_cell))


def test_one_atom_and_far_atoms(calculator: So3kratesCalculator) -> None:
    atom = Atoms("O", info={"multiplicity": 3})
    alone = calculator.get_property("energy", atom)
    pair = Atoms("O2", [[0, 0, 0], [20.0, 0, 0]], info={"multiplicity": 5})
    found = ModelRuntime(FOLDER).evaluate(pair)
    assert abs(found["energy"] - 2 * alone) < DIFFERENCE
    np.testing.assert_allclose(found["forces"], 0.0, atol=FORCE_TOLERANCE)
    np.testing.assert_allclose(found["charges"], 0.0, atol=CHARGE_TOLERANCE)
    assert abs(alone) > DIFFERENCE


def command(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_commands(calculator: So3kratesCalculator, tmp_path: Path) -> None:
    done = command("info", FOLDER)
    assert done.exit_code == 0
    for words in ("drude_oscillators", "predicted_charges", "fitted_zbl", "output dipole", "total charge"):
        assert words in done.stdout
    frames = []
    for name, info in (("H2O", {}), ("NH2", {"multiplicity": 2}), ("HCOOH", {"charge": 1, "multiplicity": 2})):
        atoms = molecule(name, info=info)
        labels = {key: calculator.get_property(key, atoms) for key in ("energy", "forces")}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    ase.io.write(tmp_path / "frames.extxyz", frames)
    done = command("evaluate", FOLDER, tmp_path / "frames.extxyz", "--float64", "--json", tmp_path / "errors.json")
    said = " ".join(done.stdout.split())
    assert done.exit_code == 0, done.stderr
    assert "0 e, multiplicity 1 (1); 0 e, multiplicity 2 (1); +1 e, multiplicity 2 (1)" in said
    errors = json.loads((tmp_path / "errors.json").read_text())["frames"]
    assert errors["forces"]["rmse"] < 1e-4  # meV/A
    frames[1].info = {}
    ase.io.write(tmp_path / "frames.extxyz", frames)
    done = command("evaluate", FOLDER, tmp_path / "frames.extxyz")
    assert done.exit_code == 1
    assert "frame 1: the structure has 9 electrons" in " ".join(done.stderr.split())
