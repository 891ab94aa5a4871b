"""Thermal conductivity: both estimates against a process of known spectrum, their error bars, and reading of logs."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.special import polygamma
from so3krates import cli
from so3krates.analysis import log_runs
from so3krates.analysis.cepstral import cepstral
from so3krates.analysis.conductivity import conductivity, parse_average
from so3krates.analysis.flux import Columns, FluxError, Trajectory, read_runs, read_trajectories
from so3krates.analysis.green_kubo import autocorrelation, green_kubo, noise_limit, running_integral, scale
from typer.testing import CliRunner

EXACT = 1e-10  # relative, of FFT against direct sums and of units
INTERVAL = 0.02  # ps
RELAXATION = 0.5  # ps
REALISATIONS = 80
BIAS = 0.05  # of the mean over realisations; their scatter makes 0.015
SCATTER = (0.7, 1.7)  # error bar over actual scatter
COVERED_ONCE = (0.52, 0.9)  # of realisations within one error bar; 0.68 for a perfect one
COVERED_TWICE = (0.86, 1.0)  # within two; 0.95
VARIANCE = 0.1  # relative, of cepstral coefficients against theory
LONGEST_MESSAGE = 500
LONG = 100_000
MOST_BYTES = 72  # a frame
TEMPERATURE, VOLUME = 300.0, 5000.0


def relaxing(rng: np.random.Generator, series: int, frames: int, relaxation: float = RELAXATION) -> np.ndarray:
    """Ornstein-Uhlenbeck processes (series, frames) of variance 1."""
    decay = np.exp(-INTERVAL / relaxation)
    kicks = rng.standard_normal((series, frames)) * np.sqrt(1 - decay**2)
    return lfilter([1], [1, -decay], kicks, axis=1, zi=decay * rng.standard_normal((series, 1)))[0]


def exact_integral(relaxation: float = RELAXATION) -> float:
    """Trapezoidal integral of its autocorrelation, which is half its spectrum at zero frequency."""
    decay = np.exp(-INTERVAL / relaxation)
    return INTERVAL * (0.5 + decay / (1 - decay))


def trajectory(flux: np.ndarray, name: str = "log", temperature: float = TEMPERATURE, volume: float = VOLUME):
    frames = len(flux)
    return Trajectory((name,), INTERVAL, np.arange(frames), flux, np.full(frames, temperature), np.full(frames, volume))


def test_estimates_and_their_error_bars() -> None:
    """Both estimates for three directions and 400 ps, over the exact value."""
    rng = np.random.default_rng(3)
    found = ([], [])
    for _ in range(REALISATIONS):
        series = relaxing(rng, 3, 20_000)
        integral = green_kubo([series.T], INTERVAL)
        both = integral, cepstral(series, INTERVAL, 10 / integral.cutoff)
        for rows, estimate in zip(found, both, strict=True):
            rows.append((estimate.value, estimate.error))
    estimates = [np.array(rows) / exact_integral() for rows in found]
    for values, errors in (rows.T for rows in estimates):
        assert abs(values.mean() - 1) < BIAS
        assert SCATTER[0] < errors.mean() / values.std() < SCATTER[1]
        deviations = np.abs(values - 1) / errors
        assert COVERED_ONCE[0] <= np.mean(deviations < 1) <= COVERED_ONCE[1]
        assert COVERED_TWICE[0] <= np.mean(deviations < 2) <= COVERED_TWICE[1]
    (first, error), (second, other) = estimates[0].T, estimates[1].T
    assert not np.allclose(first, second)
    assert np.mean(np.abs(first - second) < 2 * np.hypot(error, other)) > COVERED_TWICE[0]


def test_block_errors_at_a_given_limit() -> None:
    rng = np.random.default_rng(4)
    limit = 2.5  # ps, 5 relaxation times
    runs = [green_kubo([relaxing(rng, 1, 10_000).T], INTERVAL, limit) for _ in range(REALISATIONS)]
    values = np.array([run.value for run in runs])
    assert all(run.samples == 10 and run.cutoff == pytest.approx(limit) for run in runs)
    for errors in ([run.block_error for run in runs], [run.gaussian_error for run in runs]):
        assert SCATTER[0] < np.mean(errors) / values.std() < SCATTER[1]


def test_more_data_smaller_errors() -> None:
    rng = np.random.default_rng(5)
    runs = [relaxing(rng, 3, 20_000).T for _ in range(16)]
    few, many = (green_kubo(part, INTERVAL, 3.0) for part in (runs[:4], runs))
    assert many.samples == 4 * few.samples
    assert 0.35 < many.error / few.error < 0.7
    spectra = [cepstral(np.concatenate([run.T for run in part]), INTERVAL, 3.0, 12) for part in (runs[:4], runs)]
    assert 0.4 < spectra[1].error / spectra[0].error < 0.6


def test_cepstral_coefficients_scatter_as_in_theory() -> None:
    """White noise: log(S/2) = 0 without bias, error psi'(l) (4 P - 2)/N, for any number of series."""
    rng = np.random.default_rng(6)
    for series in (1, 4):
        runs = [cepstral(rng.standard_normal((series, 2001)) * 2**0.5, 1.0, None, 5) for _ in range(600)]
        logs = np.log([run.value for run in runs])
        variance = polygamma(1, series) * 18 / 2000
        assert np.mean([(run.error / run.value) ** 2 for run in runs]) == pytest.approx(variance, rel=EXACT)
        assert logs.var() == pytest.approx(variance, rel=2 * VARIANCE)
        assert abs(logs.mean()) < 4 * np.sqrt(variance / len(runs))


def test_akaike_keeps_what_the_spectrum_needs() -> None:
    rng = np.random.default_rng(7)
    flat, peaked = (
        np.median([cepstral(make(), INTERVAL, 5.0).coefficients for _ in range(20)])
        for make in (lambda: rng.standard_normal((3, 8000)), lambda: relaxing(rng, 3, 8000))
    )
    assert flat <= 4 < 8 <= peaked


def test_autocorrelation_is_the_direct_sum() -> None:
    series = relaxing(np.random.default_rng(8), 2, 301).T + 0.3
    direct = [np.mean(series[: 301 - lag] * series[lag:], axis=0) for lag in range(101)]
    np.testing.assert_allclose(autocorrelation(series, 100), direct, atol=EXACT)
    halves = running_integral(np.array(direct), INTERVAL)
    np.testing.assert_allclose(halves[2], INTERVAL * (direct[0] / 2 + direct[1] + direct[2] / 2), rtol=EXACT)
    assert np.abs(direct).max() > 0.1


def test_whole_series_weigh_by_their_pairs() -> None:
    rng = np.random.default_rng(9)
    runs = [relaxing(rng, 1, frames).T for frames in (500, 1500)]
    found = green_kubo(runs, INTERVAL, 0.5)
    lags = len(found.times)
    products = sum(np.array([np.sum(run[: len(run) - t] * run[t:]) for t in range(lags)]) for run in runs)
    np.testing.assert_allclose(found.autocorrelation, products / (2000 - 2 * np.arange(lags)), atol=EXACT)
    assert found.value == pytest.approx(found.at(0.5), rel=EXACT)
    assert found.samples == 4 + 12  # blocks of 125 frames, five upper limits


def test_units() -> None:
    """kappa of <J^2> = (2 eV A/ps)^2 over 0.5 ps, by hand from SI constants."""
    flux = trajectory(np.full((10, 3), 2.0))
    ampere_joule = 1.602176634e-19  # J of 1 eV
    si = (2 * ampere_joule * 1e-10 / 1e-12) ** 2 * 0.5e-12
    si /= VOLUME * 1e-30 * 1.380649e-23 * TEMPERATURE**2
    assert 0.5 * scale(flux) * 2.0**2 == pytest.approx(si, rel=1e-8)


def test_limit_looks_through_fast_oscillations() -> None:
    """An optical mode must not end the integral at its first negative lobe."""
    times = INTERVAL * np.arange(2000)
    slow = np.exp(-times / 2)
    both = slow + 3 * np.cos(2 * np.pi * 15 * times) * np.exp(-times / 0.5)
    assert both.min() < -1
    plain, seen = (noise_limit(curve, INTERVAL, 1.0, 1e4) for curve in (slow, both))
    assert 4 < plain * INTERVAL < 14
    assert abs(seen - plain) <= 0.1 * plain
    assert noise_limit(np.ones(500), INTERVAL, 1.0, 1e9) is None


def test_directions_and_averages() -> None:
    rng = np.random.default_rng(10)
    scales = np.array([1.0, 1.0, 2.0])
    runs = [trajectory(relaxing(rng, 3, 20_000).T * scales) for _ in range(3)]
    result = conductivity(runs, parse_average("xy,z"))
    assert list(result.green_kubo) == list(result.cepstral) == ["xy", "z", "x", "y"]
    unit = exact_integral() * 1602.176634 / (VOLUME * 8.617333262e-5 * TEMPERATURE**2)
    for estimates in (result.green_kubo, result.cepstral):
        for name, expected in {"xy": unit, "z": 4 * unit}.items():
            assert abs(estimates[name].value - expected) < 4 * estimates[name].error
            assert estimates[name].error < 0.3 * expected
        assert estimates["xy"].error < estimates["x"].error
    pair = result.green_kubo
    assert pair["x"].cutoff == pair["y"].cutoff == pair["xy"].cutoff
    assert pair["xy"].value == pytest.approx((pair["x"].value + pair["y"].value) / 2, rel=EXACT)
    assert not result.warnings
    for wrong in ("xx", "xyw", "", "x,,y"):
        with pytest.raises(FluxError, match="--average"):
            parse_average(wrong)


def test_warnings() -> None:
    rng = np.random.default_rng(11)
    flux = relaxing(rng, 3, 20_000).T
    short = conductivity([trajectory(flux[:2000])], (), cutoff=10.0)
    assert any("1 independent sample" in text or "2 independent sample" in text for text in short.warnings)
    assert any("less than 10 upper limits" in text for text in short.warnings)


def test_drift_is_refused() -> None:
    rng = np.random.default_rng(11)
    for number in (1, 4):
        runs = [relaxing(rng, 3, 20_000).T for _ in range(number)]
        conductivity([trajectory(run) for run in runs])
        for size in (0.6, 1.5):
            with pytest.raises(FluxError, match=r"mean flux along z is \d+ standard errors.*fix momentum"):
                conductivity([trajectory(run + np.array([0, 0, size])) for run in runs])


def test_runs_that_do_not_belong_together() -> None:
    flux = relaxing(np.random.default_rng(12), 3, 2000).T
    with pytest.raises(FluxError, match=r"mean temperatures from 300 to 400"):
        conductivity([trajectory(flux), trajectory(flux, temperature=400)])
    with pytest.raises(FluxError, match="mean volumes"):
        conductivity([trajectory(flux), trajectory(flux, volume=2 * VOLUME)])
    other = Trajectory(
        ("b",), 0.04, *(getattr(trajectory(flux), k) for k in ("steps", "flux", "temperature", "volume"))
    )
    with pytest.raises(FluxError, match="one interval"):
        conductivity([trajectory(flux), other])
    with pytest.raises(FluxError, match="along z is zero"):
        conductivity([trajectory(flux * [1, 1, 0])], ())


@pytest.mark.parametrize(
    ("frames", "keywords", "message"),
    [
        (6, {}, "too few for a correlation function"),
        (200, {"cutoff": 3.0}, "outside"),
        (2000, {"cutoff": 2.0, "blocks": 15}, "fewer blocks"),
        (400, {"slow": 500.0}, "has not decayed"),
    ],
)
def test_too_short(frames: int, keywords: dict[str, float], message: str) -> None:
    slow = keywords.pop("slow", RELAXATION)
    series = relaxing(np.random.default_rng(13), 1, frames, slow).T + (slow > RELAXATION)
    with pytest.raises(FluxError, match=message):
        green_kubo([series], INTERVAL, **keywords)


def test_too_short_for_a_cepstrum() -> None:
    with pytest.raises(FluxError, match="too few for a cepstral"):
        cepstral(np.random.default_rng(14).standard_normal((1, 40)), INTERVAL, 5.0)


# Reading.

FRAMES = 40
SPACING = 10
TIMESTEP = 0.0005


@pytest.fixture
def series() -> np.ndarray:
    return relaxing(np.random.default_rng(15), 3, FRAMES).T


HEADER = "   Step          Time           Temp          Volume       c_flux[1]      c_flux[2]      c_flux[3]"


def rows(series: np.ndarray, first: int = 0, last: int | None = None, spacing: int = SPACING) -> list[str]:
    return [
        f"{i * spacing:10d} {i * spacing * TIMESTEP:14.8g} {300 + i % 3:g} 5000 " + " ".join(f"{x:.8g}" for x in flux)
        for i, flux in list(enumerate(series))[first:last]
    ]


def log(path: Path, lines: list[str], header: str = HEADER, end: str = "\nLoop time of 1.0 on 1 procs\n") -> Path:
    """A log with an equilibration that prints no flux, and a run with these rows."""
    before = [
        "LAMMPS (22 Jul 2025)",
        "thermo_style custom step temp",
        "   Step  Temp",
        "0 600",
        "10 300",
        "Loop time of 2",
    ]
    path.write_text("\n".join([*before, header, *lines]) + end)
    return path


def check(found: Trajectory, series: np.ndarray, first: int = 0) -> None:
    np.testing.assert_array_equal(found.steps, SPACING * np.arange(first, len(series)))
    np.testing.assert_allclose(found.flux, series[first:], rtol=1e-6)
    assert found.interval == pytest.approx(SPACING * TIMESTEP, rel=1e-6)
    assert found.temperature.mean() == pytest.approx(301, abs=0.1)
    assert (found.volume == 5000).all()


def test_log_of_a_finished_run(tmp_path: Path, series: np.ndarray) -> None:
    lines = rows(series)
    lines.insert(7, "WARNING: something happened (src/file.cpp:1)")
    (found,) = read_trajectories([log(tmp_path / "log", lines)])
    check(found, series)
    assert found.discard(0.1).steps[0] == 200
    with pytest.raises(FluxError, match=r"has 0.2 ps: discarding 1 ps"):
        found.discard(1.0)


@pytest.mark.parametrize("end", ["\n", "\n  400 2.0 301 5000 0.1", "\n  400 2.0 301 5000 0.1 0.2 0.", "\n 400 2.0e-"])
def test_log_of_a_killed_run(tmp_path: Path, series: np.ndarray, end: str) -> None:
    (found,) = read_trajectories([log(tmp_path / "log", rows(series), end=end)])
    check(found, series)


def test_lengths_instead_of_the_volume(tmp_path: Path, series: np.ndarray) -> None:
    header = HEADER.replace("Volume", "Lx Ly Lz")
    lines = [line.replace(" 5000 ", " 10 20 25 ") for line in rows(series)]
    check(read_trajectories([log(tmp_path / "log", lines, header)])[0], series)


def test_file_of_fix_ave_time(tmp_path: Path, series: np.ndarray) -> None:
    path = tmp_path / "flux.dat"
    lines = [" ".join([line.split()[0], *line.split()[4:]]) for line in rows(series)]
    path.write_text("# Time-averaged data for fix f\n# TimeStep v_a v_b v_c\n" + "\n".join(lines) + "\n")
    columns = Columns(flux=("v_a", "v_b", "v_c"), temperature=301.0, volume=5000.0, timestep=TIMESTEP)
    check(read_trajectories([path], columns)[0], series)
    with pytest.raises(FluxError, match=r"no column Time.*--timestep"):
        read_trajectories([path], Columns(flux=("v_a", "v_b", "v_c"), temperature=300.0, volume=5000.0))


def test_convective_part_is_subtracted(tmp_path: Path, series: np.ndarray) -> None:
    header = HEADER + " c_flux[4] c_flux[5] c_flux[6]"
    lines = [line + " 1 2 3" for line in rows(series)]
    path = log(tmp_path / "log", lines, header)
    (found,) = read_trajectories([path], Columns(subtract=("c_flux[4]", "c_flux[5]", "c_flux[6]")))
    np.testing.assert_allclose(found.flux, series - [1, 2, 3], rtol=1e-5, atol=1e-6)
    with pytest.raises(FluxError, match="three of each"):
        Columns(subtract=("c_flux[4]",))


def join_cases() -> dict[str, Callable[[Path, np.ndarray], list[Path]]]:
    return {
        "two runs of one log": lambda folder, x: [
            log(folder / "a", [*rows(x, 0, 21), "Loop time of 1", HEADER, *rows(x, 20)])
        ],
        "restart at the last frame": lambda folder, x: [
            log(folder / "a", rows(x, 0, 21)),
            log(folder / "b", rows(x, 20)),
        ],
        "killed, then restarted from earlier": lambda folder, x: [
            log(folder / "a", rows(x, 0, 25), end="\n 250 0.1"),
            log(folder / "b", rows(x, 20)),
        ],
        "in the wrong order": lambda folder, x: [log(folder / "b", rows(x, 20)), log(folder / "a", rows(x, 0, 25))],
        "one interval on": lambda folder, x: [log(folder / "a", rows(x, 0, 20)), log(folder / "b", rows(x, 20))],
        "the same log twice": lambda folder, x: [log(folder / "a", rows(x)), log(folder / "b", rows(x))],
        "a run of no steps before": lambda folder, x: [
            log(folder / "a", [*rows(x, 0, 1), "Loop time of 1", HEADER, *rows(x)])
        ],
        "three pieces": lambda folder, x: [
            log(folder / "a", rows(x, 0, 15)),
            log(folder / "b", rows(x, 10, 30)),
            log(folder / "c", rows(x, 25)),
        ],
        "ends off the grid of frames": lambda folder, x: [
            log(folder / "a", [*rows(x, 0, 21), " 205 0.1025 300 5000 9 9 9"]),
            log(folder / "b", [" 205 0.1025 300 5000 9 9 9", *rows(x, 21)]),
        ],
    }


@pytest.mark.parametrize("case", join_cases())
def test_restarts_are_joined(tmp_path: Path, series: np.ndarray, case: str) -> None:
    found = read_trajectories(join_cases()[case](tmp_path, series))
    assert len(found) == 1
    check(found[0], series)


def test_branch_after_a_restart_is_followed(tmp_path: Path, series: np.ndarray) -> None:
    """What a killed run did after the restart file was written is not part of the trajectory."""
    dead = series.copy()
    dead[21:] += 1.0
    (found,) = read_trajectories([log(tmp_path / "a", rows(dead, 0, 25)), log(tmp_path / "b", rows(series, 20))])
    check(found, series)


def test_seeds_stay_apart(tmp_path: Path, series: np.ndarray) -> None:
    other = series[::-1].copy()
    paths = [
        log(tmp_path / "a1", rows(series, 0, 21)),
        log(tmp_path / "b1", rows(other, 0, 21)),
        log(tmp_path / "a2", rows(series, 20)),
        log(tmp_path / "b2", rows(other, 20)),
    ]
    first, second = read_trajectories(paths)
    check(first, series)
    check(second, other)
    assert [Path(name).name for name in first.files] == ["a1", "a2"]
    apart = read_trajectories([log(tmp_path / "c", rows(series, 0, 20)), log(tmp_path / "d", rows(other, 25))])
    assert [len(found.steps) for found in apart] == [20, 15]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda x: (rows(x), HEADER.replace("c_flux[3]", "c_f[3]")), r"no column c_flux\[3\]; its last table has Step"),
        (lambda x: (rows(x), HEADER.replace("Temp", "T")), r"no column Temp.*--temperature"),
        (lambda x: (rows(x), HEADER.replace("Volume", "Vo")), r"no column Volume.*--volume"),
        (lambda x: (rows(x), HEADER.replace("Time", "T")), r"no column Time.*--timestep"),
        (lambda x: (rows(x)[:9] + rows(x)[12:], HEADER), r"10 steps apart, but 40 after step 80"),
        (
            lambda x: ([*rows(x)[:21], "Loop time of 1", HEADER, *rows(x)[20::2]], HEADER),
            r"10 steps apart, but 20 after step 200",
        ),
        (lambda x: ([r.replace(" 301 ", " nan ") for r in rows(x)], HEADER), r"at step 10 is not a finite"),
        (lambda x: (rows(x)[:1], HEADER), "a single frame"),
        (lambda x: ([r.replace(" 5000 ", " 0 ") for r in rows(x)], HEADER), "is not positive"),
        (
            lambda x: (rows(x)[:20] + [r.replace(f" {0.005 * i:.8g} ", f" {0.01 * i:.8g} ") for i, r in
                                       list(enumerate(rows(x)))[20:]], HEADER),
            "timestep is not constant",
        ),
    ],
)  # fmt: skip
def test_messages(tmp_path: Path, series: np.ndarray, edit: Callable, message: str) -> None:
    lines, header = edit(series)
    with pytest.raises(FluxError, match=message) as error:
        read_trajectories([log(tmp_path / "log", lines, header)])
    assert len(str(error.value)) < LONGEST_MESSAGE


def test_messages_of_files(tmp_path: Path, series: np.ndarray) -> None:
    empty = tmp_path / "empty"
    empty.write_text("LAMMPS\n")
    with pytest.raises(FluxError, match="no table with a column Step"):
        read_trajectories([empty])
    with pytest.raises(FileNotFoundError):
        read_trajectories([tmp_path / "absent"])
    with pytest.raises(FluxError, match=r"says 0\.0005 ps a step"):
        read_trajectories([log(tmp_path / "log", rows(series))], Columns(timestep=0.001))


def test_progress_of_long_files(tmp_path: Path, series: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    path = log(tmp_path / "log", rows(np.tile(series, (3000, 1))))
    tables = read_runs(path, lambda stage, done, total: seen.append((done, total)))
    assert [len(run.steps) for run in tables] == [2, 3000 * FRAMES]
    assert len(seen) == 4
    assert seen[0][0] < seen[1][0] < seen[2][0] < seen[3][0] == seen[3][1] == path.stat().st_size // 1000


def test_long_files_are_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 bytes a frame of the flux, 8 of step, time and temperature each, none of the volume; little beside them."""
    monkeypatch.setattr(log_runs, "BLOCK", 2**17)
    monkeypatch.setattr("so3krates.analysis.flux.PART", 2**12)
    monkeypatch.setattr("so3krates.analysis.green_kubo.CHUNK", 2**12)
    monkeypatch.setattr("so3krates.analysis.green_kubo.FIRST_LAGS", 2**10)
    flux = relaxing(np.random.default_rng(18), 3, LONG).T
    lines = rows(flux, spacing=40)
    lines[LONG // 2] += "\nWARNING: something happened (src/file.cpp:1)"
    path = log(tmp_path / "log", lines)
    del lines
    tracemalloc.start()
    try:
        (found,) = read_trajectories([path])
        reading = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        result = conductivity([found], blocks=10)
        analysing = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(reading, analysing) < MOST_BYTES * LONG
    assert len(found.steps) == LONG
    np.testing.assert_allclose(found.flux, flux, atol=1e-6 * np.abs(flux).max())
    unit = exact_integral() * 1602.176634 / (VOLUME * 8.617333262e-5 * 301**2)
    estimate = result.green_kubo["xyz"]
    assert abs(estimate.value - unit) < 4 * estimate.error


def test_command(tmp_path: Path) -> None:
    rng = np.random.default_rng(16)
    paths = [log(tmp_path / f"log {seed}", rows(relaxing(rng, 3, 20_000).T, spacing=40)) for seed in range(2)]
    folder = tmp_path / "out put"
    arguments = ["kappa", *map(str, paths), "-o", str(folder), "--average", "xy,z", "--discard", "4"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "Thermal conductivity" in result.stdout
    found = json.loads((folder / "kappa.json").read_text())
    assert [run["frames"] for run in found["trajectories"]] == [19_800, 19_800]
    assert found["settings"]["discard"] == 4
    unit = exact_integral() * 1602.176634 / (VOLUME * 8.617333262e-5 * 301**2)
    for name in ("xy", "z", "x", "y"):
        for method in ("green_kubo", "cepstral"):
            estimate = found["directions"][name][method]
            assert abs(estimate["kappa_W_per_mK"] - unit) < 4 * estimate["error"]
    assert (folder / "kappa.png").stat().st_size > 20_000

    lattice = tmp_path / "phonons.json"
    mesh = {"mesh": [3, 3, 2], "direct_W_per_mK": None, "relaxation_time_W_per_mK": [[9] * 6, [1, 2, 4, 0, 0, 0]]}
    lattice.write_text(json.dumps({"conductivity": {"temperatures_K": [500, 300], "meshes": [mesh]}}))
    result = CliRunner().invoke(cli.app, [*arguments, "--phonons", str(lattice)])
    assert result.exit_code == 0, result.output
    assert [line for line in result.stdout.splitlines() if line.startswith("│ xy") and line.endswith("1.5 │")]
    assert "relaxation times" in result.stdout
    assert json.loads((folder / "kappa.json").read_text())["lattice_dynamics"]["values"] == [1, 2, 4]
    lattice.write_text(json.dumps({"conductivity": {"temperatures_K": [500], "meshes": [mesh]}}))
    for content, words in ((None, "has conductivities at 500 K, the runs are at 301 K"), ("{}", "is no phonons.json")):
        if content is not None:
            lattice.write_text(content)
        result = CliRunner().invoke(cli.app, [*arguments, "--phonons", str(lattice)])
        assert result.exit_code == 1
        assert words in result.stderr

    result = CliRunner().invoke(cli.app, ["kappa", str(paths[0]), "--flux", "v_Jx v_Jy v_Jz"])
    assert result.exit_code == 1
    assert "no column v_Jx, v_Jy, v_Jz" in result.stderr
    assert len(result.stderr.splitlines()) == 1
