"""The course of a run: epochs, validation, checkpoints, resuming, recovery from NaN, the time limit."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms

from so3krates.data import BatchShape, Buckets, DataError, StoredFrames, collate
from so3krates.model.network import Params, init_params
from so3krates.model.terms import beside_terms, terms_from
from so3krates.storage import Model, require_elements

from .clock import Clock
from .config import RunConfig
from .evaluate import ordered_batches, precision
from .interrupt import polite_interrupts
from .loggers import open_loggers, require_packages
from .loss import ErrorSums, loss_of, normalised_weights, root_mean_squares, unit_scales, variance_scales
from .optimiser import make_schedule
from .pair_potential import radial_points
from .preparation import (
    differences,
    distances_in,
    fingerprint,
    graphs_of,
    largest_force_in,
    require_labels,
    require_parts,
    shifts_of,
    weights_of,
    without_folders,
)
from .progress import Display, ProgressCallback, Status, progress_display
from .run_folder import COLUMNS, METRICS_FILE, RunFolder, TrainingError
from .step import StepResult, TrainState, add_sums, batch_energies, batch_errors, initial_state, make_step, zero_sums

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


def train(
    config: RunConfig,
    frames_train: Sequence[Atoms] | StoredFrames,
    frames_valid: Sequence[Atoms] | StoredFrames,
    folder: str | Path,
    progress: ProgressCallback | None = None,
    resume: bool = False,
) -> TrainingResult:
    """Trains a model on labelled frames and saves it, checkpoints and metrics.csv in `folder`.

    Labels are those that `so3krates.data.labels` finds. With `resume` a run that was stopped goes on from its last
    checkpoint to the same weights as if it had not been. Non-finite steps are not applied: the run goes back to
    its best weights with fresh moments and says so. Without `progress` the run shows itself on the terminal.
    Raises DataError for frames that cannot be used, TrainingError for a run that cannot start or go on, and
    CheckpointError and WriteError where the disc refuses; the run can then be resumed from its last checkpoint.
    """
    with contextlib.ExitStack() as stack:
        if progress is None:
            progress = stack.enter_context(progress_display())
        run = _Run(config, frames_train, frames_valid, Path(folder), progress, resume)
        stack.callback(run.place.checkpoints.close)
        for logger in run.loggers:
            stack.callback(logger.close)
        return run.go(stack.enter_context(polite_interrupts()))


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
    ) -> None:
        self.config, self.folder, self.progress = config, folder, progress
        self.clock = Clock()
        settings = config.training
        require_packages(settings.log_to)
        self.dtype = precision(settings.float64)
        if len(frames_train) == 0:
            raise DataError("no frame to train on")
        self._stage(f"finding the neighbours in {len(frames_train)} + {len(frames_valid)} frames")
        self.shifts = shifts_of(frames_train, config.data.energy_shift)
        self.elements = tuple(self.shifts)
        # What could not be saved is not trained.
        require_elements(config.model, self.elements, self.shifts)
        cutoff = config.model.cutoff
        whole = graphs_of(frames_train, cutoff, self.shifts, "training data")
        self.distances = distances_in(whole)
        self.largest_force = largest_force_in(whole)
        self.terms = terms_from(config.terms, self.elements, self.distances)
        self.graphs = differences(whole, self.terms)
        shortest = min(self.distances.values(), default=1.0)
        config = dataclasses.replace(config, model=beside_terms(config.model, self.terms, shortest))
        self.config = config
        whole = graphs_of(frames_valid, cutoff, self.shifts, "validation data")
        self.valid_graphs = differences(whole, self.terms)
        require_labels(self.graphs, config, "training")
        if len(self.valid_graphs):
            require_labels(self.valid_graphs, config, "validation")
        elif settings.patience is not None:
            raise TrainingError(
                f"training.patience = {settings.patience} needs validation frames, and there are none: "
                "give some (data.n_valid, data.valid_file), or leave patience out"
            )
        self.scales = variance_scales(self.graphs) if settings.variance_scaling else unit_scales()
        self.weights = normalised_weights(settings)
        self.batch_size = settings.batch_size_for(len(self.graphs))
        self.valid_batch_size = settings.valid_batch_size or self.batch_size
        require_parts(settings, self.batch_size)
        self.buckets = Buckets(self.graphs, -(-self.batch_size // settings.parts))
        self.steps_per_epoch = len(self.graphs) // self.batch_size
        self.total_steps = settings.epochs * self.steps_per_epoch
        self.eval_every = settings.eval_every or self.steps_per_epoch
        points = None if settings.float64 else radial_points(config.model, shortest)
        self.step_function = make_step(config.model, settings, self.total_steps, points)
        self.state, self.best = self._initial()
        self.place = RunFolder(folder, config, fingerprint(self.graphs, self.valid_graphs), resume)
        self.step = 0
        self.learning_rate = math.nan
        self.order: tuple[int, np.ndarray] | None = None
        self.said = self._restore() if resume else []
        self.loggers = open_loggers(settings.log_to, self.folder, config.to_dict(), self.step)
        self.saved = time.monotonic()
        self.sums = zero_sums()
        self.valid_sums: ErrorSums | None = None

    # Folder and checkpoints

    def _initial(self) -> tuple[TrainState, _Best]:
        settings = self.config.training
        if settings.initial_model is None:
            params = init_params(self.config.model, settings.seed_model)
        else:
            params = weights_of(settings.initial_model, self.config.model, self.terms)
        params = jax.tree.map(lambda p: np.asarray(p, self.dtype), params)
        return initial_state(settings, params), _Best(params)

    def _stored(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        best = self.best
        numbers = np.array([best.loss, best.step, best.recoveries, best.fruitless], np.float64)
        return {"state": self.state._asdict(), "best": best.params, "numbers": numbers}

    def _save(self) -> None:
        """The best weights first, which are small: they are kept where there is no room for the rest."""
        started = time.monotonic()
        if self.best.step > 0:
            self._model().save(self.folder)
        self.place.checkpoints.save(self.step, jax.device_get(self._stored()), {"seconds": self.clock.total})
        self.saved = time.monotonic()
        self.clock.checkpoint(self.saved - started)

    def _restore(self) -> list[str]:
        """Takes up the newest state that is whole; returns what the user should know."""
        stored, said = self.place.restore(jax.device_get(self._stored()))
        if stored is not None:
            self.step = stored.step
            self.state = TrainState(**jax.tree.map(jnp.array, stored.state["state"]))
            self.learning_rate = float(make_schedule(self.config.training, self.total_steps)(self.step - 1))
            loss, *counts = stored.state["numbers"].tolist()
            self.best = _Best(jax.tree.map(np.array, stored.state["best"]), loss, *(int(c) for c in counts))
        seconds = self.place.cut_metrics(self.step)
        if stored is not None:
            self.clock.resumed(float(stored.notes.get("seconds", seconds)))
        return said

    def _model(self) -> Model:
        """The best weights so far as a model."""
        return Model(
            config=self.config.model,
            params=self.best.params,
            elements=self.elements,
            energy_shifts=self.shifts,
            training={
                "settings": without_folders(self.config.to_dict()),
                "frames": {"train": len(self.graphs), "valid": len(self.valid_graphs)},
                "distances": self.distances,
                "largest_force": self.largest_force,
                "best_step": self.best.step,
                "best_loss": self.best.loss if math.isfinite(self.best.loss) else None,
            },
            terms=self.terms,
        )

    def _refitted_shifts(self) -> dict[str, float]:
        """Shifts of all elements moved by the mean energy error per atom of the training frames.

        Forces weigh so much in the loss that a constant, to which they are blind, is learnt last.
        """
        errors = np.full(len(self.graphs), np.nan)
        for indices, batch, targets in ordered_batches(self.graphs, self.valid_batch_size, self.dtype):
            energies = batch_energies(self.config.model, self.best.params, batch)
            found = (targets.energies - np.asarray(energies, np.float64)) / targets.atoms
            errors[indices] = found[: len(indices)]
        known = np.isfinite(errors)
        offset = float(errors[known].mean()) if known.any() else 0.0
        return {element: shift + offset for element, shift in self.shifts.items()}

    # Course

    def go(self, interrupted: Callable[[], str | None]) -> TrainingResult:
        """Steps until the epochs, the learning rate, the time or the user's patience end."""
        settings = self.config.training
        # A resumed run may have ended already.
        reason: str | None = self._stale() or self._slow()
        for message in self.said:
            self._show(message)
        if self.step < self.total_steps and reason is None:
            self._stage("compiling the first step")
        batch: Any = self._batch(self.step) if self.step < self.total_steps else None
        while self.step < self.total_steps and reason is None:
            started = time.monotonic()
            shape = tuple(array.shape for array in jax.tree.leaves(batch))
            graph, targets = batch
            self.state, result = self.step_function(self.state, graph, targets, self.scales)
            self.step += 1
            # The next batch is put together while this step is computed.
            batch = self._batch(self.step)
            news = self._account(result)
            self.clock.step(time.monotonic() - started, shape)
            self._show(news)
            slow = self._slow()
            reason = self._stopped(interrupted()) or slow
            due = self.step % self.eval_every == 0 or self.step == self.total_steps or slow is not None
            if due:
                self._validate()
                reason = reason or self._stale()
            if reason or self.step == self.total_steps or self._overdue():
                self._save()
            if reason and not due:
                # After the checkpoint: a resumed run must not know of this validation.
                self._validate()
        if len(self.valid_graphs) and self.best.step == 0:
            raise TrainingError(
                f"none of the validations in {self.step} steps gave a finite loss, so that no weights are the best: "
                "lower training.learning_rate, or look for wrong labels in the validation data"
            )
        model = self._model()
        if settings.refit_shift:
            model = dataclasses.replace(model, energy_shifts=self._refitted_shifts())
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
            reason=reason or f"all {settings.epochs} epochs done",
            recoveries=self.best.recoveries,
        )

    def _overdue(self) -> bool:
        return time.monotonic() - self.saved >= 60 * self.config.training.checkpoint_minutes

    def _stopped(self, signal_name: str | None) -> str | None:
        """Why the run stops after this step, to be resumed, if it does."""
        settings = self.config.training
        if signal_name:
            return f"stopped by {signal_name}"
        if settings.max_minutes is not None and self.clock.here >= 60 * settings.max_minutes:
            return f"time limit of {settings.max_minutes:g} min reached"
        return None

    def _slow(self) -> str | None:
        """Why the run ends by its learning rate, if it does."""
        settings = self.config.training
        if settings.schedule == "constant" or self.step <= settings.warmup_steps:
            return None
        fallen = self.learning_rate <= settings.learning_rate_stop
        return f"learning rate fell to {self.learning_rate:.3g}" if fallen else None

    def _stale(self) -> str | None:
        """Why the run ends after a validation, if it does."""
        patience = self.config.training.patience
        if patience is None or len(self.valid_graphs) == 0 or self.step - self.best.step < patience * self.eval_every:
            return None
        return f"no lower validation loss in {patience} validations since step {self.best.step}"

    def _batch(self, step: int) -> tuple[Any, Any]:
        """The batch of a step: it depends on the seed and the step alone, so that a resumed run sees the same."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self.order is None or self.order[0] != epoch:
            generator = np.random.default_rng([self.config.training.seed_training, epoch])
            self.order = (epoch, generator.permutation(len(self.graphs)))
        rows = self.order[1][position * self.batch_size : (position + 1) * self.batch_size]
        parts = [[self.graphs[i] for i in some] for some in np.array_split(rows, self.config.training.parts)]
        shape = BatchShape(*np.max(np.array([self.buckets.shape(part) for part in parts]), axis=0).tolist())
        batches = [collate(part, shape, self.dtype) for part in parts]
        return batches[0] if len(batches) == 1 else jax.tree.map(lambda *arrays: np.stack(arrays), *batches)

    def _account(self, result: StepResult) -> str | None:
        """Adds a step to the sums, or recovers from it and says so."""
        self.learning_rate = float(result.learning_rate)
        if bool(result.finite):
            self.sums = add_sums(self.sums, result.sums)
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
        self.state = initial_state(self.config.training, best.params)._replace(step=self.state.step)
        return (
            f"step {self.step}: loss {loss:.3g} or its gradient is not finite; the step was left out and the run "
            f"went back to the weights of step {best.step} with fresh moments"
        )

    def _validate(self) -> None:
        """Errors on the validation frames, a row of metrics, and the best weights where they improved."""
        params = self.state.params if self.state.average is None else self.state.average
        train_loss = self._loss(self.sums)
        started = time.monotonic()
        if len(self.valid_graphs):
            total = zero_sums()
            for _, batch, targets in ordered_batches(self.valid_graphs, self.valid_batch_size, self.dtype):
                total = add_sums(total, batch_errors(self.config.model, params, batch, targets, self.scales))
            self.valid_sums = total
            loss = self._loss(total)
        else:
            loss = train_loss
        # Without validation frames there is nothing to choose by: the last weights are kept.
        if loss < self.best.loss or len(self.valid_graphs) == 0:
            self.best = _Best(jax.tree.map(np.array, params), loss, self.step, self.best.recoveries)
        self.clock.validation(time.monotonic() - started)
        self._write_row(train_loss)
        self._show()
        self.sums = zero_sums()

    def _loss(self, sums: ErrorSums) -> float:
        """Loss of added sums; NaN where nothing was added."""
        return float(loss_of(sums, self.weights)) if sums.counts.any() else math.nan

    def _write_row(self, train_loss: float) -> None:
        errors = [root_mean_squares(self.sums), np.full(3, np.nan)]
        valid_loss = math.nan
        if self.valid_sums is not None:
            errors[1], valid_loss = root_mean_squares(self.valid_sums), self._loss(self.valid_sums)
        numbers = [self.clock.total, self.learning_rate, train_loss, *errors[0], valid_loss, *errors[1]]
        epoch = (self.step - 1) // self.steps_per_epoch + 1
        self.place.add_metrics(self.step, epoch, numbers)
        # train_loss -> train/loss: one chart group for each set.
        named = zip((name.replace("_", "/", 1) for name in COLUMNS[4:]), numbers[2:], strict=True)
        values = {"epoch": epoch, "learning_rate": self.learning_rate, **dict(named)}
        for logger in self.loggers:
            logger.write(self.step, values)

    def _stage(self, name: str) -> None:
        """Says what goes on beside the steps."""
        if isinstance(self.progress, Display):
            self.progress.stage(name)

    def _show(self, message: str | None = None) -> None:
        valid = self.valid_sums
        self.progress(
            Status(
                step=self.step,
                total_steps=self.total_steps,
                epoch=(self.step - 1) // self.steps_per_epoch + 1,
                epochs=self.config.training.epochs,
                learning_rate=self.learning_rate,
                loss=self._loss(self.sums),
                errors=root_mean_squares(self.sums),
                valid_loss=None if valid is None else self._loss(valid),
                valid_errors=None if valid is None else root_mean_squares(valid),
                seconds=self.clock.total,
                seconds_left=self._seconds_left(),
                message=message,
            )
        )

    def _seconds_left(self) -> float:
        left = self.clock.left(self.total_steps - self.step)
        limit = self.config.training.max_minutes
        return left if limit is None else max(0.0, min(left, 60 * limit - self.clock.here))
