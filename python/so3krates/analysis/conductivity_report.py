"""How a thermal conductivity is shown: tables and a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.table import Table
from scipy.ndimage import uniform_filter1d

from so3krates.files import empty_figure, write_figure

from .conductivity import Conductivity

SMOOTHED_POINTS = 50  # of the spectrum in the figure


def runs_table(result: Conductivity) -> Table:
    """One line a trajectory: where it comes from, its length and its state."""
    table = Table("trajectory", "runs", "steps", "frames", "ps", "K", "A^3", title="Runs")
    for trajectory in result.trajectories:
        first, *others = trajectory.files
        table.add_row(
            first + (f" + {len(others)}" if others else ""),
            ", ".join(map(str, trajectory.runs)),
            f"{trajectory.steps[0]} - {trajectory.steps[-1]}",
            str(len(trajectory.steps)),
            f"{trajectory.duration:.5g}",
            f"{trajectory.temperature.mean():.4g}",
            f"{trajectory.volume.mean():.6g}",
        )
    return table


def kappa_table(result: Conductivity) -> Table:
    """One line a set of directions: both estimates, and the integral at half and twice its upper limit."""
    table = Table("direction", title="Thermal conductivity, W/mK")
    for name in ("Green-Kubo", "limit, ps", "samples", "half limit", "twice", "cepstral", "coefficients"):
        table.add_column(name, justify="right")
    for name, integral in result.green_kubo.items():
        cepstrum = result.cepstral[name]
        table.add_row(
            name,
            with_error(integral.value, integral.error),
            f"{integral.cutoff:.3g}",
            str(integral.samples),
            *(f"{integral.at(factor * integral.cutoff):.4g}".replace("nan", "-") for factor in (0.5, 2)),
            with_error(cepstrum.value, cepstrum.error),
            f"{cepstrum.coefficients} of {len(cepstrum.frequencies)}",
        )
    return table


def with_error(value: float, error: float) -> str:
    """Both with two digits of the error."""
    digits = max(0, 1 - int(np.floor(np.log10(error)))) if error > 0 else 3
    return f"{value:.{digits}f} +- {error:.{digits}f}"


def conductivity_figure(path: Path, result: Conductivity, averages: int) -> Path:
    """Autocorrelations, running integrals and spectra: the averaged sets in front, x, y and z thinner."""
    figure = empty_figure(13, 4)
    correlation, integral, spectrum = figure.subplots(1, 3)
    for index, (name, estimate) in enumerate(result.green_kubo.items()):
        averaged = index < averages or averages == 0
        look = {"color": f"C{index}", "lw": 1.6 if averaged else 0.7, "alpha": 1 if averaged else 0.6}
        normalised = estimate.autocorrelation / estimate.autocorrelation[0]
        correlation.plot(estimate.times, normalised, label=name, **look)
        integral.plot(estimate.times, estimate.integral, label=name, **look)
        if not averaged:
            continue
        lower, upper = estimate.integral - estimate.band, estimate.integral + estimate.band
        integral.fill_between(estimate.times, lower, upper, color=look["color"], alpha=0.2, lw=0)
        integral.axvline(estimate.cutoff, color=look["color"], ls=":", lw=1)
        cepstrum = result.cepstral[name]
        width = max(len(cepstrum.frequencies) // SMOOTHED_POINTS, 1)
        raw = np.exp(cepstrum.log_spectrum)
        spectrum.plot(cepstrum.frequencies, raw, color=look["color"], lw=0.4, alpha=0.25, rasterized=True)
        smooth = np.exp(uniform_filter1d(cepstrum.log_spectrum, width, mode="mirror"))
        spectrum.plot(cepstrum.frequencies, smooth, color=look["color"], lw=0.7, alpha=0.6)
        spectrum.plot(cepstrum.frequencies, np.exp(cepstrum.log_fit), color=look["color"], lw=1.8)
        spectrum.errorbar([0], [cepstrum.value], [cepstrum.error], color=look["color"], fmt="o", ms=4, label=name)
        integral.errorbar(
            [1.02 * estimate.times[-1]], [cepstrum.value], [cepstrum.error], color=look["color"], fmt="o", ms=4
        )
    correlation.axhline(0, color="0.5", lw=0.6)
    correlation.set(title="flux autocorrelation", xlabel="time (ps)", ylabel="<J(0) J(t)> / <J(0)^2>")
    integral.set(title="running integral; points: cepstral", xlabel="time (ps)", ylabel="kappa (W/mK)")
    spectrum.set(title="half the flux spectrum, fit from the cepstrum", xlabel="frequency (THz)", ylabel="W/mK")
    spectrum.set_yscale("log")
    for axes in (correlation, integral, spectrum):
        axes.legend(fontsize=8, frameon=False)
    return write_figure(path, figure)
