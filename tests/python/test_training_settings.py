"""Settings of training: presets, files, the keys of the original, what is refused; the frames they name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase.io import write
from so3krates.cli_train import run_config
from so3krates.data import DataError
from so3krates.model.config import ConfigError
from so3krates.training import (
    DataConfig,
    RunConfig,
    budget,
    load_frames,
    preset,
)
from so3krates.training.loss import normalised_weights
from so3krates.training.optimiser import make_schedule
from training_runs import make_frames


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


def test_what_is_left_out_is_that_of_a_preset(tmp_path: Path) -> None:
    balanced = preset("balanced")
    assert RunConfig.from_dict({}) == balanced
    assert (balanced.model.radial_basis, balanced.model.radial_start) == ("gaussian", None)
    assert (balanced.training.optimiser, balanced.training.schedule) == ("muon", "cosine")
    changed = RunConfig.from_dict({"model": {"features": 48}, "training": {"ema_decay": 0.0}})
    assert changed.model.radial_filter_features == (48, 48)
    assert (changed.training.ema_decay, changed.training.clip_norm) == (0.0, balanced.training.clip_norm)
    recommended = [preset(name) for name in ("fast", "balanced", "accurate")]
    sizes = [config.model.features for config in recommended]
    assert sizes == sorted(set(sizes))
    assert [config.training.per_atom for config in (*recommended, preset("gan"))] == [True, True, True, False]
    for name in ("gan", "fast", "balanced", "accurate"):
        preset(name).save(tmp_path / "c.toml")
        assert RunConfig.load(tmp_path / "c.toml") == preset(name)
    # Keys of the original come with the original's defaults.
    original = RunConfig.from_dict({"r_cut": 4.0})
    assert (original.model.radial_basis, original.training.optimiser, original.training.epochs) == (
        "phys",
        "adam",
        2000,
    )
    assert (original.training.clip_norm, original.training.per_atom) == (None, False)


def test_epochs_follow_from_the_steps_and_the_data() -> None:
    training = RunConfig.from_dict({"training": {"steps": 1000}}).training
    assert [training.epochs_for(steps) for steps in (1, 7, 1000, 5000)] == [1000, 143, 1, 1]
    assert dataclasses.replace(training, epochs=3).epochs_for(7) == 3
    hurried = RunConfig.from_dict({"preset": "gan", "training": {"hours": 2}}).training
    assert (hurried.epochs, hurried.hours) == (None, 2)  # the preset's number of epochs is not asked for


@pytest.mark.parametrize(
    ("shapes", "deadline", "epochs"),
    [
        # Two steps compile, 20 are timed; validations take 5 s and 2 s; an epoch 10 * 1 s + 2 s; 953 s are left.
        (2, 1000.0, 79),
        # Nothing but new shapes for a tenth of the time: the last is timed again. 1000 - 100 - 1 - 7 = 892 s.
        (10_000, 1000.0, 74),
        (2, 0.0, 1),
    ],
)
def test_hours_hold_epochs(monkeypatch: pytest.MonkeyPatch, shapes: int, deadline: float, epochs: int) -> None:
    now, compiled = 0.0, set()
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: now))
    material = SimpleNamespace(
        batch=lambda n: np.zeros(1 + n % shapes), steps_per_epoch=10, eval_every=10, valid_graphs=["a frame"]
    )

    def takes(first: float, then: float, program: object) -> None:
        nonlocal now
        now += then if program in compiled else first
        compiled.add(program)

    found = budget.epochs_until(
        deadline, material, lambda n: takes(10.0, 1.0, n % shapes), lambda: takes(5.0, 2.0, "validation")
    )
    assert found == epochs


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
        ({"training": {"learning_rate": 1e-7}}, "learning_rate_stop"),
        ({"training": {"energy_weight": 0, "force_weight": 0, "stress_weight": 0}}, "at least one weight"),
        ({"training": {"float64": 1}}, "training.float64 = 1: give true or false"),
        ({"data": {"energy_shift": "median"}}, "data.energy_shift = 'median'"),
        ({"data": {"energy_shift": {"Ga": -1.5, "Nn": 2.0}}}, "data.energy_shift = {'Ga': -1.5, 'Nn': 2.0}"),
        ({"data": {"file": "a", "train_file": "b"}}, "either file or train_file"),
        ({"data": {"n_valid": 3}}, "n_train with it"),
        ({"training": {"patience": 1.5}}, "a share of all below 1"),
        ({"training": {"hours": 0}}, "training.hours = 0"),
        ({"training": {"steps": 5, "epochs": 3}}, "training.steps = 5 and training.epochs = 3: each says how long"),
        ({"preset": "gan", "training": {"steps": 5, "hours": 1}}, "training.steps = 5 and training.hours = 1"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate = inf"),
        ({"training": {"seed_model": 10**20}}, "training.seed_model = 100000000000000000000"),
        ({"model": {"radial_start": -1}}, "radial_start = -1"),
        ({"model": {"feature": 3}}, "unknown model setting 'feature'"),
        ({"preset": "gold"}, "known are fast, balanced, accurate, gan"),
        ({"ace": True}, "ACE"),
        ({"learning": 3}, "unknown key 'learning'"),
    ],
)
def test_bad_settings_are_refused_by_name(given: dict, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        RunConfig.from_dict(given)
    assert words in str(error.value)


def test_the_length_that_is_given_last_counts(tmp_path: Path) -> None:
    file, frames = tmp_path / "s.toml", Path("x.extxyz")
    file.write_text("[training]\nepochs = 3\n")

    def length(*given: str, hours: float | None = None, config: Path | None = file) -> tuple[object, ...]:
        t = run_config(config, None if config else "gan", frames, given, hours).training
        return t.epochs, t.hours, t.steps if t.epochs is None and t.hours is None else None

    assert length() == (3, None, None)
    assert length("training.steps=50") == (None, None, 50)
    assert length("training.steps=50", config=None) == (None, None, 50)  # the preset has epochs
    assert length("training.epochs=5") == (5, None, None)
    assert length(hours=2.0) == (None, 2.0, None)
    assert length("training.epochs=5", hours=2.0) == (5, 2.0, None)  # at most so long
    for given in (("training.steps=5", "training.epochs=3"), ("training.steps=5", "training.hours=1")):
        with pytest.raises(ConfigError, match="each says how long the run is: give one of them"):
            length(*given)
    with pytest.raises(ConfigError, match=r"training.steps = 5 and training.hours = 2.0"):
        length("training.steps=5", hours=2.0)
    preset("gan").save(file)  # which names all keys
    assert length("training.steps=50") == (None, None, 50) and length()[0] == 2000


def test_frames_come_from_the_files_of_the_settings(tmp_path: Path) -> None:
    frames = make_frames(10)
    write(tmp_path / "a.extxyz", frames)
    file = str(tmp_path / "a.extxyz")
    assert [len(part) for part in load_frames(DataConfig(file=file))] == [8, 1]
    assert [len(part) for part in load_frames(DataConfig(file=file, n_train=3))] == [3, 7]
    assert [len(part) for part in load_frames(DataConfig(train_file=file))] == [10, 0]
    with pytest.raises(DataError, match=r"name data\.file"):
        load_frames(DataConfig())
