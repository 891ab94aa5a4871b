"""Units and signs of labels, told by energies: every known mistake is recognised, no sound data are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from scipy.spatial.transform import Rotation
from so3krates.data import DataError, LabelCheck, LabelKeys, Labels, iter_frames, labels, with_labels
from so3krates.data.slopes import SCATTERED, LabelSlopes
from so3krates.training import DataConfig, Demands, load_frames

SHARED = Path(__file__).parents[3] / "shared"
KBAR = 10 / units.GPa  # of 1 eV/A^3
PER_HARTREE, PER_HARTREE_BOHR = 1 / units.Hartree, units.Bohr / units.Hartree


def emt(atoms: Atoms) -> Atoms:
    """The structure with labels by EMT."""
    atoms.calc = EMT()
    bulk_like = atoms.pbc.all()
    stress = atoms.get_stress(voigt=False) if bulk_like else np.full((3, 3), np.nan)
    return with_labels(atoms, Labels(atoms.get_potential_energy(), atoms.get_forces(), stress))


def crystals(strain: float, rattle: float, count: int = 16) -> list[Atoms]:
    """Copper, strained and shaken (standard deviations, A)."""
    rng, found = np.random.default_rng(5), []
    for _ in range(count):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
        change = strain * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + change + change.T), scale_atoms=True)
        atoms.positions += rng.normal(0, rattle, atoms.positions.shape)
        found.append(emt(atoms))
    return found


def molecules(rattle: float) -> list[Atoms]:
    rng, found = np.random.default_rng(6), []
    for _ in range(10):
        atoms = molecule("CH3CH2OH")
        atoms.positions += rng.normal(0, rattle, atoms.positions.shape) + rng.normal(size=3)
        found.append(emt(atoms))
    return found


def turning(angle: float, count: int = 28, spread: float = 0.04) -> list[Atoms]:
    """Water of harmonic bonds, a molecule in a box, turned by random vectors (standard deviation, radians)."""
    rng, found = np.random.default_rng(7), []
    rest = molecule("H2O")
    for _ in range(count):
        atoms = molecule("H2O", cell=[7, 7, 7], pbc=True)
        atoms.positions += rng.normal(0, spread, atoms.positions.shape)
        energy, forces = 0.0, np.zeros((3, 3))
        for i, j, spring in ((0, 1, 40.0), (0, 2, 40.0), (1, 2, 8.0)):
            apart = atoms.positions[j] - atoms.positions[i]
            length = np.linalg.norm(apart)
            change = length - rest.get_distance(i, j)
            energy += 0.5 * spring * change**2
            pull = spring * change * apart / length
            forces[i] += pull
            forces[j] -= pull
        turn = Rotation.from_rotvec(rng.normal(0, angle, 3)).as_matrix()
        atoms.positions = atoms.positions @ turn.T + 3.5
        found.append(with_labels(atoms, Labels(energy, forces @ turn.T, np.full((3, 3), np.nan))))
    return found


@pytest.fixture(scope="module")
def mixed() -> list[Atoms]:
    return crystals(0.008, 0.05)


def scaled(frames: list[Atoms], energy: float = 1.0, forces: float = 1.0, stress: float = 1.0) -> list[Atoms]:
    found = []
    for atoms in frames:
        values = labels(atoms)
        found.append(with_labels(atoms, Labels(energy * values.energy, forces * values.forces, stress * values.stress)))
    return found


def findings(frames: list[Atoms], keys: LabelKeys | None = None) -> list[tuple[str, bool]]:
    check = LabelCheck(keys or LabelKeys())
    for atoms in frames:
        check.names.add(atoms, labels(atoms))
        check.add(atoms, labels(atoms))
    return [tuple(finding) for finding in check.findings()]


MISTAKES = {
    "stress in kbar": ({"stress": KBAR}, 'set stress_unit = "kbar"'),
    "VASP's stress": ({"stress": -KBAR}, 'set stress_unit = "kbar" and stress_sign = -1'),
    "stress in GPa": ({"stress": KBAR / 10}, 'set stress_unit = "GPa"'),
    "stress in bar": ({"stress": KBAR * 1000}, 'set stress_unit = "bar"'),
    "stress turned round": ({"stress": -1.0}, "opposite sign, set stress_sign = -1"),
    "gradients": ({"forces": -1.0}, "they have the sign of gradients"),
    "energy in Hartree": ({"energy": PER_HARTREE}, 'energy_unit = "Hartree" and forces_unit = "eV/A"'),
    "energy in kcal/mol": ({"energy": units.mol / units.kcal}, 'energy_unit = "kcal/mol" and forces_unit = "eV/A"'),
    "forces in Hartree/Bohr": ({"forces": PER_HARTREE_BOHR}, 'energy_unit = "eV" and forces_unit = "Hartree/Bohr"'),
    "atomic units": (
        {"energy": PER_HARTREE, "forces": PER_HARTREE_BOHR},
        'energy_unit = "Hartree" and forces_unit = "Hartree/Bohr"',
    ),
    "forces in meV/A": ({"forces": 1000.0}, 'energy_unit = "eV" and forces_unit = "meV/A"'),
}


def test_energies_per_atom_are_recognised(mixed: list[Atoms]) -> None:
    ((text, stops),) = findings(scaled(mixed, energy=1 / len(mixed[0])))
    assert "energies per atom" in text and stops


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_recognised_and_stop_a_training(name: str, mixed: list[Atoms], tmp_path: Path) -> None:
    factors, words = MISTAKES[name]
    wrong = scaled(mixed, **factors)
    (found,) = findings(wrong)
    assert words in found[0] and found[1]
    ase.io.write(tmp_path / "a.extxyz", wrong)
    config = DataConfig(file=str(tmp_path / "a.extxyz"), n_train=10)
    with pytest.raises(DataError) as error:
        load_frames(config)
    assert words in str(error.value) and "--force" in str(error.value)
    notes: list[str] = []
    assert len(load_frames(config, Demands(force=True, say=notes.append))[0]) == 10
    assert words in notes[0]


HARD = {  # of energies that scatter about the work of the forces
    "gradients": ({"forces": -1.0}, "they have the sign of gradients"),
    "energy in kcal/mol": ({"energy": units.mol / units.kcal}, 'energy_unit = "kcal/mol" and forces_unit = "eV/A"'),
    "no energies": ({"energy": 0.0}, 'they are none; leave them out with energy_key = ""'),
}


@pytest.mark.parametrize("name", HARD)
def test_mistakes_of_scattered_labels_stop_a_training_too(name: str) -> None:
    factors, words = HARD[name]
    frames, rng = crystals(0.0, 0.1, 32), np.random.default_rng(3)
    noise = 0.35 * np.std([labels(atoms).energy for atoms in frames])
    frames = [with_labels(a, labels(a)._replace(energy=labels(a).energy + float(rng.normal(0, noise)))) for a in frames]
    slopes = LabelSlopes()
    for atoms in frames:
        slopes.add(atoms, labels(atoms))
    assert slopes.slopes()["forces"].scatter > SCATTERED
    (found,) = findings(scaled(frames, **factors))
    assert words in found[0] and found[1]


def test_pascals_are_recognised(mixed: list[Atoms], tmp_path: Path) -> None:
    """Large ones are beyond any stress, frame by frame; the slopes tell small ones."""
    wrong = scaled(mixed, stress=KBAR * 1e8)
    ase.io.write(tmp_path / "a.extxyz", wrong)
    config = DataConfig(file=str(tmp_path / "a.extxyz"), n_train=10)
    with pytest.raises(DataError, match='if stresses are in Pa, set stress_unit = "Pa"'):
        load_frames(config)
    assert len(load_frames(dataclasses.replace(config, stress_unit="Pa"))[0]) == 10
    slopes = LabelSlopes()
    for atoms in wrong:
        slopes.add(atoms, labels(atoms))
    (found,) = slopes.findings()
    assert 'set stress_unit = "Pa"' in found.text and found.stops


def test_a_virial_in_place_of_a_stress_is_recognised(mixed: list[Atoms]) -> None:
    volume = mixed[0].cell.volume
    for sign, words in ((-1, 'virial_key = "stress" (a virial'), (1, 'virial_key = "stress" and stress_sign = -1')):
        ((text, stops),) = findings(scaled(mixed, stress=sign * volume))
        assert words in text and stops


def test_units_of_the_settings_are_taken_into_account(mixed: list[Atoms]) -> None:
    # Read as kbar, although the file has eV/A^3.
    ((text, stops),) = findings(scaled(mixed, stress=1 / KBAR), LabelKeys(stress_unit="kbar"))
    assert 'set stress_unit = "eV/A^3"' in text and stops


def test_the_size_of_stresses_tells_where_no_cell_differs() -> None:
    hot = crystals(0.0, 0.1)
    assert findings(hot) == []
    pressed = [with_labels(a, labels(a)._replace(stress=labels(a).stress - 0.05 * np.eye(3))) for a in hot]
    assert findings(pressed) == []
    ((text, stops),) = findings(scaled(pressed, stress=KBAR))
    assert "eV/atom (median), more than matter bears" in text and stops


ORDERS = {  # of the file, and how its shear components are to be named
    "xx yy zz xy yz xz": (5, 3, 4),
    "xx yy zz xz yz xy": (4, 3, 5),
    "xx yy zz yz xy xz": (3, 5, 4),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sign", [1, -1])
def test_shear_stresses_in_another_order_are_recognised(order: str, sign: int, tmp_path: Path) -> None:
    """Six numbers in a file in the order of another program."""
    frames = crystals(0.01, 0.0, 32)
    assert findings(frames) == []
    written = []
    for atoms in frames:
        stress = atoms.get_stress()
        assert np.ptp(stress[3:]) > 1e-4
        atoms.info |= {"E": atoms.get_potential_energy(), "six": sign * stress[[0, 1, 2, *ORDERS[order]]]}
        written.append(atoms)
    ase.io.write(tmp_path / "a.extxyz", written, write_results=False)
    config = DataConfig(
        file=str(tmp_path / "a.extxyz"), energy_key="E", forces_key="", stress_key="six", stress_sign=sign, n_train=10
    )
    with pytest.raises(DataError, match=f'set voigt_order = "{order}" where'):
        load_frames(config)
    assert len(load_frames(dataclasses.replace(config, voigt_order=order))[0]) == 10


SOUND = {
    "strained and shaken": lambda: crystals(0.008, 0.05),
    "strained only": lambda: crystals(0.01, 0.0),
    "shaken only": lambda: crystals(0.0, 0.1),
    "shaken hard": lambda: crystals(0.02, 0.2),
    "few": lambda: crystals(0.008, 0.05, 3),
    "perfect": lambda: crystals(0.0, 0.0),
    "molecules": lambda: molecules(0.05),
    "molecules, hot": lambda: molecules(0.15),
    "a molecule that turns a little": lambda: turning(0.15),
    "a molecule that turns": lambda: turning(0.3),
    "a molecule that tumbles": lambda: turning(1.0, 100),
    "one energy wrong": lambda: [
        *(frames := crystals(0.008, 0.05)),
        with_labels(frames[0], labels(frames[0])._replace(energy=1e3)),
    ],
    "energies only": lambda: [
        with_labels(a, labels(a)._replace(forces=np.full((4, 3), np.nan), stress=np.full((3, 3), np.nan)))
        for a in crystals(0.008, 0.05)
    ],
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_labels_are_not_refused(name: str) -> None:
    assert not any(stops for _, stops in findings(SOUND[name]()))


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("gan_pbesol/train40.extxyz", LabelKeys()),
        ("gan_pbesol/test8.extxyz", LabelKeys()),
        ("mlearn_si/train.extxyz", LabelKeys("REF_energy", "REF_forces", "REF_stress")),
        ("mlearn_si/test.extxyz", LabelKeys("REF_energy", "REF_forces", "REF_stress")),
    ],
)
def test_public_data_are_not_refused(file: str, keys: LabelKeys) -> None:
    path = SHARED / "data" / file
    if not path.is_file():
        pytest.skip(f"shared/data/{file} is not there")
    check = LabelCheck(keys)
    for atoms in iter_frames(path, keys, check.names):
        assert check.add(atoms, labels(atoms)) == []
    assert check.findings() == []
    slopes = check.slopes.slopes()
    assert slopes["forces"].differences >= 7 and slopes["stress"].differences >= 7


def test_strains_without_stresses_tell_nothing_of_forces() -> None:
    """Crystals of other cells, as sets without stresses have them, and pairs that are too few to be fitted."""
    frames = [with_labels(a, labels(a)._replace(stress=np.full((3, 3), np.nan))) for a in crystals(0.02, 0.003)]
    slopes = LabelSlopes()
    for atoms in frames:
        slopes.add(atoms, labels(atoms))
    energies = [labels(a).energy for a in frames]
    assert np.ptp(energies) > 0.1 and slopes.slopes() == {}  # eV
    shaken = [with_labels(a, labels(a)._replace(stress=np.full((3, 3), np.nan))) for a in crystals(0.0, 0.05, 9)]
    for atoms in shaken:
        slopes.add(atoms, labels(atoms))
    found = slopes.slopes()["forces"]
    assert found.differences == 8 and found.ratio == pytest.approx(1, abs=0.2)
    few = LabelSlopes()
    for atoms in (*frames, *shaken[:3]):
        few.add(atoms, labels(atoms))
    assert few.slopes() == {}
