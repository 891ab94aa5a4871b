"""Cepstral estimate of a spectrum at zero frequency: Ercole, Marcolongo, Baroni, Sci. Rep. 7, 15835 (2017).

Written here because the authors' program, SporTran 1.0.0rc4, stops at functions that numpy 2.4 no longer has, and is
under the GPL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.fft import dct, rfft
from scipy.special import digamma, polygamma

from .flux import FluxError

AKAIKE_FACTOR = 2  # coefficients kept per coefficient that the criterion asks for; docs/kappa.md says why
FEWEST_FREQUENCIES = 16


@dataclass(frozen=True)
class Cepstral:
    """Half the spectrum at zero frequency (W/mK of a flux with its scale) and the curves behind it."""

    value: float
    error: float  # standard error
    coefficients: int
    samples: int  # periodograms averaged
    max_frequency: float  # THz
    frequencies: np.ndarray  # THz
    log_spectrum: np.ndarray  # log of half the averaged periodogram, bias of the logarithm removed
    log_fit: np.ndarray  # the same from the kept coefficients


def cepstral(
    samples: Sequence[np.ndarray] | np.ndarray,
    interval: float,
    max_frequency: float | None = None,
    coefficients: int | None = None,
    scales: Sequence[float] | None = None,
) -> Cepstral:
    """Estimate from independent series of one process with zero mean.

    Args:
        samples: l series (N,), for example fluxes of equivalent directions and of several trajectories.
        interval: ps between frames.
        max_frequency: THz, frequencies above are left out; None: none is.
        coefficients: how many are kept; None: AKAIKE_FACTOR times those by the Akaike information criterion.
        scales: of each series, what its power is multiplied by: `green_kubo.scale`; None: 1.

    Raises FluxError for too few frequencies or a series without power.
    """
    number, length = len(samples), len(samples[0])
    last = length if max_frequency is None else int(max_frequency * length * interval + 1e-9)
    last = min(last, (length - 1) // 2)  # the Nyquist frequency of even lengths has a distribution of its own
    if last < FEWEST_FREQUENCIES:
        raise FluxError(
            f"{last} frequencies up to {last / (length * interval):.3g} THz are too few for a cepstral analysis, which "
            f"wants {FEWEST_FREQUENCIES}: run longer or raise --max-frequency"
        )
    scales = [1.0] * number if scales is None else scales
    powers = (factor * np.abs(rfft(one)[: last + 1]) ** 2 for one, factor in zip(samples, scales, strict=True))
    power = sum(powers) / number * interval / length
    frequencies = np.arange(last + 1) / (length * interval)
    if not (power > 0).all():
        raise FluxError("the flux has no power at some frequencies: is one of its components zero throughout?")
    # l periodograms average to S chi^2_2l/2l, and to S chi^2_l/l at zero frequency.
    degrees = np.full(last + 1, float(number))
    degrees[0] = number / 2
    logs = np.log(power / 2) - (digamma(degrees) - np.log(degrees))
    cepstrum = dct(logs, type=1) / (2 * last)
    variance = float(polygamma(1, number))
    if coefficients is None:
        # sum over n >= P of C_n^2 over its variance, plus 2 P, for P = 1 ... last
        rest = np.cumsum((cepstrum[1:last] ** 2)[::-1])[::-1] * (2 * last / variance)
        coefficients = min(AKAIKE_FACTOR * (int(np.argmin(rest + 2 * np.arange(1, last))) + 1), last - 1)
    if not 1 <= coefficients < last:
        raise FluxError(f"{coefficients} cepstral coefficients of {last} frequencies: keep 1 to {last - 1}")
    kept = np.where(np.arange(last + 1) < coefficients, cepstrum, 0)
    fit = dct(kept, type=1)
    value = float(np.exp(fit[0]))
    return Cepstral(
        value=value,
        error=value * float(np.sqrt(variance * (4 * coefficients - 2) / (2 * last))),
        coefficients=coefficients,
        samples=number,
        max_frequency=float(frequencies[-1]),
        frequencies=frequencies,
        log_spectrum=logs,
        log_fit=fit,
    )
