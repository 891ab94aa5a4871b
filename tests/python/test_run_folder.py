"""The folder of a run under faults: damaged states and settings, files of others, a full disc, reports that fail."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ase import Atoms
from rich.console import Console
from so3krates.files import WriteError, only_user
from so3krates.storage import Model
from so3krates.training import TrainingError, run_folder, run_session, train
from so3krates.training import report as report_module
from so3krates.training.checkpoints import CheckpointError, Checkpoints
from so3krates.training.clock import Clock
from so3krates.training.progress import Status, describe
from so3krates.training.report import ReportError
from so3krates.training.run_folder import RunFolder
from test_files import small_files
from training_runs import assert_same, make_frames, quiet, settings

COURSE = {"epochs": 3, "checkpoint_minutes": 0.0}  # a state after each of its 6 steps
LONGEST = 600  # characters of a message


def state_of(step: int) -> dict:
    random = np.random.default_rng(step)
    return {"weights": random.normal(size=(30, 40)).astype(np.float32), "step": np.array(step, np.int32)}


@pytest.fixture(scope="module")
def two_states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("states") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for step in (10, 20):
        checkpoints.save(step, state_of(step), {"seconds": 1.5 * step})
    checkpoints.close()
    return folder


def load(folder: Path) -> tuple[int, dict, str | None]:
    checkpoints = Checkpoints(folder)
    try:
        stored = checkpoints.load(state_of(0))
        assert stored is not None
        assert_same(stored.state, state_of(stored.step))
        return stored.step, stored.notes, stored.warning
    finally:
        checkpoints.close()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": flip,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damaged_file_is_told_or_harmless(
    two_states: Path, tmp_path: Path, damage: str, capfd: pytest.CaptureFixture
) -> None:
    """What is read is the state of step 20 or, with a warning, that of step 10, to the bit: never something else."""
    files = sorted(path.relative_to(two_states) for path in (two_states / "20").rglob("*") if path.is_file())
    found = []
    for number, name in enumerate(files):
        folder = tmp_path / f"{number}" / "checkpoints"
        shutil.copytree(two_states, folder)
        DAMAGES[damage](folder / name)
        step, _, warning = load(folder)
        found.append(step)
        assert (warning is None) == (step == 20)
        if warning is not None:
            assert "step 20 (" in warning
            assert "goes on from step 10" in warning
            assert len(warning.splitlines()) == 1
            assert len(warning) < LONGEST
            assert (folder.parent / "damaged-checkpoint-20").is_dir()
            assert not (folder / "20").exists()
    assert {10, 20} == set(found)
    assert "Traceback" not in capfd.readouterr().err


def test_states_that_cannot_be_listed(two_states: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(two_states, tmp_path / "checkpoints"))
    (folder / "20" / "_CHECKPOINT_METADATA").write_text("[]")
    with pytest.raises(CheckpointError, match=r"cannot be listed: .*list: move the newest of its folders out of it"):
        load(folder)
    (folder / "20").rename(tmp_path / "20")
    assert load(folder)[::2] == (10, None)


def test_all_states_emptied(two_states: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line, and nothing of orbax beside it."""
    folder = Path(shutil.copytree(two_states, tmp_path / "checkpoints"))
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no state can be read: step 20 \(.*\); step 10 \(.*\)"):
        load(folder)
    assert caplog.records == []


def test_states_larger_than_files_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every array fails, one after the other: said once, whatever threads tell of the others later."""
    others: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", others.append)
    states = Checkpoints(tmp_path / "checkpoints")
    states.save(1, state_of(1))
    random = np.random.default_rng(0)
    for step in range(2, 8):
        large = {str(k): random.random(20_000) for k in range(8)}
        words = r"could not be saved: File too large \(.*: ulimit -f\); that of step 1 is as it was"
        with small_files(), pytest.raises(CheckpointError, match=words):
            states.save(step, large)
    states.close()
    assert others == []
    assert load(tmp_path / "checkpoints")[::2] == (1, None)


def test_want_of_memory_is_no_damage(two_states: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(two_states, tmp_path / "checkpoints"))

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_read", fail)
        with pytest.raises(MemoryError):
            load(folder)
    assert load(folder)[::2] == (20, None)


def test_damaged_folders_of_states(two_states: Path, tmp_path: Path) -> None:
    assert load(two_states) == (20, {"seconds": 30.0}, None)
    for name in ("20", "20/default", "20/default/d"):
        folder = tmp_path / name.replace("/", "-") / "checkpoints"
        shutil.copytree(two_states, folder)
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
        step, notes, warning = load(folder)
        assert (step, notes) == (10, {"seconds": 15.0})
        assert "goes on from step 10" in (warning or "")
    shutil.copytree(folder, tmp_path / "all")
    for step in ("10", "20"):
        shutil.rmtree(tmp_path / "all" / step, ignore_errors=True)
        (tmp_path / "all" / step).mkdir()
    checkpoints = Checkpoints(tmp_path / "all")
    with pytest.raises(
        CheckpointError, match=r"no state can be read: step 20 .*; step 10 .*training\.initial_model"
    ) as error:
        checkpoints.load(state_of(0))
    assert len(str(error.value)) < LONGEST
    checkpoints.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="a file of that name is there already"):
        Checkpoints(tmp_path / "file")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Atoms], dict]:
    """A run with a state after each step: its folder, frames and weights."""
    folder, frames = tmp_path_factory.mktemp("finished") / "run", make_frames(6)
    result = train(settings(**COURSE), frames[:4], frames[4:], folder, quiet)
    return folder, frames, result.model.params


def resume(folder: Path, frames: list[Atoms]) -> tuple[dict, list[str], list[int]]:
    said: list[str] = []
    steps: list[int] = []

    def listen(status: Status) -> None:
        steps.append(status.step)
        if status.message:
            said.append(status.message)

    result = train(settings(**COURSE), frames[:4], frames[4:], folder, listen, resume=True)
    return result.model.params, said, steps


def test_a_run_goes_on_from_the_older_state(finished: tuple, tmp_path: Path) -> None:
    original, frames, weights = finished
    folder = tmp_path / "run"
    shutil.copytree(original, folder)
    for path in (folder / "checkpoints" / "6").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    params, said, steps = resume(folder, frames)
    assert len(said) == 1
    assert "step 6 (" in said[0]
    assert "step 5" in said[0]
    assert steps[-1] == 6
    assert_same(params, weights)
    again, said, _ = resume(folder, frames)
    assert not said
    assert_same(again, weights)


def rows_of(folder: Path) -> list[list[str]]:
    with open(folder / "metrics.csv", newline="") as handle:
        return list(csv.reader(handle))


def test_the_clock_goes_on_after_an_interruption(finished: tuple, tmp_path: Path) -> None:
    original, frames, _ = finished
    folder = tmp_path / "run"
    shutil.copytree(original, folder)
    shutil.rmtree(folder / "checkpoints" / "6")
    stored = Checkpoints(folder / "checkpoints")
    notes = stored.load(stored._manager.restore(5, args=ocp.args.StandardRestore())).notes
    stored.close()
    result = train(settings(**COURSE), frames[:4], frames[4:], folder, quiet, resume=True)
    assert result.seconds == pytest.approx(notes["seconds"] + result.seconds_here, abs=1.0)
    assert notes["seconds"] > 0
    seconds = [float(row[2]) for row in rows_of(folder)[1:]]
    assert len(seconds) == 3
    assert seconds == sorted(seconds)
    assert seconds[-1] >= notes["seconds"]


def test_the_clock_leaves_out_compilation() -> None:
    clock = Clock(before=100.0)
    assert clock.total >= 100.0
    assert clock.left(10) == np.inf
    clock.step(60.0, "small")  # compiled
    assert clock.left(10) == np.inf
    clock.step(2.0, "small")
    clock.step(70.0, "large")
    clock.step(4.0, "large")
    clock.validation(50.0)  # compiled
    assert clock.left(10) == pytest.approx(30.0)
    for _ in range(2):
        clock.step(3.0, "small")
    clock.validation(5.0)
    clock.checkpoint(1.0)
    assert clock.left(10) == pytest.approx(10 * (3.0 + 6.0 / 2))
    assert clock.per_step == pytest.approx(3.0)
    assert clock.left(0) == 0.0


def test_progress_says_what_its_columns_are() -> None:
    errors = np.array([1.25, 30.0, np.nan])
    status = Status(5, 10, 1, 2, 1e-3, 0.0066, errors, None, None, 10.0, 61.0)
    assert describe(status) == "epoch 1/2  61 s left  train: loss 0.0066  energy 1.25 meV/atom  forces 30 meV/A"
    begun = Status(0, 10, 0, 2, 1e-3, np.nan, np.full(3, np.nan), None, None, 0.0, np.inf)
    assert describe(begun) == "epoch 0/2  unknown time left"
    over = Status(10, 10, 2, 2, 1e-3, np.nan, np.full(3, np.nan), None, None, 10.0, 0.0)  # resumed at its end
    assert describe(over) == "epoch 2/2  0 s left"
    both = Status(5, 10, 1, 2, 1e-3, 0.0066, errors, 0.0053, 2 * errors, 10.0, 61.0)
    assert describe(both).endswith("train|valid: loss 0.0066|0.0053  energy 1.25|2.5 meV/atom  forces 30|60 meV/A")


@pytest.mark.parametrize(
    "content", ["", "{", "null", "[]", '{"config": 3}', '{"config": {"model": {"a": 1}}, "data": ""}']
)
def test_damaged_settings_of_a_run(finished: tuple, tmp_path: Path, content: str) -> None:
    original, frames, weights = finished
    folder = tmp_path / "run"
    shutil.copytree(original, folder)
    (folder / "run.json").write_text(content)
    with pytest.raises(TrainingError, match="holds a run already"):
        train(settings(**COURSE), frames[:4], frames[4:], folder, quiet)
    with pytest.raises(TrainingError, match=r"run\.json is damaged .*: delete it and resume") as error:
        resume(folder, frames)
    assert len(str(error.value).splitlines()) == 1
    if content:
        return
    (folder / "run.json").unlink()
    with pytest.raises(TrainingError, match="holds a run already"):
        train(settings(**COURSE), frames[:4], frames[4:], folder, quiet)
    params, said, _ = resume(folder, frames)
    assert "run.json is missing" in said[0]
    assert_same(params, weights)
    assert json.loads((folder / "run.json").read_text())["data"]


@pytest.mark.parametrize("name", ["metrics.csv", "config.toml", "weights.safetensors", "report"])
def test_files_of_others_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    frames = make_frames(2)
    with pytest.raises(TrainingError, match="is there already, but no run"):
        train(settings(), frames, [], tmp_path, quiet)
    assert (tmp_path / name).read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_folder_that_another_run_works_in_is_refused(tmp_path: Path) -> None:
    with only_user(tmp_path), pytest.raises(WriteError, match="another command is at work in it"):
        RunFolder(tmp_path, settings(), "data", resume=False)
    assert not list(tmp_path.iterdir())
    RunFolder(tmp_path, settings(), "data", resume=False).close()
    assert (tmp_path / "run.json").is_file()


def test_metrics_that_are_not_of_the_run(finished: tuple, tmp_path: Path) -> None:
    original, frames, _ = finished
    folder = tmp_path / "run"
    shutil.copytree(original, folder)
    whole = rows_of(folder)
    (folder / "metrics.csv").write_text("time,price\n1,2\n")
    with pytest.raises(TrainingError, match="its first line is 'time,price'"):
        resume(folder, frames)
    text = "\n".join(",".join(row) for row in whole)
    (folder / "metrics.csv").write_text(text[: text.rindex(",")])  # killed in the last row
    resume(folder, frames)
    assert rows_of(folder) == whole[:-1]


def test_a_full_disc_ends_a_run_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = make_frames(6)
    whole = train(settings(**COURSE), frames[:4], frames[4:], tmp_path / "whole", quiet)
    saved = ocp.CheckpointManager.save

    def full(self: ocp.CheckpointManager, step: int, *args: object, **kwargs: object) -> bool:
        if step < 4:
            return saved(self, step, *args, **kwargs)
        (Path(self.directory) / f"{step}.orbax-checkpoint-tmp").mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: Error writing zarr: No space left on device " + "x" * 2000)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", full)
        with pytest.raises(
            CheckpointError, match=r"step 4 could not be saved: No space left .*step 3 is as it was"
        ) as error:
            train(settings(**COURSE), frames[:4], frames[4:], folder, quiet)
    assert len(str(error.value)) < LONGEST
    assert sorted(entry.name for entry in (folder / "checkpoints").glob("[0-9]*")) == ["2", "3"]
    Model.load(folder)
    params, said, steps = resume(folder, frames)
    assert min(steps) == 4
    assert not said
    assert_same(params, whole.model.params)


def test_a_disc_full_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best weights are smaller than a state, and are saved first."""
    frames = make_frames(6)
    with monkeypatch.context() as patch:
        patch.setattr(run_folder.Checkpoints, "save", lambda *_: (_ for _ in ()).throw(CheckpointError("full")))
        with pytest.raises(CheckpointError):
            train(settings(epochs=1), frames[:4], frames[4:], tmp_path / "run", quiet)
    Model.load(tmp_path / "run")
    said: list[str] = []
    train(
        settings(epochs=1),
        frames[:4],
        frames[4:],
        tmp_path / "run",
        lambda status: said.append(status.message or ""),
        resume=True,
    )
    assert "no state was saved yet, the run begins anew" in said[0]


def test_a_report_that_fails_loses_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = make_frames(6)
    monkeypatch.setattr("so3krates.training.session.load_frames", lambda *_: (frames[:4], frames[4:]))

    def broken(*_: object) -> None:
        raise RuntimeError("no fonts\nat all")

    monkeypatch.setattr(report_module, "parity_plot", broken)
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(ReportError, match="trained and saved, but not reported in full"):
        run_session(settings(epochs=1), tmp_path / "models", console, members=2)
    said = console.file.getvalue()
    for name in ("seed-0", "seed-1"):
        folder = tmp_path / "models" / name
        assert jax.tree.leaves(Model.load(folder).params)
        assert {
            "errors.json",
            "errors.txt",
            "breakdown.png",
            "learning_curve.png",
            "uncertainty.png",
            "report.html",
        } == {entry.name for entry in (folder / "report").iterdir()}
        assert (
            f"The report of {folder} is not complete: {folder / 'report'} lacks parity.png (no fonts at all)"
            in " ".join(said.split())
        )
    assert "evaluating train: 4" in said
    assert "finding the neighbours in 4 + 2 frames" in said
