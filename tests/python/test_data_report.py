"""The report on a data set: what it counts, and that it finds labels made wrong on purpose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from so3krates.data import DataReport, LabelKeys, Labels, data_report, iter_frames, labels, with_labels

SHARED = Path(__file__).parents[3] / "shared"
SHARP = 0.3  # standard error of a ratio that tells something
SLOPE = 0.1  # of the ratio of energies to stresses, EMT without noise
WORDS = {"net": "add up to zero", "zero": "exactly zero", "large": "above 50", "energy": "median deviations"}


@pytest.fixture(scope="module")
def frames() -> list[Atoms]:
    """Copper and copper-silver under strains of every kind, with EMT labels."""
    rng = np.random.default_rng(2)
    result = []
    for n in range(16):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True) * (1 + n % 2, 1, 1)
        if n % 4 == 3:
            atoms.numbers[0] = 47
        strain = 0.008 * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain + strain.T), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
        atoms.calc = EMT()
        values = Labels(atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False))
        result.append(with_labels(atoms, values))
    return result


def changed(frames: list[Atoms], index: int, **values: object) -> list[Atoms]:
    """The frames with other labels at an index."""
    copy = list(frames)
    copy[index] = with_labels(frames[index], labels(frames[index])._replace(**values))
    return copy


def test_sound_data_are_counted_and_pass(frames: list[Atoms]) -> None:
    bare = frames[0].copy()
    bare.rattle(0.05)
    report = data_report([*frames, bare])
    assert report.warnings == []
    assert (report.frames, report.periodic, report.compositions) == (17, 17, 3)
    assert report.atoms == (8 * 4 + 8 * 8 + 4, 4, 8)
    assert report.elements == {"Cu": 96, "Ag": 4}
    assert report.labelled == {"energy": 16, "forces": 16, "stress": 16}
    every = np.concatenate([labels(a).forces.ravel() for a in frames])
    assert report.ranges["force component"].std == pytest.approx(every.std())
    sizes = np.concatenate([np.linalg.norm(labels(a).forces, axis=1) for a in frames])
    assert report.ranges["force on an atom"][1:4] == pytest.approx((sizes.min(), sizes.max(), sizes.mean()))
    shortest = {}
    for n, atoms in enumerate([*frames, bare]):
        big = atoms * (2, 3, 3)
        distances = big.get_all_distances(mic=True) + 9 * np.eye(len(big))
        for pair, mask in (("Cu-Cu", big.numbers == 29),):
            shortest[pair] = min(shortest.get(pair, (9, 0)), (distances[np.ix_(mask, mask)].min(), n))
    assert report.shortest["Cu-Cu"] == (pytest.approx(shortest["Cu-Cu"][0]), shortest["Cu-Cu"][1])
    assert set(report.shortest) == {"Cu-Cu", "Cu-Ag", "Ag-Ag"}  # silver and its image
    for slope in (report.slopes["forces"], report.slopes["stress"]):  # of one kind with eight frames
        assert slope.differences == 7 and slope.error < SHARP
        assert slope.ratio == pytest.approx(1, abs=3 * slope.error)
    json.dumps(report.as_json(), allow_nan=False)


def said(report: DataReport) -> str:
    return " | ".join(report.warnings)


@pytest.mark.parametrize(
    ("index", "kind"), [(3, "net"), (5, "zero"), (2, "large"), (7, "energy")], ids=["net", "zero", "large", "energy"]
)
def test_wrong_labels_of_a_frame_are_found(frames: list[Atoms], index: int, kind: str) -> None:
    energy, forces, _ = labels(frames[index])
    swing = np.zeros_like(forces)
    swing[:2, 0] = 60, -60
    values = {
        "net": {"forces": forces + 0.05 * np.abs(forces).max() + 0.01},
        "zero": {"forces": np.zeros_like(forces)},
        "large": {"forces": forces + swing},
        "energy": {"energy": energy + 100.0},
    }[kind]
    found = [warning for warning in data_report(changed(frames, index, **values)).warnings if WORDS[kind] in warning]
    assert len(found) == 1
    assert found[0].startswith(f"frame {index}: ")


def test_duplicates_are_found_although_moved(frames: list[Atoms]) -> None:
    moved = with_labels(frames[4], labels(frames[4]))
    moved.positions += moved.cell.array.sum(axis=0) * 0.37
    moved = with_labels(moved, labels(frames[4]))
    other = with_labels(frames[5], labels(frames[5])._replace(energy=-1.0))
    copied = frames[6].copy()
    copied.rattle(0.01)
    copied = with_labels(copied, labels(frames[6]))
    report = data_report([*frames, moved, other, copied])
    assert report.duplicates == [(16, 4), (17, 5)]
    assert "frame 17: the structure of an earlier frame with other labels" in report.warnings
    assert "frame 18: the energy and forces of another structure" in report.warnings


@pytest.mark.parametrize(
    ("factor", "words"),
    [(-1, "stress_sign = -1"), (1602.2, 'set stress_unit = "kbar"'), (-160.22, "and stress_sign = -1")],
)
def test_the_sign_and_the_unit_of_stresses_are_checked(frames: list[Atoms], factor: float, words: str) -> None:
    wrong = [with_labels(a, labels(a)._replace(stress=factor * labels(a).stress)) for a in frames]
    assert words in said(data_report(wrong))
    assert data_report(wrong[:2]).slopes == {}


def test_isolated_atoms_are_not_suspicious(frames: list[Atoms]) -> None:
    element = frames[0].get_chemical_symbols()[0]
    alone = [Atoms(element), Atoms(element, cell=[20.0] * 3, pbc=True)]
    alone[0].calc = SinglePointCalculator(alone[0], energy=-1000.0, forces=np.zeros((1, 3)))
    alone[1].calc = SinglePointCalculator(alone[1], energy=-1000.0, forces=np.zeros((1, 3)), stress=np.zeros(6))
    assert data_report([*frames, *alone]).warnings == data_report(frames).warnings
    # The same energy of atoms that have neighbours stands out.
    wrong = frames[0].copy()
    wrong.positions[0] += 0.01
    wrong.calc = SinglePointCalculator(wrong, energy=-1000.0 * len(wrong))
    assert any("median deviations" in line for line in data_report([*frames, wrong]).warnings)


def test_overlapping_atoms_are_found(frames: list[Atoms]) -> None:
    close = frames[0].copy()
    close.positions[1] = close.positions[0] + [0, 0, 1.2]
    report = data_report([*frames, close])
    assert "frame 16: Cu-Cu pairs closer" in said(report)
    assert report.shortest["Cu-Cu"] == (pytest.approx(1.2), 16)


@pytest.mark.skipif(not (SHARED / "data" / "gan_pbesol").is_dir(), reason="shared/data/gan_pbesol is not there")
def test_public_data_are_sound() -> None:
    gan = data_report(iter_frames(SHARED / "data" / "gan_pbesol" / "test8.extxyz"))
    assert gan.warnings == []
    keys = LabelKeys("REF_energy", "REF_forces", "REF_stress")
    file = SHARED / "data" / "mlearn_si" / "train.extxyz"
    silicon = list(iter_frames(file, keys))
    assert data_report(silicon).slopes["stress"].ratio == pytest.approx(1, abs=SLOPE)
    wrong = [with_labels(a, labels(a)._replace(stress=-labels(a).stress)) for a in silicon]
    assert "stress_sign = -1" in said(data_report(wrong))
