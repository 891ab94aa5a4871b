"""Families of potentials trained and examined on the same data: `so3krates compare` (docs/compare.md)."""

from .config import CompareConfig, CompareSettings
from .families import Family, FamilyError, families
from .report import write_comparison
from .run import compare

__all__ = ["CompareConfig", "CompareSettings", "Family", "FamilyError", "compare", "families", "write_comparison"]
