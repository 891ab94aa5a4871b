"""What looks wrong in single frames is said by a training too, and what no energies, charges or lengths can be."""

from __future__ import annotations

import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from so3krates.data import DataError, Labels, labels, with_labels
from so3krates.training import DataConfig, Demands, load_frames

MOVED = 0.06  # A, standard deviation


@pytest.fixture(scope="module")
def frames() -> list[Atoms]:
    rng, found = np.random.default_rng(3), []
    for _ in range(10):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
        atoms.positions += rng.normal(0, MOVED, atoms.positions.shape)
        atoms.calc = EMT()
        own = Labels(atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False))
        found.append(with_labels(atoms, own))
    return found


def said(frames: list[Atoms], folder: Path) -> list[str]:
    """What a training says of frames before its first step."""
    ase.io.write(folder / "a.extxyz", frames)
    lines: list[str] = []
    load_frames(DataConfig(file=str(folder / "a.extxyz"), n_train=8), Demands(say=lines.append))
    return lines


def changed(frames: list[Atoms], numbers: range, energy: float = 0.0, forces: float = 1.0) -> list[Atoms]:
    """With an energy added (eV) and forces by a factor."""
    found = list(frames)
    for number in numbers:
        own = labels(frames[number])
        found[number] = with_labels(frames[number], Labels(own.energy + energy, forces * own.forces, own.stress))
    return found


def test_sound_frames_are_passed_in_silence(frames: list[Atoms], tmp_path: Path) -> None:
    assert said(frames, tmp_path) == []


def test_a_training_says_what_single_frames_have(frames: list[Atoms], tmp_path: Path) -> None:
    wrong = changed(changed(frames, range(3, 4), energy=1.5), range(5, 6), forces=100.0)
    wrong += changed(frames, range(2, 3), energy=0.1)[2:3]
    text = "\n".join(said(wrong, tmp_path))
    assert "frame 3: energies more than 20 median deviations from the median" in text
    assert "frame 5: forces above 50 eV/A" in text
    assert "frame 10: the structure of an earlier frame with other labels" in text


def test_zeros_are_no_forces(frames: list[Atoms], tmp_path: Path) -> None:
    """Those of perfect crystals are."""
    with pytest.raises(DataError, match=r"all forces are zero, though atoms are moved by up to 0\.\d+ A .* forces_key"):
        said(changed(frames, range(10), forces=0.0), tmp_path)
    (found,) = said(changed(frames, range(4), forces=0.0), tmp_path)
    assert "in 4 of 10 frames all forces are zero" in found
    perfect = []
    for size in np.linspace(3.5, 3.7, 10):
        atoms = bulk("Cu", "fcc", a=size, cubic=True)
        atoms.calc = EMT()
        own = Labels(atoms.get_potential_energy(), np.zeros((4, 3)), np.full((3, 3), np.nan))
        perfect.append(with_labels(atoms, own))
    assert said(perfect, tmp_path) == []


@pytest.mark.parametrize(("energy", "stops"), [(-8.0, False), (-4000.0, True)])
def test_two_zeros_of_the_energy_are_seen(frames: list[Atoms], tmp_path: Path, energy: float, stops: bool) -> None:
    """Halves of a set that belong to different programs, or units."""
    wrong = changed(frames, range(0, 10, 2), energy=energy)
    size = re.escape(f"{abs(energy) / 4:.3g}")
    words = rf"energies of frames that are alike differ by {size}\S* eV/atom \(frames \d and \d\)"
    if stops:
        with pytest.raises(DataError, match=words):
            said(wrong, tmp_path)
    else:
        assert any(re.search(words, line) for line in said(wrong, tmp_path))


@pytest.mark.parametrize(("unit", "size"), [("Bohr", 1 / units.Bohr), ("nm", 0.1), ("", 1.0)])
def test_lengths_in_another_unit_are_said(frames: list[Atoms], tmp_path: Path, unit: str, size: float) -> None:
    """All labels agree with each other, and the bonds are of no matter."""
    scaled = []
    for atoms in frames:
        own = labels(atoms)
        atoms = atoms.copy()
        atoms.set_cell(size * atoms.cell.array, scale_atoms=True)
        scaled.append(with_labels(atoms, Labels(own.energy, own.forces / size, own.stress / size**3)))
    found = [line for line in said(scaled, tmp_path) if "covalent radii (median)" in line]
    assert len(found) == bool(unit) and all(f'set length_unit = "{unit}"' in line for line in found)


def test_charged_frames_are_said(frames: list[Atoms], tmp_path: Path) -> None:
    charged = [atoms.copy() for atoms in frames]
    for number, atoms in enumerate(charged):
        atoms.calc = SinglePointCalculator(atoms, **frames[number].calc.results)
        atoms.info["charge"] = number % 2
    (found,) = said(charged, tmp_path)
    assert "5 of 10 frames have a total charge (+1 e in 5)" in found


@pytest.mark.parametrize("word", ["no no no", "f f f", "N N N", "None", "2 2 2", "T T"])
def test_other_words_than_true_and_false_are_no_pbc(frames: list[Atoms], tmp_path: Path, word: str) -> None:
    """ASE takes them for true."""
    ase.io.write(tmp_path / "a.extxyz", frames)
    text = (tmp_path / "a.extxyz").read_text().replace('pbc="T T T"', f'pbc="{word}"')
    assert word in text
    (tmp_path / "a.extxyz").write_text(text)
    with pytest.raises(DataError, match=r"frame 0, line 2: pbc is .* give three of T and F"):
        load_frames(DataConfig(file=str(tmp_path / "a.extxyz"), n_train=8))
