"""`so3krates physics`: numbers of potentials whose truth is known, holes that are said, references, and its files."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from so3krates import checks, cli
from so3krates.checks import Answer, open_potential
from so3krates.cli_physics import physics_of_training
from so3krates.physics import (
    PairCurve,
    Physics,
    PhysicsError,
    crystal_of,
    physics_of,
    physics_tables,
    quantities,
    read_reference,
    write_physics,
)
from typer.testing import CliRunner

SHIPPED = Path(__file__).parents[2] / "examples" / "models" / "gan-pbesol.so3k"


class Copper:
    """EMT, as ASE has it, and a hole inside of `hole` (A) of a pair."""

    elements = ("Cu",)
    cutoff = 6.0
    precision = "float64"

    def __init__(self, hole: float = 0.0) -> None:
        self.hole = hole

    def __call__(self, atoms: Atoms) -> Answer:
        atoms = atoms.copy()
        atoms.calc = EMT()
        energy = atoms.get_potential_energy()
        if len(atoms) == 2 and not atoms.pbc.any() and atoms.get_distance(0, 1) < self.hole:
            energy = -15.6
        return Answer(energy, atoms.get_forces(), atoms.get_stress(voigt=False) if atoms.pbc.all() else None)


@pytest.fixture(scope="module")
def copper() -> Physics:
    strained = bulk("Cu", a=3.7, cubic=True)
    return physics_of(Copper(), strained)


def test_copper_has_what_emt_was_made_for(copper: Physics) -> None:
    """Elastic constants in GPa by Jacobsen, Stoltze and Norskov, Surf. Sci. 366, 394 (1996): B = 134 and so on."""
    found = {name: value for name, (value, _) in quantities(copper).items()}
    assert found["a"] == pytest.approx(3.590, abs=2e-3)
    assert found["bulk_modulus"] == pytest.approx(found["bulk_modulus_voigt"], rel=5e-3)  # by volumes, and by stresses
    assert found["bulk_modulus"] == pytest.approx(134, abs=2)
    assert found["C11"] == pytest.approx(found["C22"], rel=1e-3)
    assert (found["C11"], found["C12"], found["C44"]) == pytest.approx((173, 115, 90), abs=2)
    assert copper.warnings == ()


def test_elastic_constants_are_second_derivatives(copper: Physics) -> None:
    """Of the energy by a shear, without the library; no atom has anywhere to go in fcc."""
    crystal = copper.crystal.copy()
    energies = []
    for shear in (-0.01, 0.0, 0.01):
        strained = crystal.copy()
        deform = np.eye(3)
        deform[1, 2] = deform[2, 1] = shear / 2
        strained.set_cell(crystal.cell.array @ deform, scale_atoms=True)
        energies.append(Copper()(strained).energy)
    curvature = (energies[0] - 2 * energies[1] + energies[2]) / 0.01**2 / crystal.cell.volume / units.GPa
    assert copper.elastic is not None
    assert copper.elastic[3, 3] == pytest.approx(curvature, rel=0.01)


def test_a_vacancy_and_modes(copper: Physics) -> None:
    whole = copper.crystal.repeat((3, 3, 3))
    assert copper.vacancy_atoms == len(whole) == 108
    holed = whole[1:]
    unrelaxed = Copper()(holed).energy - copper.energy * len(holed)
    assert copper.vacancy is not None
    assert 0 < unrelaxed - copper.vacancy < 0.2
    assert np.abs(copper.frequencies[:3]).max() < 0.02 < 5 < copper.frequencies[3]


def test_a_hole_is_said() -> None:
    found = physics_of(Copper(hole=1.0), bulk("Cu", a=3.6))
    curve = found.pairs["Cu-Cu"]
    assert curve.well[0] == pytest.approx(2.16, abs=0.1)
    assert curve.hole is not None
    assert curve.hole[0] == pytest.approx(1.0, abs=0.03)
    (warning,) = found.warnings
    assert "a pair Cu-Cu that is nearer than 1.0" in warning
    assert "--repulsion zbl" in warning


@pytest.mark.parametrize(
    ("energies", "well", "hole"),
    [
        ([9, 4, 1, -1, -2, -1, 0], 4, None),
        ([-15, 4, 1, -1, -2, -1, 0], 4, 1),
        ([9, 4, 2, 1, 0.5, 0.1, 0], 6, None),  # repels everywhere
        ([-3, -2, -1.5, -1, -0.5, -0.1, 0], 6, 6),  # attracts everywhere
        ([9, -7, 1, -1, -2, -1, 0], 1, None),
    ],
)
def test_wells_and_holes(energies: list[float], well: int, hole: int | None) -> None:
    curve = PairCurve(np.arange(7.0), np.array(energies, float))
    assert curve.well[0] == well
    assert (curve.hole and curve.hole[0]) == hole


def test_what_cannot_be_examined_is_said() -> None:
    with pytest.raises(PhysicsError, match="the crystal has Ag; the potential knows Cu"):
        physics_of(Copper(), bulk("Ag"))
    with pytest.raises(PhysicsError, match="not periodic in three directions"):
        physics_of(Copper(), Atoms("Cu", pbc=[True, True, False], cell=[3, 3, 9]))
    with pytest.raises(PhysicsError, match="no atom of the crystal is within 6 A of another"):
        physics_of(Copper(), bulk("Cu", a=14.0))


def test_an_unstable_crystal_is_said() -> None:
    found = physics_of(Copper(), bulk("Cu", "bcc", a=2.85, cubic=True))
    assert any("imaginary" in text or "not stable against strain" in text for text in found.warnings)


def test_files_and_reference_values(copper: Physics, tmp_path: Path) -> None:
    values = tmp_path / "experiment.json"
    values.write_text('{"C11": 170, "bulk_modulus": 137}')
    write_physics(tmp_path / "physics", copper, read_reference(values))
    written = json.loads((tmp_path / "physics" / "physics.json").read_text())
    assert written["quantities"]["C11"]["value"] == pytest.approx(copper.elastic[0, 0])  # type: ignore[index]
    assert written["reference"]["C11"] == 170
    assert ase.io.read(tmp_path / "physics" / "relaxed.extxyz").cell.volume == pytest.approx(copper.crystal.cell.volume)
    page = (tmp_path / "physics" / "physics.html").read_text()
    assert "data:image/png" in page
    rows = physics_tables(copper, {"C11": copper.elastic[0, 0] / 1.1})[0]  # type: ignore[index]
    assert any("+10.0 %" in str(cell) for column in rows.columns for cell in column.cells)
    with pytest.raises(PhysicsError, match="the reference names C77; known are a, b, c"):
        physics_tables(copper, {"C77": 1.0})
    for text, words in (
        ('{"C11": "170"}', "no object of names and numbers"),
        ('{"C11": NaN}', "no object of names and numbers"),
        ('{"C11": 170, "C11": 180}', "'C11' stands there twice"),
        ("{", "cannot be read as JSON"),
        ("[" * 5000, "cannot be read as JSON"),
    ):
        values.write_text(text)
        with pytest.raises(PhysicsError, match=words):
            read_reference(values)


def test_the_crystal_of_some_frames() -> None:
    frames = []
    for size, force in ((1, 0.3), (1, 0.1), (2, 0.1), (6, 0.0)):
        atoms = bulk("Cu", cubic=True).repeat(size)
        forces = np.zeros((len(atoms), 3))
        forces[0, 0] = force
        atoms.calc = SinglePointCalculator(atoms, forces=forces)
        frames.append(atoms)
    assert crystal_of(frames) is frames[1]  # the last is too large
    assert crystal_of(frames[:1], largest_force=0.2) is None
    molecule = Atoms("Cu2", [[0, 0, 0], [2, 0, 0]])
    molecule.calc = SinglePointCalculator(molecule, forces=np.zeros((2, 3)))
    assert crystal_of([molecule]) is None


def test_the_command_on_the_shipped_potential(tmp_path: Path) -> None:
    """Wurtzite; lattice constants of PBEsol are 3.18 and 5.18 A, bulk moduli of GaN 180 to 210 GPa."""
    crystal = tmp_path / "gan.extxyz"
    bulk("GaN", "wurtzite", a=3.2, c=5.2).write(crystal)
    arguments = ["physics", str(SHIPPED), str(crystal), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "physics.json").read_text())["quantities"]
    assert found["a"]["value"] == pytest.approx(3.18, abs=0.03)
    assert found["c"]["value"] == pytest.approx(5.18, abs=0.05)
    assert 180 < found["bulk_modulus"]["value"] < 210
    assert found["C66"]["value"] == pytest.approx((found["C11"]["value"] - found["C12"]["value"]) / 2, rel=0.01)
    assert found["vacancy"]["value"] > 0


def test_a_training_ends_with_the_crystal_of_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "open_potential", lambda _: open_potential(SHIPPED))
    folder = tmp_path / "model"
    (folder / "report").mkdir(parents=True)
    crystal = bulk("GaN", "zincblende", a=4.5)
    crystal.calc = SinglePointCalculator(crystal, forces=np.zeros((2, 3)))
    tables = physics_of_training(folder, [crystal])
    assert [str(table.title) for table in tables] == ["GaN, 2 atoms, relaxed", "Pairs of atoms alone"]
    assert (folder / "report" / "physics" / "physics.html").is_file()
    assert physics_of_training(folder, []) == []
