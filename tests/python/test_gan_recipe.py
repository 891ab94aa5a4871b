"""The recipe of examples/gan names commands, options, scripts and variables that exist, and its table is right."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from so3krates import cli
from so3krates.campaign import read_campaign
from so3krates.lammps.long_run import variables_of
from typer.testing import CliRunner

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RECIPE = EXAMPLES / "gan"
PHYSICS = {"check", "physics", "phonons", "kappa", "run"}
TRAINING = {"sample", "train", "export", "evaluate"}
DIGITS = 1e-4


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "frames.extxyz").touch()
    return folder


@cache
def lines_of(size: str, folder: Path, *settings: str) -> list[str]:
    """What make would run in an empty folder."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "--no-print-directory", "-n", "-C", str(RECIPE), size, f"F={folder / size}", *settings]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [part.strip() for line in done.stdout.replace("\\\n", " ").splitlines() for part in line.split("&&")]


def known(line: str) -> bool:
    """Whether the command line has this command with these options."""
    return _known(re.sub(r"\d+", "1", re.sub(r"\$\([^)]*\)", "", line)))


@cache
def _known(line: str) -> bool:
    return CliRunner().invoke(cli.app, [*shlex.split(line)[1:], "--help"]).exit_code == 0


@pytest.mark.parametrize("size", ["small", "full"])
@pytest.mark.parametrize("start", ["", "DATA", "POTENTIAL"])
def test_lines_can_be_run(size: str, start: str, shared: Path) -> None:
    given = {"": (), "DATA": (f"DATA={shared / 'frames.extxyz'}",), "POTENTIAL": ("POTENTIAL=gan-pbesol",)}[start]
    lines = lines_of(size, shared, *given)
    ours = [line for line in lines if line.startswith("so3krates ")]
    assert [line for line in ours if not known(line)] == []
    absent = {"": set(), "DATA": {"sample", "evaluate"}, "POTENTIAL": TRAINING}[start]
    assert {line.split()[1] for line in ours} == PHYSICS | TRAINING - absent
    scripts = [line.split()[1] for line in lines if line.startswith("python ")]
    assert scripts and all((RECIPE / script).is_file() for script in scripts)
    assert any("crystal.py" in script for script in scripts) == (start == "")
    runs = [shlex.split(line) for line in ours if line.startswith("so3krates run ")]
    assert len(runs) == (1 if size == "small" else 7)
    for words in runs:
        deck = RECIPE / size / "nemd" / words[2]  # the folder need not be there
        names = {word.partition("=")[0] for before, word in pairwise(words) if before == "--var"}
        assert names <= variables_of(Path(os.path.normpath(deck))).keys()
    assert any("in.million" in " ".join(words) for words in runs) == (size == "full")


def test_a_line_that_cannot_be_run_is_seen() -> None:
    assert known("so3krates train frames.extxyz --hours 1 -o model")
    assert not known("so3krates train frames.extxyz --days 1 -o model")
    assert not known("so3krates trane frames.extxyz")


@pytest.mark.parametrize("size", ["small", "full"])
def test_campaigns(size: str, shared: Path, tmp_path: Path) -> None:
    """Their files are those that the steps before write."""
    (tmp_path / size / "physics").mkdir(parents=True)
    for name in ("gan.so3k", "physics/relaxed.extxyz"):
        (tmp_path / size / name).touch()
    (tmp_path / "settings.toml").write_bytes((RECIPE / f"{size}.toml").read_bytes())
    campaign = read_campaign(tmp_path / "settings.toml")
    assert campaign.crystals and campaign.seeds > 1
    assert campaign.phonons == tmp_path / size / "phonons" / "phonons.json"
    assert any(f"-o {shared / size}/phonons" in line for line in lines_of(size, shared))


@pytest.fixture
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("table", RECIPE / "table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill(folder: Path) -> None:
    """Outputs of the steps, with numbers of nobody."""
    quantities = {"a": 3.21, "c": 5.22, "C11": 300.0, "C33": 411.0, "energy": -4.0}
    rms = {"rmse": 12.5, "unit": "meV/A"}
    mesh = {"mesh": [7, 7, 5], "relaxation_time_W_per_mK": [[151.0, 151.0, 141.0, 0, 0, 0]], "direct_W_per_mK": None}
    mesh |= {"free_paths_nm": [1.0, 100.0], "carried_W_per_mK": [[[0.0, 0.0, 0.0], [99.0, 99.0, 49.5]]]}
    direct = {**mesh, "mesh": [9, 9, 5], "direct_W_per_mK": [[161.0, 161.0, 131.0, 0, 0, 0]]}
    labels = ["E1", "E1", "A1", "E2", "E2", "B1", "A1", "E1", "E1", "E2", "E2", "B1"]
    frequencies = [0, 0, 0, 4, 4, 9, 16, 16.5, 16.5, 17, 17, 20]
    green_kubo = {"green_kubo": [77.4, 25.2], "seeds": [50.0, 100.0]}
    contents = {
        "physics/physics.json": {"quantities": {name: {"value": value} for name, value in quantities.items()}},
        "phonons/phonons.json": {
            "gamma_irreps": labels,
            "gamma_THz": frequencies,
            "conductivity": {"meshes": [mesh, direct]},
        },
        "errors.json": {"test": {name: rms for name in ("energy, means removed", "forces", "stress")}},
        "check.json": [{"name": "NVE drift", "passed": False}, {"name": "rotation", "passed": True}],
        "green_kubo/campaign.json": {
            "crystals": {"small": {"atoms": 300, "duration_ps": 100.0, "W_per_mK": {"xy": green_kubo}}},
            "absent": {"large": "no run came to its end"},
        },
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    (folder / "nemd").mkdir()
    for cells in (8, 16):
        text = f"a: 9 blocks, kappa 1.0 +- 1.0 W/mK\nmean of 2: kappa {cells}.125 +- 0.250 W/mK\n"
        (folder / "nemd" / f"{cells}.txt").write_text(text)


def test_table(recipe: ModuleType, tmp_path: Path) -> None:
    fill(tmp_path)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in recipe.table(tmp_path).splitlines()]
    found = {row[0]: row[1:] for row in rows if len(row) > 1}
    assert found["C33 (GPa)"] == ["411", "", "398 [3]"]
    assert found["a (Å)"][0] == "3.21" and found["a (Å)"][2].startswith("3.1893 [1]")
    wave = {name: float(found[f"{name} (1/cm)"][0]) for name in ("E2 low", "A1", "E1", "E2 high")}
    expected = {"E2 low": 4, "A1": 16, "E1": 16.5, "E2 high": 17}
    assert wave == pytest.approx({name: 33.35641 * thz for name, thz in expected.items()}, rel=DIGITS)
    assert found["lattice dynamics, relaxation times, mesh 7x7x5"] == ["151.0 in the plane, 141.0 along c"]
    assert found["lattice dynamics, direct, mesh 9x9x5"] == ["161.0 in the plane, 131.0 along c"]
    assert found["Green-Kubo along xy, 300 atoms, 2 seeds, 100 ps"] == ["77.4 ± 25.2"]
    of_8_cells = 49.5 / (1 + 4 * 100.0 / (0.8 * 5.22))
    assert found["of that, in a box of 4.2 nm with slabs of heat"] == [f"{of_8_cells:.2f} along c"]
    assert found["Green-Kubo, large"] == ["none: no run came to its end"]
    assert [found[f"out of equilibrium, {n} cells along c"] for n in (8, 16)] == [["8.12 ± 0.25"], ["16.12 ± 0.25"]]
    assert "GaN.tersoff" not in recipe.table(tmp_path)
    assert "* checks that fail: NVE drift" in recipe.table(tmp_path)
    used = {
        int(number) for number in re.findall(r"\[(\d+)\]", "".join([*recipe.KNOWN.values(), *recipe.KAPPA.values()]))
    }
    assert used == {int(number) for number in re.findall(r"^(\d+)\. ", recipe.SOURCES, re.MULTILINE)}


def test_the_teacher_is_named(recipe: ModuleType, tmp_path: Path) -> None:
    """Its own values stand beside the student's, and that it is not GaN."""
    fill(tmp_path)
    (tmp_path / "teacher.json").write_text(json.dumps({"tersoff": dict.fromkeys(recipe.KNOWN, 379.4)}))
    text = recipe.table(tmp_path)
    assert "that teacher is not GaN" in text and "| C33 (GPa) | 411 | 379.4 | 398 [3] |" in text


def test_lattice_for_the_decks(recipe: ModuleType, tmp_path: Path) -> None:
    crystal: Atoms = bulk("GaN", "wurtzite", a=3.2, c=5.2, u=0.38)
    crystal.positions += [0.3, -0.2, 1.1]
    (tmp_path / "physics").mkdir()
    write(tmp_path / "physics" / "relaxed.extxyz", crystal)
    values = [float(word.partition("=")[2]) for word in recipe.deck_variables(tmp_path).split()[1::2]]
    assert np.allclose(values, [3.2, 5.2, 0.38], atol=DIGITS)
