"""Physics out of finished runs."""

from .drift import energy_drift

__all__ = ["energy_drift"]
