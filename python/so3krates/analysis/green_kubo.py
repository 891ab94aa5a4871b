"""Green-Kubo: autocorrelation of a flux, its running integral, the upper limit, error bars from blocks.

The integral of a flux' autocorrelation times the `scale` of its trajectory is the conductivity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.integrate import cumulative_trapezoid
from scipy.ndimage import uniform_filter1d

from .flux import FluxError, Trajectory

BOLTZMANN = 8.617333262e-5  # eV/K
WATT_PER_METRE = 1.602176634e3  # of 1 eV/(ps A), W/m
LIMIT = 2  # upper limit of the integral in times after which the autocorrelation is hidden by its noise
BLOCK_LENGTH = 5  # least length of a block in upper limits of the integral
MOST_BLOCKS = 10  # of one trajectory
SHOWN = 4  # curves reach this many upper limits
CHUNK = 2**20  # frames that are transformed at once, unless four times the lags are more
FIRST_LAGS = 2**15  # of the search for an upper limit; where they do not reach, twice as many


@dataclass(frozen=True)
class GreenKubo:
    """Conductivity in W/mK; curves over `times` (ps): autocorrelation, W/mK/ps, and running integral with its error."""

    value: float
    error: float  # the larger of the next two
    block_error: float  # standard error of the mean over the samples; NaN for one sample
    gaussian_error: float  # expected of a Gaussian process of this length
    samples: int  # independent ones: blocks x directions
    cutoff: float  # ps, upper limit of the integral
    block: float  # ps
    times: np.ndarray
    autocorrelation: np.ndarray
    integral: np.ndarray
    band: np.ndarray

    def at(self, time: float) -> float:
        """The running integral at a time in ps; NaN beyond the curve."""
        index = round(time / self.times[1])
        return float(self.integral[index]) if index < len(self.integral) else float("nan")


def scale(trajectory: Trajectory) -> float:
    """W/mK/ps of a product of two fluxes in (eV A/ps)^2: 1 / (V k_B T^2) of the mean volume and temperature."""
    volume, temperature = float(trajectory.volume.mean()), float(trajectory.temperature.mean())
    return WATT_PER_METRE / (volume * BOLTZMANN * temperature**2)


def autocorrelation(series: np.ndarray, lags: int) -> np.ndarray:
    """<x(0) x(t)> of lags 0..lags along axis 0, each divided by its own number of pairs (unbiased).

    The mean is known to be zero and not removed: removing that of a series of length T would lower the running
    integral at t by 2 t/T of itself. Long series are taken in chunks, so that memory does not grow with them.
    """
    length, chunk = len(series), max(CHUNK, 4 * lags)
    products = np.zeros((lags + 1, *series.shape[1:]))
    for start in range(0, length, chunk):
        first, later = series[start : start + chunk], series[start : start + chunk + lags]
        padded = next_fast_len(len(first) + lags, real=True)
        spectrum = rfft(first, padded, axis=0).conj()
        spectrum *= rfft(later, padded, axis=0)
        products += irfft(spectrum, padded, axis=0)[: lags + 1]
    pairs = np.arange(length, length - lags - 1, -1).reshape(-1, *[1] * (series.ndim - 1))
    return products / pairs


def running_integral(correlation: np.ndarray, interval: float) -> np.ndarray:
    """Trapezoidal integral from 0 to every lag along axis 0."""
    return cumulative_trapezoid(correlation, dx=interval, axis=0, initial=0)


def noise_limit(correlation: np.ndarray, interval: float, window: float, duration: float) -> int | None:
    """First lag at which the autocorrelation, averaged over a window (ps), is no larger than its own standard error
    sqrt(2/T int C^2 dt), T being the duration of all series (ps); None if there is none.

    Zwanzig and Ailawadi, Phys. Rev. 182, 280 (1969), for a Gaussian process and lags beyond its correlation time.
    """
    width = min(2 * round(window / interval / 2) + 1, len(correlation))
    # mirror: the autocorrelation is even in time
    smooth = uniform_filter1d(correlation, width, mode="mirror")[: len(correlation) - width // 2]
    dips = np.flatnonzero(smooth <= 0)
    signal = smooth[: dips[0]] if len(dips) else smooth
    noise = np.sqrt(2 * interval * np.sum(signal**2) / duration)
    hidden = np.flatnonzero(smooth <= noise)
    return int(hidden[0]) if len(hidden) else None


def green_kubo(
    samples: Sequence[np.ndarray],
    interval: float,
    cutoff: float | None = None,
    window: float = 1.0,
    blocks: int | None = None,
    scales: Sequence[float] | None = None,
) -> GreenKubo:
    """Conductivity of series (N_s, directions) that are samples of one process, lengths free.

    Args:
        samples: fluxes; directions are taken as equivalent and independent.
        interval: ps between frames.
        cutoff: upper limit in ps; None: LIMIT times `noise_limit`, so that what hides in the noise is integrated too.
        window: averaging window of the autocorrelation for that choice, ps.
        blocks: of the shortest series; None: up to MOST_BLOCKS of at least BLOCK_LENGTH upper limits.
        scales: of each series, what products of its fluxes are multiplied by: `scale`; None: 1.

    The error expected of a Gaussian process that is white on the scale of the limit t is sqrt(4 t/T) of the value, T
    being the duration of all series: Jones and Mandadapu, J. Chem. Phys. 136, 154102 (2012).

    Raises FluxError for series too short for the limit or the blocks.
    """
    scales = [1.0] * len(samples) if scales is None else scales
    shortest = min(len(series) for series in samples)
    lags = shortest // 4
    if lags < 2:
        raise FluxError(f"{shortest} frames are too few for a correlation function")
    if cutoff is None:
        duration = interval * sum(series.size for series in samples)
        limit = _noise_limit(samples, scales, lags, interval, window, duration)
        if limit is None:
            raise FluxError(
                f"the autocorrelation, averaged over {window:.3g} ps, has not decayed to its noise after "
                f"{lags * interval:.4g} ps, a quarter of the shortest trajectory: run longer, or give the upper limit "
                "with --cutoff-time"
            )
        limit = min(max(LIMIT * limit, 1), shortest // 2)
    else:
        limit = round(cutoff / interval)
        if not 1 <= limit <= shortest // 2:
            raise FluxError(
                f"an upper limit of {cutoff:.6g} ps lies outside {interval:.4g} to {shortest // 2 * interval:.6g} ps, "
                "one frame and half the shortest trajectory"
            )
    if blocks is None:
        blocks = min(max(shortest // (BLOCK_LENGTH * limit), 1), MOST_BLOCKS)
    length = shortest // blocks if blocks > 0 else 0
    if length < 2 * limit:
        raise FluxError(
            f"{blocks} blocks of the shortest trajectory are {length * interval:.4g} ps long, less than twice the "
            f"upper limit of {limit * interval:.4g} ps: take fewer blocks"
        )
    reach = min(SHOWN * limit, max(lags, limit), length - 1)
    parts = [
        (series[start : start + length], factor)
        for series, factor in zip(samples, scales, strict=True)
        for start in range(0, len(series) - length + 1, length)
    ]
    integrals = np.concatenate(
        [running_integral(factor * autocorrelation(part, reach), interval) for part, factor in parts], axis=1
    )
    number = integrals.shape[1]
    band = integrals.std(axis=1, ddof=1) / np.sqrt(number) if number > 1 else np.full(reach + 1, np.nan)
    correlation = _mean_correlation(samples, scales, reach)
    integral = running_integral(correlation, interval)
    gaussian = np.abs(integral) * np.sqrt(4 * np.arange(reach + 1) / sum(series.size for series in samples))
    return GreenKubo(
        value=float(integral[limit]),
        error=float(np.fmax(band, gaussian)[limit]),
        block_error=float(band[limit]),
        gaussian_error=float(gaussian[limit]),
        samples=number,
        cutoff=limit * interval,
        block=length * interval,
        times=interval * np.arange(reach + 1),
        autocorrelation=correlation,
        integral=integral,
        band=np.fmax(band, gaussian),
    )


def _noise_limit(
    samples: Sequence[np.ndarray],
    scales: Sequence[float],
    most: int,
    interval: float,
    window: float,
    duration: float,
) -> int | None:
    """`noise_limit` of the mean autocorrelation, of which no more lags are computed than it takes."""
    lags = max(FIRST_LAGS, 4 * round(window / interval))
    while lags < most:
        correlation = _mean_correlation(samples, scales, lags)
        # Beyond its first zero nothing counts.
        if (uniform_filter1d(correlation, 2 * round(window / interval / 2) + 1, mode="mirror")[: lags // 2] <= 0).any():
            return noise_limit(correlation, interval, window, duration)
        lags *= 4
    return noise_limit(_mean_correlation(samples, scales, most), interval, window, duration)


def _mean_correlation(samples: Sequence[np.ndarray], scales: Sequence[float], lags: int) -> np.ndarray:
    """Over series and directions; every pair of frames has the same weight."""
    pairs = [(len(series) - np.arange(lags + 1)) for series in samples]
    products = sum(
        factor * autocorrelation(series, lags).mean(axis=1) * count
        for series, factor, count in zip(samples, scales, pairs, strict=True)
    )
    return products / sum(pairs)
