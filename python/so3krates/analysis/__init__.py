"""Physics out of finished runs and of single frames."""

from .drift import energy_drift
from .heat_flux import HeatFlux, heat_flux

__all__ = ["HeatFlux", "energy_drift", "heat_flux"]
