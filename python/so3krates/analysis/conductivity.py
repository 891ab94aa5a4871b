"""Thermal conductivity of Green-Kubo runs: per direction and averaged, by both estimates, and what speaks against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.fft import rfft
from scipy.stats import f

from so3krates.progress import Callback

from .cepstral import Cepstral, cepstral
from .flux import FluxError, Trajectory
from .green_kubo import GreenKubo, green_kubo, scale

AXES = "xyz"
BANDWIDTH = 10  # largest frequency of the cepstral estimate times the upper limit of the integral
# Largest relative spread over trajectories; NVE keeps the temperature at which NVT left it, within T (2 / 3N)^(1/2).
SAME_STATE = {"temperature": 0.2, "volume": 0.01}
SUSPICIOUS_POWER = 9  # least power at zero frequency, over that of its neighbours, that is called a drift
NEIGHBOURS = 10
SUSPICIOUS_DIFFERENCE = 3  # combined errors
FEW_SAMPLES = 5
LONG_ENOUGH = 10  # trajectory over upper limit
POINTS_SAVED = 500  # of each curve


@dataclass(frozen=True)
class Conductivity:
    """Estimates by name of a set of directions, as in xy, and the runs behind them."""

    trajectories: tuple[Trajectory, ...]
    green_kubo: dict[str, GreenKubo]
    cepstral: dict[str, Cepstral]
    warnings: tuple[str, ...]


class Segment(NamedTuple):
    """A part of a trajectory's flux, and what its products are multiplied by."""

    flux: np.ndarray
    scale: float


def parse_average(text: str) -> tuple[str, ...]:
    """Sets of directions: `xyz`, `xy,z`, `none`. Raises FluxError for anything else."""
    sets = tuple(text.replace(" ", "").split(",")) if text != "none" else ()
    if any(not name or not set(name) <= set(AXES) or len(set(name)) != len(name) for name in sets):
        raise FluxError(f"--average {text}: give xyz, xy,z, none, or other sets of x, y and z separated by commas")
    return sets


def conductivity(
    trajectories: Sequence[Trajectory],
    average: Sequence[str] = ("xyz",),
    *,
    cutoff: float | None = None,
    window: float = 1.0,
    blocks: int | None = None,
    max_frequency: float | None = None,
    coefficients: int | None = None,
    report: Callback | None = None,
) -> Conductivity:
    """W/mK of each set of directions in `average` and of x, y and z; a single direction takes its set's upper limit.

    The other arguments are those of `green_kubo` and `cepstral`.

    Raises FluxError for runs that do not belong together or are too short.
    """
    if not 0 < window < math.inf:
        raise FluxError(f"a window of {window:g} ps: give a time above 0")
    _check(trajectories)
    interval = trajectories[0].interval
    scales = [scale(trajectory) for trajectory in trajectories]
    length = min(len(trajectory.steps) for trajectory in trajectories)
    # Periodograms are averaged over series of one length.
    segments = [
        Segment(trajectory.flux[i : i + length], factor)
        for trajectory, factor in zip(trajectories, scales, strict=True)
        for i in range(0, len(trajectory.steps) - length + 1, length)
    ]
    names = [*average, *(axis for axis in AXES if axis not in average)]
    _refuse_drift(segments)
    integrals: dict[str, GreenKubo] = {}
    cepstra: dict[str, Cepstral] = {}
    for done, name in enumerate(names, 1):
        columns = columns_of(name)
        larger = next((integrals[other].cutoff for other in average if name in other and other in integrals), None)
        limit = cutoff if cutoff is not None else larger
        fluxes = [trajectory.flux[:, columns] for trajectory in trajectories]
        integrals[name] = green_kubo(fluxes, interval, limit, window, blocks, scales)
        frequency = max_frequency if max_frequency is not None else BANDWIDTH / integrals[name].cutoff
        series = [column for segment in segments for column in segment.flux[:, columns].T]
        factors = [segment.scale for segment in segments for _ in name]
        cepstra[name] = cepstral(series, interval, frequency, coefficients, factors)
        if report is not None:
            report("directions", done, len(names))
    return Conductivity(
        tuple(trajectories), integrals, cepstra, tuple(_warnings(interval * length, integrals, cepstra))
    )


def _check(trajectories: Sequence[Trajectory]) -> None:
    intervals = [trajectory.interval for trajectory in trajectories]
    if max(intervals) - min(intervals) > 1e-6 * max(intervals):
        raise FluxError(
            f"the trajectories have frames every {min(intervals):.6g} to {max(intervals):.6g} ps: analyse those of one "
            "interval at a time"
        )
    for quantity, spread in SAME_STATE.items():
        means = [getattr(trajectory, quantity).mean() for trajectory in trajectories]
        if max(means) - min(means) > spread * min(means):
            raise FluxError(
                f"the trajectories have mean {quantity}s from {min(means):.6g} to {max(means):.6g}: analyse the same "
                "system at one temperature at a time"
            )


def columns_of(name: str) -> slice:
    """Those of a set of directions in a flux (N, 3); a slice, so that nothing is copied."""
    first, *others = sorted(AXES.index(axis) for axis in name)
    return slice(first, (others or [first])[-1] + 1, others[0] - first if len(others) == 1 else 1)


def _refuse_drift(segments: Sequence[Segment]) -> None:
    """Raise FluxError where the mean flux of segments is not that of a series with zero mean.

    The power at zero frequency over that at the next ones then follows an F distribution.
    """
    number = len(segments)
    for column, axis in enumerate(AXES):
        powers = [one.scale * np.abs(rfft(one.flux[:, column])[: NEIGHBOURS + 1]) ** 2 for one in segments]
        power = np.mean(powers, axis=0)
        if not power.any():
            raise FluxError(f"the flux along {axis} is zero throughout: is its column the right one?")
        ratio = power[0] / power[1:].mean()
        if ratio > max(SUSPICIOUS_POWER, f.isf(1e-6, number, 2 * NEIGHBOURS * number)):
            raise FluxError(
                f"the mean flux along {axis} is {np.sqrt(ratio):.0f} standard errors from zero, and would add to the "
                "integral for ever: the system drifts (fix momentum in the deck, or --subtract the convective part) or "
                "was not in equilibrium (--discard more)"
            )


def _warnings(shortest: float, integrals: Mapping[str, GreenKubo], cepstra: Mapping[str, Cepstral]) -> Iterator[str]:
    for name, integral in integrals.items():
        other = cepstra[name]
        if integral.samples < FEW_SAMPLES:
            yield f"{name}: {integral.samples} independent sample(s); the error bar itself is uncertain"
        if shortest < LONG_ENOUGH * integral.cutoff:
            yield (
                f"{name}: the shortest trajectory, {shortest:.4g} ps, is less than {LONG_ENOUGH} upper limits of "
                f"{integral.cutoff:.4g} ps: slower contributions may be missing, run longer"
            )
        difference = abs(integral.value - other.value) / np.hypot(integral.error, other.error)
        if difference > SUSPICIOUS_DIFFERENCE:
            yield (
                f"{name}: the two estimates differ by {difference:.1f} combined errors: look at the figure, run "
                "longer, or choose --cutoff-time and --max-frequency"
            )


def as_json(result: Conductivity, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was found, as numbers, lists and text; curves thinned out to POINTS_SAVED points."""
    trajectories = [
        {
            "files": list(trajectory.files),
            "runs": list(trajectory.runs),
            "first_step": int(trajectory.steps[0]),
            "last_step": int(trajectory.steps[-1]),
            "frames": len(trajectory.steps),
            "interval_ps": trajectory.interval,
            "temperature_K": float(trajectory.temperature.mean()),
            "volume_A3": float(trajectory.volume.mean()),
            "mean_flux_eV_A_per_ps": trajectory.flux.mean(axis=0).tolist(),
        }
        for trajectory in result.trajectories
    ]
    directions = {}
    for name, integral in result.green_kubo.items():
        cepstrum = result.cepstral[name]
        directions[name] = {
            "green_kubo": {
                "kappa_W_per_mK": integral.value,
                "error": integral.error,
                "block_error": None if np.isnan(integral.block_error) else integral.block_error,
                "gaussian_error": integral.gaussian_error,
                "samples": integral.samples,
                "cutoff_ps": integral.cutoff,
                "block_ps": integral.block,
                **_curves(
                    time_ps=integral.times,
                    autocorrelation=integral.autocorrelation,
                    running_integral=integral.integral,
                    running_error=integral.band,
                ),
            },
            "cepstral": {
                "kappa_W_per_mK": cepstrum.value,
                "error": cepstrum.error,
                "samples": cepstrum.samples,
                "coefficients": cepstrum.coefficients,
                "max_frequency_THz": cepstrum.max_frequency,
                **_curves(
                    frequency_THz=cepstrum.frequencies,
                    log_half_spectrum=cepstrum.log_spectrum,
                    log_half_spectrum_fit=cepstrum.log_fit,
                ),
            },
        }
    return {
        "settings": dict(settings),
        "trajectories": trajectories,
        "directions": directions,
        "warnings": list(result.warnings),
    }


def _curves(**curves: np.ndarray) -> dict[str, list[float]]:
    return {name: curve[:: max(len(curve) // POINTS_SAVED, 1)].tolist() for name, curve in curves.items()}
