"""Energy drift of a run at constant energy."""

from __future__ import annotations

import numpy as np


def energy_drift(times: np.ndarray, energies: np.ndarray, atoms: int) -> float:
    """Slope of a straight line through total energies (eV) over times (ps), in eV per atom and ps.

    Raises ValueError for fewer than three points.
    """
    if len(times) < 3 or len(times) != len(energies):
        raise ValueError(f"{len(times)} times and {len(energies)} energies: give at least three of each")
    # The mean is removed first: total energies can be large.
    slope, _ = np.polyfit(times - np.mean(times), energies - np.mean(energies), 1)
    return float(slope) / atoms
