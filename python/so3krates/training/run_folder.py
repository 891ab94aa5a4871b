"""The folder of a run: its settings, its states and its metrics; what belongs to somebody else is left alone."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from so3krates.files import append_line, make_folder, only_user, require_text, write_text
from so3krates.model.config import ConfigError
from so3krates.storage import CONFIG_FILE, WEIGHTS_FILE

from .checkpoints import Checkpoints, Stored
from .config import NO_PRESET, RunConfig

RUN_FILE = "run.json"
METRICS_FILE = "metrics.csv"
CHECKPOINT_FOLDER = "checkpoints"
REPORT_FOLDER = "report"
# The last three where the network predicts them.
QUANTITIES = ("energy", "forces", "stress", "charges", "dipole", "hirshfeld_ratios")


def columns(quantities: int = 3) -> tuple[str, ...]:
    """Names of the columns of metrics.csv of a run with so many quantities."""
    names = ("loss", *(f"{name}_rmse" for name in QUANTITIES[:quantities]))
    return ("step", "epoch", "seconds", "learning_rate", *(f"{part}_{n}" for part in ("train", "valid") for n in names))


COLUMNS = columns()
SECONDS = COLUMNS.index("seconds")
# Settings that may differ when a run is resumed: where the data lies, how long the run goes on, who shares a batch.
FREE_SETTINGS = frozenset(
    {"data.file", "data.train_file", "data.valid_file", "data.tag_key"}
    | {"training.patience", "training.checkpoint_minutes", "training.max_minutes", "training.log_to"}
    | {"training.hours", "training.initial_model", "finetuning.replay", "finetuning.old_test"}
    | {"training.devices"}
)


class TrainingError(RuntimeError):
    """A run that cannot start, go on or be resumed; the message says why and what to do."""


def holds_run(folder: Path) -> bool:
    """Whether a run was begun in a folder; its states alone are enough to go on."""
    return (folder / RUN_FILE).exists() or any((folder / CHECKPOINT_FOLDER).glob("[0-9]*"))


def require_run_place(folder: Path, resume: bool) -> None:
    """Refuses to begin where a run or files of somebody else lie, and to resume where no run does."""
    if resume:
        if not holds_run(folder):
            raise TrainingError(f"{folder} holds no run to resume ({RUN_FILE} is missing)")
        return
    if holds_run(folder):
        raise TrainingError(f"{folder} holds a run already: resume it, or choose another folder")
    for name in (METRICS_FILE, CONFIG_FILE, WEIGHTS_FILE, REPORT_FOLDER, CHECKPOINT_FOLDER):
        if (folder / name).exists():
            raise TrainingError(
                f"{folder / name} is there already, but no run ({RUN_FILE} is missing), and training would overwrite "
                "it: choose another folder, or move it away"
            )


def recorded_epochs(folder: Path) -> int | None:
    """Epochs that a run in a folder was begun with; None where that is not known."""
    try:
        epochs = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["config"]["training"]["epochs"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return epochs if isinstance(epochs, int) and epochs > 0 else None


class RunFolder:
    """A folder that one configuration and its data own."""

    def __init__(self, path: str | Path, config: RunConfig, data: str, resume: bool) -> None:
        """Takes the folder; `data` is a hash of the frames. Raises TrainingError, WriteError."""
        self.path = Path(path)
        require_run_place(self.path, resume)
        require_text(self.path)
        self._record = {"config": config.to_dict(), "data": data}
        self._columns = columns(len(config.training.weights))
        self._is_new = not (self.path / RUN_FILE).exists()
        if not self._is_new:
            _require_same(self.path / RUN_FILE, self._record)
        self._lacks_states = not (self.path / CHECKPOINT_FOLDER).is_dir()
        make_folder(self.path)
        with contextlib.ExitStack() as stack:
            stack.enter_context(only_user(self.path))
            if not resume:
                self._write_record()
            self.checkpoints = Checkpoints(self.path / CHECKPOINT_FOLDER)
            self._mine = stack.pop_all()

    def close(self) -> None:
        """Lets others have the folder."""
        self.checkpoints.close()
        self._mine.close()

    @property
    def metrics_file(self) -> Path:
        """CSV with a row per validation."""
        return self.path / METRICS_FILE

    def restore(self, like: Any) -> tuple[Stored | None, list[str]]:
        """The newest state that is whole, and what the user should know. Raises CheckpointError, TrainingError."""
        stored = self.checkpoints.load(like)
        said = [stored.warning] if stored is not None and stored.warning else []
        if stored is None and (self.path / WEIGHTS_FILE).exists():
            if self._lacks_states:
                raise TrainingError(
                    f"{self.path} has weights of a run, but its {CHECKPOINT_FOLDER} are gone: train in another folder; "
                    f"training.initial_model = {self.path} begins with these weights"
                )
            said.append(f"{self.path / CHECKPOINT_FOLDER}: no state was saved yet, the run begins anew")
        if self._is_new and stored is not None:
            said.append(
                f"{self.path / RUN_FILE} is missing: settings and data could not be compared with those that the run "
                "was begun with"
            )
            self._write_record()
        return stored, said

    def _write_record(self) -> None:
        write_text(self.path / RUN_FILE, json.dumps(self._record, indent=1) + "\n")
        self._is_new = False

    def cut_metrics(self, step: int) -> float:
        """Drops rows of steps after the state, which will be written again; returns the seconds of the last row kept.

        Raises TrainingError for a file that is not of a run.
        """
        path = self.metrics_file
        if not path.exists():
            return 0.0
        with open(path, newline="", encoding="utf-8", errors="replace") as handle:
            header, *rows = list(csv.reader(handle)) or [list(self._columns)]
        if tuple(header) != self._columns:
            raise TrainingError(
                f"{path} is not of this run (its first line is {','.join(header)[:60]!r}): move it away, then resume"
            )
        kept = [row for row in rows if _is_row(row, len(header)) and int(row[0]) <= step]
        write_text(path, _csv([header, *kept]))
        return float(kept[-1][SECONDS]) if kept else 0.0

    def add_metrics(self, step: int, epoch: int, numbers: Sequence[float]) -> None:
        """A row of metrics; `numbers` from the third column on. Raises WriteError."""
        if not self.metrics_file.exists():
            write_text(self.metrics_file, _csv([self._columns]))
        row = [step, epoch, *(f"{x:.6g}" if math.isfinite(x) else "" for x in numbers)]
        append_line(self.metrics_file, _csv([row]).rstrip("\n"))


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _is_row(row: Sequence[str], width: int) -> bool:
    """Whether a row is whole: a kill can end the last one anywhere."""
    if len(row) != width:
        return False
    try:
        int(row[0]), float(row[SECONDS])
    except ValueError:
        return False
    return True


def _require_same(path: Path, new: Mapping[str, Any]) -> None:
    """Refuses to resume with other settings or data; names what differs."""
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        # Settings that are younger than the run have the values that it was trained with.
        configs = RunConfig.from_dict({"preset": NO_PRESET} | old["config"]).to_dict(), new["config"]
        data = old["data"]
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise TrainingError(
            f"{path} is damaged ({' '.join(str(error).split()) or type(error).__name__}): delete it and resume with "
            "the settings and data that the run was begun with, or train in another folder"
        ) from error
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
    if data != new["data"]:
        raise TrainingError(
            f"{path}: the run was begun with other frames or labels: resume with the same data, or train elsewhere"
        )
