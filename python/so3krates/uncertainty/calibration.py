"""How well uncertainties tell of errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich.table import Table

LEVELS = np.linspace(0.005, 0.995, 100)  # of confidence


class Calibration(NamedTuple):
    """Of atoms that did not train."""

    atoms: int
    ratio: float  # root mean square of errors / uncertainties: 1 is right, above 1 is overconfident
    miscalibration: float  # area between expected and found shares of errors within each confidence, 0 to 0.5
    rank_atoms: float  # Spearman's correlation of uncertainty and error of atoms
    rank_frames: float  # the same for root mean squares over frames; NaN for fewer than three


def calibration_table(sets: Mapping[str, Calibration]) -> Table:
    """To print, a row for each set."""
    table = Table(title="Uncertainty of forces")
    table.add_column("set", no_wrap=True)
    for heading in ("atoms", "error / uncertainty", "miscalibration", "rank: atoms", "rank: frames"):
        table.add_column(heading, justify="right")
    for name, found in sets.items():
        frames = "-" if np.isnan(found.rank_frames) else f"{found.rank_frames:.2f}"
        numbers = (f"{found.ratio:.2f}", f"{found.miscalibration:.3f}", f"{found.rank_atoms:.2f}", frames)
        table.add_row(name, str(found.atoms), *numbers)
    return table


def known_atoms(uncertainties: Sequence[np.ndarray], errors: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Uncertainties (N,) and errors (N, 3) of all atoms that have labels; arguments as of `calibration`."""
    known = [~np.isnan(e).any(axis=1) for e in errors]
    sigma = np.concatenate([u[k] for u, k in zip(uncertainties, known, strict=True)])
    return sigma, np.concatenate([e[k] for e, k in zip(errors, known, strict=True)])


def shares_within(sigma: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Share of errors within each of the confidences `LEVELS`, if they were normal; sigma: (N,), error: (N, 3)."""
    from scipy.special import ndtri  # a third of a second of each start

    scaled = np.abs(error) / sigma[:, None]
    return np.array([(scaled < ndtri(0.5 + level / 2)).mean() for level in LEVELS])


def calibration(uncertainties: Sequence[np.ndarray], errors: Sequence[np.ndarray]) -> Calibration:
    """uncertainties: of the atoms of each frame, (n,) eV/A. errors: of their forces, (n, 3) eV/A; NaN: no label.

    Miscalibration area: Kuleshov, Fenner, Ermon, ICML 2018; with normal errors.
    """
    sigma, error = known_atoms(uncertainties, errors)
    scaled = np.abs(error) / sigma[:, None]
    found = shares_within(sigma, error)
    sizes = np.linalg.norm(error, axis=1)
    known = [~np.isnan(e).any(axis=1) for e in errors]
    frames = np.array(
        [
            [np.sqrt(np.square(u[k]).mean()), np.sqrt(np.square(e[k]).sum(axis=1).mean())]
            for u, e, k in zip(uncertainties, errors, known, strict=True)
            if k.any()
        ]
    )
    enough = 3  # frames, for a rank to mean something
    return Calibration(
        atoms=len(sigma),
        ratio=float(np.sqrt(np.square(scaled).mean())),
        miscalibration=float(np.abs(found - LEVELS).mean()),
        rank_atoms=_rank(sigma, sizes),
        rank_frames=_rank(*frames.T) if len(frames) >= enough else float("nan"),
    )


def _rank(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    from scipy.stats import spearmanr  # half a second of each start

    return float(spearmanr(a, b).statistic)
