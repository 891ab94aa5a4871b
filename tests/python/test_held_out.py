"""What speaks against telling errors by held-out frames: structures of training frames, another zero of energies."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from so3krates.data import held_out_doubts
from so3krates.training import DataConfig, Demands, load_frames
from so3krates.training.sources import load_test
from training_runs import make_frames


def as_written(frames: list[Atoms], per_atom: bool = False) -> list[Atoms]:
    """The frames with total energies, or energies per atom."""
    found = []
    for atoms in frames:
        energy = atoms.get_potential_energy()
        copy = atoms.copy()
        results = {"energy": energy / (len(atoms) if per_atom else 1), "forces": atoms.get_forces()}
        copy.calc = SinglePointCalculator(copy, **results)
        found.append(copy)
    return found


def test_energies_per_atom_of_validation_and_test_frames_are_said(tmp_path: Path) -> None:
    frames = make_frames(12)
    for name, some in (
        ("train", as_written(frames[:8])),
        ("valid", as_written(frames[8:], True)),
        ("good", as_written(frames[8:])),
    ):
        ase.io.write(tmp_path / f"{name}.extxyz", some)
    train, valid, good = (str(tmp_path / f"{name}.extxyz") for name in ("train", "valid", "good"))
    said: list[str] = []
    demands = Demands(say=said.append)
    first, _ = load_frames(DataConfig(train_file=train, valid_file=valid), demands)
    [line] = [text for text in said if text.startswith(valid)]
    assert "eV/atom above those of training frames of the same composition" in line
    said.clear()
    load_test(DataConfig(train_file=train), valid, first, demands)
    assert any("eV/atom above those of training frames" in text for text in said)
    said.clear()
    load_frames(DataConfig(train_file=train, valid_file=good), demands)
    assert not any("training frame" in text for text in said)


def test_what_training_frames_do_not_tell_is_not_said() -> None:
    """Compositions beyond theirs, isolated atoms, frames without energies."""
    train = make_frames(6)
    other = train[0].copy()
    other.symbols[:2] = "Ni"
    other.calc = SinglePointCalculator(other, energy=0.0)
    alone = Atoms(train[0].symbols[:1], cell=[20, 20, 20], pbc=True)
    alone.calc = SinglePointCalculator(alone, energy=0.0)
    assert not held_out_doubts(train, make_frames(2, seed=1)) and held_out_doubts(train, as_written(train, True))
    unlabelled = make_frames(1, seed=5)[0].copy()
    assert held_out_doubts(train, [other, alone, unlabelled]) == []
    assert held_out_doubts(train, []) == held_out_doubts([], train) == []


@pytest.mark.parametrize("known", [0, 1, 2])
def test_structures_of_training_frames_are_said(known: int) -> None:
    """More than a tenth of them, moved as a whole too."""
    frames = make_frames(30)
    moved = [atoms.copy() for atoms in frames[:known]]
    for atoms in moved:
        atoms.positions += np.array([0.3, 0.1, 0.0])
    said = held_out_doubts(frames[:20], [*frames[20 + known :], *moved])
    assert bool(said) == (known > 1)
    if said:
        assert "2 of 10 frames that are held out have the structure of a training frame" in said[0]
