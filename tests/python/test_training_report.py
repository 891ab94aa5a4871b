"""What is said of a trained model: evaluation, error tables, reports, committees."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from matplotlib.figure import Figure
from so3krates.training import (
    Committee,
    CommitteeError,
    Properties,
    breakdown,
    committee_table,
    error_table,
    evaluate,
    plots,
    require_different,
    write_report,
)
from so3krates.training.overfitting import overfitting
from so3krates.training.plots import breakdown_plot
from so3krates.training.run_folder import COLUMNS
from training_runs import make_frames

STRESS_DIFFERENCE = 2e-5  # eV/A^3, finite differences in float32


def test_evaluation_keeps_order_shifts_and_signs(trained: tuple) -> None:
    model = trained[0].model
    frames = make_frames(5, seed=9, repeat=(3, 1, 2))
    both = evaluate(model, frames, batch_size=2)
    for index, atoms in enumerate(frames):
        one = evaluate(model, [atoms])
        assert both.energies[index] == pytest.approx(one.energies[0], abs=1e-4)
        np.testing.assert_allclose(both.forces[index], one.forces[0], atol=1e-5)
        assert np.abs(both.forces[index]).max() > 0.1
    assert both.energies[1] == pytest.approx(-4e5, abs=50)
    step = 2e-2
    energies = []
    for sign in (1, -1):
        moved = frames[0].copy()
        moved.set_cell(moved.cell.array * (1 + sign * step), scale_atoms=True)
        energies.append(evaluate(model, [moved]).energies[0])
    slope = (energies[0] - energies[1]) / (2 * step) / frames[0].cell.volume
    assert both.stresses[0].trace() == pytest.approx(slope, rel=0.1, abs=STRESS_DIFFERENCE)
    assert abs(slope) > 10 * STRESS_DIFFERENCE
    cluster = frames[1].copy()
    cluster.pbc = False
    assert np.isnan(evaluate(model, [cluster]).stresses).all()


def test_the_error_table_is_its_formulas() -> None:
    atoms = np.array([2, 4])
    label_energies = np.array([-20.0, -44.0])
    truth = Properties(
        atoms, label_energies, [np.zeros((2, 3)), np.ones((4, 3))], np.stack([np.eye(3), np.full((3, 3), np.nan)])
    )
    guess = Properties(
        atoms,
        label_energies + atoms * [0.005, 0.003],
        [np.full((2, 3), 0.1), np.full((4, 3), 1.2)],
        np.stack([1.5 * np.eye(3), np.zeros((3, 3))]),
    )
    table = error_table(guess, truth)
    assert (table["energy"].mae, table["energy"].rmse) == pytest.approx((4.0, np.sqrt(17)))
    assert table["energy, means removed"].mae == pytest.approx(1.0)
    lone = [Properties(p.atoms[:1], p.energies[:1], p.forces[:1], p.stresses[:1]) for p in (guess, truth)]
    assert error_table(*lone)["energy"].rmse == pytest.approx(5.0)
    assert error_table(*lone)["energy, means removed"].count == 0  # the mean of one is no small error
    assert table["forces"].count == 18
    rmse, std = 1000 * np.sqrt((6 * 0.01 + 12 * 0.04) / 18), 1000 * np.sqrt(2) / 3
    assert table["forces"].rmse == pytest.approx(rmse)
    assert table["forces"].rmse_over_std == pytest.approx(rmse / std)
    assert table["forces"].r2 == pytest.approx(1 - (rmse / std) ** 2)
    assert table["stress"].count == 9
    assert table["stress"].mae == pytest.approx(500 / 3)


def test_errors_are_split_up() -> None:
    frames = [Atoms("CuAg", np.zeros((2, 3)), info={"group": tag, "temperature_K": t}) for tag, t in
              (("hot", 900), ("cold", 100.0), ("hot", 900))] + [Atoms("CuAg", np.zeros((2, 3)))]  # fmt: skip
    stresses = np.full((4, 3, 3), np.nan)
    forces = [np.array([[n + 1.0, 0, 0], [0, 10.0 * (n + 1), 0]]) for n in range(4)]
    truth = Properties(np.full(4, 2), np.array([0.0, 1.0, 4.0, 9.0]), forces, stresses)
    guess = truth._replace(
        energies=truth.energies + 2 * np.array([0.1, 0.3, 0.3, 0.3]), forces=[f * [[1.5], [1.1]] for f in forces]
    )
    parts = breakdown(frames, guess, truth)
    assert parts.elements["Cu"].mae == pytest.approx(1000 * np.mean([0.5, 1, 1.5, 2]) / 3)
    assert parts.elements["Ag"].rmse == pytest.approx(1000 * np.sqrt(np.mean(np.square([1, 2, 3, 4])) / 3))
    assert list(parts.tags) == ["cold", "hot"]
    assert list(parts.temperatures) == [100.0, 900.0]
    hot = parts.tags["hot"]
    assert (hot["energy"].count, hot["energy"].mae) == (2, pytest.approx(200.0))
    # The mean error of the whole set, 250 meV/atom, is removed and not that of the tag.
    assert hot["energy, means removed"].rmse == pytest.approx(np.sqrt((150**2 + 50**2) / 2))
    assert hot["stress"].count == 0
    assert [row.atoms for row in parts.force_sizes] == [1] * 8
    assert [row.relative for row in parts.force_sizes] == pytest.approx([0.5] * 4 + [0.1] * 4)
    assert parts.force_sizes[-1].rmse == pytest.approx(4000 / np.sqrt(3))
    assert list(breakdown(frames, guess, truth, "temperature_K").tags) == ["100.0", "900"]
    still = truth._replace(forces=[0 * f for f in truth.forces])
    rows = json.loads(json.dumps(breakdown(frames, guess, still).as_json(), allow_nan=False))["by_force_size"]
    assert rows[0]["relative"] is None
    assert rows[0]["rmse"] > 0


def test_the_report_holds_tables_and_figures(trained: tuple, tmp_path: Path) -> None:
    result, frames, _ = trained
    tables = write_report(tmp_path, result.model, {"train": frames[:8], "test": frames[8:]}, result.metrics_file)
    stored = json.loads((tmp_path / "errors.json").read_text())
    assert stored["test"]["forces"]["rmse"] == tables["test"]["forces"].rmse
    assert stored["test"]["by_element"]["Cu"]["rmse"] == pytest.approx(tables["test"]["forces"].rmse)
    assert sum(row["atoms"] for row in stored["train"]["by_force_size"]) == 8 * 4
    assert "energy, means removed" in (tmp_path / "errors.txt").read_text()
    for name in ("parity.png", "learning_curve.png", "breakdown.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_overfitting_is_said_with_its_epoch(tmp_path: Path) -> None:
    epochs = np.arange(1, 41)
    rising = 100.0 + np.abs(epochs - 15)  # lowest at epoch 15
    falling = 200.0 - epochs

    def said(train: np.ndarray, valid: np.ndarray) -> str | None:
        rows = [",".join(COLUMNS)]
        for epoch, t, v in zip(epochs, train, valid, strict=True):
            row = {"step": 7 * epoch, "epoch": epoch, "train_loss": t * t, "valid_loss": v * v}
            row |= {"train_forces_rmse": t, "valid_forces_rmse": v}
            rows.append(",".join(str(row.get(column, "")) for column in COLUMNS))
        (tmp_path / "metrics.csv").write_text("\n".join(rows))
        return overfitting(tmp_path / "metrics.csv")

    found = said(falling, rising)
    assert found is not None
    assert "rose by 48 % from epoch 14 to 40 while the training loss fell" in found  # medians of five: 123 and 101
    assert "(forces 101 to 123 meV/A in validation, 186 to 162 in training)" in found
    assert said(falling, falling) is None
    assert said(rising, rising) is None  # a rate that is too large is no overfitting
    assert said(falling, np.where(epochs == 15, 50.0, falling)) is None  # one lucky validation
    assert said(falling, np.full(40, np.nan)) is None
    assert overfitting(tmp_path / "absent.csv") is None


def test_the_page_of_a_report_needs_nothing_else(trained: tuple, tmp_path: Path) -> None:
    result, frames, _ = trained
    tables = write_report(tmp_path, result.model, {"train": frames[:8], "<test>": frames[8:]}, result.metrics_file)
    page = (tmp_path / "report.html").read_text()
    for title in ("Errors", "Force errors by size", "Prediction against label", "Learning curves"):
        assert f"<h2>{title}</h2>" in page
    images = re.findall(r'src="([^"]*)"', page)
    assert len(images) == 3
    for image, name in zip(images, ("parity.png", "breakdown.png", "learning_curve.png"), strict=True):
        assert base64.b64decode(image.removeprefix("data:image/png;base64,")) == (tmp_path / name).read_bytes()
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert f"{tables['<test>']['forces'].rmse:.4g}" in cells
    assert "&lt;test&gt;" in cells
    assert "Cu" in cells
    assert not re.search(r"<(script|link)|https?:", page)


def test_committee() -> None:
    rng = np.random.default_rng(0)
    frames, atoms, members = 40, 5, 3
    unknown = np.full((frames, 3, 3), np.nan)
    truth = Properties(
        np.full(frames, atoms), rng.normal(size=frames), list(rng.normal(size=(frames, atoms, 3))), unknown
    )
    spread = np.linspace(0.1, 2.0, frames)
    guesses = [
        truth._replace(
            energies=truth.energies + 0.5 + 0.1 * m,
            forces=[f + s * rng.normal(size=(atoms, 3)) for f, s in zip(truth.forces, spread, strict=True)],
        )
        for m in range(members)
    ]
    found = Committee(guesses, truth)
    forces = np.array([guess.forces for guess in guesses])
    deviation = forces - forces.mean(0)
    variances = np.square(deviation).sum(0) / (members - 1)
    np.testing.assert_allclose(found.disagreement(), 1000 * np.sqrt(variances.mean((1, 2))), rtol=1e-12)
    content = json.loads(json.dumps(found.as_json(), allow_nan=False))
    # Independent errors: the mean of n members errs by 1/sqrt(n), and their disagreement is the error of one.
    single = np.sqrt(np.mean(np.square(content["rmse"]["forces"]["members"])))
    assert content["rmse"]["forces"]["mean"] == pytest.approx(single / np.sqrt(members), rel=0.1)
    assert content["disagreement"]["rms"] == pytest.approx(single, rel=0.1)
    assert content["rmse"]["energy"]["mean"] == pytest.approx(1000 * 0.6 / atoms)
    assert content["rmse"]["stress"]["mean"] is None
    errors = found.force_errors()
    assert content["correlation"]["pearson"] == pytest.approx(np.corrcoef(errors, found.disagreement())[0, 1])
    assert min(content["correlation"]["pearson"], content["correlation"]["spearman"]) > 0.8
    assert content["correlation"]["frames"] == frames
    cells = list(committee_table({"test": found}).columns[2].cells)
    assert f"{content['correlation']['pearson']:.3f}" in cells
    equal = Committee([truth, truth], truth).as_json()
    assert equal["correlation"]["pearson"] is None
    assert equal["disagreement"]["rms"] == 0.0
    with pytest.raises(CommitteeError, match="at least 2"):
        Committee([truth], truth)
    require_different(guesses, [f"seed-{m}" for m in range(members)])
    with pytest.raises(CommitteeError, match="seed-0 and again say the same of every frame"):
        require_different([*guesses, guesses[0]], [*(f"seed-{m}" for m in range(members)), "again"])


def test_bars_of_elements_stand_above_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "write_figure", lambda path, figure: figures.append(figure) or path)
    sets = {}
    for name, symbols in (("train", "CuAg"), ("test", "AgAu")):
        frames = [Atoms(symbols, np.zeros((2, 3)))]
        truth = Properties(np.full(1, 2), np.zeros(1), [np.ones((2, 3))], np.full((1, 3, 3), np.nan))
        guess = truth._replace(forces=[np.array([[1.1] * 3, [1.2] * 3])])
        sets[name] = breakdown(frames, guess, truth)
    breakdown_plot(tmp_path / "b.png", sets)
    axes = figures[0].axes[2]
    names = [tick.get_text() for tick in axes.get_xticklabels()]
    bars = [(names[round(bar.get_x())], bar.get_height()) for bar in axes.patches]
    assert set(names) == {"Cu", "Ag", "Au"}
    expected = [(e, errors.rmse) for part in sets.values() for e, errors in part.elements.items()]
    assert sorted(bars) == sorted(expected)
    assert len(set(bars)) == 4


def test_the_legend_lies_beside_the_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets and elements in any number: no bar is hidden by their names."""
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "write_figure", lambda path, figure: figures.append(figure) or path)
    symbols = ["Cu", "Ag", "Au", "Ga", "N", "In", "As", "Sb", "P", "O"]
    frames = [Atoms(symbols, np.zeros((len(symbols), 3)))]
    truth = Properties(np.full(1, 10), np.zeros(1), [np.ones((10, 3))], np.full((1, 3, 3), np.nan))
    guess = truth._replace(forces=[1.1 * np.ones((10, 3))])
    breakdown_plot(tmp_path / "b.png", {f"set {n}": breakdown(frames, guess, truth) for n in range(6)})
    (figure,) = figures
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"set {n}" for n in range(6)]
    frame = legend.get_window_extent()
    assert frame.y0 >= max(axes.get_tightbbox().y1 for axes in figure.axes)
    assert frame.x0 >= 0
    assert not any(axes.get_legend() for axes in figure.axes)
