"""Charges that the network predicts, in training: derivatives, conservation, labels, what a run learns, refusals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from so3krates import cli
from so3krates.data import Buckets, DataError, collate, frame_graphs
from so3krates.model.config import ConfigError, So3lrConfig
from so3krates.model.long_range import Dispersion, Electrostatics
from so3krates.model.potential import Batch
from so3krates.model.so3lr import initial_params
from so3krates.predictions import ModelRuntime
from so3krates.storage import Model
from so3krates.training import error_table, evaluate, load_frames, reference, train
from so3krates.training.config import RunConfig
from so3krates.training.evaluate import predict_systems
from so3krates.training.pair_potential import predict_pairs
from training_runs import quiet, rows_of
from typer.testing import CliRunner

CONFIG = So3lrConfig(
    cutoff=4.0, features=16, heads=2, layers=2, degrees=(1, 2), radial_functions=8, embeddings=18, mean_neighbours=4.0
)
CHARGES = Electrostatics(cutoff=7.0, width=2.0)
SHIFTS = {"H": -1.0, "O": -2.0, "Na": 0.5, "Cl": -0.5}

SAME = 1e-9  # eV, eV/A, e: the batch of pairs beside one structure
CONSERVED = 1e-12  # e
SIGNAL = 1e-3  # eV/A, e: least size of what is compared
STEP = 2e-5  # A
DIFFERENCE = 1e-6  # eV/A, of central differences
CONSTANT = 0.3  # e, of the teacher's hydrogen


def model() -> Model:
    params = jax.tree.map(lambda p: 1.5 * np.asarray(p, np.float64), initial_params(CONFIG, 1))
    return Model(CONFIG, params, tuple(SHIFTS), SHIFTS, interactions=(CHARGES,))


def structures() -> list[Atoms]:
    """A neutral and a charged molecule, and crystals of ions with a cell smaller than the charges' reach."""
    ion = Atoms("OH", positions=[[0, 0, 0], [0.3, 0.2, 0.95]], info={"charge": -1})
    salt = bulk("NaCl", "rocksalt", a=5.6)
    salt.set_cell(salt.cell.array + 0.2 * np.random.default_rng(1).normal(size=(3, 3)), scale_atoms=True)
    found = [molecule("H2O"), ion, salt, bulk("NaCl", "rocksalt", a=5.6, cubic=True)]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.08, seed=seed)
    return found


def batch_of(frames: list[Atoms]) -> Batch:
    """With padding."""
    graphs = frame_graphs(frames, CONFIG.cutoff, SHIFTS, read_labels=False, reach=CHARGES.cutoff)
    shape = Buckets(graphs, len(graphs)).shape(range(len(graphs)))
    shape = shape._replace(atoms=shape.atoms + 3, pairs=shape.most_pairs + 5, long_pairs=shape.long_pairs + 9)
    batch, _ = collate(graphs, shape, np.float64)
    return jax.tree.map(jnp.asarray, batch)


@pytest.mark.usefixtures("x64")
def test_a_batch_is_as_its_structures_alone() -> None:
    """Energies, forces, stresses and charges of training are those of the calculator, to rounding."""
    frames, own = structures(), model()
    found = predict_systems(CONFIG, own.params, batch_of(frames), None, (CHARGES,))
    runtime, start = ModelRuntime(own, shifts=False), 0
    assert found.charges is not None and found.dipoles is not None
    for index, atoms in enumerate(frames):
        expected, rows = runtime.evaluate(atoms), slice(start, start + len(atoms))
        start = rows.stop
        assert abs(found.energies[index] - expected["energy"]) < SAME
        np.testing.assert_allclose(found.forces[rows], expected["forces"], rtol=0, atol=SAME)
        np.testing.assert_allclose(-found.strain_gradients[index], expected["virial"], rtol=0, atol=SAME)
        np.testing.assert_allclose(found.charges[rows], expected["charges"], rtol=0, atol=SAME)
        assert np.abs(expected["forces"]).max() > SIGNAL and np.ptp(expected["charges"]) > SIGNAL
        assert abs(found.charges[rows].sum() - atoms.info.get("charge", 0)) < CONSERVED
    np.testing.assert_allclose(found.dipoles[0], runtime.evaluate(frames[0])["dipole"], rtol=0, atol=SAME)
    assert np.all(found.charges[start:] == 0)


@pytest.mark.usefixtures("x64")
def test_forces_through_the_charges_are_derivatives() -> None:
    """Central differences of the energy; without the derivative of the charges themselves they would be others."""
    batch, own = batch_of(structures()), model()
    total = jax.jit(
        lambda positions: predict_pairs(CONFIG, own.params, batch._replace(positions=positions), None, (CHARGES,))
    )
    found = total(batch.positions)

    def scaled(scale: jax.Array) -> jax.Array:
        charges = jax.tree.map(lambda p: scale * p, own.params["charges"])
        return predict_pairs(CONFIG, {**own.params, "charges": charges}, batch, None, (CHARGES,)).energies.sum()

    weight = jax.jit(jax.grad(scaled))(1.0)
    assert abs(weight) > SIGNAL  # charges matter
    for atom, axis in ((0, 0), (3, 2), (4, 1), (6, 0), (11, 2)):
        step = jnp.zeros_like(batch.positions).at[atom, axis].set(STEP)
        ahead, behind = (total(batch.positions + sign * step).energies.sum() for sign in (1, -1))
        assert abs(found.forces[atom, axis] + (ahead - behind) / (2 * STEP)) < DIFFERENCE
        assert abs(found.forces[atom, axis]) > 10 * DIFFERENCE


def labelled(count: int, seed: int = 0) -> list[Atoms]:
    """Water with charges of +-CONSTANT that follow the bonds, their dipole, and forces of springs."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        atoms = molecule("H2O")
        atoms.rattle(0.05, rng=rng)
        bonds = atoms.positions[1:] - atoms.positions[0]
        lengths = np.linalg.norm(bonds, axis=1)
        charges = np.concatenate([[0.0], CONSTANT + 0.5 * (lengths - 0.96)])
        charges[0] = -charges.sum()
        pulls = -5.0 * (lengths - 0.96)[:, None] * bonds / lengths[:, None]
        energy = 2.5 * np.square(lengths - 0.96).sum()
        atoms.calc = SinglePointCalculator(
            atoms, energy=energy, forces=[-pulls.sum(axis=0), *pulls], charges=charges, dipole=charges @ atoms.positions
        )
        atoms.arrays["hirshfeld_ratios"] = np.concatenate([[0.6], 0.6 + 0.4 * np.tanh(10.0 * (lengths - 0.96))])
        frames.append(atoms)
    return frames


def settings(**changes: dict[str, Any]) -> RunConfig:
    sections: dict[str, dict[str, Any]] = {
        "model": {"features": 8, "heads": 2, "layers": 1, "degrees": [1], "radial_functions": 6, "cutoff": 3.0},
        "training": {"steps": 480, "batch_size": 4, "learning_rate": 3e-3, "eval_every": 40, "energy_weight": 0.01},
        "terms": {"electrostatics": {"form": "predicted_charges", "cutoff": 6.0, "width": 2.0}},
    }
    merged = {name: values | changes.pop(name, {}) for name, values in sections.items()}
    return RunConfig.from_dict({"preset": "none", **merged, **changes})


@pytest.mark.long
def test_a_run_learns_charges_dipoles_and_ratios(tmp_path: Path) -> None:
    """Read from a file, through a training with dispersion, to the errors of the model on disk."""
    write(tmp_path / "frames.extxyz", labelled(20))
    config = settings(
        data={"file": str(tmp_path / "frames.extxyz"), "n_train": 16},
        terms={"dispersion": {"form": "drude_oscillators", "cutoff": 6.0}},
        training={"learning_rate": 1e-2},
    )
    assert config.data.ratios_key == "hirshfeld_ratios"
    frames, valid = load_frames(config.data)
    train(config, frames, valid, tmp_path / "run", quiet)
    rows = rows_of(tmp_path / "run")
    first, last = rows[0], min(rows, key=lambda row: float(row["valid_loss"]))  # the model has the best weights
    for name in ("charges", "dipole", "forces", "hirshfeld_ratios"):
        assert 0 < float(last[f"valid_{name}_rmse"]) < 0.5 * float(first[f"valid_{name}_rmse"]), name
    model = Model.load(tmp_path / "run")
    expected = (Electrostatics(6.0, 2.0), Dispersion.from_settings({"cutoff": 6.0}, model.elements))
    assert model.interactions == expected and model.config.to_dict()["mean_neighbours"] == 2.0
    table = error_table(evaluate(model, valid), reference(valid))
    assert (table["charges"].unit, table["charges"].count, table["dipole"].count) == ("e", 12, 12)
    assert (table["Hirshfeld ratios"].unit, table["Hirshfeld ratios"].count) == ("1", 12)
    assert table["Hirshfeld ratios"].rmse == pytest.approx(float(last["valid_hirshfeld_ratios_rmse"]), rel=1e-3)
    assert table["charges"].rmse == pytest.approx(float(last["valid_charges_rmse"]), rel=1e-3)
    # By the calculator, in float64, one by one.
    runtime = ModelRuntime(model)
    batches = evaluate(model, valid)
    for k, atoms in enumerate(valid):
        own = runtime.evaluate(atoms)
        assert batches.ratios is not None and batches.charges is not None
        for name, values in (
            ("hirshfeld_ratios", batches.ratios),
            ("charges", batches.charges),
            ("forces", batches.forces),
        ):
            np.testing.assert_allclose(own[name], values[k], atol=1e-4)
    # And by the command, which takes the keys of the labels from the model.
    words = ["evaluate", str(tmp_path / "run"), str(tmp_path / "frames.extxyz")]
    found = CliRunner().invoke(cli.app, words, env={"COLUMNS": "150"})
    assert found.exit_code == 0 and "labels are read as in the training" not in found.output, found.output
    for name, unit in (("charges", "e"), ("dipole", "e A"), ("Hirshfeld ratios", "1")):
        assert re.search(rf"│ {name} .* {unit} +│", found.output), found.output


def test_charges_without_labels_and_dipoles_of_crystals(tmp_path: Path) -> None:
    """Labels that are not there are left out, unless a weight asks for them; dipoles that are not defined too."""
    frames = labelled(6)
    for atoms in frames:
        del atoms.calc.results["charges"]
    for atoms in frames[:2]:
        atoms.set_cell(np.eye(3) * 8.0)
        atoms.pbc = True
    frames[2].info["charge"] = 2
    write(tmp_path / "frames.extxyz", frames)
    config = settings(data={"train_file": str(tmp_path / "frames.extxyz")}, training={"steps": 2})
    read, _ = load_frames(config.data)
    messages: list[str] = []
    train(config, read, [], tmp_path / "run", lambda status: messages.append(status.message or ""))
    said = " ".join(messages)
    assert "has stress" in said or "charges (key 'charges')" in said
    assert "3 of 6 dipoles are left out of the loss: in a periodic cell" in said
    assert "hirshfeld_ratios" not in ModelRuntime(Model.load(tmp_path / "run")).outputs  # nothing has trained them
    asked = settings(training={"steps": 2, "charge_weight": 1.0})
    with pytest.raises(
        DataError, match=r"charge_weight = 1.0 but none of 6 training frames has a label for it \(key 'charges'\)"
    ):
        train(asked, read, [], tmp_path / "asked", quiet)


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("charges", [0.3, 0.3, -0.5], r"charges add up to \+0.1 e, and its total charge is 0 e, as nothing says"),
        ("charges", [np.inf, 0.3, 0.3], r"the charge of atom 0 is inf \(1 atom in all\)"),
        ("dipole", [0.1, np.inf, 0.0], r"the dipole is \(0.1, inf, 0\)"),
        ("hirshfeld_ratios", [0.5, -0.5, 11.0], r"the Hirshfeld ratio of atom 1 is -0.5 \(2 atoms in all\): volumes"),
        ("mine", [[0.3, 0.3], [0.3, 0.3], [0.1, 0.1]], r"'mine' has shape \(3, 2\), expected one charge for each of 3"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path: Path, key: str, values: Any, message: str) -> None:
    frames = labelled(3)
    own = frames[1]
    if key == "mine":
        for atoms in frames:
            atoms.arrays["mine"] = np.array(values)
    elif key == "hirshfeld_ratios":
        own.arrays[key] = np.array(values)
    else:
        own.calc.results[key] = np.array(values, float)
    write(tmp_path / "frames.extxyz", frames)
    data = {"file": str(tmp_path / "frames.extxyz")} | ({"charges_key": key} if key == "mine" else {})
    config = settings(data=data, terms={"dispersion": {"form": "drude_oscillators"}})
    with pytest.raises(DataError, match=message):
        load_frames(config.data)
    if key == "charges":
        config = settings(data={"file": str(tmp_path / "frames.extxyz"), "charges_key": "", "n_train": 2})
        assert len(load_frames(config.data)[0]) == 2


def test_the_total_charge_is_that_of_the_frame(tmp_path: Path) -> None:
    """An ion whose charges add up to its charge is read; dipoles come in the unit that is named."""
    frames = labelled(2)
    frames[1].calc.results["charges"] = frames[1].calc.results["charges"] + 1 / 3
    frames[1].info["charge"] = 1
    frames[1].info["multiplicity"] = 2
    write(tmp_path / "frames.extxyz", frames)
    data = {"train_file": str(tmp_path / "frames.extxyz"), "dipole_unit": "Debye"}
    read, _ = load_frames(settings(data=data).data)
    assert read[1].get_charges().sum() == pytest.approx(1.0, abs=1e-6)
    assert read[0].get_dipole_moment() == pytest.approx(0.20819434 * frames[0].get_dipole_moment(), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"terms": {"electrostatics": {"form": "predicted_charges", "width": -1}}},
            "width = -1: give a number above 0",
        ),
        ({"terms": {"electrostatics": {"form": "other"}}}, "'other': known are fixed_charges, and predicted_charges"),
        ({"terms": {"dispersion": {"form": "other"}}}, "terms.dispersion.form = 'other': known is drude_oscillators"),
        ({"terms": {"dispersion": {"form": "drude_oscillators", "width": 1}}}, "unknown key terms.dispersion.width"),
        ({"data": {"ratios_key": "volumes"}}, "but nothing reads Hirshfeld ratios"),
        ({"data": {"stream": True}}, "stream = true: a network that predicts charges is trained on frames in memory"),
        ({"model": {"radial_basis": "gaussian"}}, "radial_basis = 'gaussian': known are bernstein"),
        ({"training": {"charge_weight": -1.0}}, "training.charge_weight = -1.0"),
        ({"data": {"dipole_unit": "au"}}, "data.dipole_unit = 'au': give one of e A, Debye, e Bohr"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


def test_charges_need_a_network_that_predicts_them() -> None:
    for section, name, value in (("training", "dipole_weight", 1.0), ("data", "charges_key", "charges")):
        with pytest.raises(ConfigError, match=rf"{section}.{name} = .* but the network predicts no charges"):
            RunConfig.from_dict({section: {name: value}})
    for section, name, value in (("training", "ratio_weight", 1.0), ("data", "ratios_key", "volumes")):
        with pytest.raises(ConfigError, match=rf"{section}.{name} = .* but the network predicts no charges"):
            RunConfig.from_dict({section: {name: value}})
    with pytest.raises(ConfigError, match='drude_oscillators" needs a network that predicts charges as well'):
        RunConfig.from_dict({"terms": {"dispersion": {"form": "drude_oscillators"}}})
    config = settings(terms={"dispersion": {"form": "drude_oscillators"}})
    assert RunConfig.from_dict({"preset": "none", **config.to_dict()}) == config
    plain = RunConfig.from_dict({"preset": "fast"})
    assert plain.training.weights.keys() == {"energy_weight", "force_weight", "stress_weight"}
