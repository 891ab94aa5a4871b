"""The course of a run: steps, validation, checkpoints, resuming, recovery from NaN."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms

from so3krates.data import DataError, StoredFrames
from so3krates.model.config import ModelConfig
from so3krates.model.network import Params
from so3krates.model.so3lr import initial_params
from so3krates.storage import Model
from so3krates.wording import counted

from . import stopping
from .budget import SHARE, copied, epochs_until
from .charges import begun
from .checkpoints import Stored
from .clock import Clock
from .config import RunConfig
from .evaluate import precision
from .interrupt import polite_interrupts
from .journal import Journal
from .loggers import open_loggers, require_packages
from .loss import ErrorSums, normalised_weights
from .material import Material
from .optimiser import make_schedule
from .pair_potential import radial_points
from .preparation import without_folders
from .processes import agreed, everywhere, is_first, of_all, of_first
from .progress import Display, ProgressCallback, Status, progress_display
from .run_folder import METRICS_FILE, RunFolder, TrainingError, recorded_epochs
from .start import baselines_of
from .step import StepResult, TrainState, add_sums, batch_errors, initial_state, make_step, zero_sums

# A run that meets so many non-finite steps with no better validation in between is given up.
MOST_RECOVERIES = 10


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    `model` holds the weights with the best validation loss, or the last ones where no frame validates.
    """

    model: Model
    folder: Path
    steps: int
    best_step: int
    best_loss: float  # validation loss; where no frame validates, the last training loss
    seconds: float  # since the run began, interruptions left out
    seconds_here: float  # of this call
    seconds_per_step: float  # median without compilation; NaN with too few steps
    reason: str  # why it ended
    recoveries: int  # how often a non-finite step sent it back to the best weights

    @property
    def metrics_file(self) -> Path:
        """CSV with a row per validation."""
        return self.folder / METRICS_FILE


@dataclasses.dataclass
class _Best:
    """The best weights so far, on the host."""

    params: Params
    loss: float = math.inf
    step: int = 0
    recoveries: int = 0  # since the run began
    fruitless: int = 0  # since these weights were found


@dataclasses.dataclass(frozen=True)
class _Fall:
    """The end of a run that got no better: from its best weights on the learning rate falls."""

    begun: int  # steps of the run before it
    steps: int
    best: int  # step of the weights
    why: str

    @property
    def end(self) -> int:
        return self.begun + self.steps


def train(
    config: RunConfig,
    frames_train: Sequence[Atoms] | StoredFrames,
    frames_valid: Sequence[Atoms] | StoredFrames,
    folder: str | Path,
    progress: ProgressCallback | None = None,
    resume: bool = False,
    replay: Sequence[Atoms] = (),
) -> TrainingResult:
    """Trains a model on labelled frames and saves it, checkpoints and metrics.csv in `folder`.

    Labels are those that `so3krates.data.labels` finds; energies of `replay`, old frames that train too, count from the
    shifts of the model that the run goes on from. With `resume` a run that was stopped goes on from its last checkpoint
    to the same weights as if it had not been. Non-finite steps are not applied: the run goes back to its best weights
    with fresh moments and says so; where the validation has got no better for long and the schedule is cosine's, it
    goes back as well, and the rate falls from there on. Without `progress` the run shows itself on the terminal.
    Raises DataError for frames that cannot be used, TrainingError for a run that cannot start or go on, and
    CheckpointError and WriteError where the disc refuses; the run can then be resumed from its last checkpoint.
    """
    with contextlib.ExitStack() as stack:
        if not is_first():
            progress = _nobody
        elif progress is None:
            progress = stack.enter_context(progress_display())
        run = _Run(config, frames_train, frames_valid, Path(folder), progress, resume, replay)
        if run.place is not None:
            stack.callback(run.place.close)
        for logger in run.loggers:
            stack.callback(logger.close)
        return run.go(stack.enter_context(polite_interrupts()))


@functools.lru_cache(maxsize=4)
def _drawn(model: ModelConfig, seed: int) -> Params:
    """Random parameters, which runs of one process may share."""
    return initial_params(model, seed)


def _nobody(_: Status) -> None:
    """The display of processes that do not speak."""


class _Run:
    """State of a run on the host; `go` is its course."""

    def __init__(
        self,
        config: RunConfig,
        frames_train: Sequence[Atoms] | StoredFrames,
        frames_valid: Sequence[Atoms] | StoredFrames,
        folder: Path,
        progress: ProgressCallback,
        resume: bool,
        replay: Sequence[Atoms],
    ) -> None:
        self.folder, self.progress, self.given = folder, progress, config
        self.clock = Clock()
        require_packages(config.training.log_to)
        if len(frames_train) == 0:
            raise DataError("no frame to train on")
        self._stage(f"finding the neighbours in {len(frames_train)} + {len(frames_valid)} frames")
        self.material = material = Material(config, frames_train, frames_valid, replay)
        self.config, settings = material.config, material.config.training
        points = None if settings.float64 else radial_points(self.config.model, material.shortest)
        self.step_function = make_step(self.config.model, settings, points, config.rate_factors, material.interactions)
        state, self.best = self._initial()
        self.state = self._placed(state)
        self.said = material.said + self._planned(recorded_epochs(folder) if resume else None)
        self.config = config = material.config
        settings = config.training
        self.place = RunFolder(folder, config, material.fingerprint, resume) if is_first() else None
        self.step = 0
        self.fall: _Fall | None = None
        self.learning_rate = math.nan
        self.loggers = []
        try:
            if resume:
                self.said += self._restore()
            if self.place is not None:
                self.loggers = open_loggers(settings.log_to, self.folder, config.to_dict(), self.step)
        except BaseException:
            if self.place is not None:
                self.place.close()
            raise
        self.journal = Journal(settings, material, self.place, self.loggers, progress, self.clock)
        self.journal.end = self._end
        self.saved = time.monotonic()

    def _planned(self, recorded: int | None) -> list[str]:
        """Where hours are given in place of epochs: the epochs that fill them; returns what the user should know."""
        given, material = self.given.training, self.material
        if given.epochs is None and recorded is not None:
            material.plan(recorded)  # what the run was begun with
            return []
        if given.hours is None or given.epochs is not None:
            return []
        self._stage(f"timing some steps, to fill {given.hours:g} hours")
        trial = self._placed(copied(self.state))

        def step(number: int) -> Any:
            nonlocal trial
            batch, targets = material.batch(number)
            trial, result = self.step_function(trial, batch, targets, material.scales, material.total_steps)
            return result.loss

        deadline = time.monotonic() + SHARE * 3600 * given.hours - self.clock.here
        epochs = epochs_until(deadline, material, step, lambda: self._valid_sums(self.state.params))
        material.plan(epochs)
        return [f"{given.hours:g} hours hold {counted(epochs, 'epoch')} of {counted(material.steps_per_epoch, 'step')}"]

    # Folder and checkpoints

    def _initial(self) -> tuple[TrainState, _Best]:
        settings = self.config.training
        start = self.material.start
        if start is None:
            params = begun(_drawn(self.config.model, settings.seed_model), self.material.graphs)
        else:
            params = start.params
        dtype = precision(settings.float64)
        params = jax.tree.map(lambda p: np.asarray(p, dtype), params)
        return initial_state(settings, params), _Best(params)

    def _placed(self, state: TrainState) -> TrainState:
        """On the devices of all processes, where there are several."""
        return everywhere(state, self.config.training.devices)

    def _stored(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        best = self.best
        numbers = np.array([best.loss, best.step, best.recoveries, best.fruitless], np.float64)
        return {"state": self.state._asdict(), "best": best.params, "numbers": numbers}

    def _save(self) -> None:
        """The best weights first, which are small: they are kept where there is no room for the rest."""
        if self.place is None:
            return
        started = time.monotonic()
        if self.best.step > 0:
            self._model().save(self.folder)
        fall = {} if self.fall is None else {"fall": dataclasses.astuple(self.fall)}
        self.place.checkpoints.save(self.step, jax.device_get(self._stored()), {"seconds": self.clock.total} | fall)
        self.saved = time.monotonic()
        self.clock.checkpoint(self.saved - started)

    def _restore(self) -> list[str]:
        """Takes up the newest state that is whole; returns what the user should know."""
        stored, said, seconds = of_first(self._read())
        if stored is not None:
            self.step = stored.step
            self.state = self._placed(TrainState(**jax.tree.map(jnp.array, stored.state["state"])))
            self.fall = _Fall(*stored.notes["fall"]) if "fall" in stored.notes else None
            done = int(np.asarray(self.state.step))
            self.learning_rate = float(make_schedule(self.config.training, self._scheduled)(done - 1))
            loss, *counts = stored.state["numbers"].tolist()
            self.best = _Best(jax.tree.map(np.array, stored.state["best"]), loss, *(int(c) for c in counts))
        if stored is not None:
            self.clock.resumed(float(stored.notes.get("seconds", seconds)))
        return said

    def _read(self) -> tuple[Stored | None, list[str], float]:
        """The newest state, what the user should know, and the seconds of the last row of metrics before it."""
        if self.place is None:
            return None, [], 0.0
        stored, said = self.place.restore(jax.device_get(self._stored()))
        return stored, said, self.place.cut_metrics(0 if stored is None else stored.step)

    def _model(self) -> Model:
        """The best weights so far as a model."""
        return Model(
            config=self.config.model,
            params=self.best.params,
            elements=self.material.elements,
            energy_shifts=self.material.shifts,
            training={
                "settings": without_folders(self.config.to_dict()),
                "frames": self.material.numbers,
                "distances": self.material.distances,
                "largest_force": self.material.largest_force,
                "best_step": self.best.step,
                "best_loss": self.best.loss if math.isfinite(self.best.loss) else None,
            },
            terms=self.material.terms,
            interactions=self.material.interactions,
            baselines=baselines_of(self.config),
        )

    # Course

    def go(self, interrupted: Callable[[], str | None]) -> TrainingResult:
        """Steps until the epochs, the learning rate, the time or the user's patience end."""
        settings, material = self.config.training, self.material
        # A resumed run may have ended already.
        reason: str | None = self._stale() or self._slow()
        for message in self.said:
            self._show(message)
        if self.step < self._end and reason is None:
            self._stage("compiling the first step")
        batch: Any = material.batch(self.step) if self.step < self._end else None
        while self.step < self._end and reason is None:
            started = time.monotonic()
            shape = tuple(array.shape for array in jax.tree.leaves(batch))
            graph, targets = batch
            self.state, result = self.step_function(self.state, graph, targets, material.scales, self._scheduled)
            self.step += 1
            # The next batch is put together while this step is computed.
            batch = material.batch(self.step)
            news = self._account(result)
            self.clock.step(time.monotonic() - started, shape)
            self._show(news)
            slow = self._slow()
            reason = agreed(stopping.stopped(settings, interrupted(), self.clock.here, self.clock.total)) or slow
            due = self.step % material.eval_every == 0 or self.step == self._end or slow is not None
            if due:
                self._validate()
                reason = reason or self._stale()
            if reason or self.step == self._end or self._overdue():
                self._save()
            if reason and not due:
                # After the checkpoint: a resumed run must not know of this validation.
                self._validate()
        if len(material.valid_graphs) and self.best.step == 0:
            raise TrainingError(
                f"none of the validations in {self.step} steps gave a finite loss, so that no weights are the best: "
                "lower training.learning_rate, or look for wrong labels in the validation data"
            )
        model = self._model()
        if self.place is not None:
            if settings.refit_shift:
                model = dataclasses.replace(model, energy_shifts=material.refitted_shifts(self.best.params))
            model.save(self.folder)
        return TrainingResult(
            model=model,
            folder=self.folder,
            steps=self.step,
            best_step=self.best.step,
            best_loss=self.best.loss,
            seconds=self.clock.total,
            seconds_here=self.clock.here,
            seconds_per_step=self.clock.per_step,
            reason=reason or f"all {material.epochs} epochs done",
            recoveries=self.best.recoveries,
        )

    def _overdue(self) -> bool:
        return time.monotonic() - self.saved >= 60 * self.config.training.checkpoint_minutes

    def _slow(self) -> str | None:
        return stopping.slow(self.config.training, self.step, self.learning_rate)

    @property
    def _end(self) -> int:
        """Steps of the run, as far as is known."""
        return self.material.total_steps if self.fall is None else self.fall.end

    @property
    def _scheduled(self) -> int:
        """Steps of the whole schedule, of which the state has done some."""
        return self.material.total_steps if self.fall is None else self.fall.best + self.fall.steps

    def _stale(self) -> str | None:
        if len(self.material.valid_graphs) == 0:
            return None
        if self.fall is not None:
            after = f"; from there on the learning rate fell within {counted(self.fall.steps, 'step')}"
            return self.fall.why + after if self.step >= self.fall.end else None
        material = self.material
        why = stopping.stale(self.config.training, self.step, self.best.step, material.eval_every, material.total_steps)
        return None if why is None or self._falls(why) else why

    def _falls(self, why: str) -> bool:
        """Back to the best weights with fresh moments, if there are steps left in which the rate can fall."""
        settings, best = self.config.training, self.best.step
        steps = min(best, self.material.total_steps - self.step)
        if settings.schedule != "cosine" or steps < self.material.eval_every:
            return False
        self.fall = _Fall(self.step, steps, best, why)
        self.journal.end = self.fall.end
        self._begin_at(best)
        self._show(f"{why}: back to its weights, and the learning rate falls within {counted(steps, 'step')}")
        return True

    def _begin_at(self, step: int) -> None:
        """The best weights with fresh moments, at a step of the schedule."""
        fresh = initial_state(self.config.training, self.best.params)._replace(step=jnp.asarray(step, jnp.int32))
        self.state = self._placed(fresh)

    def _account(self, result: StepResult) -> str | None:
        """Adds a step to the sums, or recovers from it and says so."""
        self.learning_rate = float(result.learning_rate)
        if bool(result.finite):
            self.journal.add(result.sums)
            return None
        return self._recover(float(result.loss))

    def _recover(self, loss: float) -> str:
        """Back to the best weights with fresh moments; step count and learning rate go on (docs/model.md)."""
        best = self.best
        best.recoveries += 1
        best.fruitless += 1
        if best.fruitless > MOST_RECOVERIES:
            raise TrainingError(
                f"{best.fruitless} non-finite steps since the best weights of step {best.step}: lower "
                "training.learning_rate, set training.clip_norm, or look for wrong labels in the data"
            )
        self._begin_at(int(np.asarray(self.state.step)))
        return (
            f"step {self.step}: loss {loss:.3g} or its gradient is not finite; the step was left out and the run "
            f"went back to the weights of step {best.step} with fresh moments"
        )

    def _validate(self) -> None:
        """Errors on the validation frames, a row of metrics, and the best weights where they improved."""
        params = self.state.params if self.state.average is None else self.state.average
        started = time.monotonic()
        validates = len(self.material.valid_graphs) > 0
        loss = self.journal.valid_loss(self._valid_sums(params)) if validates else self.journal.train_loss
        # Without validation frames there is nothing to choose by: the last weights are kept.
        if loss < self.best.loss or not validates:
            self.best = _Best(jax.tree.map(np.array, params), loss, self.step, self.best.recoveries)
        self.clock.validation(time.monotonic() - started)
        self.journal.write_row(self.step, self.learning_rate)

    def _valid_sums(self, params: Params) -> ErrorSums:
        """Sums of the errors on all validation frames."""
        total, material = zero_sums(len(normalised_weights(self.config.training))), self.material
        if jax.process_count() > 1:
            params = jax.device_get(params)  # each process computes its own batches
        for batch, targets in material.valid_batches():
            sums = batch_errors(self.config.model, params, batch, targets, material.scales, material.interactions)
            total = add_sums(total, sums)
        return ErrorSums._make(of_all(np.stack(total)).sum(axis=0))

    def _stage(self, name: str) -> None:
        """Says what goes on beside the steps."""
        if isinstance(self.progress, Display):
            self.progress.stage(name)

    def _show(self, message: str | None = None) -> None:
        self.journal.show(self.step, self.learning_rate, message)
