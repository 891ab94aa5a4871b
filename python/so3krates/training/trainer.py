"""The course of a run: epochs, validation, checkpoints, resuming, recovery from NaN, the time limit."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms

from so3krates.data import (
    BatchShape,
    Buckets,
    DataError,
    FrameGraph,
    StoredFrames,
    StoredGraphs,
    collate,
    energy_shifts,
    fit_shifts,
    frame_graphs,
    shortest_distance,
)
from so3krates.model.config import ModelConfig
from so3krates.model.network import Params, init_params
from so3krates.storage import Model

from .checkpoints import Checkpoints
from .config import RunConfig, TrainingConfig
from .evaluate import ordered_batches, precision
from .interrupt import polite_interrupts
from .loggers import open_loggers, require_packages
from .loss import ErrorSums, labels_of, loss_of, normalised_weights, root_mean_squares, unit_scales, variance_scales
from .optimiser import make_schedule
from .pair_potential import radial_points
from .progress import ProgressCallback, Status, progress_display
from .step import StepResult, TrainState, add_sums, batch_energies, batch_errors, initial_state, make_step, zero_sums

RUN_FILE = "run.json"
METRICS_FILE = "metrics.csv"
CHECKPOINT_FOLDER = "checkpoints"
COLUMNS = (
    *("step", "epoch", "seconds", "learning_rate"),
    *("train_loss", "train_energy_rmse", "train_forces_rmse", "train_stress_rmse"),
    *("valid_loss", "valid_energy_rmse", "valid_forces_rmse", "valid_stress_rmse"),
)
# Frames that are looked at for the shortest distance.
DISTANCE_FRAMES = 100
# A run that meets so many non-finite steps with no better validation in between is given up.
MOST_RECOVERIES = 10
# Settings that may differ when a run is resumed: they say where the data lies and how long the run goes on.
FREE_SETTINGS = frozenset(
    {"data.file", "data.train_file", "data.valid_file", "data.tag_key"}
    | {"training.patience", "training.checkpoint_minutes", "training.max_minutes", "training.log_to"}
    | {"training.initial_model"}
)


class TrainingError(RuntimeError):
    """A run that cannot start, go on or be resumed; the message says why and what to do."""


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
    seconds: float  # of this call
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
    Raises DataError for frames that cannot be used, TrainingError for a run that cannot start or go on.
    """
    with contextlib.ExitStack() as stack:
        if progress is None:
            progress = stack.enter_context(progress_display())
        run = _Run(config, frames_train, frames_valid, Path(folder), progress, resume)
        stack.callback(run.checkpoints.close)
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
        self.began = time.monotonic()
        settings = config.training
        require_packages(settings.log_to)
        self.dtype = precision(settings.float64)
        if len(frames_train) == 0:
            raise DataError("no frame to train on")
        self.shifts = _shifts(frames_train, config.data.energy_shift)
        self.elements = tuple(self.shifts)
        cutoff = config.model.cutoff
        self.graphs = _graphs(frames_train, cutoff, self.shifts, "training data")
        self.valid_graphs = _graphs(frames_valid, cutoff, self.shifts, "validation data")
        _require_labels(self.graphs, config, "training")
        if len(self.valid_graphs):
            _require_labels(self.valid_graphs, config, "validation")
        elif settings.patience is not None:
            raise TrainingError(
                f"training.patience = {settings.patience} needs validation frames, and there are none: "
                "give some (data.n_valid, data.valid_file), or leave patience out"
            )
        self.scales = variance_scales(self.graphs) if settings.variance_scaling else unit_scales()
        self.weights = normalised_weights(settings)
        self.batch_size = settings.batch_size_for(len(self.graphs))
        self.valid_batch_size = settings.valid_batch_size or self.batch_size
        _require_parts(settings, self.batch_size)
        self.buckets = Buckets(self.graphs, -(-self.batch_size // settings.parts))
        self.steps_per_epoch = len(self.graphs) // self.batch_size
        self.total_steps = settings.epochs * self.steps_per_epoch
        self.eval_every = settings.eval_every or self.steps_per_epoch
        points = None if settings.float64 else radial_points(config.model, _shortest_distance(self.graphs))
        self.step_function = make_step(config.model, settings, self.total_steps, points)
        self.checkpoints = self._open(resume)
        self.state, self.best = self._initial()
        self.step = 0
        self.learning_rate = math.nan
        self.order: tuple[int, np.ndarray] | None = None
        if self.checkpoints.latest() is not None:
            self._restore()
        _cut_metrics(self.folder / METRICS_FILE, self.step)
        self.loggers = open_loggers(settings.log_to, self.folder, config.to_dict(), self.step)
        self.saved = time.monotonic()
        self.sums = zero_sums()
        self.valid_sums: ErrorSums | None = None
        self.step_seconds: list[float] = []

    # Folder and checkpoints

    def _open(self, resume: bool) -> Checkpoints:
        """The checkpoints of the folder, which belongs to this configuration and data, or is new."""
        record = {"config": self.config.to_dict(), "data": self._fingerprint()}
        path = self.folder / RUN_FILE
        if path.exists():
            if not resume:
                raise TrainingError(f"{self.folder} holds a run already: resume it, or choose another folder")
            _require_same(path, json.loads(path.read_text()), record)
        elif resume:
            raise TrainingError(f"{self.folder} holds no run to resume ({RUN_FILE} is missing)")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record, indent=1) + "\n")
        return Checkpoints(self.folder / CHECKPOINT_FOLDER)

    def _fingerprint(self) -> str:
        """Hash of the frames and labels of both sets, in order."""
        digest = hashlib.sha256()
        for graphs in (self.graphs, self.valid_graphs):
            digest.update(str(len(graphs)).encode())
            if isinstance(graphs, StoredGraphs):
                digest.update(graphs.digest.encode())
                continue
            for g in graphs:
                for array in (g.species, g.positions, g.cell, np.float64(g.energy), g.forces, g.virial):
                    digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _initial(self) -> tuple[TrainState, _Best]:
        settings = self.config.training
        if settings.initial_model is None:
            params = init_params(self.config.model, settings.seed_model)
        else:
            params = _weights_of(settings.initial_model, self.config.model)
        params = jax.tree.map(lambda p: np.asarray(p, self.dtype), params)
        return initial_state(settings, params), _Best(params)

    def _stored(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        best = self.best
        numbers = np.array([best.loss, best.step, best.recoveries, best.fruitless], np.float64)
        return {"state": self.state._asdict(), "best": best.params, "numbers": numbers}

    def _save(self) -> None:
        self.checkpoints.save(self.step, jax.device_get(self._stored()))
        if self.best.step > 0:
            self._model().save(self.folder)
        self.saved = time.monotonic()

    def _restore(self) -> None:
        self.step = int(self.checkpoints.latest())
        stored = self.checkpoints.load(self.step, jax.device_get(self._stored()))
        self.state = TrainState(**jax.tree.map(jnp.array, stored["state"]))
        self.learning_rate = float(make_schedule(self.config.training, self.total_steps)(self.step - 1))
        loss, *counts = stored["numbers"].tolist()
        self.best = _Best(jax.tree.map(np.array, stored["best"]), loss, *(int(c) for c in counts))

    def _model(self) -> Model:
        """The best weights so far as a model."""
        return Model(
            config=self.config.model,
            params=self.best.params,
            elements=self.elements,
            energy_shifts=self.shifts,
            training={
                "settings": _without_folders(self.config.to_dict()),
                "frames": {"train": len(self.graphs), "valid": len(self.valid_graphs)},
                "best_step": self.best.step,
                "best_loss": self.best.loss if math.isfinite(self.best.loss) else None,
            },
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
        reason = self._stale() or self._slow()
        batch = self._batch(self.step) if self.step < self.total_steps else None
        while self.step < self.total_steps and reason is None:
            started = time.monotonic()
            self.state, result = self.step_function(self.state, *batch, self.scales)
            self.step += 1
            # The next batch is put together while this step is computed.
            batch = self._batch(self.step)
            self._account(result)
            self.step_seconds.append(time.monotonic() - started)
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
            seconds=time.monotonic() - self.began,
            seconds_per_step=self._seconds_per_step(),
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
        if settings.max_minutes is not None and time.monotonic() - self.began >= 60 * settings.max_minutes:
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
        shape = BatchShape(*np.max([self.buckets.shape(part) for part in parts], axis=0).tolist())
        batches = [collate(part, shape, self.dtype) for part in parts]
        return batches[0] if len(batches) == 1 else jax.tree.map(lambda *arrays: np.stack(arrays), *batches)

    def _account(self, result: StepResult) -> None:
        """Adds a step to the sums, or recovers from it, and shows the run."""
        message = None
        self.learning_rate = float(result.learning_rate)
        if bool(result.finite):
            self.sums = add_sums(self.sums, result.sums)
        else:
            message = self._recover(float(result.loss))
        self._show(message)

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
        self._write_row(train_loss)
        self._show()
        self.sums = zero_sums()

    def _loss(self, sums: ErrorSums) -> float:
        """Loss of added sums; NaN where nothing was added."""
        return float(loss_of(sums, self.weights)) if sums.counts.any() else math.nan

    def _write_row(self, train_loss: float) -> None:
        path = self.folder / METRICS_FILE
        new = not path.exists()
        errors = [root_mean_squares(self.sums), np.full(3, np.nan)]
        valid_loss = math.nan
        if self.valid_sums is not None:
            errors[1], valid_loss = root_mean_squares(self.valid_sums), self._loss(self.valid_sums)
        numbers = [time.monotonic() - self.began, self.learning_rate, train_loss, *errors[0], valid_loss, *errors[1]]
        with open(path, "a", newline="") as handle:
            writer = csv.writer(handle)
            if new:
                writer.writerow(COLUMNS)
            epoch = (self.step - 1) // self.steps_per_epoch + 1
            writer.writerow([self.step, epoch, *(f"{x:.6g}" if math.isfinite(x) else "" for x in numbers)])
        # train_loss -> train/loss: one chart group for each set.
        named = zip((name.replace("_", "/", 1) for name in COLUMNS[4:]), numbers[2:], strict=True)
        values = {"epoch": epoch, "learning_rate": self.learning_rate, **dict(named)}
        for logger in self.loggers:
            logger.write(self.step, values)

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
                seconds=time.monotonic() - self.began,
                seconds_left=self._seconds_left(),
                message=message,
            )
        )

    def _seconds_per_step(self) -> float:
        return float(np.median(self.step_seconds[1:])) if len(self.step_seconds) > 2 else math.nan

    def _seconds_left(self) -> float:
        recent = self.step_seconds[1:][-100:]
        left = float(np.median(recent)) * (self.total_steps - self.step) if recent else math.inf
        limit = self.config.training.max_minutes
        return left if limit is None else max(0.0, min(left, 60 * limit - (time.monotonic() - self.began)))


def _shifts(frames: Sequence[Atoms] | StoredFrames, mode: str | Mapping[str, float]) -> dict[str, float]:
    if isinstance(frames, StoredFrames):
        return fit_shifts(*frames.composition(), mode)
    return energy_shifts(frames, mode)


def _graphs(
    frames: Sequence[Atoms] | StoredFrames, cutoff: float, shifts: Mapping[str, float], name: str
) -> Sequence[FrameGraph]:
    if isinstance(frames, StoredFrames):
        return frames.graphs(cutoff, shifts)
    return frame_graphs(frames, cutoff, shifts, name)


def _require_labels(graphs: Sequence[FrameGraph], config: RunConfig, name: str) -> None:
    """Refuses a weight on a target that no frame of the named set has."""
    settings, data = config.training, config.data
    wanted = (
        (settings.energy_weight, "energy_weight", data.energy_key),
        (settings.force_weight, "force_weight", data.forces_key),
        (settings.stress_weight, "stress_weight", data.virial_key or data.stress_key),
    )
    for place, (weight, setting, key) in enumerate(wanted):
        if weight > 0 and not any(np.isfinite(found[place]).any() for found in labels_of(graphs)):
            raise DataError(
                f"training.{setting} = {weight} but none of {len(graphs)} {name} frames has a label for it "
                f"(key {key!r}): name the right key under [data], or set training.{setting} = 0"
            )


def _shortest_distance(graphs: Sequence[FrameGraph]) -> float:
    """Shortest distance (A) in some of the frames; 1 where no atom has a neighbour."""
    places = np.unique(np.linspace(0, len(graphs) - 1, DISTANCE_FRAMES).astype(int))
    found = [shortest_distance(graphs[k]) for k in places]
    return min((d for d in found if d is not None), default=1.0)


def _without_folders(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose files are named without the folders of this machine: a model and its bundles are given away."""
    named = {"data": ("file", "train_file", "valid_file"), "training": ("initial_model",)}
    for section, keys in named.items():
        settings[section] |= {key: Path(settings[section][key]).name for key in keys if key in settings[section]}
    return settings


def _weights_of(folder: str, config: ModelConfig) -> Params:
    """Weights of a model with the same network. Raises TrainingError where it has another one."""
    model = Model.load(folder)
    theirs, ours = model.config.to_dict(), config.to_dict()
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise TrainingError(
                f"training.initial_model = {folder} has model.{key} = {theirs.get(key)!r}, this run "
                f"{ours.get(key)!r}: take its [model] section from {folder}/config.toml"
            )
    return model.params


def _require_parts(settings: TrainingConfig, batch_size: int) -> None:
    """Refuses more parts than a batch has structures, and more devices than there are."""
    if settings.parts > batch_size:
        raise TrainingError(
            f"a batch of {batch_size} structures cannot be split into training.accumulate = {settings.accumulate} "
            f"times training.devices = {settings.devices} parts: give a larger training.batch_size"
        )
    if settings.devices > jax.device_count():
        raise TrainingError(f"training.devices = {settings.devices}, but JAX sees {jax.device_count()}")


def _require_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses to resume with other settings or data; names what differs."""
    # Settings that are younger than the run have the values that it was trained with.
    configs = RunConfig.from_dict(old["config"]).to_dict(), new["config"]
    flat = [{f"{s}.{k}": v for s, values in config.items() for k, v in values.items()} for config in configs]
    free = set(FREE_SETTINGS)
    if flat[1]["training.schedule"] != "cosine":
        free.add("training.epochs")
    differ = sorted(k for k in (flat[0].keys() | flat[1].keys()) - free if flat[0].get(k) != flat[1].get(k))
    if differ:
        key = differ[0]
        raise TrainingError(
            f"{path}: the run was begun with {key} = {flat[0].get(key)!r}, not {flat[1].get(key)!r} "
            f"({len(differ)} settings differ): resume with the same settings, or train in another folder"
        )
    if old["data"] != new["data"]:
        raise TrainingError(
            f"{path}: the run was begun with other frames or labels: resume with the same data, or train elsewhere"
        )


def _cut_metrics(path: Path, step: int) -> None:
    """Drops rows of steps after the checkpoint: they will be written again."""
    if not path.exists():
        return
    with open(path, newline="") as handle:
        rows = list(csv.reader(handle))
    kept = [row for row in rows if row[0] == COLUMNS[0] or int(row[0]) <= step]
    with open(path, "w", newline="") as handle:
        csv.writer(handle).writerows(kept)
