"""Runs that go on from a model: its network, elements and energies, what learns, what is replayed, what is reported."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tomli_w
from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import write
from so3krates.cli import app
from so3krates.data import DataError, Labels, labels, shortest_distances, store_frames
from so3krates.data import with_labels as label
from so3krates.model.config import ConfigError
from so3krates.model.terms import terms_from
from so3krates.storage import Model, ModelError
from so3krates.training import DataConfig, RunConfig, TrainingError, evaluate, preset, reference, train
from so3krates.training.finetuning import FineTuningConfig, initial_model, rate_factors
from so3krates.training.material import Material
from so3krates.training.session import committee
from so3krates.training.sources import Demands, load_old_test, load_replay
from so3krates.training.start import Start, beyond_basis, moves_of, nearest
from training_runs import SMALL, assert_same, make_frames, quiet, settings
from typer.testing import CliRunner

POTENTIAL = Path(__file__).parents[2] / "examples" / "models" / "gan-pbesol.so3k"
OFFSET = -50.0  # eV per atom, between the levels of theory
ZERO = 1e-5  # eV per atom: mean errors after the fit, of energies in float32


def other_level(frames: list[Atoms], factor: float = 1.1) -> list[Atoms]:
    """The same structures at another level of theory: stiffer, with other energies of atoms."""
    found = []
    for atoms in frames:
        own = labels(atoms)
        energy = factor * (own.energy + 1e5 * len(atoms)) + OFFSET * len(atoms)
        found.append(label(atoms.copy(), Labels(energy, factor * own.forces, factor * own.stress)))
    return found


def going_on(folder: Path, model: object = SMALL, data: DataConfig | None = None, **tuning: object) -> RunConfig:
    training = settings(epochs=2, initial_model=str(folder)).training
    return RunConfig(model, data or DataConfig(), training, {}, finetuning=FineTuningConfig(**tuning))


def test_energies_begin_without_a_mean_error(trained: tuple, tmp_path: Path) -> None:
    result, frames, folder = trained
    new = other_level(frames)
    material = Material(going_on(folder), new[:6], new[6:])
    model = dataclasses.replace(result.model, energy_shifts=material.shifts)
    errors = (evaluate(model, new[:6]).energies - reference(new[:6]).energies) / 4
    assert abs(errors.mean()) < ZERO
    assert np.abs(errors).max() > 100 * ZERO  # each frame has one
    assert material.shifts["Cu"] == pytest.approx(OFFSET, abs=10)
    (said,) = material.said
    assert f"Cu {material.shifts['Cu']:.4f} eV" in said and "mean error of 6 frames was" in said
    kept = Material(going_on(folder, data=DataConfig(energy_shift="none")), new[:6], new[6:])
    assert kept.shifts == result.model.energy_shifts
    given = Material(going_on(folder, data=DataConfig(energy_shift={"Cu": -3.0})), new[:6], new[6:])
    assert given.shifts == {"Cu": -3.0}


def test_isolated_atoms_decide_what_compositions_do_not() -> None:
    model = Model(SMALL, {}, ("N", "Ga"), {"N": 1.0, "Ga": 2.0})
    start = Start(model, ("N", "Ga"), {}, ())
    counts = np.array([[2.0, 2.0], [4.0, 4.0], [1.0, 0.0], [0.0, 1.0]])
    errors = np.array([2 * 7.0 + 0.1, 4 * 7.0 - 0.1, 1.0, 5.0])
    alone = np.array([False, False, True, True])
    moves, isolated = moves_of(counts, errors, alone, "lse", start)
    assert isolated == ["N", "Ga"]
    assert moves[1] - moves[0] == pytest.approx(4.0)  # as the isolated atoms differ
    rest = (errors - counts @ moves)[:2] / counts[:2].sum(axis=1)
    assert rest.mean() == pytest.approx(0, abs=1e-12) and abs(rest[0]) > 1e-3
    moves, isolated = moves_of(counts[:2], errors[:2], alone[:2], "lse", start)
    assert isolated == [] and moves[0] == pytest.approx(moves[1])
    several = np.array([[2.0, 2.0], [1.0, 3.0], [3.0, 1.0]])  # compositions decide, whatever isolated atoms say
    moves, _ = moves_of(np.vstack([several, counts[2:]]), np.array([14.0, 16, 12, 9, 9]), np.array([0, 0, 0, 1, 1]) > 0,
                        "lse", start)  # fmt: skip
    np.testing.assert_allclose(moves, [2.5, 4.5])


def test_what_does_not_learn_keeps_its_bits(trained: tuple, tmp_path: Path) -> None:
    result, frames, folder = trained
    new = other_level(frames)
    config = going_on(folder, strategy="readout")
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, weight_decay=0.1, ema_decay=0.5))
    tuned = train(config, new[:8], new[8:], tmp_path / "run", quiet).model
    for part, before in result.model.params.items():
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(tuned.params[part]), strict=True)
        moved = [a.tobytes() != b.tobytes() for a, b in pairs]
        assert any(moved) if part == "readout" else not any(moved), part


def test_rates_of_the_parts() -> None:
    model = dataclasses.replace(SMALL, layers=3)

    def factors(**tuning: object) -> dict[str, float]:
        return rate_factors(FineTuningConfig(**tuning), model)

    assert set(factors().values()) == {1.0}
    assert factors(rate_factors={"embedding": 0, "layers": 0.1, "layers_2": 0.5}) == {
        "embedding": 0, "layers_0": 0.1, "layers_1": 0.1, "layers_2": 0.5, "readout": 1
    }  # fmt: skip
    last = factors(strategy="last-layers", last_layers=2, rate_factors={"layers": 0.3})
    assert last == {"embedding": 0, "layers_0": 0, "layers_1": 0.3, "layers_2": 0.3, "readout": 1}
    for tuning, said in (
        ({"rate_factors": {"head": 1}}, r"rate_factors\.head: known are layers, embedding"),
        ({"strategy": "readout", "rate_factors": {"layers": 1}}, "leaves it as it is"),
        ({"strategy": "readout", "rate_factors": {"readout": 0}}, "nothing learns"),
        ({"strategy": "last-layers", "last_layers": 4}, "has 3 layers"),
        ({"strategy": "readout", "add_elements": ["Al"]}, r"\['Al'\].*does not learn"),
        ({"strategy": "lora"}, "one of full"),
        ({"add_elements": ["Xy"]}, "chemical symbols"),
        ({"replay_frames": 3}, r"replay_frames = 3: give finetuning\.replay too"),
        ({"replay_labels": "file"}, r"replay_labels = 'file': give finetuning\.replay too"),
        ({"last_layers": 2}, "strategy = 'last-layers' too"),
        ({"rate_factors": {"layers": -1}}, "numbers of at least 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            factors(**tuning)
    with pytest.raises(ConfigError, match=r"finetuning\.strategy = 'readout', but there is no model"):
        RunConfig(finetuning=FineTuningConfig(strategy="readout"))


def test_the_network_is_that_of_the_model(trained: tuple, tmp_path: Path) -> None:
    _, _, folder = trained
    (tmp_path / "model").symlink_to(folder)
    content = {"training": {"initial_model": "model"}, "finetuning": {"replay": "old.xyz"}, "preset": "gan"}

    def load(**model: object) -> RunConfig:
        (tmp_path / "settings.toml").write_text(tomli_w.dumps({**content, "model": model}))
        return RunConfig.load(tmp_path / "settings.toml")

    config = load(features=12, degrees=[1, 2])
    assert config.model == SMALL
    assert config.finetuning.replay == str(tmp_path / "old.xyz")  # beside the settings
    assert RunConfig.from_dict({"preset": "none", **config.to_dict()}) == config
    # A preset is for runs from nothing: a trained model takes smaller steps, and fewer.
    nothing = preset("gan").training
    assert (config.training.learning_rate, config.training.epochs) == (nothing.learning_rate / 10, nothing.epochs // 2)
    given = tomli_w.dumps({**content, "training": {**content["training"], "learning_rate": 2e-3, "hours": 1.5}})
    (tmp_path / "settings.toml").write_text(given)
    training = RunConfig.load(tmp_path / "settings.toml").training
    assert (training.learning_rate, training.epochs, training.hours) == (2e-3, None, 1.5)
    for key, value, theirs in (("features", 64, "12"), ("cutoff", 5.0, "4.0"), ("radial_basis", "spline", "'phys'")):
        with pytest.raises(ConfigError, match=rf"settings\.toml: model\.{key} = .* has {theirs}: leave it out"):
            load(**{key: value})
    with pytest.raises(ConfigError, match="unknown model setting"):
        load(depth=3)


def test_new_elements_are_added_by_name(trained: tuple, tmp_path: Path) -> None:
    result, frames, folder = trained
    new = []
    for seed, atoms in enumerate(make_frames(6)):
        atoms.symbols[seed % 3] = "Ag"
        atoms.calc = EMT()
        energy = atoms.get_potential_energy() - 1e5 * np.count_nonzero(atoms.symbols == "Cu")
        new.append(label(atoms, Labels(energy, atoms.get_forces(), atoms.get_stress(voigt=False))))
    with pytest.raises(TrainingError, match=r"have Ag, which .*knows Cu\): --add-elements Ag"):
        Material(going_on(folder), new, [])
    for added, said in ((("Ag", "Cu"), "Cu, which .* knows already"), (("Ag", "Au"), "Au, which no training frame")):
        with pytest.raises(TrainingError, match=said):
            Material(going_on(folder, add_elements=added), new, [])
    material = Material(going_on(folder, add_elements=["Ag"]), new, [])
    rows = material.start.params["embedding"]["embedding"]
    np.testing.assert_array_equal(rows[47], rows[29])
    assert not np.array_equal(result.model.params["embedding"]["embedding"][47], rows[29])
    assert any("Ag is new" in text and "begins as Cu" in text for text in material.said)
    tuned = train(going_on(folder, add_elements=["Ag"]), new, [], tmp_path / "run", quiet).model
    assert tuned.elements == ("Cu", "Ag")
    # All frames have the same composition: what is new is Ag's.
    assert tuned.energy_shifts["Cu"] == pytest.approx(-1e5, abs=5)
    assert tuned.energy_shifts["Ag"] == pytest.approx(0, abs=5)
    rows = tuned.params["embedding"]["embedding"]
    assert np.abs(rows[47] - rows[29]).max() > 1e-5  # they have learnt to differ
    left = Material(going_on(tmp_path / "run", data=DataConfig()), frames[:4], [])
    assert left.elements == ("Cu",) and "Ag of" in left.said[0]


def test_the_nearest_elements_of_the_periodic_table() -> None:
    for element, known, near in (
        ("Al", "N Ga", "Ga"), ("O", "C F Si", "F"), ("In", "Ga N", "Ga"), ("La", "Y Ba", "Y Ba"), ("He", "Ne H", "Ne"),
        ("Si", "C Ge", "C Ge"), ("U", "Nd Fe", "Nd"), ("H", "Li C", "Li"),
    ):  # fmt: skip
        assert nearest(element, known.split()) == near.split(), element


def test_only_a_model_folder_is_gone_on_from(trained: tuple, tmp_path: Path) -> None:
    for name in ("seed-0", "seed-1"):
        trained[0].model.save(tmp_path / "several" / name)
    (tmp_path / "empty").mkdir()
    for path, said in (
        (POTENTIAL, "is a file.*model folder: give the one that the bundle was exported from"),
        (tmp_path / "several", r"holds 2 models: give the one.*seed-0"),
        (tmp_path / "nothing", "no such folder: give the model folder"),
        (tmp_path / "empty", r"is not a model folder: config\.toml is missing"),
    ):
        with pytest.raises(ModelError, match=said):
            initial_model(path)


def test_a_committee_goes_on_from_a_committee(trained: tuple, tmp_path: Path) -> None:
    """Each member from its own model; of another number of models from none."""
    result, frames, folder = trained
    several = tmp_path / "several"
    for seed in range(2):
        moved = jax.tree.map(lambda p, seed=seed: p * (1 + 0.1 * seed), result.model.params)
        dataclasses.replace(result.model, params=moved).save(several / f"seed-{seed}")
    given = {"data": {}, "model": {}, "terms": {}, "finetuning": {}}
    config = RunConfig.from_settings("fast", given | {"training": {"initial_model": str(several)}})
    assert config.model == result.model.config
    runs = committee(config, 2)
    for name, run in runs.items():
        start = Material(run, frames[:6], []).start
        own = Model.load(several / name)
        assert_same(start.params, own.params)
    with pytest.raises(ConfigError, match="holds 2 models for 3 members: --committee 2 goes on from each"):
        committee(config, 3)
    with pytest.raises(ConfigError, match=r"holds 2 models for 1 member: .*seed-0 names one"):
        committee(config, 1)
    alone = RunConfig.from_settings("fast", given | {"training": {"initial_model": str(folder)}})
    assert [run.training.initial_model for run in committee(alone, 2).values()] == [str(folder)] * 2


def test_the_command_goes_on_from_a_committee(trained: tuple, tmp_path: Path) -> None:
    result, frames, _ = trained
    for seed in range(2):
        moved = jax.tree.map(lambda p, seed=seed: p * (1 + 0.1 * seed), result.model.params)
        dataclasses.replace(result.model, params=moved).save(tmp_path / "several" / f"seed-{seed}")
    write(tmp_path / "new.extxyz", frames)
    arguments = ["train", "--from", str(tmp_path / "several"), "--data", str(tmp_path / "new.extxyz"), "--no-physics"]
    arguments += ["-o", str(tmp_path / "run"), "--committee", "2", "--set", "training.epochs=1"]
    done = CliRunner().invoke(app, [*arguments, "--set", "training.optimiser=adam"])
    assert done.exit_code == 0, done.output
    for seed in range(2):
        start = Model.load(tmp_path / "run" / f"seed-{seed}").training["settings"]["training"]["initial_model"]
        assert start.endswith(f"seed-{seed}")


def test_the_repulsion_is_kept(trained: tuple, tmp_path: Path) -> None:
    model, frames = trained[0].model, other_level(trained[1])
    terms = terms_from({"repulsion": {}}, ("Cu",), {"Cu-Cu": 2.0})
    floored = dataclasses.replace(model.config, radial_floor=3.0)
    dataclasses.replace(model, terms=terms, config=floored).save(tmp_path / "model")
    config = going_on(tmp_path / "model", floored)
    material = Material(config, frames, [])
    assert material.terms == terms
    assert material.config.model.radial_floor == pytest.approx(0.97 * material.shortest, abs=1e-4)  # below new frames
    wrong = dataclasses.replace(config, terms={"repulsion": {"outer": 1.0}})
    with pytest.raises(TrainingError, match=r"terms\.repulsion\.outer = 1\.0, but .* has \{'Cu-Cu': 1\.8\}"):
        Material(wrong, frames, [])


def test_distances_below_the_basis_are_said() -> None:
    config = dataclasses.replace(SMALL, radial_basis="gaussian", radial_start=1.9)
    (said,) = beyond_basis(config, 1.5)
    assert "a distance of 1.50 A" in said and "begins at 1.9 A" in said
    assert not beyond_basis(config, 2.0) and not beyond_basis(SMALL, 1.5)


def test_frames_of_single_atoms_alone(trained: tuple) -> None:
    shift = trained[0].model.energy_shifts["Cu"]
    atom = Atoms("Cu", cell=9 * np.eye(3), pbc=True)
    frames = [label(atom.copy(), Labels(shift + 3.0, np.zeros((1, 3)), np.zeros((3, 3)))) for _ in range(2)]
    material = Material(going_on(trained[2]), frames, [])
    assert material.distances == {} and material.config.model == trained[0].model.config
    # The network has an energy of a lonely atom too, which the shift makes up for.
    lonely = evaluate(dataclasses.replace(trained[0].model, energy_shifts=material.shifts), frames).energies
    np.testing.assert_allclose(lonely, shift + 3.0, atol=1e-4)


def test_replayed_frames_say_what_the_model_said(trained: tuple, tmp_path: Path) -> None:
    result, frames, folder = trained
    old = make_frames(6, seed=11)
    for atoms in old:
        atoms.set_cell(0.97 * atoms.cell.array, scale_atoms=True)  # nearer than the new ones
    write(tmp_path / "old.extxyz", [Atoms(a.numbers, a.positions, cell=a.cell, pbc=True) for a in old])
    config = going_on(folder, replay=str(tmp_path / "old.extxyz"), replay_frames=4)
    replay = load_replay(config, 8, Demands())
    assert len(replay) == 4
    found = evaluate(result.model, replay)
    np.testing.assert_allclose([labels(a).energy for a in replay], found.energies, atol=1e-6)
    new = other_level(frames)
    material = Material(config, new[:8], new[8:], replay)
    assert material.numbers == {"train": 8, "valid": 2, "replayed": 4}
    without = Material(going_on(folder), new[:8], new[8:])
    assert material.shifts == without.shifts  # they are fitted to new frames
    assert material.distances["Cu-Cu"] < without.distances["Cu-Cu"]
    assert material.distances == shortest_distances(material.graphs)
    shift = result.model.energy_shifts["Cu"]
    for graph, energy, atoms in zip(material.graphs[8:], found.energies, replay, strict=True):
        assert graph.energy == pytest.approx(energy - len(atoms) * shift, abs=1e-6)
    assert len(load_replay(going_on(folder, replay=str(tmp_path / "old.extxyz")), 3, Demands())) == 3
    unlabelled = going_on(folder, replay=str(tmp_path / "old.extxyz"), replay_labels="file")
    with pytest.raises(DataError, match=r"none of 3 frames to replay has a label: leave finetuning\.replay_labels out"):
        load_replay(unlabelled, 3, Demands())
    with pytest.raises(ConfigError, match=r"replay = 'old.extxyz' with data\.stream = true.*leave one of the two out"):
        going_on(folder, data=DataConfig(stream=True), replay="old.extxyz")
    write(tmp_path / "gold.extxyz", [Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]])])
    with pytest.raises(DataError, match=r"has Au, which .* give frames of its own data, with Cu alone"):
        load_replay(going_on(folder, replay=str(tmp_path / "gold.extxyz")), 3, Demands())
    silver = label(Atoms("Ag", cell=3 * np.eye(3), pbc=True), Labels(0.0, np.zeros((1, 3)), np.zeros((3, 3))))
    write(tmp_path / "silver.extxyz", silver)
    with pytest.raises(DataError, match="has Ag, which"):
        load_old_test(going_on(folder, old_test=str(tmp_path / "silver.extxyz")), Demands())


def test_the_command_tunes_and_says_what_is_forgotten(trained: tuple, tmp_path: Path) -> None:
    _, frames, folder = trained
    write(tmp_path / "new.extxyz", other_level(frames))
    write(tmp_path / "old.extxyz", make_frames(4, seed=21))
    arguments = ["train", "--from", str(folder), "--data", str(tmp_path / "new.extxyz"), "-o", str(tmp_path / "run")]
    arguments.append("--no-physics")
    for setting in ("data.n_train=6", "training.epochs=2", "training.optimiser=adam",
                    f"finetuning.old_test='{tmp_path / 'old.extxyz'}'",
                    f"finetuning.replay='{tmp_path / 'old.extxyz'}'"):  # fmt: skip
        arguments += ["--set", setting]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "energy shifts fitted again" in text and "4 frames of" in text
    found = json.loads((tmp_path / "run" / "report" / "changes.json").read_text())
    assert set(found) == {"valid", "old test"}
    assert found["old test"]["forces"]["before"] != found["old test"]["forces"]["after"]
    assert "Before and after" in (tmp_path / "run" / "report" / "report.html").read_text()
    model = Model.load(tmp_path / "run")
    training = model.training or {}
    assert training["changes"] == found
    assert training["settings"]["finetuning"]["replay"] == "old.extxyz"  # no folder of this machine
    again = CliRunner().invoke(app, [*arguments, "--resume"])
    assert again.exit_code == 0, again.output
    wrong = CliRunner().invoke(app, [*arguments[:-2], "--set", "model.layers=2", "-o", str(tmp_path / "other")])
    assert wrong.exit_code == 1 and "model.layers = 2" in wrong.output and "has 1" in wrong.output


def test_frames_on_disk_begin_as_those_in_memory(trained: tuple, tmp_path: Path) -> None:
    _, frames, folder = trained
    new = other_level(frames)
    stored = store_frames(tmp_path / "frames", new, SMALL.cutoff)
    kept, streamed = (Material(going_on(folder), some, []) for some in (new, stored))
    assert streamed.shifts["Cu"] == pytest.approx(kept.shifts["Cu"], abs=1e-6)
    assert [g.energy for g in streamed.graphs] == pytest.approx([g.energy for g in kept.graphs], abs=1e-6)
