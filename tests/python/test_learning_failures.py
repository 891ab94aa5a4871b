"""What a loop says and keeps where its labeller does not work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from rich.console import Console
from so3krates.files import WriteError, only_user
from so3krates.learning import LabelConfig, LearningError, LearningSettings, learn
from so3krates.learning.config import RunSettings
from so3krates.learning.explore import check_decks
from so3krates.learning.labels import LabelsFailed, label, require_some
from so3krates.model.config import ConfigError
from teachers import FAILED, asked

SETTINGS = """
[learn]
save = 0.1
stop = 1.0
structures = "start.extxyz"
[label]
calculator = "lammps"
pair_style = "{style}"
pair_coeff = ["* * 1.0 1.0 1.0"]
elements = ["Cu"]
[[run]]
deck = "in.copper"
"""
DECK = "units metal\npair_style so3krates\npair_coeff * * potential.so3k Cu\nrun 1\n"


def frames(count: int) -> list[Atoms]:
    return [bulk("Cu", "fcc", a=3.5 + 0.1 * k, cubic=True) for k in range(count)]


def test_a_labeller_that_never_worked_is_asked_again(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    fails = LabelConfig(calculator=f'teachers:NotedEMT("{notes}", fails=(0, 1))')
    found = label(frames(2), fails, tmp_path / "labels", None)
    with pytest.raises(LabelsFailed, match=r"each of 2 labels failed, .* first: .*frame-0000: RuntimeError: no conv"):
        require_some(found, tmp_path / "labels")
    works = LabelConfig(calculator="ase.calculators.emt:EMT")
    again = label(frames(2), works, tmp_path / "labels", None)
    assert len(again.frames) == 2 and not again.failed
    require_some(again, tmp_path / "labels")
    assert [outcome for _, outcome in asked(notes)] == [FAILED] * 4


def test_a_variable_that_the_deck_does_not_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.copper").write_text(DECK + "variable steps index 400\ninclude more\n")
    (tmp_path / "more").write_text("run ${hot}\n")
    deck, files = str(tmp_path / "in.copper"), (str(tmp_path / "more"),)
    check_decks([RunSettings(deck, files, {"steps": 5, "hot": 3})])
    with pytest.raises(ConfigError, match=r"in\.copper uses no variable step \(run\.variables\); it has steps"):
        check_decks([RunSettings(deck, files, {"step": 5})])


def test_another_labeller_takes_a_folder_in_which_none_worked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "start.extxyz", frames(2))
    (tmp_path / "in.copper").write_text(DECK)

    def begin(style: str) -> Any:
        (tmp_path / "s.toml").write_text(SETTINGS.format(style=style))
        return learn(LearningSettings.load(tmp_path / "s.toml"), tmp_path / "out", Console(quiet=True))

    (tmp_path / "out").mkdir()
    with only_user(tmp_path / "out"), pytest.raises(WriteError, match="another command is at work in it"):
        begin("morse 3.0")
    with pytest.raises(LabelsFailed, match="mend"):
        begin("morsel 3.0")

    def trained(*_: object, **__: object) -> Callable[..., Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr("so3krates.learning.rounds.Round.train", trained)
    with pytest.raises(KeyboardInterrupt):  # past its labels
        begin("morse 3.0")
    with pytest.raises(LearningError, match="belongs to a loop with labeller"):
        begin("morse 4.0")
