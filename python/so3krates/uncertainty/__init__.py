"""How far an atom's environment lies from the training data, in units of force (docs/uncertainty.md).

`so3krates.training.uncertainty` makes it from a model and its data.
"""

from .calibration import Calibration, calibration, calibration_table
from .density import Density, UncertaintyError

__all__ = ["Calibration", "Density", "UncertaintyError", "calibration", "calibration_table"]
