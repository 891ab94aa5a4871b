"""Training: settings, loss, optimiser, the course of a run, and what it reports."""

from .breakdown import Breakdown, breakdown
from .committee import Committee, CommitteeError, committee_table, disagreement, member_folders, require_different
from .config import PRESETS, DataConfig, RunConfig, TrainingConfig, preset
from .evaluate import Properties, evaluate, reference
from .finetuning import FineTuningConfig
from .metrics import Errors, as_json, error_table, rich_table
from .plots import breakdown_plot, learning_curve, parity_plot
from .progress import Status, progress_display
from .report import Results, all_tables, result_tables, write_committee_report, write_json, write_report, write_results
from .run_folder import TrainingError
from .session import committee, run_session
from .sources import Demands, evaluated_frames, load_frames, load_stored
from .trainer import TrainingResult, train

__all__ = [
    "PRESETS",
    "Breakdown",
    "Committee",
    "CommitteeError",
    "DataConfig",
    "Demands",
    "Errors",
    "FineTuningConfig",
    "Properties",
    "Results",
    "RunConfig",
    "Status",
    "TrainingConfig",
    "TrainingError",
    "TrainingResult",
    "all_tables",
    "as_json",
    "breakdown",
    "breakdown_plot",
    "committee",
    "committee_table",
    "disagreement",
    "error_table",
    "evaluate",
    "evaluated_frames",
    "learning_curve",
    "load_frames",
    "load_stored",
    "member_folders",
    "parity_plot",
    "preset",
    "progress_display",
    "reference",
    "require_different",
    "result_tables",
    "rich_table",
    "run_session",
    "train",
    "write_committee_report",
    "write_json",
    "write_report",
    "write_results",
]
