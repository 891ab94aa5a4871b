"""The parts of a learning loop: settings, labels by calculators and commands, the end of a loop."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import read, write
from rich.console import Console
from so3krates.cli import app
from so3krates.learning import (
    LabelConfig,
    LabelsAwaited,
    LearnConfig,
    LearningError,
    LearningSettings,
    learn,
)
from so3krates.learning.explore import check_decks
from so3krates.learning.labels import Labelled, label
from so3krates.learning.loop import _is_reached
from so3krates.learning.rounds import Round
from so3krates.model.config import ConfigError, ModelConfig
from so3krates.model.network import init_params
from so3krates.storage import Model
from teachers import FAILED, STYLE, asked, copper
from typer.testing import CliRunner

SIGNAL = 0.1  # eV/A
ROUNDED = 1e-6  # of files with eight digits


# Settings

WHOLE = """
[model]
cutoff = 4.0
[data]
file = "data.extxyz"
[learn]
save = 0.1
stop = 1.0
[label]
calculator = "ase.calculators.emt:EMT"
[[run]]
deck = "in.deck"
"""
WRONG = {
    "order": (("stop = 1.0", "stop = 0.05"), r"learn\.stop = 0\.05: .*more than learn\.save = 0\.1"),
    "equal": (("stop = 1.0", "stop = 0.1"), r"learn\.stop = 0\.1: .*more than learn\.save = 0\.1"),
    "no threshold": (("save = 0.1\n", ""), r"learn\.save"),
    "negative": (("save = 0.1", "save = -1"), r"learn\.save = -1: .*above 0"),
    "unknown": (("save = 0.1", "save = 0.1\nsafe = 1"), r"unknown key learn\.safe"),
    "choice": (("save = 0.1", 'save = 0.1\nchoose = "best"'), r"learn\.choose = 'best': .*one of atomic-energy"),
    "by": (("save = 0.1", 'save = 0.1\nby = "committee_forces"'), r"learn\.committee of at least 2"),
    "no deck": (("in.deck", "in.nothing"), r"run\.deck = 'in\.nothing': .*in\.nothing is not"),
    "no model": (
        ("[learn]", '[training]\ninitial_model = "old"\n[learn]'),
        r"training\.initial_model = 'old': .*old is",
    ),
    "unknown section": (("[learn]", "[labels]\nx = 1\n[learn]"), r"unknown key 'labels'"),
    "no section": (("[model]\ncutoff = 4.0", "training = 3"), r"\[training\] must be a section of keys"),
    "fine-tuning": (("[learn]", "[finetuning]\nreplay = 'old.extxyz'\n[learn]"), r"\[finetuning\]: leave it out"),
    "no run": (('[[run]]\ndeck = "in.deck"', ""), r"no deck to run"),
    "no label": (('[label]\ncalculator = "ase.calculators.emt:EMT"', ""), r"section \[label\] is missing"),
    "two labellers": (("[label]", '[label]\ncommand = "x"'), r"label\.calculator"),
    "batch": (("[label]", "[label]\nbatch = true"), r"label\.batch"),
    "no start": (('file = "data.extxyz"', ""), r"nothing to begin with"),
    "own key": (("[data]", "[data]\nn_train = 5"), r"data\.n_train: the loop itself parts"),
    "labels": (("save = 0.1", "save = 0.1\nmax_labels = 0"), r"learn\.max_labels = 0"),
    "charges": (
        ("[learn]", "[terms.electrostatics]\nform = 'predicted_charges'\n[learn]"),
        r"tells no uncertainty yet",
    ),
}


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Path]:
    frames = [copper(k) for k in range(3)]
    for atoms in frames:
        atoms.calc = EMT()
        atoms.get_potential_energy(), atoms.get_forces()
    write(tmp_path / "data.extxyz", frames)
    (tmp_path / "in.deck").write_text(STYLE)

    def written(old: str = "", new: str = "") -> Path:
        path = tmp_path / "settings.toml"
        assert old in WHOLE
        path.write_text(WHOLE.replace(old, new) if old else WHOLE)
        return path

    return written


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_are_refused(settings: Callable[..., Path], case: str) -> None:
    change, message = WRONG[case]
    with pytest.raises(ConfigError, match=rf"settings\.toml: .*{message}"):
        LearningSettings.load(settings(*change))


def test_a_model_to_begin_with_keeps_its_network(settings: Callable[..., Path], tmp_path: Path) -> None:
    network = ModelConfig(features=12, heads=2, layers=1, degrees=(1, 2), cutoff=4.0)
    Model(network, init_params(network, 0), ("Cu",), {"Cu": 0.0}).save(tmp_path / "old")
    begun = ("[learn]", '[training]\ninitial_model = "old"\n[learn]')
    loaded = LearningSettings.load(settings(*begun)).training
    assert (loaded.model, loaded.training.initial_model) == (network, str(tmp_path / "old"))
    text = settings(*begun).read_text().replace("cutoff = 4.0", "cutoff = 5.0")
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"model\.cutoff = 5\.0, but training\.initial_model = .*old has 4\.0"):
        LearningSettings.load(tmp_path / "settings.toml")


def test_trainings_from_the_last_model_learn_more_slowly(settings: Callable[..., Path], tmp_path: Path) -> None:
    """A tenth of the rate, as fine-tuning has it, or what is given; from a model to begin with all have the same."""

    def rates(*change: str) -> list[float]:
        loop = LearningSettings.load(settings(*change))
        number = Round(2, tmp_path / "out", loop, Console(quiet=True), lambda *_: None)
        found = []
        for last in (None, tmp_path / "out" / "round-01"):
            ((_, config),) = number.configs(last)
            found.append(config.training.learning_rate)
            assert config.training.learning_rate_stop < found[-1] / 100
        assert config.training.initial_model == str(tmp_path / "out" / "round-01" / "model")
        return [found[0], found[1] / found[0]]

    full, share = rates()
    assert share == pytest.approx(0.1)
    assert rates("[learn]", "[learn]\nretrain_rate = 0.5") == pytest.approx([full, 0.5])
    network = ModelConfig(features=12, heads=2, layers=1, degrees=(1, 2), cutoff=4.0)
    Model(network, init_params(network, 0), ("Cu",), {"Cu": 0.0}).save(tmp_path / "old")
    assert rates("[learn]", '[training]\ninitial_model = "old"\n[learn]') == pytest.approx([0.1 * full, 1.0])


def test_a_deck_without_the_style_is_seen_before_all_else(settings: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "in.deck").write_text("pair_style tersoff\npair_coeff * * GaN.tersoff Ga N\n")
    loaded = LearningSettings.load(settings())
    for call in (lambda: check_decks(loaded.runs), lambda: learn(loaded, tmp_path / "out", Console(quiet=True))):
        with pytest.raises(ConfigError, match=r"in\.deck has no line pair_style so3krates"):
            call()
    assert not (tmp_path / "out").exists()


def test_folders_of_others_are_left_alone(settings: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    with pytest.raises(LearningError, match=r"out is no folder of a loop, and not empty"):
        learn(LearningSettings.load(settings()), out, Console(quiet=True))
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_more_to_begin_with_than_the_budget(settings: Callable[..., Path], tmp_path: Path) -> None:
    path = settings("save = 0.1", 'save = 0.1\nstructures = "data.extxyz"\nmax_labels = 2')
    with pytest.raises(ConfigError, match=r"3 structures to label, more than learn\.max_labels = 2: .*-n 2 "):
        learn(LearningSettings.load(path), tmp_path / "out", Console(quiet=True))


TARGETS = [
    ({}, True),
    ({"uncertain_share": 0.03}, False),
    ({"ended": ["step 7: ..."]}, False),
    ({"errors": {"checks": {"forces": {"rmse": 101.0}}}}, False),
    ({"errors": {"fresh": {"forces": {"rmse": 99.0}}}}, True),
    ({"errors": {}}, False),
]


@pytest.mark.parametrize(("change", "is_reached"), TARGETS)
def test_targets(settings: Callable[..., Path], change: dict[str, Any], is_reached: bool) -> None:
    loaded = LearningSettings.load(settings("save = 0.1", "save = 0.1\nmax_error = 0.1"))
    summary = {"uncertain_share": 0.01, "ended": [], "errors": {"checks": {"forces": {"rmse": 99.0}}}}
    assert _is_reached(loaded, summary | change) == is_reached


def test_thresholds_have_no_defaults() -> None:
    with pytest.raises(ConfigError, match=r"learn\.save = 0"):
        LearnConfig()


# Labels by a calculator


def test_a_calculator_that_fails_is_tried_once_more(tmp_path: Path) -> None:
    """And then no more, however often the loop is called."""
    notes = tmp_path / "notes"
    config = LabelConfig(calculator=f'teachers:NotedEMT("{notes}", fails=(1,))')
    for _ in range(2):
        found = label([copper(k) for k in range(3)], config, tmp_path / "labels", None)
    assert [outcome for _, outcome in asked(notes)] == ["done", FAILED, "done", FAILED]
    assert len(found.frames) == 2 and list(found.failed) == [1]
    assert found.failed[1].startswith(f"{tmp_path / 'labels' / 'frame-0001'}: RuntimeError: no convergence")
    kept = read(tmp_path / "labels" / "frame-0001" / "failed.extxyz")
    np.testing.assert_allclose(kept.positions, copper(1).positions, atol=ROUNDED)


def test_forces_beyond_all_sense_are_left_out(tmp_path: Path) -> None:
    close = copper(0)
    close.positions[1] = close.positions[0] + [0.8, 0, 0]
    config = LabelConfig(calculator="ase.calculators.emt:EMT", max_force=20.0)
    found = label([copper(0), close], config, tmp_path, None)
    assert len(found.frames) == 1
    assert re.search(r"frame-0001: the largest force is \d.* eV/A, more than label\.max_force = 20", found.failed[1])


def test_a_program_works_in_the_folder_of_each_frame(tmp_path: Path) -> None:
    """As of ASE's Espresso; the energy is the one that forces are derivatives of."""
    frames = [copper(k) for k in range(2)]
    found = label(frames, LabelConfig(calculator="teachers:Program()"), tmp_path, None)
    for k, (atoms, labelled) in enumerate(zip(frames, found.frames, strict=True)):
        kept = read(tmp_path / f"frame-{k:04d}" / "output.xyz")
        np.testing.assert_allclose(kept.positions, atoms.positions, atol=ROUNDED)
        atoms.calc = EMT()
        assert labelled.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=ROUNDED)
        assert np.abs(atoms.get_forces()).max() > SIGNAL
        np.testing.assert_allclose(labelled.get_forces(), atoms.get_forces(), atol=ROUNDED)


# Labels by a command

PROGRAM = """
import sys
from ase.calculators.emt import EMT
from ase.io import read, write
atoms = read("structure.extxyz")
print("begins", flush=True)
if {condition}:
    sys.exit(3)
atoms.calc = EMT()
atoms.get_stress(), atoms.get_forces()
order = {order}
{after}
write("labelled.extxyz", atoms[order] if order else atoms)
"""


def by_command(tmp_path: Path, frames: list[Atoms], condition: str = "False", **options: Any) -> Labelled:
    template = tmp_path / "template"
    template.mkdir(exist_ok=True)
    after = options.pop("after", "")
    (template / "program.py").write_text(PROGRAM.format(condition=condition, order=None, after=after))
    values = {"command": f"{shlex.quote(sys.executable)} program.py", "template": str(template), "processes": 2}
    return label(frames, LabelConfig(**(values | options)), tmp_path / "labels", None)


def test_a_command_labels_in_folders(tmp_path: Path) -> None:
    """One of them fails, twice; what is there is not computed again."""
    frames = [copper(k) for k in range(3)]
    condition = f"abs(atoms.positions[0, 0] - {frames[1].positions[0, 0]}) < 1e-6"
    for _ in range(2):
        found = by_command(tmp_path, frames, condition)
    runs = [(tmp_path / "labels" / f"frame-{k:04d}" / "command.log").read_text().count("begins") for k in range(3)]
    assert runs[0] == runs[2] == 1 and list(found.failed) == [1]
    assert "frame-0001: the command ended with status 3 (see command.log)" in found.failed[1]
    for atoms, labelled in zip([frames[0], frames[2]], found.frames, strict=True):
        atoms.calc = EMT()
        assert np.abs(atoms.get_forces()).max() > SIGNAL
        np.testing.assert_allclose(labelled.get_forces(), atoms.get_forces(), atol=ROUNDED)
        np.testing.assert_allclose(labelled.get_stress(), atoms.get_stress(), atol=ROUNDED)


def test_a_program_that_sorts_atoms(tmp_path: Path) -> None:
    """Forces come back in the order of the frame, and a result of another structure is none."""
    atoms = copper(0)
    atoms.symbols[[0, 2]] = "Au"
    program = "import sys; from ase.io import *; from ase.calculators.emt import EMT; a = read('structure.extxyz'); "
    sort = "a = a[a.numbers.argsort(kind='stable')]; a.calc = EMT(); a.get_forces(); write('labelled.extxyz', a)"
    config = LabelConfig(command=f'{shlex.quote(sys.executable)} -c "{program}{sort}"')
    (found,) = label([atoms], config, tmp_path / "sorted", None).frames
    atoms.calc = EMT()
    assert np.abs(np.diff(atoms.get_forces(), axis=0)).max() > SIGNAL
    np.testing.assert_allclose(found.get_forces(), atoms.get_forces(), atol=ROUNDED)
    move = sort.replace("a.calc", "a.positions[0] += 0.3; a.calc")
    config = LabelConfig(command=f'{shlex.quote(sys.executable)} -c "{program}{move}"')
    failed = label([atoms], config, tmp_path / "moved", None).failed
    assert failed[0].endswith("labelled.extxyz is of another structure")


def test_a_batch_system_labels_later(tmp_path: Path) -> None:
    """The command only submits; called again, results are read, and folders that say `failed` are left out."""
    frames, folder = [copper(k) for k in range(3)], tmp_path / "labels"
    config = LabelConfig(command="echo submitted >> jobs", batch=True)
    for awaited in (3, 3):
        with pytest.raises(LabelsAwaited, match=rf"{awaited} of 3 labels are awaited, the first in .*frame-0000"):
            label(frames, config, folder, None)
    assert [(place / "jobs").read_text() for place in sorted(folder.iterdir())] == ["submitted\n"] * 3
    for k in (0, 2):
        atoms = read(folder / f"frame-{k:04d}" / "structure.extxyz")
        atoms.calc = EMT()
        atoms.get_forces()
        write(folder / f"frame-{k:04d}" / "labelled.extxyz", atoms)
    (folder / "frame-0002" / "labelled.extxyz").write_text("8\nhalf a f")
    with pytest.raises(LabelsAwaited, match=r"2 of 3 labels are awaited, the first in .*frame-0001"):
        label(frames, config, folder, None)
    for k in (1, 2):
        (folder / f"frame-{k:04d}" / "failed").touch()
    found = label(frames, config, folder, None)
    assert len(found.frames) == 1 and list(found.failed) == [1, 2]
    assert "has a file named failed" in found.failed[2]


def test_the_command_waits_for_a_batch_system(settings: Callable[..., Path], tmp_path: Path) -> None:
    """Nothing is trained; how many labels are awaited is no error. A failed one is named where all have failed."""
    path = settings("save = 0.1", 'save = 0.1\nstructures = "data.extxyz"')
    text = path.read_text().replace('calculator = "ase.calculators.emt:EMT"', 'command = "true"\nbatch = true')
    path.write_text(text.replace('[data]\nfile = "data.extxyz"', ""))
    words = ["learn", str(path), "-o", str(tmp_path / "out")]
    waiting = CliRunner().invoke(app, words)
    assert waiting.exit_code == 0 and "3 of 3 labels are awaited" in waiting.output
    for place in (tmp_path / "out" / "round-00" / "labels").iterdir():
        (place / "failed").touch()
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 1
    assert "failed, and none was ever made" in ended.stderr and "named failed" in ended.stderr
