"""How far an atom's environment lies from the training data, in units of force (docs/uncertainty.md).

`so3krates.training.uncertainty` makes it from a model and its data.
"""

from .calibration import LEVELS, Calibration, calibration, calibration_table, known_atoms, shares_within
from .density import Density, UncertaintyError

__all__ = [
    "LEVELS",
    "Calibration",
    "Density",
    "UncertaintyError",
    "calibration",
    "calibration_table",
    "known_atoms",
    "shares_within",
]
