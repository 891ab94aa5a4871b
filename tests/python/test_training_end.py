"""What ends a run: its time, its rate, a validation that gets no better; and that it goes on from there as it would."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from so3krates.data import labels
from so3krates.data import with_labels as label
from so3krates.training import Status, TrainingError, train
from so3krates.training.optimiser import make_schedule
from training_runs import assert_same, make_frames, quiet, rows_of, settings


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


def test_hours_end_a_run_that_more_of_them_finish(tmp_path: Path) -> None:
    frames = make_frames(5)
    said: list[str | None] = []
    config = settings(epochs=None, hours=1e-6)  # over after the first step, which is compiled
    first = train(config, frames[:4], frames[4:], tmp_path / "a", lambda status: said.append(status.message))
    assert "1e-06 hours hold 1 epoch of 2 steps" in said
    assert (first.steps, first.reason.split(";")[0]) == (1, "training.hours = 1e-06 are over")
    left: list[float] = []
    config = settings(epochs=None, hours=1.0)
    last = train(config, frames[:4], frames[4:], tmp_path / "a", lambda status: left.append(status.seconds_left), True)
    assert 0 <= max(left) < 3600  # also where the time of a step is not known yet
    assert (last.steps, last.reason) == (2, "all 1 epochs done")
    whole = train(settings(epochs=1), frames[:4], frames[4:], tmp_path / "b", quiet)
    assert_same(last.model.params, whole.model.params)  # timing leaves no trace


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


def test_a_run_that_gets_no_better_goes_back_and_its_rate_falls(tmp_path: Path) -> None:
    """Also where it is interrupted in between; the end of the schedule is that of a run of twice the best step."""
    frames = make_frames(4)
    opposite = [label(a, labels(a)._replace(forces=-labels(a).forces)) for a in frames]
    config = settings(epochs=200, patience=20, schedule="cosine", learning_rate_stop=1e-6)
    said: list[str] = []
    result = train(config, frames, opposite, tmp_path / "a", lambda status: said.append(status.message or ""))
    words = [message for message in said if "back to its weights" in message]
    assert len(words) == 1
    stale, steps = re.fullmatch(
        r"no lower validation loss in 20 validations since step (\d+): back to its weights, and the learning rate "
        r"falls within (\d+) steps",
        words[0],
    ).groups()
    begun, fall = int(stale) + 2 * 20, int(steps)
    assert fall == int(stale) and result.steps == begun + fall < 400
    assert result.reason.endswith(f"since step {stale}; from there on the learning rate fell within {steps} steps")
    rates = {int(row["step"]): float(row["learning_rate"]) for row in rows_of(tmp_path / "a")}
    assert rates[begun] > 0.8 * 3e-3
    schedule = make_schedule(config.training, 2 * fall)
    expected = [float(schedule(fall + 1)), float(schedule(2 * fall - 1))]
    assert [rates[begun + 2], rates[result.steps]] == pytest.approx(expected, rel=1e-4)

    sent: list[int] = []

    def interrupt(status: Status) -> None:
        if status.step == begun + fall // 2 and not sent:
            sent.append(status.step)
            signal.raise_signal(signal.SIGINT)

    stopped = train(config, frames, opposite, tmp_path / "b", interrupt)
    assert stopped.steps == begun + fall // 2
    resumed = train(config, frames, opposite, tmp_path / "b", quiet, resume=True)
    assert (resumed.steps, resumed.best_step, resumed.reason) == (result.steps, result.best_step, result.reason)
    assert_same(resumed.model.params, result.model.params)
    assert rows_of(tmp_path / "a")[-1] == rows_of(tmp_path / "b")[-1]
