"""Potentials that come with the package are found by name, and files of that name come first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ase.build import bulk
from so3krates import cli
from so3krates.calculator import So3kratesCalculator
from so3krates.lammps import run_deck
from so3krates.runtime import Runtime
from so3krates.shipped import located, shipped
from so3krates.storage import Model
from typer.testing import CliRunner

SAME = 1e-9  # eV
DECK = """units metal
atom_modify map array
read_data gan.data
mass 1 69.723
mass 2 14.007
pair_style so3krates threads 1
pair_coeff * * {name} Ga N
thermo_style custom step pe
thermo_modify format float %.12g
run 0
"""


def test_names() -> None:
    assert {"gan-pbesol", "so3lr"} <= set(shipped())
    assert located("gan-pbesol").is_file()
    assert located("gan-pbesol.so3k") == located("gan-pbesol")
    assert located("so3lr").is_dir()
    assert located("absent") == Path("absent")
    assert located("folder/gan-pbesol") == Path("folder/gan-pbesol")


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "so3lr").mkdir()
    assert located("so3lr") == Path("so3lr")
    (tmp_path / "gan-pbesol").write_bytes(b"no bundle")
    with pytest.raises(Exception, match=r"^gan-pbesol: "):
        Runtime("gan-pbesol")


def test_every_door_takes_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    crystal = bulk("GaN", "wurtzite", a=3.2, c=5.2, orthorhombic=False).repeat(2)
    energy = Runtime("gan-pbesol", threads=1).evaluate(crystal)["energy"]
    assert energy == pytest.approx(Runtime(shipped()["gan-pbesol"], threads=1).evaluate(crystal)["energy"], abs=SAME)
    crystal.calc = So3kratesCalculator("gan-pbesol", threads=1)
    assert crystal.get_potential_energy() == pytest.approx(energy, abs=SAME)
    assert "H" in Model.load("so3lr").elements
    for arguments, words in ((["models"], "gan-pbesol"), (["info", "gan-pbesol"], "cutoff"), (["info", "so3lr"], "Cl")):
        result = CliRunner().invoke(cli.app, arguments)
        assert result.exit_code == 0, result.output
        assert words in result.output


def test_a_deck_takes_a_name(tmp_path: Path) -> None:
    crystal = bulk("GaN", "wurtzite", a=3.2, c=5.2).repeat(3)
    crystal.write(tmp_path / "gan.data", format="lammps-data", specorder=["Ga", "N"])
    shutil.copy(shipped()["gan-pbesol"], tmp_path / "copy.so3k")
    energies = []
    for name in ("gan-pbesol", "copy.so3k"):
        log = run_deck(DECK.format(name=name), tmp_path)
        row = next(line for line in log.splitlines() if line.split()[:1] == ["0"] and len(line.split()) == 2)
        energies.append(float(row.split()[1]))
    assert energies[0] == energies[1] != 0
