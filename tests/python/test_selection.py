"""Selection: measures are their formulas, choices are as even as the pool allows, frames keep what they carry."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from so3krates import cli
from so3krates.data import DataError, Labels, atom_values
from so3krates.data import with_labels as label
from so3krates.model.config import ModelConfig
from so3krates.model.network import init_params
from so3krates.predictions import predictions_of
from so3krates.sampling.selection import (
    SelectionError,
    atomic_energy_measure,
    choose_random,
    choose_uniform,
    committee_measure,
    energy_measure,
    force_measure,
    select_frames,
    unevenness,
    values_below,
    write_selection,
)
from so3krates.storage import Model
from so3krates.training.uncertainty import with_uncertainty
from so3krates_export.export import export_model
from typer.testing import CliRunner

CONFIG = ModelConfig(features=8, heads=2, layers=1, degrees=(1, 2), radial_functions=8, cutoff=4.0)
POOL = 600  # frames
EVEN = 0.5  # of the pool's unevenness that a choice may keep
ENERGY_TOLERANCE = 1e-5  # eV, of sums of float32 atoms' energies
BUNDLE_TOLERANCE = 1e-5  # eV, between the float32 body and the Python path
UNCERTAINTY_TOLERANCE = 2e-3  # relative, of distances in float32 features
UNEQUAL = 1.3  # uncertainty of the hottest frame by that of the quietest
SIGNAL = 1e-4  # eV/A, between the deviations of frames


def rattled(atoms: Atoms, amplitude: float, seed: int) -> Atoms:
    """A copy with random displacements (A, standard deviation)."""
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(seed).normal(0.0, amplitude, atoms.positions.shape)
    return atoms


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def dimers(energies: np.ndarray) -> list[Atoms]:
    return [Atoms("CuAg", np.zeros((2, 3))) for _ in energies]


@pytest.fixture(scope="module")
def crystals() -> list[Atoms]:
    """GaN from quiet to hot, without labels."""
    from ase.build import bulk

    cell = bulk("GaN", "wurtzite", a=3.19, c=5.19)
    return [rattled(cell, 0.02 * (1 + n), seed=n) for n in range(6)]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two untrained models."""
    folder, shifts = tmp_path_factory.mktemp("committee"), {"Ga": -2.5, "N": -6.25}
    return [Model(CONFIG, init_params(CONFIG, n), ("Ga", "N"), shifts).save(folder / str(n)) for n in range(2)]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 dimers with labels, atoms' energies, a name and a number for each site; forces grow with the frame."""
    frames = []
    for n in range(60):
        atoms = Atoms("CuAg", [[0, 0, 0], [0, 0, 2.0 + 0.01 * n]], info={"name": f"frame {n}"})
        atoms.arrays["site"] = np.array([0.1 * n, -0.1 * n])
        atoms.arrays["atomic_energies"] = np.array([-3.0 - 0.01 * n, -7.0 + 0.02 * n])
        forces = np.array([[0.0, 0.0, 0.1 * n], [0.0, 0.0, -0.1 * n]])
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 + 0.01 * n**2, forces=forces)
        frames.append(atoms)
    path = tmp_path_factory.mktemp("selection") / "pool.extxyz"
    ase.io.write(path, frames, format="extxyz")
    return path


def test_random_choices_are_parts_of_each_other() -> None:
    large = choose_random(POOL, 200, random())
    assert len(set(large.tolist())) == 200 and large.min() >= 0 and large.max() < POOL
    assert np.array_equal(choose_random(POOL, 50, random()), large[:50])
    assert not np.array_equal(choose_random(POOL, 50, random(1)), large[:50])
    for n in (0, POOL + 1):
        with pytest.raises(SelectionError, match=f"-n {n}: give a number from 1 to {POOL}"):
            choose_random(POOL, n, random())


def test_uniform_choices_are_even_and_parts_of_each_other() -> None:
    measure = energy_measure(dimers(np.zeros(POOL)), random(3).normal(size=POOL))
    large = choose_uniform(measure, 100, random(), bins=20)
    assert len(set(large.tolist())) == 100
    assert np.array_equal(choose_uniform(measure, 30, random(), bins=20), large[:30])
    assert not np.array_equal(choose_uniform(measure, 30, random(1), bins=20), large[:30])
    of_pool = unevenness(measure.values, measure.values, bins=20)
    assert of_pool > 0.8
    assert unevenness(measure.values[large], measure.values, bins=20) < EVEN * of_pool
    assert unevenness(measure.values[choose_random(POOL, 100, random())], measure.values, bins=20) > EVEN * of_pool
    # Bins of few frames are used up, the others fill the number.
    assert sorted(choose_uniform(measure, POOL, random(), bins=20)) == list(range(POOL))


def test_every_part_of_the_range_of_atoms_brings_in_frames() -> None:
    """One atom in 10 000 has a large force; its frame is found, whatever the other atoms of it do."""
    forces = [random(n).normal(0, 0.1, (100, 3)) for n in range(POOL // 6)]
    forces[17][42] = [3.0, 4.0, 0.0]
    measure = force_measure(forces)
    assert measure.values.max() == pytest.approx(5.0)
    assert measure.frames[measure.values.argmax()] == 17
    chosen = choose_uniform(measure, 10, random())
    assert 17 in chosen and len(set(chosen.tolist())) == 10
    assert 17 not in choose_uniform(values_below(measure, 4.9), 10, random())
    with pytest.raises(SelectionError, match=r"each of 100 frames has a value above the limit of 0\.001 eV/A"):
        values_below(measure, 1e-3)


def test_energies_of_other_compositions_are_compared_without_their_elements() -> None:
    frames = [Atoms("CuAg"), Atoms("Cu2Ag"), Atoms("CuAg2"), Atoms("CuAg")]
    beyond = np.array([0.1, 0.0, 0.0, -0.1])  # eV per atom
    energies = np.array([-1000.0 * 2, -1000.0 * 2 - 500, -1000.0 * 2 - 1500, -1000.0 * 2])
    measure = energy_measure(frames, energies + beyond * [2, 3, 3, 2])
    assert measure.values == pytest.approx(beyond, abs=1e-9)


def test_atoms_of_each_element_are_compared_among_themselves() -> None:
    """The energies of Cu and Ag are far apart, and a few Cu atoms are out of the ordinary."""
    count = 200
    energies = np.stack([random(1).normal(-3.0, 0.01, count), random(2).normal(-9000.0, 0.01, count)], axis=1)
    energies[:4, 0] += [0.1, 0.2, 0.3, 0.4]
    measure = atomic_energy_measure(dimers(energies), list(energies))
    assert {0, 1, 2, 3} <= set(choose_uniform(measure, 30, random(), bins=10).tolist())
    together = measure._replace(groups=np.zeros_like(measure.groups))
    assert not {0, 1, 2, 3} <= set(choose_uniform(together, 30, random(), bins=10).tolist())


def test_the_deviation_of_a_committee() -> None:
    forces = np.zeros((3, 2, 2, 3))  # members, frames, atoms
    forces[:, 1, 0, 0] = [0.0, 3.0, 6.0]
    measure = committee_measure(list(forces))
    # One of six components has deviations of 3, 0 and 3 from the mean: its sample variance is (9 + 0 + 9) / 2.
    assert measure.values == pytest.approx([0.0, np.sqrt(9.0 / 6)])


def test_a_pool_with_labels(labelled: Path) -> None:
    n = np.arange(60)
    expected = {
        "energy": 0.005 * (n**2 - np.mean(n**2)),
        "force": np.repeat(0.1 * n, 2),
        "atomic-energy": np.stack([-3.0 - 0.01 * n, -7.0 + 0.02 * n], axis=1).ravel(),
    }
    for by, values in expected.items():
        selection = select_frames(labelled, 20, by)
        assert selection.total == 60 and len(set(selection.chosen.tolist())) == 20
        assert selection.measure.values == pytest.approx(values, abs=1e-7)
    assert select_frames(labelled, 20, "force", limit=3.05).chosen.max() == 30
    assert 59 not in select_frames(labelled, 31, "force", limit=3.05).chosen


def test_frames_are_written_as_they_stand(labelled: Path, tmp_path: Path) -> None:
    selection = select_frames(labelled, 5, "force", seed=3)
    write_selection(tmp_path / "chosen.extxyz", selection, labelled, "force, seed 3")
    pool, frames = ase.io.read(labelled, ":"), ase.io.read(tmp_path / "chosen.extxyz", ":")
    assert [atoms.info["pool_index"] for atoms in frames] == selection.chosen.tolist()
    for atoms in frames:
        original = pool[atoms.info["pool_index"]]
        assert atoms.info["name"] == original.info["name"]
        assert (atoms.info["selected_by"], atoms.info["pool"]) == ("force, seed 3", "pool.extxyz")
        assert np.array_equal(atoms.arrays["site"], original.arrays["site"])
        assert np.array_equal(atoms.get_forces(), original.get_forces())
        assert atoms.get_potential_energy() == original.get_potential_energy()


def test_models_stand_in_for_labels(crystals: list[Atoms], members: list[Path], tmp_path: Path) -> None:
    pool = tmp_path / "pool.extxyz"
    ase.io.write(pool, crystals, format="extxyz")
    bundle = tmp_path / "one.so3k"
    export_model(Model.load(members[0]), bundle)
    by_folder, by_bundle = predictions_of(members[0], crystals), predictions_of(bundle, crystals)
    for n, atoms in enumerate(crystals):
        assert by_folder.atom_energies[n].shape == (len(atoms),)
        assert by_folder.atom_energies[n].sum() == pytest.approx(by_folder.energies[n], abs=ENERGY_TOLERANCE)
        np.testing.assert_allclose(by_bundle.atom_energies[n], by_folder.atom_energies[n], atol=BUNDLE_TOLERANCE)
    assert np.ptp([energies[0] for energies in by_folder.atom_energies]) > 100 * BUNDLE_TOLERANCE
    for by in ("energy", "force", "atomic-energy"):
        selection = select_frames(pool, 3, by, [members[0]])
        assert len(selection.chosen) == 3 and selection.measure is not None
    assert selection.measure.values == pytest.approx(np.concatenate(by_folder.atom_energies))

    whole = select_frames(pool, 6, "committee", members)
    assert np.all(np.diff(whole.measure.values[whole.chosen]) <= 0) and np.ptp(whole.measure.values) > SIGNAL
    limit = float(np.median(whole.measure.values))
    capped = select_frames(pool, 3, "committee", members, limit=limit)
    assert set(capped.chosen) == set(np.flatnonzero(whole.measure.values <= limit))


def test_the_most_uncertain_frames_by_folder_and_bundle(
    crystals: list[Atoms], members: list[Path], tmp_path: Path
) -> None:
    pool = tmp_path / "pool.extxyz"
    ase.io.write(pool, crystals, format="extxyz")
    quiet = [rattled(crystals[0], 0.01, seed) for seed in range(10, 18)]
    other = [rattled(crystals[0], 0.01 * n, seed=n) for n in range(12)]
    for n, atoms in enumerate(other):  # errors that grow with the displacements
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=random(n).normal(0.0, 0.1 * n, (4, 3)))
    model = with_uncertainty(Model.load(members[0]), quiet, other)
    export_model(model, tmp_path / "sure.so3k")
    by_atom = predictions_of(model.save(tmp_path / "sure"), crystals).uncertainties
    expected = [np.sqrt(np.mean(of_atoms**2)) for of_atoms in by_atom]
    assert expected[-1] > UNEQUAL * expected[0]  # the pool goes from frames like those of the training to hot ones
    for path in (tmp_path / "sure", tmp_path / "sure.so3k"):
        selection = select_frames(pool, 3, "uncertainty", [path])
        assert selection.measure.values == pytest.approx(expected, rel=UNCERTAINTY_TOLERANCE)
        assert selection.chosen.tolist() == np.argsort(expected)[::-1][:3].tolist()
    with pytest.raises(SelectionError, match="--by uncertainty with 0 models: give one model"):
        select_frames(pool, 3, "uncertainty")
    with pytest.raises(SelectionError, match="tells no uncertainty: train it with validation frames"):
        select_frames(pool, 3, "uncertainty", [members[0]])


def test_what_cannot_be_chosen_is_refused(
    labelled: Path, tmp_path: Path, crystals: list[Atoms], members: list[Path]
) -> None:
    ase.io.write(tmp_path / "bare.extxyz", crystals, format="extxyz")
    with pytest.raises(DataError, match=r"6 of 6 frames have no finite force, the first is frame 0: .* a model"):
        select_frames(tmp_path / "bare.extxyz", 2, "force")
    with pytest.raises(DataError, match=r"bare.extxyz, frame 0: has no 'atomic_energies'; found"):
        select_frames(tmp_path / "bare.extxyz", 2, "atomic-energy")
    with pytest.raises(DataError, match="'charges' has shape"):
        atom_values(Atoms("CuAg", info={"charges": [1.0, 2.0, 3.0]}), "charges")
    with pytest.raises(SelectionError, match="--by committee with 1 models: give at least two models"):
        select_frames(labelled, 2, "committee", ["one"])
    with pytest.raises(SelectionError, match="say the same forces of every frame: name models of different seeds"):
        select_frames(tmp_path / "bare.extxyz", 2, "committee", [members[0], members[0]])
    still = [label(atoms.copy(), Labels(0.0, np.zeros((len(atoms), 3)), np.zeros((3, 3)))) for atoms in crystals]
    ase.io.write(tmp_path / "still.extxyz", still, format="extxyz")
    with pytest.raises(
        SelectionError, match="every force of 6 frames is 0 eV/A, so that it tells no frame from another"
    ):
        select_frames(tmp_path / "still.extxyz", 2, "force")
    with pytest.raises(SelectionError, match="--by force with 2 models: give one model, or none for the labels"):
        select_frames(labelled, 2, "force", ["one", "two"])
    with pytest.raises(SelectionError, match="seed -1, limit None: give a seed of at least 0"):
        select_frames(labelled, 2, "random", seed=-1)
    with pytest.raises(SelectionError, match=r"limit nan: give .* a finite limit or none"):
        select_frames(labelled, 2, "force", limit=float("nan"))
    with pytest.raises(SelectionError, match="--by speed: give random, energy"):
        select_frames(labelled, 2, "speed")
    with pytest.raises(SelectionError, match="a random choice looks at no values"):
        select_frames(labelled, 2, "random", limit=1.0)


def test_the_command(labelled: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.extxyz"
    words = ["select", str(labelled), "-n", "7", "--by", "atomic-energy", "--seed", "2", "-o", str(output)]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert "7 of 60 frames" in result.stdout and "atomic energy (eV)" in result.stdout
    row = next(line for line in result.stdout.splitlines() if "pool" in line)
    assert all(text in row for text in ("60", "120", "-7", "-3"))
    frames = ase.io.read(output, ":")
    assert len(frames) == 7 and frames[0].info["selected_by"] == "atomic-energy, seed 2"
    result = CliRunner().invoke(cli.app, [*words[:3], "61", "--by", "random"])
    assert result.exit_code == 1
    assert "Error: -n 61: give a number from 1 to 60" in result.stderr
