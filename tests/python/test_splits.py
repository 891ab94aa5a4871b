"""Splits of frames of several kinds: every part has its share of each, and the seed decides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from so3krates.data import count_split, fraction_split, tags_of, temperature_of
from so3krates.training import DataConfig, load_frames
from training_runs import make_frames

TEN_KINDS = [f"kind {n}" for n in range(10) for _ in range(2 + 3 * n)]  # 2 to 29 frames of each

CASES = {
    "ten kinds": (TEN_KINDS, 120, 20),
    "barely enough": (TEN_KINDS, 10, 10),
    "too small for all": (TEN_KINDS, 5, 3),
    "all frames": (["a"] * 7 + ["b"] * 5 + ["c"], 9, 4),
    "validate nearly all": (["a"] * 4 + ["b"], 1, 4),
    "one of a kind": (["a"] * 10 + ["b"], 8, 2),
}


@pytest.mark.parametrize("name", CASES)
def test_every_part_has_its_share(name: str) -> None:
    kinds, n_train, n_valid = CASES[name]
    count, sizes = len(kinds), Counter(kinds)
    split = count_split(count, n_train, n_valid, 3, kinds)
    assert [len(part) for part in split] == [n_train, n_valid, count - n_train - n_valid]
    assert sorted(np.concatenate(split)) == list(range(count))
    for part, size in ((split.train, n_train), (split.valid, n_valid)):
        found = Counter(kinds[i] for i in part)
        for kind, number in sizes.items():
            # Whole frames, of which others must have one too.
            assert abs(found[kind] - size * number / count) <= 1.0 + len(sizes) / 4
            if size >= len(sizes) and number > 1:
                assert found[kind] >= 1
    if n_train >= len(sizes):
        assert {kinds[i] for i in split.train} == set(kinds)
    assert all(np.array_equal(a, b) for a, b in zip(split, count_split(count, n_train, n_valid, 3, kinds), strict=True))
    other = count_split(count, n_train, n_valid, 4, kinds)
    assert not all(np.array_equal(a, b) for a, b in zip(split, other, strict=True))


@pytest.mark.parametrize("kinds", [None, ["a"] * 100, [None] * 100])
def test_frames_of_one_kind_are_split_as_ever(kinds: list[str | None] | None) -> None:
    for one, two in zip(fraction_split(100, 0.8, 0), fraction_split(100, 0.8, 0, kinds), strict=True):
        np.testing.assert_array_equal(one, two)


def test_kinds_come_from_the_file(tmp_path: Path) -> None:
    frames = make_frames(12)
    for n, atoms in enumerate(frames):
        atoms.info["config_type"] = "rare [/b]" if n in (3, 7) else "bulk"
    ase.io.write(tmp_path / "a.extxyz", frames)
    for seed in range(4):
        config = DataConfig(file=str(tmp_path / "a.extxyz"), n_train=8, n_valid=3, seed=seed)
        train, valid = load_frames(config)
        for part in (train, valid):
            assert [atoms.info["config_type"] for atoms in part].count("rare [/b]") == 1


def test_tags_and_temperatures() -> None:
    def frames(**values: list[object]) -> list[Atoms]:
        rows = zip(*values.values(), strict=True)
        return [Atoms(info={k: v for k, v in zip(values, row, strict=True) if v is not None}) for row in rows]

    assert tags_of(frames(config_type=["a", "b"], tag=["x", "y"])) == ["a", "b"]
    assert tags_of(frames(config_type=[None, "b"], tag=["x", "y"])) == ["x", "b"]
    assert tags_of(frames(phase=[1, 2], tag=["x", "y"]), "phase") == ["1", "2"]
    assert tags_of(frames(name=["a", "a", "b", "b"])) == ["a", "a", "b", "b"]
    # Names that tell frames apart are no kinds.
    assert tags_of(frames(name=["a", "b", "c", "c"])) == [None] * 4
    given = [300, "300.0", np.float64(20), np.nan, np.inf, "hot", [1, 2], None]
    found = [temperature_of(atoms) for atoms in frames(temperature_K=given)]
    assert found == [300.0, 300.0, 20.0, None, None, None, None, None]
