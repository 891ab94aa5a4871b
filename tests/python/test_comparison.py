"""`so3krates compare`: a family of ten lines that succeeds, fails in every way, is killed, and goes on."""

from __future__ import annotations

import csv
import io
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console
from so3krates.cli_compare import compare as command
from so3krates.comparison import CompareSettings, compare, families, process
from so3krates.comparison.families import SHIPPED
from so3krates.comparison.report import law, spread
from so3krates.model.config import ConfigError

RUNNERS = Path(__file__).parents[1] / "families"
ROUNDED = 1e-3  # meV/A, meV/atom: files have eight digits
WELL = -0.2 * 1.4**3 * (2.6 - 32 / 15)  # eV, of a pair
SIGNAL = 10.0  # meV/A, of forces that errors are of
DRIFT = 2.0  # meV/atom/ps
STATE = 0.02  # relative, between the bulk modulus by strains and by volumes
WAIT = 60.0  # s at most, for processes to begin and to end
SETTINGS = """
[compare]
families = {names}
test_file = "test.extxyz"
minutes = 0.02
check_minutes = {checks}
memory = {memory}
drift_steps = 60
speed_atoms = 32
runners = "{runners}"
{more}

[data]
file = "train.extxyz"
n_valid = 2

[options.toy]
fails = "{fails}"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Frames of a crystal whose atoms attract as the toy says."""
    monkeypatch.setenv("TOY_NOTES", str(tmp_path / "notes"))
    monkeypatch.syspath_prepend(str(SHIPPED))  # protocol.py
    toy = runpy.run_path(str(RUNNERS / "toy" / "run.py"))["Toy"]
    rng = np.random.default_rng(0)
    for name, count in (("train", 6), ("test", 3)):
        frames = []
        for _ in range(count):
            atoms = bulk("Cu", cubic=True)
            atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
            atoms.calc = toy()
            results = {key: atoms.calc.get_property(key, atoms) for key in ("energy", "forces", "stress")}
            results["energy"] += 1e6 * len(atoms)  # of all electrons
            atoms.calc = SinglePointCalculator(atoms, **results)
            frames.append(atoms)
        ase.io.write(tmp_path / f"{name}.extxyz", frames)
    return tmp_path


def settings(folder: Path, names: str = '["toy"]', more: str = "", **values: Any) -> CompareSettings:
    values = {"fails": "", "checks": 0, "memory": 2.0, "runners": RUNNERS} | values
    (folder / "settings.toml").write_text(SETTINGS.format(names=names, more=more, **values))
    return CompareSettings.load(folder / "settings.toml")


def run(folder: Path, *arguments: Any, **values: Any) -> list[dict[str, Any]]:
    return compare(settings(folder, *arguments, **values), folder / "out", Console(file=io.StringIO()))


def trainings(folder: Path) -> int:
    return len((folder / "notes").read_text().splitlines())


def test_a_family_is_trained_examined_and_reported(folder: Path) -> None:
    (row,) = run(folder, checks=1)
    assert row.get("problem") is None and row["problems"] == {}
    labels = [atoms.get_forces() for atoms in ase.io.read(folder / "test.extxyz", ":")]
    assert 1000 * np.sqrt(np.mean(np.square(labels))) > SIGNAL
    assert row["errors"]["forces"]["rmse"] < ROUNDED
    assert row["errors"]["energy, means removed"]["rmse"] < ROUNDED
    assert row["training"]["cpu"] > 0 and row["training"]["memory"] > 0
    assert row["speed"]["atoms"] == 32 and row["speed"]["atom_steps_per_s"] > 0
    assert abs(law(row, "NVE drift") or np.inf) < DRIFT
    assert all(check["passed"] for check in row["laws"] if check["name"].startswith(("rotation", "translation")))
    elastic = np.array(row["crystal"]["elastic_GPa"])
    assert elastic[:3, :3].mean() == pytest.approx(row["crystal"]["bulk_modulus"], rel=STATE)
    assert min(row["pairs"]["Cu-Cu"]["energies_eV"]) == pytest.approx(WELL, abs=1e-3)
    out = folder / "out"
    assert json.loads((out / "compare.json").read_text()) == [row]
    (line,) = csv.DictReader((out / "compare.csv").open())
    assert line["family"] == "toy" and float(line["bulk_modulus_GPa"]) > 0 and line["problem"] == ""
    page = (out / "compare.html").read_text()
    assert page.count("data:image/png") == 2 and "Pairs that repel" not in page and "toy" in page


@pytest.mark.parametrize(
    ("fails", "words"),
    [
        ("raises", "exit status 1: RuntimeError: the toy is broken"),
        ("time", "it ran out of its time: "),
        ("memory", "it ran out of its memory: "),
    ],
)
def test_a_training_that_fails_says_why_and_others_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fails: str, words: str
) -> None:
    monkeypatch.setattr(process, "GRACE", 1.0)
    monkeypatch.setattr("so3krates.comparison.run.GRACE", 1.0)
    rows = run(folder, '["toy", "other"]', fails=fails, memory=0.5)
    assert words in rows[0]["problem"] and "errors" not in rows[0]
    assert rows[1].get("problem") is None and rows[1]["errors"]["forces"]["rmse"] < ROUNDED
    assert words in (folder / "out" / "compare.html").read_text().replace("&#x27;", "'")


@pytest.mark.parametrize(
    ("fails", "words"),
    [
        ("nan", "are no numbers, or beyond 1e+12 eV and eV/A, for 3 frames (0, 1, 2)"),
        ("absurd", "are no numbers, or beyond 1e+12 eV and eV/A, for 3 frames (0, 1, 2)"),
        ("dies", "it ended with exit status 3"),
    ],
)
def test_predictions_that_fail_say_why_and_training_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fails: str, words: str
) -> None:
    monkeypatch.setenv("TOY_FAILS", fails)
    (row,) = run(folder)
    assert words in row["problem"]
    monkeypatch.delenv("TOY_FAILS")
    (row,) = run(folder)
    assert row.get("problem") is None and trainings(folder) == 1


def test_an_answer_of_other_frames_is_refused(folder: Path) -> None:
    runners = folder / "runners"
    shutil.copytree(RUNNERS / "toy", runners / "short")
    runner = runners / "short" / "run.py"
    cut = "import protocol\nwhole = protocol.ase.io.read\n"
    cut += "protocol.ase.io.read = lambda path, index: whole(path, index)[: 2 if 'question' in str(path) else None]\n"
    runner.write_text(cut + runner.read_text())
    text = SETTINGS.format(names='["short"]', more="", fails="", checks=0, memory=2.0, runners=runners)
    (folder / "settings.toml").write_text(text.replace("[options.toy]", "[options.short]"))
    loaded = CompareSettings.load(folder / "settings.toml")
    (row,) = compare(loaded, folder / "out", Console(file=io.StringIO()))
    assert row["problem"] == "it predicted 2 frames of 3"


def test_what_is_done_is_not_done_again(folder: Path) -> None:
    more = "sizes = [2]\nseeds = { toy = 2 }"
    rows = run(folder, more=more)
    assert [(row["frames"], row["seed"]) for row in rows] == [(2, 0), (2, 1)] and trainings(folder) == 2
    assert run(folder, more=more) == rows and trainings(folder) == 2
    job = json.loads((folder / "out" / "toy" / "frames-2-seed-1" / "job.json").read_text())
    assert job["seed"] == 1 and job["frames"] == 2
    run(folder, more="sizes = [2]\nthreads = 2")  # other settings
    assert trainings(folder) == 3


def test_killed_and_called_again(folder: Path) -> None:
    settings(folder, fails="time", more="environments = 'made'")
    words = [sys.executable, "-c", "from so3krates.cli import app; app()", "compare", "settings.toml", "-o", "out"]
    work = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + WAIT
    notes = folder / "notes"
    while not (notes.exists() and trainings(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert trainings(folder) == 1
    os.kill(work.pid, signal.SIGKILL)
    work.wait()
    deadline = time.monotonic() + WAIT
    while (alive := _runners(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive == []  # it ends with the command
    (row,) = run(folder)
    assert row.get("problem") is None and trainings(folder) == 2


def _runners(folder: Path) -> list[str]:
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = line.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in text and "run.py" in text:
            found.append(text)
    return found


def test_an_environment_that_cannot_be_made(folder: Path) -> None:
    runners = folder / "runners"
    shutil.copytree(RUNNERS, runners)
    (runners / "toy" / "requirements.txt").write_text("./not/there\n")
    (row,) = run(folder, runners=runners)
    assert "its environment cannot be made: ERROR" in row["problem"]
    assert (folder / ".compare" / "toy.log").is_file()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('["toy"]', '["toy", "nap"]', "compare.families: unknown nap; families are "),
        ('["toy"]', "[]", "compare.families = []: give a list of names"),
        ("[options.toy]", "[options.nap]", "options: unknown nap; families are "),
        ('fails = ""', "n = 2", "unknown key options.toy.n: known are fails"),
        ("minutes = 0.02", "minutes = 0", "compare.minutes = 0: give a number above 0"),
        ("minutes = 0.02", "minuets = 1", "unknown key compare.minuets"),
        ("minutes = 0.02", "minutes = 1\nsizes = [0]", "compare.sizes = [0]: give whole numbers of at least 1"),
        ("minutes = 0.02", "minutes = 1\nseeds = { nap = 1 }", "compare.seeds: unknown nap"),
        ('test_file = "test.extxyz"', "", "compare.test_file = None: give a file of labelled frames"),
        ("test.extxyz", "none.extxyz", "compare.test_file = 'none.extxyz': give a path that is there"),
        ('file = "train.extxyz"', 'train_file = "train.extxyz"', "data.train_file: leave it out"),
        ("n_valid = 2", "n_valid = 0", "data.n_valid = 0: give a whole number of at least 1"),
        ("[data]", "[date]", "unknown section [date]: known are [compare], [data], [options]"),
        ("[compare]", "[compare", "settings.toml: "),
    ],
)
def test_settings_that_are_refused(folder: Path, old: str, new: str, words: str) -> None:
    settings(folder)
    text = (folder / "settings.toml").read_text()
    assert old in text
    (folder / "settings.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=r"settings\.toml") as caught:
        CompareSettings.load(folder / "settings.toml")
    assert words in str(caught.value)


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings(folder, '["toy", "other"]', fails="raises")
    command(folder / "settings.toml", folder / "out")
    said = capsys.readouterr().out
    assert "2 rows, 1 without a potential. Report: " in said and "the toy is broken" in said


def test_shipped_families_are_whole() -> None:
    there = families()
    assert {"so3krates", "soap", "snap"} <= there.keys()
    for family in there.values():
        assert family.title != family.name
        assert len(family.runner.read_text().splitlines()) < 120
        for line in (line for file in family.folder.glob("requirements*.txt") for line in file.read_text().split()):
            assert "==" in line or "<" in line, f"{family.name}: {line} is not pinned"


def test_spread_of_seeds() -> None:
    assert spread([1.0, 3.0, None]) == "2 ± 1.4"
    assert spread([None]) == "-"
