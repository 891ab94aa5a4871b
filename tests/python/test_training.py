"""The course of a run: learning, resuming, recovery, its end, metrics, and a first look at real data."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from rich.console import Console
from so3krates.cli import app
from so3krates.data import (
    Buckets,
    DataError,
    Labels,
    collate,
    data_report,
    energy_shifts,
    frame_graphs,
    labels,
    read_frames,
)
from so3krates.data import with_labels as label
from so3krates.model.config import ConfigError
from so3krates.model.network import init_params
from so3krates.storage import Model
from so3krates.training import (
    DataConfig,
    Status,
    TrainingConfig,
    TrainingError,
    error_table,
    evaluate,
    load_frames,
    loggers,
    reference,
    run_session,
    session,
    train,
)
from so3krates.training.loss import loss_of, normalised_weights, unit_scales, variance_scales
from so3krates.training.material import Material
from so3krates.training.optimiser import MUON_RMS, make_optimiser, make_schedule
from so3krates.training.step import batch_errors, initial_state, make_step
from training_runs import SMALL, assert_same, make_frames, quiet, rows_of, settings
from typer.testing import CliRunner

SHARED = Path(__file__).parents[3] / "shared"
TOTAL = 1e-7  # eV, totals of 1e7 eV have digits to 2e-9


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
    forces = [np.linalg.norm(reference([atoms]).forces[0], axis=1).max() for atoms in frames[:8]]
    assert (model.training or {})["largest_force"] == pytest.approx(max(forces)) and max(forces) > 0.1
    assert set((model.training or {})["distances"]) == {"Cu-Cu"}
    assert model.energy_shifts == result.model.energy_shifts
    config = settings(epochs=30, ema_decay=0.9)
    graphs = frame_graphs(frames[:8], SMALL.cutoff, model.energy_shifts)
    valid = frame_graphs(frames[8:], SMALL.cutoff, model.energy_shifts)
    batch, targets = collate(valid, Buckets(valid, 2).shape(range(len(valid))))
    sums = batch_errors(SMALL, model.params, batch, targets, variance_scales(graphs))
    assert float(loss_of(sums, normalised_weights(config.training))) == pytest.approx(result.best_loss, rel=1e-3)


@pytest.mark.parametrize(
    ("every", "optimiser", "repeat"),
    [
        (0.0, "muon", (1,)),  # each length of a batch is a program
        *(pytest.param(0.0, o, (1, 2), marks=pytest.mark.torture) for o in ("muon", "adam")),
        pytest.param(60.0, "adam", (1, 2), marks=pytest.mark.torture),
    ],
)
def test_a_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, every: float, optimiser: str, repeat: tuple[int, ...]
) -> None:
    frames = make_frames(9, repeat=repeat)
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
    with pytest.raises(ConfigError, match=r"model\.layers = 2, but training\.initial_model = .* has 1: leave it out"):
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
    batch, targets = collate([graph], Buckets([graph], 1).shape([0]))
    config = TrainingConfig()
    step = make_step(SMALL, config)
    params = init_params(SMALL, 0)
    bad = targets._replace(energies=np.full_like(targets.energies, 1e30))
    state, result = step(initial_state(config, params), batch, bad, unit_scales(), 10)
    assert not bool(result.finite)
    assert int(state.step) == 1
    assert_same(state.params, params)
    state, result = step(initial_state(config, params), batch, targets, unit_scales(), 10)
    assert bool(result.finite)
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), state.params, params)
    # Adam's first step is the learning rate wherever there is a gradient.
    assert max(jax.tree.leaves(moved)) == pytest.approx(config.learning_rate, rel=1e-2)


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


def test_a_uniform_basis_begins_where_the_data_do(tmp_path: Path) -> None:
    frames = make_frames(4)
    model = dataclasses.replace(SMALL, radial_basis="gaussian")
    config = dataclasses.replace(settings(epochs=1), model=model)
    first = train(config, frames, [], tmp_path / "a", quiet).model
    shortest = min(first.training["distances"].values())
    assert 0.8 * shortest < first.config.radial_start < shortest
    assert first.config.radial_start == pytest.approx(round(first.config.radial_start, 1), abs=0)
    assert Model.load(tmp_path / "a").config == first.config
    # Weights of a model mean something on its own basis only.
    near = []
    for atoms in make_frames(3, seed=1):
        squeezed = atoms.copy()
        squeezed.set_cell(0.8 * atoms.cell.array, scale_atoms=True)
        near.append(label(squeezed, labels(atoms)))
    assert Material(config, near, []).config.model.radial_start < first.config.radial_start
    standing = dataclasses.replace(config.training, initial_model=str(tmp_path / "a"))
    assert Material(dataclasses.replace(config, training=standing), near, []).config.model == first.config


def test_isolated_atoms_alone_teach_nothing(tmp_path: Path) -> None:
    far = [label(Atoms("Cu", cell=[9.0] * 3, pbc=True), Labels(-1.0, np.zeros((1, 3)), np.zeros((3, 3))))] * 3
    with pytest.raises(
        DataError, match=r"no two atoms of 3 training frames are within model.cutoff = 4 A of each other"
    ):
        Material(settings(), far, [])
    assert Material(settings(), [*far, *make_frames(1)], []).distances
    report = data_report(far)
    assert "no frame has two atoms within 4 A of each other" in " ".join(report.warnings)


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
        loggers.LoggerError, match=r"needs the package tensorboardX: .*pip install 'so3krates\[logging\]'"
    ):
        train(settings(log_to=["tensorboard"]), frames, [], tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


@pytest.mark.torture
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
    monkeypatch.setattr(session, "write_report", lambda *_, **__: {})
    again = run_session(streamed, tmp_path / "s", console, resume=True, members=2)
    assert_same(again[1].model.params, results[1].model.params)
    # A second run in the folder of a running one must leave its frames alone.
    stored = (tmp_path / "s" / "frames" / "store.json").read_bytes()
    write(tmp_path / "a.extxyz", make_frames(7, seed=1))
    with pytest.raises(TrainingError, match="seed-0 holds a run already"):
        run_session(streamed, tmp_path / "s", console, members=2)
    assert (tmp_path / "s" / "frames" / "store.json").read_bytes() == stored


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
