"""Uncertainties: the density and its calibration on made-up data, and the same numbers in Python and from bundles."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from helpers import rattled_wurtzite
from so3krates.calculator import So3kratesCalculator
from so3krates.runtime import Runtime
from so3krates.storage import Model, ModelError
from so3krates.training.evaluate import uncertainties_of
from so3krates.training.uncertainty import _chosen
from so3krates.uncertainty import UncertaintyError, calibration
from so3krates.uncertainty.density import Density, calibrated, density_of
from so3krates_export.export import export_model
from so3krates_export.ladder import Rung

LADDER = [Rung(256, 4608, 192, 64)]
RECOVERED = 0.1  # of floor, slope and power, from 20 000 atoms
ROUNDING = 5e-3  # relative: environments are in float32, and close to data distances are small
SIGNAL = 3.0  # how much more uncertain an environment far away must be


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of compiled programs."""
    return tmp_path_factory.mktemp("programs")


def made_up(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Environments of two elements, each in two clouds."""
    random = np.random.default_rng(seed)
    elements = random.integers(0, 2, count)
    centres = random.normal(0.0, 5.0, (4, 6))
    clouds = random.integers(0, 2, count)
    return centres[2 * elements + clouds] + random.normal(size=(count, 6)), elements


def test_distances_are_those_of_the_nearest_gaussian() -> None:
    environments, elements = made_up(8000)
    density = density_of(environments, elements, "ab")
    inside = density.distances(environments, elements)
    assert 0.7 < np.sqrt(np.square(inside).mean() / 6) < 1.1  # squares are chi squared of six numbers
    away = environments + 10.0 * np.eye(6)[0]
    assert np.median(density.distances(away, elements)) > SIGNAL * np.median(inside)
    # Another element's clouds are far away.
    assert np.median(density.distances(environments, 1 - elements)) > SIGNAL * np.median(inside)


def test_errors_are_recovered() -> None:
    """Normal errors whose size grows as a power of the distance."""
    environments, elements = made_up(20_000)
    density = density_of(environments, elements, "ab")
    distance = density.distances(environments, elements)
    floor, slope, power = np.array([0.01, 0.03]), np.array([0.02, 0.005]), np.array([1.5, 2.5])
    sigma = np.hypot(floor[elements], slope[elements] * distance ** power[elements])
    errors = np.random.default_rng(1).normal(size=(len(sigma), 3)) * sigma[:, None]
    found = calibrated(density, distance, elements, errors)
    told = found.uncertainties(environments, elements)
    np.testing.assert_allclose(told, sigma, rtol=RECOVERED)
    quality = calibration([told], [errors])
    assert abs(quality.ratio - 1) < 0.02 and quality.miscalibration < 0.01 and quality.rank_atoms > 0.5
    too_small = calibration([told / 2], [errors])
    assert too_small.ratio == pytest.approx(2 * quality.ratio) and too_small.miscalibration > 0.1


def test_beyond_what_was_calibrated_it_grows_in_proportion() -> None:
    environments, elements = made_up(4000)
    density = density_of(environments, elements, "ab")
    distance = density.distances(environments, elements)
    errors = 0.01 * distance[:, None] ** 3 * np.random.default_rng(1).normal(size=(len(distance), 3))
    found = calibrated(density, distance, elements, errors)
    far = [float(found.uncertainties(environments[:1] + 1e4 * k, elements[:1])[0]) for k in (1, 2)]
    assert far[1] / far[0] == pytest.approx(2.0, rel=0.01) and far[0] > 1.0


def test_few_atoms_have_the_scales_of_all() -> None:
    environments, elements = made_up(4000)
    elements[:] = 0
    elements[:20] = 1
    density = density_of(environments, elements, "ab")
    distance = density.distances(environments, elements)
    errors = 0.1 * np.random.default_rng(1).normal(size=(len(distance), 3))
    found = calibrated(density, distance, elements, errors)
    assert found.uncertainties(environments[:20], elements[:20]).mean() == pytest.approx(0.1, rel=0.2)
    with pytest.raises(UncertaintyError, match="c has no atoms"):
        density_of(environments, elements, "abc")
    with pytest.raises(UncertaintyError, match="no forces that did not train"):
        calibrated(density, distance[:0], elements[:0], errors[:0])


def test_rare_elements_are_looked_at() -> None:
    frames = [Atoms("Ga", [[0.0, 0.0, 0.0]]) for _ in range(20)] + [Atoms("GaN", np.eye(3)[:2])]
    chosen = _chosen(frames, 7)
    assert [str(atoms.symbols) for atoms in chosen] == ["Ga", "Ga", "Ga", "GaN"]


@pytest.mark.parametrize(
    ("body", "precision"),
    [("fused", "float32"), ("fused", "float64"), pytest.param("xla", "float64", marks=pytest.mark.torture)],
)
def test_a_bundle_tells_what_python_tells(
    body: str, precision: str, small_model_folder: Path, programs: Path, tmp_path: Path
) -> None:
    model = Model.load(small_model_folder)
    export_model(model, tmp_path / "gan.so3k", precision=precision, body=body, ladder=LADDER)
    runtime = Runtime(tmp_path / "gan.so3k", cache=str(programs), threads=1)
    assert runtime.outputs["uncertainty"].unit == "eV/A" and not runtime.outputs["uncertainty"].standard
    near, far = rattled_wurtzite((2, 2, 2)), rattled_wurtzite((2, 2, 2))
    far.set_cell(far.cell.array * 0.9, scale_atoms=True)
    for atoms in (near, far):
        [expected] = uncertainties_of(model, [atoms]) or []
        found = runtime.evaluate(atoms, ["uncertainty"])
        assert found.keys() == {"uncertainty"} and np.ptp(expected) > 0.01 * expected.max()
        np.testing.assert_allclose(found["uncertainty"], expected, rtol=ROUNDING)
    assert np.median(uncertainties_of(model, [far])[0]) > SIGNAL * np.median(uncertainties_of(model, [near])[0])
    calculator = So3kratesCalculator(tmp_path / "gan.so3k", cache=str(programs), threads=1)
    np.testing.assert_array_equal(calculator.get_property("uncertainty", far), found["uncertainty"])


def test_a_model_without_says_how_to_get_it(
    small_model_folder: Path, programs: Path, tmp_path: Path, gan_cell: Atoms
) -> None:
    model = dataclasses.replace(Model.load(small_model_folder), uncertainty=None)
    export_model(model, tmp_path / "gan.so3k", body="xla", ladder=LADDER)
    with pytest.raises(ValueError, match="uncertainty"):
        Runtime(tmp_path / "gan.so3k", cache=str(programs)).evaluate(gan_cell, ["uncertainty"])


def test_the_folder_keeps_it(small_model_folder: Path, tmp_path: Path) -> None:
    model = Model.load(small_model_folder)
    model.save(tmp_path / "model")
    again = Model.load(tmp_path / "model").uncertainty
    assert model.uncertainty is not None and again is not None
    for own, other in zip(model.uncertainty, again, strict=True):
        np.testing.assert_array_equal(own, other)
    dataclasses.replace(model, uncertainty=None).save(tmp_path / "model")
    assert Model.load(tmp_path / "model").uncertainty is None
    shorter = model.uncertainty._replace(mean=model.uncertainty.mean[:-1], axes=model.uncertainty.axes[:-1])
    dataclasses.replace(model, uncertainty=shorter).save(tmp_path / "model")
    with pytest.raises(ModelError, match="of environments of 33 numbers, and the network has 34"):
        Model.load(tmp_path / "model")
    with pytest.raises(UncertaintyError, match="centres has shape"):
        Density.from_arrays(model.uncertainty._asdict(), 3)
