"""The parts of a learning loop: choices of frames, decks, and what runs saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.io import read, write
from rich.console import Console
from so3krates.learning import (
    LabelConfig,
    LearnConfig,
    LearningSettings,
    RunSettings,
    rounds,
)
from so3krates.learning.choose import choose, distinct, spread
from so3krates.learning.explore import AT_ONCE, RunSummary, _read, _summary, prepared, saved_frames, varies
from so3krates.learning.rounds import Round, parted
from so3krates.model.config import ConfigError
from so3krates.training import Properties, RunConfig
from teachers import STYLE, copper

ROUNDED = 1e-6  # A, of files with eight digits

# Choices


def test_frames_that_are_the_same_count_once() -> None:
    first, moved, other = copper(0), copper(0), copper(1)
    moved.positions += 0.005
    moved.positions[2] += moved.cell[0]  # by a period
    alloy = copper(0)
    alloy.symbols[0] = "Au"
    strained = copper(0)
    strained.set_cell(1.02 * strained.cell.array, scale_atoms=True)
    assert distinct([first, moved, other, alloy, strained], []) == [0, 2, 3, 4]
    assert distinct([moved, other], [first]) == [1]


@pytest.mark.parametrize("by", ["random", "largest", "energy", "force", "atomic-energy"])
def test_choices(by: str) -> None:
    """Not those above `stop`, as long as there are others."""
    frames, count = [copper(k) for k in range(8)], 4
    for k, atoms in enumerate(frames):
        atoms.info |= {"largest": 0.1 * k, "run": "run-1"}
    forces = [np.full((count, 3), 0.3 * k) for k in range(8)]
    energies = np.arange(8.0)
    of_atoms = [np.full(count, e / count) for e in energies]
    predicted = Properties(np.full(8, count), energies, forces, np.zeros((8, 3, 3)), of_atoms)
    chosen = choose(frames, predicted, by, 3, 0.55, 1)
    assert len(set(chosen)) == 3 and max(chosen) <= 5
    if by == "largest":
        assert sorted(chosen) == [3, 4, 5]
    assert len(choose(frames, predicted, by, 99, 0.55, 1)) == 6
    assert len(choose(frames, predicted, by, 3, 0.0001, 1)) == 1
    assert len(choose(frames, predicted, by, 3, -1.0, 1)) == 3  # all are above
    assert choose([], predicted, by, 3, 1.0, 1) == [] == choose(frames, predicted, by, 0, 1.0, 1)


@pytest.mark.parametrize("by", ["random", "largest", "atomic-energy"])
def test_each_deck_has_its_share(by: str) -> None:
    """One that ended at once is learnt from its only frame, far above `stop` though it is."""
    frames, count = [copper(k) for k in range(8)], 4
    for k, atoms in enumerate(frames):
        atoms.info |= {"largest": 0.1 * k if k < 7 else 400.0, "run": "run-1" if k < 5 else f"run-{k}"}
    of_atoms = [np.full(count, float(k)) for k in range(8)]
    forces = [np.zeros((count, 3))] * 8
    predicted = Properties(np.full(8, count), np.arange(8.0), forces, np.zeros((8, 3, 3)), of_atoms)
    chosen = choose(frames, predicted, by, 5, 1.0, 1)
    assert len(set(chosen)) == 5 and {5, 6, 7} < set(chosen)
    firsts = {frames[choose(frames, predicted, by, 1, 1.0, seed)[0]].info["run"] for seed in range(30)}
    assert firsts == {"run-1", "run-5", "run-6", "run-7"}  # that of one label is not always the same deck's


def test_spread() -> None:
    assert spread(range(10), 3) == [0, 4, 9] and spread([5, 7], 3) == [5, 7] and spread(range(9), 0) == []


def test_later_rounds_leave_the_parts_as_they_were() -> None:
    first, second = [copper(k) for k in range(7)], [copper(k) for k in range(7, 12)]
    train, valid = parted([first], 0.2)
    again, valid_again = parted([first, second], 0.2)
    assert len(train) == 6 and len(valid) == 1 and len(again) == 10 and len(valid_again) == 2
    assert all(a is b for a, b in zip(train + valid, again[:6] + valid_again[:1], strict=True))
    assert [len(part) for part in parted([first[:2]], 0.2)] == [1, 1]


@pytest.mark.parametrize(
    ("text", "given", "looks", "starts"),
    [
        ("velocity all create 300 ${seed}\n", {}, [5, 7, 9], ["run-1", "run-1.2", "run-1.3"]),
        ("velocity all create 300 ${seed}\n", {}, [5, -9], ["run-1", "run-1.2"]),  # the second comes to its end
        ("velocity all create 300 ${seed}\n", {}, [1], ["run-1"]),  # at its first structure
        ("velocity all create 300 ${seed}\n", {"seed": 3}, [5], ["run-1"]),
        ("velocity all create 300 1\n", {}, [5], ["run-1"]),
    ],
)
def test_a_run_that_ends_early_is_begun_again(
    text: str,
    given: dict[str, Any],
    looks: list[int],
    starts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With another seed, where that makes another run; what all starts saved is of the one deck."""
    (tmp_path / "in.deck").write_text(STYLE + text)
    run, made = RunSettings(str(tmp_path / "in.deck"), variables=given), []

    def explored(_: RunSettings, folder: Path, bundle: Path, config: LearnConfig, seed: int) -> RunSummary:
        made.append((folder.name, seed))
        folder.mkdir(parents=True)
        atoms = copper(seed)
        atoms.info |= {"step": 20, "look": 2, "largest_uncertainty": 1.5, "above": True, "check": False}
        write(folder / "saved.extxyz", atoms)
        found = looks[len(made) - 1]
        return RunSummary(abs(found), 1, 2.0, ended="step 40" if found > 0 else "")

    monkeypatch.setattr(rounds, "explore", explored)
    settings = LearningSettings(RunConfig(), LearnConfig(save=1.0, stop=2.0, starts=3), LabelConfig("emt"), (run,))
    part = Round(2, tmp_path, settings, Console(), lambda *_: None)
    assert [summary.looks for summary in part.explore(tmp_path / "p.so3k")] == [abs(k) for k in looks]
    assert [name for name, _ in made] == starts
    assert len({seed for _, seed in made}) == len(starts)
    candidates = read(part.folder / "candidates.extxyz", ":")
    assert [atoms.info["run"] for atoms in candidates] == ["run-1"] * len(starts)
    assert varies(run) == (len(looks) > 1 or looks == [1])


# Decks

DECKS = {
    "plain": (STYLE, ["pair_style so3krates save s threads 2", "pair_coeff * * new.so3k Ga N"]),
    "quoted": (
        'pair_style\tso3krates\npair_coeff  * * "a b.so3k" Ga N # well\n',
        ["pair_style\tso3krates save s", "pair_coeff  * * new.so3k Ga N # well"],
    ),
    "continued": (
        "pair_style so3krates &\n  threads 2\npair_coeff * * &\n${file} Ga N\n",
        ["pair_style so3krates save s   threads 2".replace("  ", " ", 0), "new.so3k Ga N"],
    ),
    "hybrid": (
        "pair_style hybrid/overlay so3krates guard off lj/cut 9\npair_coeff * * so3krates x.so3k Ga\n"
        "pair_coeff 1 1 lj/cut 1 3\n",
        ["hybrid/overlay so3krates save s guard off lj/cut 9", "so3krates new.so3k Ga", "pair_coeff 1 1 lj/cut 1 3"],
    ),
}


@pytest.mark.parametrize("case", DECKS)
def test_a_deck_gets_the_potential_of_the_round(case: str) -> None:
    text, expected = DECKS[case]
    found = prepared(text, "in.deck", "new.so3k", "save s")
    for words in expected:
        assert " ".join(words.split()) in " ".join(found.split())
    assert "old.so3k" not in found and "x.so3k" not in found and "a b.so3k" not in found


BAD_DECKS = {
    "pair_style lj/cut 9\npair_coeff 1 1 1 3\n": "has no line pair_style so3krates",
    "# pair_style so3krates\n": "has no line pair_style so3krates",
    "pair_style so3krates\n": r"has no pair_coeff \* \* FILE.so3k",
    "pair_style so3krates save f uncertainty 1 2\npair_coeff * * a Cu\n": "leave save and deviation to the loop",
    "pair_style so3krates threads 1 deviation f every 2\npair_coeff * * a Cu\n": "leave save and deviation to the loop",
    "units real\npair_style so3krates\npair_coeff * * a Cu\n": "has units real: thresholds of the loop are in eV/A",
}


@pytest.mark.parametrize("text", BAD_DECKS)
def test_decks_that_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"in\.deck.* ?{BAD_DECKS[text]}"):
        prepared(text, "in.deck", "new.so3k", "")


@pytest.mark.parametrize(("looks", "is_said"), [(1, True), (40, False)])
def test_a_deck_that_ends_at_once_says_what_to_do(looks: int, is_said: bool) -> None:
    lines = [
        f"So3krates: uncertainty was above 0.5 eV/A in 1 of {looks} frames, at most 22.34;",
        "So3krates: step 0: uncertainty is 22.34 eV/A on an atom, above 5: the run ends here",
    ]
    found = _summary(lines, [], "")
    assert (found.looks, found.above, found.largest) == (looks, 1, 22.34)
    assert found.ended.startswith("step 0: uncertainty is 22.34 eV/A") and (AT_ONCE in found.ended) == is_said


def test_no_frames_were_saved(tmp_path: Path) -> None:
    assert saved_frames(tmp_path) == []


def test_frames_from_an_overlap_on_are_none(tmp_path: Path) -> None:
    """Neither labelled nor counted, however sure the potential is of them; the run ended there."""
    frames = [copper(k) for k in range(4)]
    frames[2].positions[1] = frames[2].positions[0] + [0.9, 0.0, 0.0]
    for k, (atoms, largest) in enumerate(zip(frames, (0.2, 0.7, 0.1, 3.0), strict=True)):
        atoms.info |= {"step": 20 * k, "look": k + 1, "largest_uncertainty": largest, "check": k == 0}
        atoms.info["above"] = largest > 0.5
    write(tmp_path / "saved.extxyz", frames)
    assert [atoms.info["largest"] for atoms in saved_frames(tmp_path)] == [0.2, 0.7]
    lines = ["So3krates: uncertainty was above 0.5 eV/A in 2 of 4 frames, at most 3.0;"]
    found = _summary(lines, _read(tmp_path), "")
    assert (found.looks, found.above, found.largest) == (3, 1, 0.7)
    assert found.ended == "step 40: Cu and Cu are 0.9 A apart, 0.34 of the sum of their covalent radii"


def test_where_the_guard_ended_a_run_comes_first(tmp_path: Path) -> None:
    """Its frame is a candidate like those that were saved before it, and the end of the run is no error."""
    frames = [copper(k) for k in range(6)]
    for k, atoms in enumerate(frames[:5]):
        atoms.info |= {"step": 20 * k, "look": k + 1, "largest_uncertainty": 0.6, "above": True, "check": False}
    frames[5].info |= {"step": 87, "reason": "near"}
    write(tmp_path / "saved.extxyz", frames[:5])
    write(tmp_path / "guard-step-87.extxyz", frames[5])
    found = saved_frames(tmp_path)
    assert [(atoms.info["step"], atoms.info["guard"]) for atoms in found][4:] == [(80, False), (87, True)]
    assert np.abs(found[5].positions - frames[5].positions).max() < ROUNDED
    words = (
        "ERROR: Pair style so3krates: step 87: Cu and Cu are 1.9 A apart. The frame is in guard-step-87.extxyz. Look"
    )
    told = _summary([], found, words)
    assert (told.looks, told.above, told.error) == (6, 6, "") and told.ended == "step 87: Cu and Cu are 1.9 A apart"
    count = len(frames[0])
    of_atoms = [np.full(count, float(k)) for k in range(6)]
    predicted = Properties(np.full(6, count), np.arange(6.0), [np.zeros((count, 3))] * 6, np.zeros((6, 3, 3)), of_atoms)
    for by in ("random", "atomic-energy"):
        chosen = choose(found, predicted, by, 3, 1.0, 1)
        assert chosen[0] == 5 and len(set(chosen)) == 3
