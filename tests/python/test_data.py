"""Data: labels and their signs, splits, shifts, neighbour tables, batches."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.neighborlist import primitive_neighbor_list
from so3krates.data import (
    Buckets,
    DataError,
    LabelKeys,
    Labels,
    collate,
    count_split,
    energy_shifts,
    fraction_split,
    frame_graphs,
    labels,
    neighbour_table,
    read_frames,
    total_shift,
    with_labels,
)
from so3krates.data.buckets import COMPILATION, DRAWN, random_batches

SHARED = Path(__file__).parents[3] / "shared"
HARTREE = 27.2  # eV, what a last decimal in atomic units weighs, over less than one Bohr
TEXT = 1e-7  # extxyz keeps eight decimals
EXACT = 1e-12  # float64 arithmetic of small numbers
OFFSET = 1e-8  # eV, a total energy of 1e7 eV has digits to 2e-9
DERIVATIVE = 1e-4  # eV, finite differences of EMT
CUTOFF = 5.0
TIMES = 3.0  # that a training sees as many batches as are drawn
# First training and validation frames of mlff's own split of 100 frames, train_split 0.8, seed 0.
MLFF_TRAIN, MLFF_VALID = [8, 43, 62, 3, 71, 45, 48, 6], [26, 86, 2, 55, 75, 93, 16, 73]

STRESS = np.array([[0.10, 0.04, 0.05], [0.04, -0.20, 0.06], [0.05, 0.06, 0.30]])


def crystal(rng: np.random.Generator, repeat: int = 1, element: str = "Cu") -> Atoms:
    atoms = bulk(element, "fcc", a=3.6, cubic=True) * (repeat, 1, 1)
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    return atoms


def labelled(rng: np.random.Generator, repeat: int = 1) -> Atoms:
    atoms = crystal(rng, repeat)
    return with_labels(atoms, Labels(rng.normal(), rng.normal(size=(len(atoms), 3)), STRESS))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_labels_survive_an_extxyz_file(tmp_path: Path, rng: np.random.Generator) -> None:
    frames = [labelled(rng, n) for n in (1, 2)]
    ase.io.write(tmp_path / "a.extxyz", frames)
    for before, after in zip(frames, read_frames(tmp_path / "a.extxyz"), strict=True):
        assert labels(after).energy == pytest.approx(labels(before).energy, abs=TEXT)
        np.testing.assert_allclose(labels(after).forces, labels(before).forces, atol=TEXT)
        np.testing.assert_allclose(labels(after).stress, STRESS, atol=TEXT)


@pytest.mark.parametrize("stress", [STRESS, STRESS.ravel(), STRESS[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]])
def test_stress_is_taken_in_every_layout_and_under_other_keys(
    tmp_path: Path, rng: np.random.Generator, stress: np.ndarray
) -> None:
    atoms = crystal(rng)
    atoms.info.update(REF_energy=-3.5, REF_stress=stress)
    atoms.arrays["REF_forces"] = np.ones((4, 3))
    ase.io.write(tmp_path / "a.extxyz", atoms)
    (read,) = read_frames(tmp_path / "a.extxyz", LabelKeys("REF_energy", "REF_forces", "REF_stress"))
    energy, forces, full = labels(read)
    assert energy == -3.5
    assert np.all(forces == 1)
    np.testing.assert_allclose(full, STRESS, atol=TEXT)


def test_units_signs_and_virials_lead_to_the_same_labels(tmp_path: Path, rng: np.random.Generator) -> None:
    atoms = crystal(rng)
    forces, volume = rng.normal(size=(4, 3)), atoms.cell.volume
    plain = with_labels(atoms, Labels(-3.5, forces, STRESS))
    other = atoms.copy()
    other.set_cell(atoms.cell.array / units.Bohr)
    other.positions /= units.Bohr
    other.info.update(e=-3.5 / units.Hartree, s=-STRESS / units.GPa, v=-STRESS * volume / units.Hartree)
    other.info["order"] = (-10 * STRESS / units.GPa)[[0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0]]
    other.arrays["f"] = forces * units.Bohr / units.Hartree
    ase.io.write(tmp_path / "a.extxyz", other, columns=["symbols", "positions", "f"])
    atomic = {"energy": "e", "forces": "f", "energy_unit": "Hartree", "length_unit": "Bohr"}
    for keys in (
        LabelKeys(**atomic, stress="s", stress_unit="GPa", stress_sign=-1),
        LabelKeys(**atomic, virial="v"),
        LabelKeys(**atomic, stress="order", stress_unit="kbar", stress_sign=-1, voigt_order="xx yy zz xy yz zx"),
    ):
        (read,) = read_frames(tmp_path / "a.extxyz", keys)
        np.testing.assert_allclose(read.positions, atoms.positions, atol=TEXT)
        np.testing.assert_allclose(read.cell.array, atoms.cell.array, atol=TEXT)
        assert labels(read).energy == pytest.approx(labels(plain).energy, abs=TEXT)
        np.testing.assert_allclose(labels(read).forces, forces, atol=HARTREE * TEXT)
        np.testing.assert_allclose(labels(read).stress, STRESS, atol=TEXT)
    mixed = LabelKeys(energy="e", forces="f", stress=None, energy_unit="kcal/mol", forces_unit="Hartree/Bohr")
    (read,) = read_frames(tmp_path / "a.extxyz", mixed)
    np.testing.assert_allclose(labels(read).forces, forces, atol=HARTREE * TEXT)
    assert labels(read).energy == pytest.approx(-3.5 / units.Hartree * units.kcal / units.mol, abs=TEXT)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"energy_unit": "J"}, "energy_unit = 'J': give one of eV, meV"),
        ({"forces_unit": "eV"}, "forces_unit = 'eV': give ENERGY/LENGTH"),
        ({"stress_unit": "psi"}, "stress_unit = 'psi': give GPa"),
        ({"stress_sign": 0}, "stress_sign = 0"),
        ({"voigt_order": "xx yy zz xy yx xz"}, "voigt_order"),
    ],
)
def test_unknown_units_are_refused_by_name(given: dict, words: str) -> None:
    with pytest.raises(DataError) as error:
        LabelKeys(**given)
    assert words in str(error.value)


def test_missing_labels_are_nan(rng: np.random.Generator) -> None:
    voigt = np.array([1, 2, np.nan, 4, 5, 6.0])
    atoms = crystal(rng)
    atoms.info["stress"] = voigt
    energy, forces, stress = labels(with_labels(atoms, labels(atoms)))
    assert np.isnan(energy)
    assert np.isnan(forces).all()
    assert np.isnan(stress[2, 2])
    assert stress[1, 2] == stress[2, 1] == 4


def test_labels_under_other_names_do_not_come_back(tmp_path: Path, rng: np.random.Generator) -> None:
    frames = [crystal(rng) for _ in range(2)]
    for atoms in frames:
        atoms.info.update(energy=-1.0, stress=STRESS)
        atoms.arrays["forces"] = np.ones((4, 3))
    frames[0].info["REF_energy"] = -3.5
    ase.io.write(tmp_path / "a.extxyz", frames)
    first, second = read_frames(tmp_path / "a.extxyz", LabelKeys("REF_energy", None, None))
    assert (labels(first).energy, labels(second).energy) == (-3.5, pytest.approx(np.nan, nan_ok=True))
    bare = with_labels(frames[1], Labels(np.nan, np.full((4, 3), np.nan), np.full((3, 3), np.nan)))
    assert np.isnan(labels(bare).energy)
    assert np.isnan(labels(bare).forces).all()
    assert np.isnan(labels(bare).stress).all()


def test_a_calculator_is_never_asked_to_compute(rng: np.random.Generator) -> None:
    atoms = crystal(rng)
    atoms.calc = EMT()
    assert np.isnan(labels(atoms).energy)
    energy = atoms.get_potential_energy()
    assert labels(atoms).energy == energy


def test_stress_has_the_sign_of_ase(rng: np.random.Generator) -> None:
    atoms = crystal(rng)
    atoms.set_cell(atoms.cell.array * 1.05, scale_atoms=True)
    atoms.calc = EMT()
    strain, step = np.zeros((3, 3)), 1e-4
    strain[0, 1] = strain[1, 0] = step / 2
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.set_cell(atoms.cell.array @ (np.eye(3) + sign * strain), scale_atoms=True)
        moved.calc = EMT()
        energies.append(moved.get_potential_energy())
    atoms.get_stress()
    (graph,) = frame_graphs([atoms], CUTOFF, {"Cu": 0.0})
    assert graph.virial.trace() > 1  # under tension the stress is positive
    assert graph.virial[0, 1] == pytest.approx((energies[0] - energies[1]) / (2 * step), abs=DERIVATIVE)
    assert abs(graph.virial[0, 1]) > 100 * DERIVATIVE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.info.update(stress=np.arange(9.0).reshape(3, 3)), ["'stress'", "not symmetric"]),
        (lambda a: a.info.update(stress=np.ones(4)), ["'stress'", "(4,)"]),
        (lambda a: a.info.update(energy=np.ones(2)), ["'energy'", "(2,)"]),
        (lambda a: a.info.update(energy="low"), ["'energy'", "'low'"]),
        (lambda a: a.info.update(forces=np.ones((2, 3))), ["'forces'", "(2, 3)"]),
        (lambda a: (a.info.update(stress=STRESS), setattr(a, "pbc", [1, 1, 0])), ["'stress'", "not periodic"]),
    ],
)
def test_bad_labels_are_refused_by_name(rng: np.random.Generator, change: object, words: list[str]) -> None:
    atoms = crystal(rng)
    change(atoms)
    with pytest.raises(DataError) as error:
        labels(atoms, where="x.xyz, frame 3")
    for word in ["x.xyz, frame 3", *words]:
        assert word in str(error.value)


def test_bad_files_are_refused_by_name(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_frames(tmp_path / "missing.extxyz")
    (tmp_path / "bad.extxyz").write_text("hello\n")
    with pytest.raises(DataError, match=r"bad\.extxyz, frame 0, line 1: expected a number of atoms"):
        read_frames(tmp_path / "bad.extxyz")
    ase.io.write(tmp_path / "a.extxyz", labelled(rng))
    with pytest.raises(DataError, match=r"energy under 'Energy'; found .*'energy'"):
        read_frames(tmp_path / "a.extxyz", LabelKeys(energy="Energy"))


def test_npz_in_the_mlff_layout(tmp_path: Path, rng: np.random.Generator) -> None:
    count, n = 3, 4
    positions, forces = rng.normal(size=(count, n, 3)), rng.normal(size=(count, n, 3))
    energies, cells = rng.normal(size=(count, 1)), np.eye(3) * 7
    np.savez(
        tmp_path / "d.npz",
        z=np.array([31, 7, 7, 0]),
        R=positions,
        E=energies,
        F=forces,
        stress=np.broadcast_to(STRESS, (count, 3, 3)),
        unit_cell=cells,
        pbc=np.ones(3, bool),
    )
    frames = read_frames(tmp_path / "d.npz")
    assert [atoms.get_chemical_formula() for atoms in frames] == ["GaN2"] * count
    for f, atoms in enumerate(frames):
        assert labels(atoms).energy == energies[f, 0]
        np.testing.assert_array_equal(labels(atoms).forces, forces[f, :3])
        np.testing.assert_allclose(labels(atoms).stress, STRESS, atol=EXACT)
        np.testing.assert_array_equal(atoms.positions, positions[f, :3])
    np.savez(tmp_path / "names.npz", z=np.array([31, 7, 7, 7]), R=positions, energy=energies, forces=forces)
    for atoms, energy, force in zip(read_frames(tmp_path / "names.npz"), energies[:, 0], forces, strict=True):
        assert labels(atoms).energy == energy
        np.testing.assert_array_equal(labels(atoms).forces, force)
    np.savez(tmp_path / "bad.npz", z=np.ones((2, 4)), R=positions)
    np.savez(tmp_path / "own.npz", z=np.array([31, 7, 7, 7]), R=positions, e=energies, F=forces)
    (own, *_) = read_frames(tmp_path / "own.npz", LabelKeys(energy="e", forces=None, energy_unit="meV"))
    assert labels(own).energy == pytest.approx(1e-3 * energies[0, 0], abs=EXACT)
    assert np.isnan(labels(own).forces).all()
    with pytest.raises(DataError, match=r"own\.npz: has no energy under 'E2'; found \['F', 'R', 'e', 'z'\]"):
        read_frames(tmp_path / "own.npz", LabelKeys(energy="E2"))
    with pytest.raises(DataError, match=r"bad\.npz: 'z' has shape \(2, 4\), expected \(3, 4\)"):
        read_frames(tmp_path / "bad.npz")


TRICLINIC = np.array([[2.0, 0, 0], [0.5, 2.2, 0], [0.1, 0.2, 1.9]])


@pytest.mark.parametrize(
    ("cell", "pbc", "spread", "n"),
    [
        (np.eye(3) * 12, [1, 1, 1], 12, 20),
        (TRICLINIC, [1, 1, 1], 2, 2),
        (np.eye(3) * 6, [1, 1, 1], 60, 10),
        (np.eye(3) * 6, [1, 0, 1], 12, 10),
        (np.diag([6, 0, 6]), [1, 0, 1], 8, 10),
        (np.zeros((3, 3)), [0, 0, 0], 8, 10),
        (np.zeros((3, 3)), [0, 0, 0], 0, 1),
        (np.zeros((3, 3)), [0, 0, 0], 0, 0),
    ],
)
def test_neighbours_agree_with_another_list(
    rng: np.random.Generator, cell: np.ndarray, pbc: list[int], spread: float, n: int
) -> None:
    positions = rng.uniform(-spread / 2, spread, (n, 3))
    table = neighbour_table(positions, cell, np.array(pbc), CUTOFF)
    used = np.arange(table.neighbours.shape[1]) < table.counts[:, None]
    centre = np.nonzero(used)[0]
    found = set(zip(centre.tolist(), table.neighbours[used].tolist(), *table.shifts[used].T.tolist(), strict=True))
    i, j, s = primitive_neighbor_list("ijS", np.array(pbc, bool), cell, positions, CUTOFF)
    assert found == set(zip(i.tolist(), j.tolist(), *s.T.tolist(), strict=True))
    assert len(centre) == len(i)
    assert len(i) > 0 or n < 2
    assert table.neighbours.shape[1] % 8 == 0
    assert np.all(table.neighbours[~used] == np.nonzero(~used)[0])


def test_a_skewed_cell_has_the_lists_of_its_lattice(rng: np.random.Generator) -> None:
    """In seconds, and with the shifts of the cell that was given."""
    positions, pbc = rng.uniform(0, 2, (3, 3)), np.ones(3, bool)
    skewed = np.array([[1, 0, 0], [37, 1, 0], [11, 55, 1]]) @ TRICLINIC
    found = []
    for cell in (TRICLINIC, skewed):
        table = neighbour_table(positions, cell, pbc, CUTOFF)
        centre = np.nonzero(table.used)[0]
        vectors = positions[table.neighbours[table.used]] + table.shifts[table.used] @ cell - positions[centre]
        found.append(np.column_stack([centre, vectors]))
        assert np.abs(np.linalg.norm(vectors, axis=1)).max() < CUTOFF
    assert len(found[0]) == len(found[1]) > 50
    plain, other = (rows[np.lexsort(rows.round(6).T[::-1])] for rows in found)
    np.testing.assert_allclose(plain, other, atol=1e-9)


def test_split_is_that_of_the_original() -> None:
    split = fraction_split(100, 0.8, 0)
    assert split.train[:8].tolist() == MLFF_TRAIN
    assert split.valid[:8].tolist() == MLFF_VALID
    assert (len(split.train), len(split.valid), len(split.rest)) == (80, 19, 1)
    everything = np.concatenate(split)
    assert sorted(everything) == list(range(100))
    record = SHARED / "reference" / "mlff_gan" / "module" / "splits.json"
    if record.exists():
        theirs = json.loads(record.read_text())["split"]
        assert split.train.tolist() == theirs["data_idx_train"]
        assert split.valid.tolist() == theirs["data_idx_valid"]


def test_split_by_counts() -> None:
    split = count_split(20, 12, 3, 1)
    assert [len(part) for part in split] == [12, 3, 5]
    assert sorted(np.concatenate(split)) == list(range(20))
    with pytest.raises(DataError, match="n_train = 12 and n_valid = 9"):
        count_split(20, 12, 9, 1)
    with pytest.raises(DataError, match="train_split"):
        fraction_split(1, 0.8, 0)


def test_shifts_of_huge_energies_lose_nothing(rng: np.random.Generator) -> None:
    huge = {"Ga": -52855.123456789, "N": -1773.987654321}
    frames, small = [], []
    for counts in ((1, 1), (2, 1), (1, 3), (4, 4), (180, 180)):
        numbers = [31] * counts[0] + [7] * counts[1]
        atoms = Atoms(numbers, positions=rng.uniform(0, 30, (len(numbers), 3)), cell=np.eye(3) * 30, pbc=True)
        small.append(0.1 * rng.normal())
        energy = sum(huge[a.symbol] for a in atoms) + small[-1]
        frames.append(with_labels(atoms, Labels(energy, np.zeros((len(atoms), 3)), np.zeros((3, 3)))))
    given = frame_graphs(frames, CUTOFF, energy_shifts(frames, huge))
    np.testing.assert_allclose([g.energy for g in given], small, atol=OFFSET)
    fitted = energy_shifts(frames, "lse")
    for element, value in huge.items():
        assert fitted[element] == pytest.approx(value, abs=1.0)
    for graph, atoms in zip(frame_graphs(frames, CUTOFF, fitted), frames, strict=True):
        assert abs(graph.energy) < 2
        assert graph.energy + total_shift(atoms.numbers, fitted) == pytest.approx(labels(atoms).energy, abs=OFFSET)


def test_shift_modes(rng: np.random.Generator) -> None:
    frames = [with_labels(crystal(rng), Labels(e, np.zeros((4, 3)), STRESS)) for e in (-8.0, -10.0, np.nan)]
    assert energy_shifts(frames, "mean")["Cu"] == pytest.approx(-2.25, abs=EXACT)
    assert energy_shifts(frames, "lse")["Cu"] == pytest.approx(-2.25, abs=EXACT)
    assert energy_shifts(frames, "none") == {"Cu": 0.0}
    assert energy_shifts(frames, {"Cu": 1.5, "Ag": 2.0}) == {"Cu": 1.5}
    with pytest.raises(DataError, match="no value for Cu"):
        energy_shifts(frames, {"Ag": 2.0})
    with pytest.raises(DataError, match="frame 0: element Cu is unknown to the model"):
        frame_graphs(frames, CUTOFF, {"Ag": 0.0})


def test_shifts_where_compositions_do_not_decide(rng: np.random.Generator) -> None:
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19)
    frames = [with_labels(atoms, Labels(e, np.zeros((4, 3)), STRESS)) for e in (-100.0, -104.0)]
    assert energy_shifts(frames, "lse") == pytest.approx({"N": -25.5, "Ga": -25.5}, abs=OFFSET)


def test_frames_that_cannot_be_used_are_refused(rng: np.random.Generator) -> None:
    broken = crystal(rng)
    broken.positions[1, 1] = np.nan
    for atoms, words in ((Atoms(), "has no atoms"), (broken, "not finite")):
        with pytest.raises(DataError, match=f"data, frame 1: .*{words}"):
            frame_graphs([crystal(rng), atoms], CUTOFF, {"Cu": 0.0})


def test_a_batch_holds_its_frames(rng: np.random.Generator) -> None:
    frames = [labelled(rng, 2), molecule("H2O"), labelled(rng, 1)]
    graphs = frame_graphs(frames, CUTOFF, {"Cu": 0.5, "H": 0.0, "O": 0.0})
    shape = Buckets(graphs, 4).shape([0, 1, 2])._replace(structures=4, atoms=24)
    batch, targets = collate(graphs, shape)
    assert batch.positions.dtype == np.float32
    assert batch.atom_mask.sum() == 15
    assert np.all(batch.species[15:] == 0)
    assert not batch.mask[15:].any()
    assert np.all(batch.structure[15:] == 3)
    assert np.all(batch.neighbours[~batch.mask] == np.nonzero(~batch.mask)[0])
    start = 0
    for index, atoms in enumerate(frames):
        rows = slice(start, start + len(atoms))
        assert np.all(batch.structure[rows] == index)
        i, _, s = primitive_neighbor_list("ijd", atoms.pbc, atoms.cell.array, atoms.positions, CUTOFF)
        assert batch.mask[rows].sum() == len(i)
        neighbours = batch.neighbours[rows][batch.mask[rows]]
        assert np.all((neighbours >= rows.start) & (neighbours < rows.stop))
        vectors = batch.positions[batch.neighbours] - batch.positions[:, None] + batch.shifts @ batch.cells[index]
        lengths = np.linalg.norm(vectors[rows][batch.mask[rows]], axis=-1)
        np.testing.assert_allclose(np.sort(lengths), np.sort(s), atol=1e-5)
        start = rows.stop
    assert targets.energies[0] == pytest.approx(labels(frames[0]).energy - 8 * 0.5, abs=1e-6)
    assert np.isnan(targets.energies[[1, 3]]).all()
    np.testing.assert_allclose(targets.virials[2], STRESS * frames[2].cell.volume, rtol=1e-6)
    assert np.isnan(targets.forces[15:]).all()
    assert targets.volumes[1] == targets.volumes[3] == 1


def test_batches_take_few_shapes_and_pad_little(rng: np.random.Generator) -> None:
    same = frame_graphs([crystal(rng, 3) for _ in range(6)], CUTOFF, {"Cu": 0.0})
    assert Buckets(same, 2).shape([0, 1]).atoms == 24
    mixed = frame_graphs([crystal(rng, n) for n in (1, 2, 3, 4, 6, 8, 9, 12)], CUTOFF, {"Cu": 0.0})
    buckets = Buckets(mixed, 2)
    shapes, padded, real = set(), 0, 0
    for _ in range(200):
        rows = rng.choice(len(mixed), 2, replace=False)
        chosen, shape = [mixed[i] for i in rows], buckets.shape(rows)
        collate(chosen, shape)
        shapes.add(shape)
        padded, real = padded + shape.atoms, real + sum(len(g.species) for g in chosen)
    assert 1 < len({shape.atoms for shape in shapes}) <= 12
    assert padded < 1.25 * real


def test_seldom_shapes_of_batches_are_not_compiled(rng: np.random.Generator) -> None:
    """Of a training on many sizes: programs and padding together cost least, and batches hold their frames."""
    sizes = rng.choice((1, 2, 3, 4, 6, 8, 12), 60)
    mixed = frame_graphs([crystal(rng, n) for n in sizes], CUTOFF, {"Cu": 0.0})
    batches = [rng.choice(len(mixed), 4, replace=False) for _ in range(300)]
    costs, programs = [], []
    for own, times in (((), 1.0), (random_batches(60, 4), 1e9), (random_batches(60, 4), TIMES), (batches, 1e-6)):
        buckets = Buckets(mixed, 4, own, times)
        shapes = [buckets.shape(rows) for rows in batches]
        padding = sum(shape.atoms * shape.neighbours + shape.most_pairs for shape in shapes) / len(batches)
        costs.append(padding * TIMES * DRAWN + COMPILATION * len(set(shapes)))
        programs.append(len(set(shapes)))
        for rows in batches[:30]:
            collate([mixed[i] for i in rows], buckets.shape(rows))
    assert programs[3] == 1 < programs[2] < programs[0] == programs[1]
    assert costs[2] < 0.9 * min(costs[0], costs[3])
    assert [Buckets(mixed, 4, random_batches(60, 4), TIMES).shape(rows) for rows in batches[:9]] == [
        Buckets(mixed, 4, random_batches(60, 4), TIMES).shape(rows) for rows in batches[:9]
    ]
    # A batch that none of those to come is like.
    few = Buckets(mixed, 4, [np.argsort(sizes)[:4]])
    collate([mixed[i] for i in np.argsort(sizes)[-4:]], few.shape(np.argsort(sizes)[-4:]))


def test_labels_are_of_the_structure_that_was_labelled() -> None:
    atoms = Atoms("Cu2", [[0, 0, 0], [2.5, 0, 0]])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=np.full((2, 3), 0.25))
    assert labels(atoms).energy == -1.5
    assert (labels(atoms).forces == 0.25).all()
    atoms.positions[1, 0] += 0.1
    assert np.isnan(labels(atoms).energy)
    assert np.isnan(labels(atoms).forces).all()


@pytest.mark.skipif(not (SHARED / "data" / "mlearn_si").is_dir(), reason="shared/data/mlearn_si is not there")
def test_a_public_file_with_keys_of_its_own() -> None:
    file = SHARED / "data" / "mlearn_si" / "test.extxyz"
    frames = read_frames(file, LabelKeys("REF_energy", "REF_forces", "REF_stress"))
    assert len(frames) == 25
    for atoms in frames:
        energy, forces, stress = labels(atoms)
        assert -6 < energy / len(atoms) < -4
        assert np.isfinite(forces).all()
        assert np.isfinite(stress).all()
    assert np.abs(labels(frames[-1]).stress).max() > 1e-3
    assert np.isnan(labels(read_frames(file)[0]).energy)
    # The file's raw stresses are VASP's: kbar, positive under pressure, components in VASP's order.
    vasp = LabelKeys(
        energy="REF_energy",
        forces="REF_forces",
        stress="mlearn_virial_stress_raw",
        stress_unit="kbar",
        stress_sign=-1,
        voigt_order="xx yy zz xy yz zx",
    )
    for atoms, again in zip(frames, read_frames(file, vasp), strict=True):
        np.testing.assert_allclose(labels(again).stress, labels(atoms).stress, rtol=1e-5, atol=TEXT)
