"""`so3krates learn` as a whole: copper labelled by EMT, killed at every stage, within its budget."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write
from long_tables import Many
from rich.console import Console
from so3krates.data import read_frames
from so3krates.learning import LearningSettings, Outcome, learn, loop, rounds
from so3krates.runtime import Runtime
from teachers import FAILED, Killed, asked

START = 4  # structures to begin with
PER_ROUND, CHECKS, MAX_LABELS = 3, 1, 10
FAILS, DIES = 5, (2, 6)  # structures by their number among all that were asked for
ROUNDED = 1e-6  # A, eV/A and eV: of files with eight digits
SEED, KILLS = 20250722, 4
SIGNAL = 0.1  # eV/A
SETTINGS = """
[model]
cutoff = 4.0
features = 12
heads = 2
layers = 1
degrees = [1, 2]
radial_basis = "phys"
radial_functions = 8

[training]
epochs = 6
batch_size = 2
learning_rate = 3e-3
optimiser = "adam"

[learn]
save = 1e-4
stop = 1e4
every = 2
check_every = 4
structures = "start.extxyz"
labels_per_round = {per_round}
checks_per_round = {checks}
max_rounds = 4
max_labels = {max_labels}
retrain_steps = 8
test_file = "test.extxyz"

[label]
calculator = 'teachers:NotedEMT("{notes}", fails=({fails},), dies={dies})'

[[run]]
deck = "in.copper"
files = ["copper.data"]
variables = {{ temperature = 900 }}
"""
DECK = """
units metal
read_data copper.data
mass 1 63.546
pair_style so3krates threads 1 guard off cache "{cache}"
pair_coeff * * potential.so3k Cu
velocity all create ${{temperature}} ${{seed}}
fix 1 all nve
timestep 0.003
run 24
"""


def copper(seed: int) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True) * (1, 1, 2)
    atoms.positions += np.random.default_rng(seed).normal(0, 0.1, atoms.positions.shape)
    return atoms


def write_loop(folder: Path, cache: Path, fails: int = FAILS, dies: tuple[int, ...] = DIES) -> Path:
    write(folder / "start.extxyz", [copper(seed) for seed in range(START)])
    tests = [copper(seed) for seed in range(50, 53)]
    for atoms in tests:
        atoms.calc = EMT()
        atoms.get_stress()
    write(folder / "test.extxyz", tests)
    write(folder / "copper.data", copper(99), format="lammps-data", masses=False)
    (folder / "in.copper").write_text(DECK.format(cache=cache))
    notes, path = folder / "notes", folder / "settings.toml"
    values = {"per_round": PER_ROUND, "checks": CHECKS, "max_labels": MAX_LABELS}
    path.write_text(SETTINGS.format(notes=notes, fails=fails, dies=dies, **values))
    return path


class Deaths:
    """Functions of a module that are a kill the first time: before they begin, or when they are done."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.count = patch, 0

    def at(self, module: object, name: str, is_after: bool) -> None:
        own, has_died = getattr(module, name), False

        def call(*arguments: object, **named: object) -> object:
            nonlocal has_died
            if has_died:
                return own(*arguments, **named)
            has_died = True
            if is_after:
                own(*arguments, **named)
            self.count += 1
            raise Killed(name)

        self.patch.setattr(module, name, call)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Outcome, Path, int]]:
    """A loop that was killed in labels, trainings, exports and runs; how often it was begun."""
    folder = tmp_path_factory.mktemp("loop")
    settings = LearningSettings.load(write_loop(folder, tmp_path_factory.getbasetemp().parent / "learning_cache"))
    with pytest.MonkeyPatch.context() as patch:
        deaths = Deaths(patch)
        deaths.at(rounds, "run_session", is_after=False)
        deaths.at(rounds.exporting, "export_model", is_after=False)
        deaths.at(rounds, "explore", is_after=True)
        deaths.at(rounds, "distinct", is_after=False)
        deaths.at(loop, "write_learning_report", is_after=True)
        outcome, begun = None, 0
        while outcome is None:
            begun += 1
            with contextlib.suppress(Killed):
                outcome = learn(settings, folder / "out", Console(quiet=True))
        assert deaths.count == 5
    yield outcome, folder, begun


def test_no_label_is_made_twice(ended: tuple[Outcome, Path, int]) -> None:
    """However often the loop was killed; what fails is tried once more."""
    _, folder, begun = ended
    assert begun == 5 + len(DIES) + 1
    found = asked(folder / "notes")
    done = [name for name, outcome in found if outcome != FAILED]
    failed = [name for name, outcome in found if outcome == FAILED]
    assert len(set(done)) == len(done) == MAX_LABELS - 1
    assert len(failed) == 2 and len(set(failed)) == 1


def test_the_budget_is_kept(ended: tuple[Outcome, Path, int]) -> None:
    outcome, _, _ = ended
    assert outcome.labels == MAX_LABELS - 1 and not outcome.reached
    assert f"learn.max_labels = {MAX_LABELS}" in outcome.reason
    assert [one["labels"] + len(one["failed"]) for one in outcome.rounds] == [START, PER_ROUND + CHECKS, 2]


def test_rounds_are_folders(ended: tuple[Outcome, Path, int]) -> None:
    """Each holds what a round did, and its labels are the teacher's."""
    outcome, folder, _ = ended
    out = folder / "out"
    known: list[Atoms] = []
    for number in range(3):
        place = out / f"round-{number:02d}"
        summary = json.loads((place / "summary.json").read_text())
        assert summary == outcome.rounds[number] and summary["round"] == number
        if number > 0:
            train, valid = (read_frames(place / f"{name}.extxyz") for name in ("train", "valid"))
            assert len(train) + len(valid) == len(known) and len(valid) >= 1
            assert (place / "model" / "config.toml").is_file() and (place / "potential.so3k").is_file()
            candidates = read(place / "candidates.extxyz", index=":")
            assert summary["above"] == summary["looks"] == len(candidates) == 13
            assert {atoms.info["run"] for atoms in candidates} == {"run-1"}
            assert (place / "run-1" / "log.lammps").is_file()
            assert {"checks", "fresh", "test"} == set(summary["errors"])
        labelled = read(place / "labelled.extxyz", index=":")
        assert len(labelled) == summary["labels"]
        whys = [atoms.info.get("why") for atoms in labelled]
        assert number == 0 or (whys.count("check") == CHECKS and whys.count("atomic-energy") == len(whys) - CHECKS)
        for atoms in labelled:
            again = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, calculator=EMT())
            assert np.abs(atoms.get_forces()).max() > SIGNAL
            np.testing.assert_allclose(atoms.get_forces(), again.get_forces(), rtol=0, atol=ROUNDED)
            assert atoms.get_potential_energy() == pytest.approx(again.get_potential_energy(), abs=ROUNDED)
            np.testing.assert_allclose(atoms.get_stress(), again.get_stress(), rtol=0, atol=ROUNDED)
        known += labelled


def test_a_failed_label_has_its_folder(ended: tuple[Outcome, Path, int]) -> None:
    outcome, _, _ = ended
    (text,) = (text for one in outcome.rounds for text in one["failed"])
    place = Path(text.partition(": ")[0])
    assert text.endswith("RuntimeError: no convergence after 60 cycles")
    assert "no convergence" in (place / "error.txt").read_text()
    assert len(read(place / "failed.extxyz")) == 8


def test_what_is_left_at_the_end(ended: tuple[Outcome, Path, int]) -> None:
    """The last potential, which knows all labels, its model, and the report."""
    outcome, folder, _ = ended
    out = folder / "out"
    assert outcome.potential == out / "potential.so3k"
    assert np.abs(Runtime(outcome.potential).evaluate(copper(1))["forces"]).max() > 0
    assert (out / "potential.so3k").read_bytes() == (out / "final-02" / "potential.so3k").read_bytes()
    trained = [len(read_frames(out / "final-02" / f"{name}.extxyz")) for name in ("train", "valid")]
    assert sum(trained) == MAX_LABELS - 1
    assert (out / "model" / "config.toml").is_file() and not (out / "model" / "checkpoints").exists()
    page = (out / "report" / "report.html").read_text()
    for words in ("What was labelled, and why", "learn.max_labels", "no convergence after 60 cycles", "in.copper"):
        assert words in page


def test_an_ended_loop_is_only_read(ended: tuple[Outcome, Path, int]) -> None:
    outcome, folder, _ = ended
    before = asked(folder / "notes")
    again = learn(LearningSettings.load(folder / "settings.toml"), folder / "out", Console(quiet=True))
    assert again == outcome and asked(folder / "notes") == before


@pytest.mark.torture
def test_a_loop_killed_at_any_time(tmp_path: Path, many: Many) -> None:
    """SIGKILL while it trains, exports, runs and labels: of labels, at most the one that was being made is repeated."""
    settings = write_loop(tmp_path, tmp_path / "cache", dies=())
    program = [sys.executable, "-c", "from so3krates.cli import app; app()"]
    command = [*program, "learn", str(settings), "-o", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    choose, kills = random.Random(SEED), many(KILLS)
    for _ in range(kills):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(choose.uniform(3.0, 40.0))
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0)  # 0: it was at its end
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    done = [name for name, outcome in asked(tmp_path / "notes") if outcome != FAILED]
    assert len(set(done)) == MAX_LABELS - 1 and len(done) <= MAX_LABELS - 1 + kills
    rounds_labels = [json.loads(path.read_text())["labels"] for path in (tmp_path / "out").glob("round-*/summary.json")]
    assert sum(rounds_labels) == MAX_LABELS - 1
