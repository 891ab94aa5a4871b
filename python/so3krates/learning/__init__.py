"""Learning on the fly: train, run the user's decks, label what the potential does not know, train again."""

from .config import LabelConfig, LearnConfig, LearningSettings, RunSettings
from .labels import LabelsAwaited
from .loop import LearningError, Outcome, learn

__all__ = [
    "LabelConfig",
    "LabelsAwaited",
    "LearnConfig",
    "LearningError",
    "LearningSettings",
    "Outcome",
    "RunSettings",
    "learn",
]
