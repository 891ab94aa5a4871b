"""Runs that go on from models of the architecture so3lr: what stays, what is fitted, what learns, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tomli_w
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from so3krates.model.config import ConfigError, So3lrConfig
from so3krates.model.fitted_zbl import FittedZbl
from so3krates.model.long_range import FREE_ATOMS, Dispersion, Electrostatics
from so3krates.model.so3lr import initial_params
from so3krates.predictions import ModelRuntime
from so3krates.shipped import shipped
from so3krates.storage import Model, ModelError
from so3krates.training import RunConfig, TrainingError, evaluate, reference, train
from so3krates.training.finetuning import FineTuningConfig, initial_model, rate_factors
from so3krates.training.material import Material
from so3krates.training.sources import Demands, data_config_of, load_frames, load_replay
from training_runs import assert_same, quiet

CONFIG = So3lrConfig(
    cutoff=4.5, features=16, heads=2, layers=1, degrees=(1,), radial_functions=8, embeddings=18, mean_neighbours=4.0
)
ELEMENTS = ("H", "C", "O")
OFFSET = {"H": -10.0, "C": -40.0, "O": -75.0}  # eV, between the levels of theory
REPULSION = FittedZbl(ELEMENTS, (0.7, 0.3), (1.0, 0.5), 0.25, 2.2, 1.5, 4.0)
INTERACTIONS = (Electrostatics(7.0, 2.0), Dispersion.from_settings({"cutoff": 7.0, "switched_over": 2.0}, ELEMENTS))

ZERO = 1e-5  # eV per atom: mean errors after the fit, of energies in float32
SAME = 2e-5  # eV, eV/A, e: float32 beside float64
SIGNAL = 1e-2  # eV/A, e


def model(seed: int = 1) -> Model:
    params = jax.tree.map(np.asarray, initial_params(CONFIG, seed))
    return Model(CONFIG, params, ELEMENTS, dict.fromkeys(ELEMENTS, 0.0), None, (REPULSION,), interactions=INTERACTIONS)


def structures(count: int, seed: int = 0) -> list[Atoms]:
    """Water beside hydroxide, and beside its radical: of one size, for few programs."""
    found, random = [], np.random.default_rng(seed)
    for number in range(count):
        atoms, other = molecule("H2O"), molecule("OH")
        other.translate([2.3, 0.3, 0.4])
        atoms += other
        atoms.info |= {"charge": -1} if number % 2 else {"multiplicity": 2}
        atoms.rattle(0.05, rng=random)
        found.append(atoms)
    return found


def other_level(frames: list[Atoms], own: Model) -> list[Atoms]:
    """Labels of another model, with other energies of atoms."""
    params = jax.tree.map(lambda p: 1.1 * p, own.params)
    said = evaluate(dataclasses.replace(own, params=params), frames)
    for atoms, energy, forces in zip(frames, said.energies, said.forces, strict=True):
        energy += sum(OFFSET[symbol] for symbol in atoms.symbols)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model().save(tmp_path_factory.mktemp("foundation") / "model")


def going_on(source: Path | str, **sections: Any) -> RunConfig:
    training = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "optimiser": "adam"}
    training |= {"initial_model": str(source)}
    given: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "terms": {}, "baseline": {}, "finetuning": {}}
    given |= sections | {"training": training | sections.get("training", {})}
    return RunConfig.from_settings("fast", given)


def test_a_batch_is_as_its_structures_alone(folder: Path) -> None:
    """Energies, forces and charges with all interactions and terms: of training's batches and of the calculator."""
    frames, own = structures(3), Model.load(folder)
    found, runtime = evaluate(own, frames), ModelRuntime(own)
    for number, atoms in enumerate(frames):
        expected = runtime.evaluate(atoms)
        assert abs(found.energies[number] - expected["energy"]) < SAME * len(atoms)
        np.testing.assert_allclose(found.forces[number], expected["forces"], rtol=0, atol=5 * SAME)
        assert found.charges is not None
        np.testing.assert_allclose(found.charges[number], expected["charges"], rtol=0, atol=SAME)
        assert np.abs(expected["forces"]).max() > SIGNAL and np.abs(expected["charges"]).max() > SIGNAL
        assert abs(expected["energy_dispersion"]) > SAME and abs(expected["energy_repulsion"]) > SIGNAL


def test_a_foundation_model_learns_another_level(folder: Path, tmp_path: Path) -> None:
    """Its network, repulsion and interactions stay; shifts are fitted; elements that no frame has are left out."""
    before = Model.load(folder)
    frames = other_level(structures(12), before)
    write(tmp_path / "frames.extxyz", frames)
    config = going_on(
        folder, data={"file": str(tmp_path / "frames.extxyz"), "n_train": 8}, training={"epochs": 40, "eval_every": 20}
    )
    assert config.model == CONFIG and config.terms.keys() == {"electrostatics", "dispersion"}
    assert RunConfig.from_dict({"preset": "none", **config.to_dict()}) == config
    material = Material(config, *load_frames(config.data))
    said = " ".join(material.said)
    assert material.elements == ("H", "O") and "C of" in said and "does not know it" in said
    assert material.config.model == CONFIG  # no floor below which its filters would be constant
    assert_same(material.start.params, before.params)
    begun = dataclasses.replace(before, energy_shifts=material.shifts | {"C": 0.0})
    train_frames, valid = load_frames(config.data)
    errors = (evaluate(begun, train_frames, 4).energies - reference(train_frames).energies) / [*map(len, train_frames)]
    assert abs(errors.mean()) < ZERO < np.abs(errors).max()
    tuned = train(config, train_frames, valid, tmp_path / "run", quiet).model
    loaded = Model.load(tmp_path / "run")
    assert loaded.elements == ("H", "O") and loaded.config == CONFIG
    assert [part.settings() for part in loaded.interactions] == [part.settings() for part in INTERACTIONS]
    assert loaded.interactions[1].elements == ("H", "O")
    assert loaded.terms == (dataclasses.replace(REPULSION, elements=("H", "O")),)
    first, last = (
        np.concatenate([f - g for f, g in zip(evaluate(m, valid).forces, reference(valid).forces, strict=True)])
        for m in (begun, tuned)
    )
    assert 0 < np.square(last).mean() < 0.25 * np.square(first).mean()
    assert np.abs(last).max() < np.abs(first).max()
    # What no frame asks for keeps its bits: rows of other elements.
    rows = [m.params["embedding"]["embedding"][6] for m in (before, tuned)]
    np.testing.assert_array_equal(*rows)


def test_parts_that_learn(folder: Path) -> None:
    """Strategies take the inputs and the heads of this architecture together."""
    full = rate_factors(FineTuningConfig(rate_factors={"embedding": 0.1}), CONFIG)
    assert full.keys() == Model.load(folder).params.keys()
    assert {full[name] for name in ("embedding", "charge_embedding", "spin_embedding")} == {0.1}
    readout = rate_factors(FineTuningConfig(strategy="readout"), CONFIG)
    learning = {name for name, factor in readout.items() if factor}
    assert learning == {"readout", "energy_scale", "charges", "hirshfeld"}
    # Ratios are read by dispersion alone.
    assert going_on(folder).rate_factors["hirshfeld"] == 1.0


def test_replayed_frames_have_charges(folder: Path, tmp_path: Path) -> None:
    own = Model.load(folder)
    old = structures(6, seed=3)
    write(tmp_path / "old.extxyz", old)
    config = going_on(folder, finetuning={"replay": str(tmp_path / "old.extxyz")})
    replay = load_replay(config, 6, Demands())
    found = evaluate(own, replay)
    for atoms, charges in zip(replay, found.charges or (), strict=True):
        np.testing.assert_allclose(atoms.get_charges(), charges, atol=SAME)
    neutral = [atoms.info.get("charge", 0) == 0 for atoms in replay]
    assert ["dipole" in atoms.calc.results for atoms in replay] == neutral and 0 < sum(neutral) < 6
    new = other_level(structures(6), own)
    material = Material(config, new, [], replay)
    # Their charges are labels where the new frames have some too.
    assert material.config.training.charge_weight == 0
    assert material.numbers == {"train": 6, "valid": 0, "replayed": 6}
    assert {graph.system.state.charge for graph in material.graphs[6:]} == {0, -1}


def test_what_does_not_go_on(folder: Path, tmp_path: Path) -> None:
    """Other interactions, elements without free atoms, a network's own choices."""
    for terms, said in (
        (
            {"electrostatics": {"form": "predicted_charges", "cutoff": 9.0}},
            r"electrostatics\.cutoff = 9\.0, but .* 7\.0",
        ),
        ({"dispersion": {"form": "other"}}, r"dispersion\.form = 'other', but .* 'drude_oscillators'"),
        ({"electrostatics": {"charges": {"H": 1.0}}}, r"electrostatics\.charges = .* has nothing"),
        ({"electrostatics": "none"}, r"terms\.electrostatics = 'none': leave it out"),
    ):
        with pytest.raises(ConfigError, match=said):
            going_on(folder, terms=terms)
    with pytest.raises(ConfigError, match=r"model\.architecture = 'so3krates', but .* has 'so3lr'"):
        going_on(folder, model={"architecture": "so3krates"})
    salt = Atoms("NaH", [[0, 0, 0], [0, 0, 1.9]])
    salt.calc = SinglePointCalculator(salt, energy=0.0, forces=np.zeros((2, 3)))
    with pytest.raises(TrainingError, match=r"have Na, which .* does not know"):
        Material(going_on(folder), [salt], [])
    with pytest.raises(ConfigError, match=r"no polarisability of the free atom of Na is known, only those of H, C"):
        Material(going_on(folder, finetuning={"add_elements": ["Na"]}), [salt], [])


def test_added_elements_have_rows_in_all_tables(tmp_path: Path) -> None:
    """Where charges alone are predicted any element may be added."""
    own = dataclasses.replace(model(), interactions=INTERACTIONS[:1], terms=())
    source = own.save(tmp_path / "model")
    salt = Atoms("NaOH", [[0, 0, 0], [0, 0, 1.9], [0, 0, 2.9]])
    salt.calc = SinglePointCalculator(salt, energy=0.0, forces=np.zeros((3, 3)))
    start = Material(going_on(source, finetuning={"add_elements": ["Na"]}), [salt], []).start
    for name in ("charge_embedding", "spin_embedding", "hirshfeld"):
        np.testing.assert_array_equal(start.params[name]["query"][11], own.params[name]["query"][1])  # of hydrogen
    assert start.elements == ("H", "O", "Na")
    gold = Atoms("AuOH", [[0, 0, 0], [0, 0, 2.2], [0, 0, 3.2]])
    gold.calc = SinglePointCalculator(gold, energy=0.0, forces=np.zeros((3, 3)))
    with pytest.raises(TrainingError, match=r"add_elements has Au: the tables of .* end at Cl"):
        Material(going_on(source, finetuning={"add_elements": ["Au"]}), [gold], [])


def test_files_of_a_model_that_no_training_here_made_are_read_with_charges(tmp_path: Path) -> None:
    """What `evaluate so3lr FILE` and replayed labels of a file rest on."""
    assert data_config_of(model()).keys.charges == "charges" and data_config_of(model()).keys.ratios is not None
    alone = dataclasses.replace(model(), interactions=INTERACTIONS[:1])
    assert (data_config_of(alone).keys.dipole, data_config_of(alone).keys.ratios) == ("dipole", None)
    bare = dataclasses.replace(alone, training={"settings": {"data": {"charges_key": "q", "dipole_key": ""}}})
    assert (data_config_of(bare).keys.charges, data_config_of(bare).keys.dipole) == ("q", None)


def test_the_shipped_model_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file of settings too, where no such folder lies beside it."""
    (tmp_path / "settings.toml").write_text(tomli_w.dumps({"training": {"initial_model": "so3lr"}}))
    (tmp_path / "elsewhere" / "so3lr").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")  # which a file of settings knows nothing of
    config = RunConfig.load(tmp_path / "settings.toml")
    assert config.training.initial_model == str(shipped()["so3lr"])
    monkeypatch.chdir(tmp_path)
    assert initial_model("so3lr").elements == tuple(FREE_ATOMS)
    assert config.model.features == 128 and config.terms["dispersion"]["radius_scale"] == 1.2
    assert config.data.charges_key == "charges"  # labels of charges are read where there are any
    (tmp_path / "so3lr").mkdir()
    with pytest.raises(ModelError, match=r"so3lr is not a model folder"):
        RunConfig.load(tmp_path / "settings.toml")
