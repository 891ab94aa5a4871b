"""Training: settings, loss, optimiser, the course of a run, and what it reports."""

from .config import PRESETS, DataConfig, RunConfig, TrainingConfig, preset
from .evaluate import Properties, evaluate, reference
from .metrics import Errors, as_json, error_table, rich_table
from .plots import learning_curve, parity_plot
from .progress import Status, progress_display
from .report import write_report
from .sources import load_frames
from .trainer import TrainingError, TrainingResult, train

__all__ = [
    "PRESETS",
    "DataConfig",
    "Errors",
    "Properties",
    "RunConfig",
    "Status",
    "TrainingConfig",
    "TrainingError",
    "TrainingResult",
    "as_json",
    "error_table",
    "evaluate",
    "learning_curve",
    "load_frames",
    "parity_plot",
    "preset",
    "progress_display",
    "reference",
    "rich_table",
    "train",
    "write_report",
]
