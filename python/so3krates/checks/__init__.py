"""Whether a potential on disk obeys what a potential must obey: `so3krates check` (docs/training.md)."""

from .crystals import default_structure, perfect_crystal
from .errors import TEST_RATIO, check_errors, error_checks
from .findings import Check, as_json, check_table
from .laws import BOUNDS, DRIFT, LARGE_FORCE, STEPS, Bounds, check_potential
from .potentials import Answer, Potential, PotentialCalculator, open_potential

__all__ = [
    "BOUNDS",
    "DRIFT",
    "LARGE_FORCE",
    "STEPS",
    "TEST_RATIO",
    "Answer",
    "Bounds",
    "Check",
    "Potential",
    "PotentialCalculator",
    "as_json",
    "check_errors",
    "check_potential",
    "check_table",
    "default_structure",
    "error_checks",
    "open_potential",
    "perfect_crystal",
]
