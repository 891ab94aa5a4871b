"""Training: settings, loss, batching, resuming, recovery, metrics, and a first look at real data."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import re
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from matplotlib.figure import Figure
from rich.console import Console
from so3krates.cli import app
from so3krates.data import Buckets, DataError, Labels, collate, energy_shifts, frame_graphs, labels, read_frames
from so3krates.data import with_labels as label
from so3krates.model.config import ConfigError, ModelConfig
from so3krates.model.network import init_params
from so3krates.model.potential import Prediction, predict
from so3krates.storage import Model
from so3krates.training import (
    Committee,
    CommitteeError,
    DataConfig,
    Properties,
    RunConfig,
    Status,
    TrainingConfig,
    TrainingError,
    breakdown,
    committee_table,
    error_table,
    evaluate,
    load_frames,
    loggers,
    plots,
    preset,
    reference,
    run_session,
    session,
    train,
    write_report,
)
from so3krates.training.loss import error_sums, loss_of, normalised_weights, unit_scales, variance_scales
from so3krates.training.optimiser import MUON_RMS, make_optimiser, make_schedule
from so3krates.training.plots import breakdown_plot
from so3krates.training.step import batch_errors, initial_state, make_step
from so3krates.training.trainer import _Run
from typer.testing import CliRunner

# A run on several devices needs them; before JAX looks for its devices.
jax.config.update("jax_num_cpu_devices", 2)

SHARED = Path(__file__).parents[3] / "shared"
FORMULA = 1e-5  # relative, float32 against float64 numpy
GRADIENT = 1e-4  # of the largest component, float32 in another order
STRESS_DIFFERENCE = 2e-5  # eV/A^3, finite differences in float32
TOTAL = 1e-7  # eV, totals of 1e7 eV have digits to 2e-9
SMALL = ModelConfig(features=12, heads=2, layers=1, degrees=(1, 2), radial_functions=8, cutoff=4.0)


@pytest.fixture(scope="module", autouse=True)
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs of one test module share their programs, compiled quickly: most of its time would be compilation."""
    wanted = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def make_frames(count: int, seed: int = 0, repeat: tuple[int, ...] = (1,)) -> list[Atoms]:
    """Copper with EMT labels and a constant of -1e5 eV per atom."""
    rng = np.random.default_rng(seed)
    frames = []
    for n in range(count):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True) * (repeat[n % len(repeat)], 1, 1)
        atoms.set_cell(atoms.cell.array * (1 + 0.02 * rng.normal()), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        atoms.calc = EMT()
        energy = atoms.get_potential_energy() - 1e5 * len(atoms)
        frames.append(label(atoms, Labels(energy, atoms.get_forces(), atoms.get_stress(voigt=False))))
    return frames


def settings(**training: object) -> RunConfig:
    defaults = {"epochs": 3, "batch_size": 2, "learning_rate": 3e-3, "checkpoint_minutes": 60.0}
    return RunConfig(SMALL, DataConfig(), TrainingConfig(**{**defaults, **training}))


def quiet(_: Status) -> None:
    """A run that says nothing."""


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def assert_same(a: dict, b: dict) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


# Settings


def test_preset_gan_is_the_published_run() -> None:
    config = preset("gan")
    assert (config.model.cutoff, config.model.features, config.model.layers) == (5.0, 132, 3)
    assert config.data.energy_shift == "mean"
    t = config.training
    assert (t.energy_weight, t.force_weight, t.stress_weight) == (0.001, 1.0, 0.01)
    np.testing.assert_allclose(normalised_weights(t), [9.8912e-4, 0.989120, 9.8912e-3], rtol=1e-5)
    assert (t.epochs, t.learning_rate, t.learning_rate_stop) == (2000, 1e-3, 1e-5)
    assert (t.decay_steps, t.decay_factor, t.clip_norm, t.ema_decay) == (100_000, 0.7, None, 0.0)
    assert [t.batch_size_for(n) for n in (353, 600, 5000, 20_000)] == [1, 5, 10, 100]
    schedule = make_schedule(t, 706_000)
    assert float(schedule(706_000)) == pytest.approx(8.06e-5, rel=1e-3)


def test_settings_survive_a_file(tmp_path: Path) -> None:
    config = RunConfig.from_dict(
        {
            "preset": "gan",
            "model": {"features": 64, "degrees": [1, 2]},
            "data": {"file": "d.npz", "energy_shift": {"Ga": -1.5, "N": 2}},
            "training": {"clip_norm": 10.0, "ema_decay": 0.99},
        }
    )
    assert config.model.radial_filter_features == (64, 64)
    config.save(tmp_path / "c.toml")
    loaded = RunConfig.load(tmp_path / "c.toml")
    assert loaded.data.file == str(tmp_path / "d.npz")
    assert dataclasses.replace(loaded, data=config.data) == config


def test_keys_of_the_original_are_understood(tmp_path: Path) -> None:
    keys = {
        "r_cut": 4.5, "L": 2, "F": 24, "l_min": 1, "l_max": 3, "we": 0.1, "wf": 2.0, "ws": 0.0, "lr": 0.002,
        "loss_variance_scaling": False, "lr_decay_exp_transition_steps": 50, "clip_by_global_norm": None,
        "size_batch": None, "size_batch_training": 3, "shift_mean": True, "ace": False, "mic": True,
        "max_body_order": 2, "seed_data": 5, "file_data": "d.npz", "wandb_name": None,
    }  # fmt: skip
    (tmp_path / "inputs.json").write_text(json.dumps(keys))
    c = RunConfig.load(tmp_path / "inputs.json")
    assert (c.model.cutoff, c.model.layers, c.model.features, c.model.degrees) == (4.5, 2, 24, (1, 2, 3))
    assert (c.data.energy_shift, c.data.seed) == ("mean", 5)
    assert (c.training.force_weight, c.training.variance_scaling, c.training.batch_size) == (2.0, False, 3)
    assert (c.training.decay_steps, c.training.clip_norm, c.training.learning_rate) == (50, None, 0.002)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"training": {"epochs": 0}}, "training.epochs = 0"),
        ({"training": {"epoch": 5}}, "unknown key training.epoch"),
        ({"training": {"schedule": "step"}}, "exponential, cosine, constant"),
        ({"training": {"ema_decay": 1.0}}, "training.ema_decay = 1.0"),
        ({"training": {"learning_rate": 1e-6}}, "learning_rate_stop"),
        ({"training": {"energy_weight": 0, "force_weight": 0, "stress_weight": 0}}, "at least one weight"),
        ({"training": {"float64": 1}}, "training.float64 = 1: give true or false"),
        ({"data": {"energy_shift": "median"}}, "data.energy_shift = 'median'"),
        ({"data": {"file": "a", "train_file": "b"}}, "either file or train_file"),
        ({"data": {"n_valid": 3}}, "n_train with it"),
        ({"model": {"feature": 3}}, "unknown model setting 'feature'"),
        ({"preset": "gold"}, "known are gan"),
        ({"ace": True}, "ACE"),
        ({"learning": 3}, "unknown key 'learning'"),
    ],
)
def test_bad_settings_are_refused_by_name(given: dict, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        RunConfig.from_dict(given)
    assert words in str(error.value)


# Loss


def random_case(rng: np.random.Generator) -> tuple[Prediction, object, object]:
    """A batch of two structures whose labels have holes, padded, and a prediction of everything."""
    frames = make_frames(2, repeat=(1, 2))
    frames = [
        label(atoms, Labels(rng.normal(), rng.normal(size=(len(atoms), 3)), np.diag(rng.normal(size=3))))
        for atoms in frames
    ]
    graphs = frame_graphs(frames, SMALL.cutoff, {"Cu": 0.0})
    graphs[0].virial[1, 2] = np.nan
    graphs[1].forces[3] = np.nan
    batch, targets = collate(graphs, Buckets(graphs, 2).shape(graphs)._replace(structures=3, atoms=16))
    prediction = Prediction(rng.normal(size=3), rng.normal(size=(16, 3)), rng.normal(size=(3, 3, 3)), np.zeros(16))
    return jax.tree.map(lambda x: np.asarray(x, np.float32), prediction), batch, targets


def test_loss_is_the_formula() -> None:
    rng = np.random.default_rng(3)
    prediction, batch, targets = random_case(rng)
    graphs = frame_graphs(make_frames(5), SMALL.cutoff, energy_shifts(make_frames(5), "lse"))
    scales = variance_scales(graphs)
    config = TrainingConfig(energy_weight=0.3, force_weight=2.0, stress_weight=0.7)
    got = loss_of(error_sums(prediction, batch, targets, scales), normalised_weights(config))
    loss = 0.0
    s_force = 1 / np.var(np.concatenate([g.forces.ravel() for g in graphs]))
    s_energy, s_stress = 1 / np.var([g.energy for g in graphs]), 1 / np.var([g.virial for g in graphs], axis=0)
    for weight, scale, value, target in (
        (0.1, s_energy, prediction.energies, targets.energies),
        (2 / 3, s_force, prediction.forces, targets.forces),
        (0.7 / 3, s_stress, prediction.strain_gradients, targets.virials),
    ):
        difference = scale * (value.astype(np.float64) - target) ** 2
        assert 0 < np.isnan(difference).sum() < difference.size
        loss += weight * np.nanmean(difference)
    assert float(got) == pytest.approx(loss, rel=FORMULA)


def test_shown_errors_are_per_atom_and_volume() -> None:
    prediction, batch, targets = random_case(np.random.default_rng(4))
    sums = error_sums(prediction, batch, targets, unit_scales())
    energy = (prediction.energies - targets.energies)[:2] / [4, 8]
    stress = (prediction.strain_gradients - targets.virials)[:2] / targets.volumes[:2, None, None]
    squared = [np.sum(energy**2), np.nansum((prediction.forces - targets.forces) ** 2), np.nansum(stress**2)]
    np.testing.assert_allclose(sums.squared, squared, rtol=FORMULA)
    assert sums.counts.tolist() == [2, 12 * 3 - 3, 18 - 1]


def test_labels_that_are_missing_leave_no_trace_in_the_gradient() -> None:
    _, batch, targets = random_case(np.random.default_rng(5))
    params = init_params(SMALL, 0)

    def loss(params: dict, targets: object) -> jax.Array:
        sums = error_sums(predict(SMALL, params, batch), batch, targets, unit_scales())
        return loss_of(sums, normalised_weights(TrainingConfig()))

    gradient = jax.jit(jax.grad(loss))
    leaves = jax.tree.leaves(gradient(params, targets))
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert max(np.abs(leaf).max() for leaf in leaves) > 0
    nothing = jax.tree.map(lambda x: np.full_like(x, np.nan), targets)._replace(
        atoms=targets.atoms, volumes=targets.volumes
    )
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient(params, nothing)))


def test_variance_scaling_survives_constant_targets() -> None:
    frames = make_frames(4)
    graphs = frame_graphs(frames, SMALL.cutoff, energy_shifts(frames, "mean"))
    for graph in graphs:
        graph.virial[0, 1] = graph.virial[1, 0] = 0.0
    scales = variance_scales(graphs)
    variances = np.var([g.virial for g in graphs], axis=0)
    assert scales.virial[0, 0] == pytest.approx(1 / variances[0, 0])
    assert scales.virial[0, 1] == pytest.approx(1 / variances.max())
    alone = variance_scales(graphs[:1])
    assert alone.energy == 1
    assert np.all(alone.virial == 1)
    assert alone.forces == pytest.approx(1 / np.var(graphs[0].forces))
    empty = variance_scales([g._replace(forces=np.full_like(g.forces, np.nan)) for g in graphs])
    assert empty.forces == 1


def test_a_batch_has_the_gradient_of_its_structures() -> None:
    frames = make_frames(3, repeat=(1, 3, 2))
    graphs = frame_graphs(frames, SMALL.cutoff, energy_shifts(frames, "lse"))
    scales = variance_scales(graphs)
    params = init_params(SMALL, 1)

    @jax.jit
    def gradient(params: dict, batch: object, targets: object) -> dict:
        return jax.grad(lambda p: error_sums(predict(SMALL, p, batch), batch, targets, scales).scaled.sum())(params)

    shape = Buckets(graphs, 3).shape(graphs)
    together = gradient(params, *collate(graphs, shape._replace(atoms=32, structures=4)))
    alone = shape._replace(atoms=12, structures=1)
    single = [gradient(params, *collate([g], alone)) for g in graphs]
    summed = jax.tree.map(lambda *g: sum(np.asarray(x, np.float64) for x in g), *single)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(summed))
    assert largest > 0.1
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(summed), strict=True):
        np.testing.assert_allclose(a, b, atol=GRADIENT * largest)


def test_a_batch_in_parts_takes_the_same_step() -> None:
    frames = make_frames(3, repeat=(1, 3, 2))
    frames[1] = label(frames[1], labels(frames[1])._replace(stress=np.full((3, 3), np.nan)))
    graphs = frame_graphs(frames, SMALL.cutoff, energy_shifts(frames, "lse"))
    params, scales = jax.device_get(init_params(SMALL, 1)), variance_scales(graphs)
    shape = Buckets(graphs, 2).shape(graphs[1:])
    pieces = [collate(graphs[:2], shape), collate(graphs[2:], shape)]
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *pieces)

    def moments(config: TrainingConfig, batch: tuple) -> tuple:
        state, result = make_step(SMALL, config, 10)(initial_state(config, params), *batch, scales)
        return jax.tree.leaves(state.moments), result.loss, result.sums.counts

    whole = moments(TrainingConfig(), collate(graphs, Buckets(graphs, 3).shape(graphs)))
    largest = max(np.abs(leaf).max() for leaf in whole[0])
    assert largest > 1e-3
    configs = [TrainingConfig(accumulate=2)]
    if jax.default_backend() == "cpu" or jax.device_count() > 1:  # a machine may have a single GPU
        configs.append(TrainingConfig(devices=2))
    for config in configs:
        split = moments(config, stacked)
        assert float(split[1]) == pytest.approx(float(whole[1]), rel=FORMULA)
        np.testing.assert_array_equal(split[2], whole[2])
        for a, b in zip(split[0], whole[0], strict=True):
            np.testing.assert_allclose(a, b, atol=GRADIENT * largest)


def test_a_run_splits_its_batches(tmp_path: Path) -> None:
    frames = make_frames(9, repeat=(1, 2))
    config = settings(batch_size=5, accumulate=2)
    run = _Run(config, frames, [], tmp_path / "run", quiet, False)
    plain = _Run(settings(batch_size=5), frames, [], tmp_path / "plain", quiet, False)
    for step in range(3):
        batch, targets = run._batch(step)
        assert len(batch.species) == len(targets.energies) == 2
        assert batch.atom_mask.any(axis=1).all()
        whole, energies = plain._batch(step)
        assert np.sort(targets.energies[np.isfinite(targets.energies)]).tolist() == sorted(
            energies.energies[np.isfinite(energies.energies)].tolist()
        )
        assert batch.mask.sum() == whole.mask.sum() > 0
    for one in (run, plain):
        one.checkpoints.close()
    with pytest.raises(TrainingError, match=r"a batch of 2 structures cannot be split into .*accumulate = 3"):
        train(settings(accumulate=3), frames, [], tmp_path / "few", quiet)
    with pytest.raises(TrainingError, match=r"training\.devices = 3, but JAX sees"):
        train(settings(batch_size=3, devices=3), frames, [], tmp_path / "many", quiet)


# The course of a run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, list[Atoms], Path]:
    folder = tmp_path_factory.mktemp("trained") / "run"
    frames = make_frames(10)
    result = train(settings(epochs=30, ema_decay=0.9), frames[:8], frames[8:], folder, quiet)
    return result, frames, folder


def test_training_learns(trained: tuple) -> None:
    result, frames, folder = trained
    assert result.steps == 120
    assert result.recoveries == 0
    rows = rows_of(folder)
    assert len(rows) == 30
    first, last = rows[0], rows[-1]
    assert float(last["valid_forces_rmse"]) < 0.5 * float(first["valid_forces_rmse"])
    assert float(last["train_loss"]) < 0.3 * float(first["train_loss"])
    assert result.best_loss == pytest.approx(min(float(row["valid_loss"]) for row in rows), rel=1e-5)
    table = error_table(evaluate(result.model, frames), reference(frames))
    assert table["forces"].rmse_over_std < 0.5


def test_the_saved_model_is_the_best_one(trained: tuple) -> None:
    result, frames, folder = trained
    model = Model.load(folder)
    assert_same(model.params, result.model.params)
    assert model.elements == ("Cu",)
    assert model.energy_shifts == result.model.energy_shifts
    config = settings(epochs=30, ema_decay=0.9)
    graphs = frame_graphs(frames[:8], SMALL.cutoff, model.energy_shifts)
    valid = frame_graphs(frames[8:], SMALL.cutoff, model.energy_shifts)
    batch, targets = collate(valid, Buckets(valid, 2).shape(valid))
    sums = batch_errors(SMALL, model.params, batch, targets, variance_scales(graphs))
    assert float(loss_of(sums, normalised_weights(config.training))) == pytest.approx(result.best_loss, rel=1e-3)


@pytest.mark.parametrize(("every", "optimiser"), [(0.0, "adam"), (60.0, "adam"), (0.0, "muon")])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, every: float, optimiser: str) -> None:
    frames = make_frames(9, repeat=(1, 2))
    course = {"epochs": 2, "ema_decay": 0.9, "eval_every": 2, "optimiser": optimiser}
    config = settings(checkpoint_minutes=every, **course)
    whole = train(settings(**course), frames[:7], frames[7:], tmp_path / "whole", quiet)

    class KilledError(Exception):
        pass

    def kill(status: Status) -> None:
        if status.step == 4:
            raise KilledError

    with pytest.raises(KilledError):
        train(config, frames[:7], frames[7:], tmp_path / "killed", kill)
    seen: list[int] = []
    resumed = train(
        config, frames[:7], frames[7:], tmp_path / "killed", lambda status: seen.append(status.step), resume=True
    )
    assert min(seen) == (4 if every == 0 else 1)
    assert resumed.steps == whole.steps == 6
    assert_same(resumed.model.params, whole.model.params)
    assert resumed.best_step == whole.best_step
    columns = ("step", "valid_loss", "learning_rate")
    assert [[row[c] for c in columns] for row in rows_of(tmp_path / "killed")] == [
        [row[c] for c in columns] for row in rows_of(tmp_path / "whole")
    ]
    initial = init_params(SMALL, 0)
    assert np.abs(np.asarray(jax.tree.leaves(initial)[0]) - jax.tree.leaves(whole.model.params)[0]).max() > 1e-3


def test_a_signal_ends_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    frames = make_frames(4)

    sent: list[int] = []

    def interrupt(status: Status) -> None:
        if status.step == 3 and not sent:
            sent.append(status.step)
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    stopped = train(settings(epochs=4), frames, frames[:1], tmp_path / "a", interrupt)
    assert (stopped.reason, stopped.steps) == ("stopped by SIGTERM", 3)
    assert signal.getsignal(signal.SIGTERM) == before
    resumed = train(settings(epochs=4), frames, frames[:1], tmp_path / "a", quiet, resume=True)
    whole = train(settings(epochs=4), frames, frames[:1], tmp_path / "b", quiet)
    assert_same(resumed.model.params, whole.model.params)
    assert resumed.steps == 8


def test_more_epochs_continue_a_finished_run(tmp_path: Path) -> None:
    frames = make_frames(4)
    train(settings(epochs=2), frames, [], tmp_path / "a", quiet)
    longer = train(settings(epochs=4), frames, [], tmp_path / "a", quiet, resume=True)
    whole = train(settings(epochs=4), frames, [], tmp_path / "b", quiet)
    assert_same(longer.model.params, whole.model.params)
    assert whole.best_step == whole.steps == 8


def test_a_run_may_start_from_a_model(trained: tuple, tmp_path: Path) -> None:
    result, frames, folder = trained
    standing = {"schedule": "constant", "learning_rate": 1e-12, "epochs": 1, "initial_model": str(folder)}
    again = train(settings(**standing), frames[:8], frames[8:], tmp_path / "again", quiet)
    for a, b in zip(jax.tree.leaves(again.model.params), jax.tree.leaves(result.model.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    assert again.model.training["settings"]["training"]["initial_model"] == folder.name  # no folder of this machine
    other = dataclasses.replace(SMALL, layers=2)
    with pytest.raises(TrainingError, match=r"has model\.layers = 1, this run 2"):
        train(dataclasses.replace(settings(**standing), model=other), frames, [], tmp_path / "other", quiet)


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    frames = make_frames(4)
    train(settings(epochs=1), frames, [], tmp_path, quiet)
    with pytest.raises(TrainingError, match="holds a run already"):
        train(settings(epochs=1), frames, [], tmp_path, quiet)
    with pytest.raises(TrainingError, match=r"training\.learning_rate = 0\.003, not 0\.001"):
        train(settings(epochs=1, learning_rate=1e-3), frames, [], tmp_path, quiet, resume=True)
    with pytest.raises(TrainingError, match="other frames or labels"):
        train(settings(epochs=1), frames[::-1], [], tmp_path, quiet, resume=True)
    with pytest.raises(TrainingError, match="no run to resume"):
        train(settings(epochs=1), frames, [], tmp_path / "new", quiet, resume=True)


def test_a_step_that_is_not_finite_is_left_out_and_reported(tmp_path: Path) -> None:
    frames = make_frames(6)
    poisoned = labels(frames[2])._replace(energy=1e30)
    frames[2] = label(frames[2], poisoned)
    config = settings(epochs=3, batch_size=1, variance_scaling=False)
    config = dataclasses.replace(config, data=DataConfig(energy_shift={"Cu": -1e5}))
    said: list[str] = []
    result = train(config, frames, [], tmp_path / "a", lambda status: said.append(status.message or ""))
    messages = [message for message in said if message]
    assert result.recoveries == len(messages) == 3
    assert "is not finite" in messages[0]
    assert "went back to the weights of step 0" in messages[0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.model.params))
    assert result.steps == 18
    hopeless = [frames[2]] * 11
    with pytest.raises(TrainingError, match="11 non-finite steps since the best weights of step 0"):
        train(config, hopeless, [], tmp_path / "b", quiet)


def test_the_step_left_out_changes_nothing_but_the_count() -> None:
    frames = make_frames(1)
    (graph,) = frame_graphs(frames, SMALL.cutoff, energy_shifts(frames, "lse"))
    batch, targets = collate([graph], Buckets([graph], 1).shape([graph]))
    config = TrainingConfig()
    step = make_step(SMALL, config, 10)
    params = init_params(SMALL, 0)
    bad = targets._replace(energies=np.full_like(targets.energies, 1e30))
    state, result = step(initial_state(config, params), batch, bad, unit_scales())
    assert not bool(result.finite)
    assert int(state.step) == 1
    assert_same(state.params, params)
    state, result = step(initial_state(config, params), batch, targets, unit_scales())
    assert bool(result.finite)
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), state.params, params)
    # Adam's first step is the learning rate wherever there is a gradient.
    assert max(jax.tree.leaves(moved)) == pytest.approx(config.learning_rate, rel=1e-2)


def test_the_time_limit_and_the_rate_end_a_run(tmp_path: Path) -> None:
    frames = make_frames(4)
    limited = train(settings(epochs=10_000, max_minutes=1e-3), frames, frames, tmp_path / "a", quiet)
    assert "time limit of 0.001 min" in limited.reason
    assert limited.steps == limited.best_step == 1
    falling = settings(epochs=50, decay_steps=1, decay_factor=0.1, learning_rate_stop=1e-4, warmup_steps=2)
    result = train(falling, frames, [], tmp_path / "b", quiet)
    assert "learning rate fell to" in result.reason
    assert result.steps == 2 + 3
    again = train(falling, frames, [], tmp_path / "b", quiet, resume=True)
    assert (again.steps, again.reason) == (result.steps, result.reason)
    assert_same(again.model.params, result.model.params)


def test_a_run_that_gets_no_better_ends(tmp_path: Path) -> None:
    frames = make_frames(4)
    opposite = [label(a, labels(a)._replace(forces=-labels(a).forces)) for a in frames]
    config = settings(epochs=100, patience=3)
    result = train(config, frames, opposite, tmp_path / "a", quiet)
    assert result.steps == result.best_step + 3 * 2 < 60
    assert result.reason == f"no lower validation loss in 3 validations since step {result.best_step}"
    again = train(config, frames, opposite, tmp_path / "a", quiet, resume=True)
    assert (again.steps, again.best_step, again.reason) == (result.steps, result.best_step, result.reason)
    with pytest.raises(TrainingError, match=r"training\.patience = 3 needs validation frames"):
        train(config, frames, [], tmp_path / "b", quiet)


def test_schedules() -> None:
    cosine = make_schedule(TrainingConfig(schedule="cosine", warmup_steps=10), 110)
    assert [float(cosine(t)) for t in (0, 10, 60, 110)] == pytest.approx([1e-3 / 11, 1e-3, 5.05e-4, 1e-5], rel=1e-5)
    exponential = make_schedule(TrainingConfig(), 10)
    assert float(exponential(50_000)) == pytest.approx(1e-3 * 0.7**0.5, rel=1e-5)


def test_optional_parts_of_the_optimiser_act() -> None:
    params, gradient = {"w": np.array([2.0, -1.0], np.float32)}, {"w": np.array([30.0, 40.0], np.float32)}

    def update(**extra: object) -> np.ndarray:
        optimiser = make_optimiser(TrainingConfig(**extra))
        state = optimiser.init(params)
        # Two steps, the second with a small gradient: Adam alone does not see the size of the first.
        _, state = optimiser.update(gradient, state, params)
        return np.asarray(optimiser.update({"w": gradient["w"] * 1e-2}, state, params)[0]["w"])

    plain = update()
    np.testing.assert_allclose(update(weight_decay=0.1) - plain, 0.1 * params["w"], rtol=1e-3)
    first, second = np.array([30.0, 40.0]) / 50, gradient["w"] * 1e-2
    mean = (0.1 * 0.9 * first + 0.1 * second) / (1 - 0.9**2)
    square = (0.001 * 0.999 * first**2 + 0.001 * second**2) / (1 - 0.999**2)
    # The largest second moment so far, and that is the first one.
    largest = 0.001 * gradient["w"] ** 2 / (1 - 0.999)
    mean_of_both = (0.1 * 0.9 * gradient["w"] + 0.1 * second) / (1 - 0.9**2)
    assert np.abs(update(optimiser="amsgrad") - mean_of_both / np.sqrt(largest)).max() < 0.05
    assert np.abs(update(optimiser="amsgrad") - plain).max() > 0.1
    np.testing.assert_allclose(update(clip_norm=1.0), mean / np.sqrt(square), rtol=1e-3)
    assert np.abs(update(clip_norm=1.0) - plain).max() > 0.1


def test_muon_moves_matrices_by_orthogonal_steps() -> None:
    draw = np.random.default_rng(0).normal
    gradient = {
        "embedding": draw(size=(5, 8)),
        "heads": (np.eye(6) + 0.2 * draw(size=(3, 6, 6))) * np.array([1.0, 1e-3, 1e3])[:, None, None],
        "last": draw(size=(8, 1)),
    }
    optimiser = make_optimiser(TrainingConfig(optimiser="muon"))
    update = optimiser.update(gradient, optimiser.init(gradient), gradient)[0]
    for head, slope in zip(update["heads"], gradient["heads"], strict=True):
        # Five Newton-Schulz steps leave singular values near 1, here times the scale to a root mean square of 0.2.
        values = np.linalg.svd(head, compute_uv=False) / (MUON_RMS * np.sqrt(6))
        assert values.min() > 0.4
        assert values.max() < 1.6
        assert np.sum(head * slope) > 0.5 * np.linalg.norm(head) * np.linalg.norm(slope)  # the rate has the sign
    for name in ("embedding", "last"):  # the first step of Adam with Nesterov's momentum: nothing but the sign
        size = update[name] * np.sign(gradient[name])
        np.testing.assert_allclose(size, size.mean(), rtol=1e-3)
        assert 1 < size.mean() < 2


def test_the_shift_can_be_refitted(tmp_path: Path) -> None:
    frames = make_frames(5, repeat=(1, 2))
    plain = train(settings(epochs=1), frames, [], tmp_path / "a", quiet).model
    refitted = train(settings(epochs=1, refit_shift=True), frames, [], tmp_path / "b", quiet).model
    assert_same(plain.params, refitted.params)
    assert Model.load(tmp_path / "b").energy_shifts == refitted.energy_shifts
    atoms = reference(frames).atoms
    errors = [(reference(frames).energies - evaluate(m, frames).energies) / atoms for m in (plain, refitted)]
    assert abs(errors[0].mean()) > 1e-3
    assert abs(errors[1].mean()) < 1e-5


def test_weights_on_labels_that_nobody_has_are_refused(tmp_path: Path) -> None:
    frames = [label(a, labels(a)._replace(stress=np.full((3, 3), np.nan))) for a in make_frames(3)]
    with pytest.raises(DataError, match=r"training\.stress_weight = 0\.01 but none of 3 training frames"):
        train(settings(epochs=1), frames, [], tmp_path / "a", quiet)
    with pytest.raises(DataError, match="none of 3 validation frames has a label for it"):
        train(settings(epochs=1), make_frames(3), frames, tmp_path / "a", quiet)
    result = train(settings(epochs=1, stress_weight=0.0), frames, [], tmp_path / "b", quiet)
    assert rows_of(result.folder)[0]["train_stress_rmse"] == ""


def test_weights_that_were_never_validated_are_not_called_the_best(tmp_path: Path) -> None:
    frames = make_frames(3)
    endless = [label(frames[2], labels(frames[2])._replace(energy=1e30))]
    with pytest.raises(TrainingError, match="none of the validations in 1 steps gave a finite loss"):
        train(settings(epochs=1, variance_scaling=False), frames[:2], endless, tmp_path / "a", quiet)
    assert not (tmp_path / "a" / "weights.safetensors").exists()


def test_stress_labels_may_be_missing_in_part(tmp_path: Path) -> None:
    frames = make_frames(4)
    frames[1] = label(frames[1], labels(frames[1])._replace(stress=np.full((3, 3), np.nan)))
    result = train(settings(epochs=2), frames, frames[:2], tmp_path / "a", quiet)
    assert result.recoveries == 0
    assert float(rows_of(result.folder)[-1]["valid_stress_rmse"]) > 0


def test_float64_says_what_it_needs(tmp_path: Path) -> None:
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="jax_enable_x64"):
        train(settings(float64=True), make_frames(2), [], tmp_path / "a", quiet)


def test_float64_runs(tmp_path: Path) -> None:
    with jax.enable_x64(True):
        result = train(settings(epochs=1, float64=True), make_frames(2), [], tmp_path / "a", quiet)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(result.model.params)} == {"float64"}


# Results


def test_evaluation_keeps_order_shifts_and_signs(trained: tuple) -> None:
    model = trained[0].model
    frames = make_frames(5, seed=9, repeat=(3, 1, 2))
    both = evaluate(model, frames, batch_size=2)
    for index, atoms in enumerate(frames):
        one = evaluate(model, [atoms])
        assert both.energies[index] == pytest.approx(one.energies[0], abs=1e-4)
        np.testing.assert_allclose(both.forces[index], one.forces[0], atol=1e-5)
        assert np.abs(both.forces[index]).max() > 0.1
    assert both.energies[1] == pytest.approx(-4e5, abs=50)
    step = 2e-2
    energies = []
    for sign in (1, -1):
        moved = frames[0].copy()
        moved.set_cell(moved.cell.array * (1 + sign * step), scale_atoms=True)
        energies.append(evaluate(model, [moved]).energies[0])
    slope = (energies[0] - energies[1]) / (2 * step) / frames[0].cell.volume
    assert both.stresses[0].trace() == pytest.approx(slope, rel=0.1, abs=STRESS_DIFFERENCE)
    assert abs(slope) > 10 * STRESS_DIFFERENCE
    cluster = frames[1].copy()
    cluster.pbc = False
    assert np.isnan(evaluate(model, [cluster]).stresses).all()


def test_the_error_table_is_its_formulas() -> None:
    atoms = np.array([2, 4])
    label_energies = np.array([-20.0, -44.0])
    truth = Properties(
        atoms, label_energies, [np.zeros((2, 3)), np.ones((4, 3))], np.stack([np.eye(3), np.full((3, 3), np.nan)])
    )
    guess = Properties(
        atoms,
        label_energies + atoms * [0.005, 0.003],
        [np.full((2, 3), 0.1), np.full((4, 3), 1.2)],
        np.stack([1.5 * np.eye(3), np.zeros((3, 3))]),
    )
    table = error_table(guess, truth)
    assert (table["energy"].mae, table["energy"].rmse) == pytest.approx((4.0, np.sqrt(17)))
    assert table["energy, means removed"].mae == pytest.approx(1.0)
    assert table["forces"].count == 18
    rmse, std = 1000 * np.sqrt((6 * 0.01 + 12 * 0.04) / 18), 1000 * np.sqrt(2) / 3
    assert table["forces"].rmse == pytest.approx(rmse)
    assert table["forces"].rmse_over_std == pytest.approx(rmse / std)
    assert table["forces"].r2 == pytest.approx(1 - (rmse / std) ** 2)
    assert table["stress"].count == 9
    assert table["stress"].mae == pytest.approx(500 / 3)


def test_errors_are_split_up() -> None:
    frames = [Atoms("CuAg", np.zeros((2, 3)), info={"group": tag, "temperature_K": t}) for tag, t in
              (("hot", 900), ("cold", 100.0), ("hot", 900))] + [Atoms("CuAg", np.zeros((2, 3)))]  # fmt: skip
    stresses = np.full((4, 3, 3), np.nan)
    forces = [np.array([[n + 1.0, 0, 0], [0, 10.0 * (n + 1), 0]]) for n in range(4)]
    truth = Properties(np.full(4, 2), np.array([0.0, 1.0, 4.0, 9.0]), forces, stresses)
    guess = truth._replace(
        energies=truth.energies + 2 * np.array([0.1, 0.3, 0.3, 0.3]), forces=[f * [[1.5], [1.1]] for f in forces]
    )
    parts = breakdown(frames, guess, truth)
    assert parts.elements["Cu"].mae == pytest.approx(1000 * np.mean([0.5, 1, 1.5, 2]) / 3)
    assert parts.elements["Ag"].rmse == pytest.approx(1000 * np.sqrt(np.mean(np.square([1, 2, 3, 4])) / 3))
    assert list(parts.tags) == ["cold", "hot"]
    assert list(parts.temperatures) == [100.0, 900.0]
    hot = parts.tags["hot"]
    assert (hot["energy"].count, hot["energy"].mae) == (2, pytest.approx(200.0))
    # The mean error of the whole set, 250 meV/atom, is removed and not that of the tag.
    assert hot["energy, means removed"].rmse == pytest.approx(np.sqrt((150**2 + 50**2) / 2))
    assert hot["stress"].count == 0
    assert [row.atoms for row in parts.force_sizes] == [1] * 8
    assert [row.relative for row in parts.force_sizes] == pytest.approx([0.5] * 4 + [0.1] * 4)
    assert parts.force_sizes[-1].rmse == pytest.approx(4000 / np.sqrt(3))
    assert list(breakdown(frames, guess, truth, "temperature_K").tags) == ["100.0", "900"]
    still = truth._replace(forces=[0 * f for f in truth.forces])
    rows = json.loads(json.dumps(breakdown(frames, guess, still).as_json(), allow_nan=False))["by_force_size"]
    assert rows[0]["relative"] is None
    assert rows[0]["rmse"] > 0


def test_the_report_holds_tables_and_figures(trained: tuple, tmp_path: Path) -> None:
    result, frames, _ = trained
    tables = write_report(tmp_path, result.model, {"train": frames[:8], "test": frames[8:]}, result.metrics_file)
    stored = json.loads((tmp_path / "errors.json").read_text())
    assert stored["test"]["forces"]["rmse"] == tables["test"]["forces"].rmse
    assert stored["test"]["by_element"]["Cu"]["rmse"] == pytest.approx(tables["test"]["forces"].rmse)
    assert sum(row["atoms"] for row in stored["train"]["by_force_size"]) == 8 * 4
    assert "energy, means removed" in (tmp_path / "errors.txt").read_text()
    for name in ("parity.png", "learning_curve.png", "breakdown.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_the_page_of_a_report_needs_nothing_else(trained: tuple, tmp_path: Path) -> None:
    result, frames, _ = trained
    tables = write_report(tmp_path, result.model, {"train": frames[:8], "<test>": frames[8:]}, result.metrics_file)
    page = (tmp_path / "report.html").read_text()
    for title in ("Errors", "Force errors by size", "Prediction against label", "Learning curves"):
        assert f"<h2>{title}</h2>" in page
    images = re.findall(r'src="([^"]*)"', page)
    assert len(images) == 3
    for image, name in zip(images, ("parity.png", "breakdown.png", "learning_curve.png"), strict=True):
        assert base64.b64decode(image.removeprefix("data:image/png;base64,")) == (tmp_path / name).read_bytes()
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert f"{tables['<test>']['forces'].rmse:.4g}" in cells
    assert "&lt;test&gt;" in cells
    assert "Cu" in cells
    assert not re.search(r"<(script|link)|https?:", page)


def test_committee() -> None:
    rng = np.random.default_rng(0)
    frames, atoms, members = 40, 5, 3
    unknown = np.full((frames, 3, 3), np.nan)
    truth = Properties(
        np.full(frames, atoms), rng.normal(size=frames), list(rng.normal(size=(frames, atoms, 3))), unknown
    )
    spread = np.linspace(0.1, 2.0, frames)
    guesses = [
        truth._replace(
            energies=truth.energies + 0.5 + 0.1 * m,
            forces=[f + s * rng.normal(size=(atoms, 3)) for f, s in zip(truth.forces, spread, strict=True)],
        )
        for m in range(members)
    ]
    found = Committee(guesses, truth)
    forces = np.array([guess.forces for guess in guesses])
    deviation = forces - forces.mean(0)
    np.testing.assert_allclose(found.disagreement(), 1000 * np.sqrt(np.square(deviation).mean((0, 2, 3))), rtol=1e-12)
    content = json.loads(json.dumps(found.as_json(), allow_nan=False))
    # Independent errors: the mean of n members errs by 1/sqrt(n), and deviations from it by sqrt((n - 1)/n).
    single = np.sqrt(np.mean(np.square(content["rmse"]["forces"]["members"])))
    assert content["rmse"]["forces"]["mean"] == pytest.approx(single / np.sqrt(members), rel=0.1)
    assert content["disagreement"]["rms"] == pytest.approx(single * np.sqrt((members - 1) / members), rel=0.1)
    assert content["rmse"]["energy"]["mean"] == pytest.approx(1000 * 0.6 / atoms)
    assert content["rmse"]["stress"]["mean"] is None
    errors = found.force_errors()
    assert content["correlation"]["pearson"] == pytest.approx(np.corrcoef(errors, found.disagreement())[0, 1])
    assert min(content["correlation"]["pearson"], content["correlation"]["spearman"]) > 0.8
    assert content["correlation"]["frames"] == frames
    cells = list(committee_table({"test": found}).columns[2].cells)
    assert f"{content['correlation']['pearson']:.3f}" in cells
    equal = Committee([truth, truth], truth).as_json()
    assert equal["correlation"]["pearson"] is None
    assert equal["disagreement"]["rms"] == 0.0
    with pytest.raises(CommitteeError, match="at least 2"):
        Committee([truth], truth)


def events_of(folder: Path) -> dict[str, dict[int, float]]:
    """Scalars of TensorBoard's event files by name and step; each record is length, check sum, content, check sum."""
    from tensorboardX.proto import event_pb2

    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("events*"), key=lambda path: path.stat().st_mtime_ns):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (size,) = struct.unpack_from("<Q", content, place)
            event = event_pb2.Event.FromString(content[place + 12 : place + 12 + size])
            place += 16 + size
            if event.session_log.status == event_pb2.SessionLog.START:
                for steps in found.values():
                    for step in [step for step in steps if step >= event.step]:
                        del steps[step]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_metrics_go_to_tensorboard(tmp_path: Path) -> None:
    frames, config = make_frames(6), settings(epochs=4, log_to=["tensorboard"])
    stopped = dataclasses.replace(config, training=dataclasses.replace(config.training, max_minutes=1e-9))
    train(stopped, frames[:4], frames[4:], tmp_path, quiet)
    train(config, frames[:4], frames[4:], tmp_path, quiet, resume=True)
    rows, events = rows_of(tmp_path), events_of(tmp_path / "tensorboard")
    assert [int(row["step"]) for row in rows][-4:] == [2, 4, 6, 8]
    for column, tag in (
        ("learning_rate", "learning_rate"),
        ("train_loss", "train/loss"),
        ("valid_forces_rmse", "valid/forces_rmse"),
    ):
        expected = {int(row["step"]): float(row[column]) for row in rows}
        assert events[tag] == pytest.approx(expected, rel=1e-5)
        assert min(expected.values()) > 0


def test_metrics_go_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    frames = make_frames(3)
    train(settings(epochs=2, log_to=["wandb"]), frames[:2], frames[2:], tmp_path, quiet)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"valid/forces_rmse" in file.read_bytes()
    assert (tmp_path / "wandb.id").read_text() in file.name


def test_a_missing_logger_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"training\.log_to = \['tensorbored'\]: give a list out of tensorboard, wandb"
    ):
        settings(log_to=["tensorbored"])
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    frames = make_frames(2)
    with pytest.raises(
        loggers.LoggerError, match=r"needs the package tensorboardX: pip install 'so3krates\[logging\]'"
    ):
        train(settings(log_to=["tensorboard"]), frames, [], tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_bars_of_elements_stand_above_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure) or path)
    sets = {}
    for name, symbols in (("train", "CuAg"), ("test", "AgAu")):
        frames = [Atoms(symbols, np.zeros((2, 3)))]
        truth = Properties(np.full(1, 2), np.zeros(1), [np.ones((2, 3))], np.full((1, 3, 3), np.nan))
        guess = truth._replace(forces=[np.array([[1.1] * 3, [1.2] * 3])])
        sets[name] = breakdown(frames, guess, truth)
    breakdown_plot(tmp_path / "b.png", sets)
    axes = figures[0].axes[2]
    names = [tick.get_text() for tick in axes.get_xticklabels()]
    bars = [(names[round(bar.get_x())], bar.get_height()) for bar in axes.patches]
    assert set(names) == {"Cu", "Ag", "Au"}
    expected = [(e, errors.rmse) for part in sets.values() for e, errors in part.elements.items()]
    assert sorted(bars) == sorted(expected)
    assert len(set(bars)) == 4


def test_a_streamed_committee_is_trained_as_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.extxyz", make_frames(7, repeat=(1, 2)))
    config = settings(epochs=1)
    data = DataConfig(file=str(tmp_path / "a.extxyz"), n_train=5, n_valid=2, stream=True)
    streamed = dataclasses.replace(config, data=data)
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(TrainingError, match="s holds no run to resume"):
        run_session(streamed, tmp_path / "s", console, resume=True, members=2)
    results = run_session(streamed, tmp_path / "s", console, tmp_path / "a.extxyz", members=2)
    assert [result.folder.name for result in results] == ["seed-0", "seed-1"]
    first, second = (jax.tree.leaves(result.model.params) for result in results)
    assert max(np.abs(a - b).max() for a, b in zip(first, second, strict=True)) > 0.01
    errors = json.loads((tmp_path / "s" / "seed-1" / "report" / "errors.json").read_text())
    assert [errors[name]["energy"]["count"] for name in ("train", "valid", "test")] == [5, 2, 7]
    both = json.loads((tmp_path / "s" / "report" / "errors.json").read_text())["test"]
    assert both["committee"]["members"] == 2
    assert both["committee"]["disagreement"]["rms"] > 0
    assert both["forces"]["rmse"] == both["committee"]["rmse"]["forces"]["mean"]
    evaluated = CliRunner().invoke(
        app, ["evaluate", str(tmp_path / "s"), str(tmp_path / "a.extxyz"), "--json", str(tmp_path / "e.json")]
    )
    assert evaluated.exit_code == 0, evaluated.output
    assert "correlation with the force error" in evaluated.output
    again = json.loads((tmp_path / "e.json").read_text())["a"]
    assert again["committee"]["rmse"]["forces"]["mean"] == pytest.approx(both["forces"]["rmse"], rel=1e-4)
    frames = load_frames(dataclasses.replace(data, stream=False))
    plain = train(config, *frames, tmp_path / "plain", quiet)
    assert_same(plain.model.params, results[0].model.params)
    assert plain.model.energy_shifts == results[0].model.energy_shifts
    monkeypatch.setattr(session, "write_report", lambda *_, **__: None)
    again = run_session(streamed, tmp_path / "s", console, resume=True, members=2)
    assert_same(again[1].model.params, results[1].model.params)
    # A second run in the folder of a running one must leave its frames alone.
    stored = (tmp_path / "s" / "frames" / "store.json").read_bytes()
    write(tmp_path / "a.extxyz", make_frames(7, seed=1))
    with pytest.raises(TrainingError, match="seed-0 holds a run already"):
        run_session(streamed, tmp_path / "s", console, members=2)
    assert (tmp_path / "s" / "frames" / "store.json").read_bytes() == stored


def test_frames_come_from_the_files_of_the_settings(tmp_path: Path) -> None:
    frames = make_frames(10)
    write(tmp_path / "a.extxyz", frames)
    file = str(tmp_path / "a.extxyz")
    assert [len(part) for part in load_frames(DataConfig(file=file))] == [8, 1]
    assert [len(part) for part in load_frames(DataConfig(file=file, n_train=3))] == [3, 7]
    assert [len(part) for part in load_frames(DataConfig(train_file=file))] == [10, 0]
    with pytest.raises(DataError, match=r"name data\.file"):
        load_frames(DataConfig())


# Real data


@pytest.mark.skipif(not (SHARED / "data" / "gan_pbesol").is_dir(), reason="shared/data/gan_pbesol is not there")
def test_all_electron_energies_lose_nothing(tmp_path: Path) -> None:
    frames, test = (read_frames(SHARED / "data" / "gan_pbesol" / f"{name}.extxyz") for name in ("train40", "test8"))
    assert (len(frames), len(test)) == (40, 8)
    config = dataclasses.replace(settings(epochs=1, batch_size=1), model=SMALL, data=DataConfig(energy_shift="mean"))
    shifts = energy_shifts(frames, "mean")
    assert shifts["Ga"] == shifts["N"] == pytest.approx(-27314, abs=1)
    graphs = frame_graphs(frames, 5.0, shifts)
    for graph, atoms in zip(graphs, frames, strict=True):
        assert graph.energy + 180 * (shifts["Ga"] + shifts["N"]) == pytest.approx(labels(atoms).energy, abs=TOTAL)
        assert abs(graph.energy) < 100
    assert np.std([g.energy for g in graphs]) > 1
    result = train(config, frames[:2], frames[2:3], tmp_path / "run", quiet)
    assert result.steps == 2
    predicted, truth = evaluate(result.model, test[:2]), reference(test[:2])
    # The shifts alone are right to the spread of the frames; float32 totals would be off by up to an eV.
    assert np.abs(predicted.energies - truth.energies).max() < 1000
    difference = predicted.energies - np.float32(predicted.energies)
    assert np.abs(difference).max() > 1e-3
