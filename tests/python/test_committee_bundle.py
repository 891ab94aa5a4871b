"""A committee in one bundle: its members' results are those of their own bundles."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from ase import Atoms
from helpers import rattled_wurtzite
from so3krates.cli import app
from so3krates.runtime import Runtime
from so3krates.storage import Model
from so3krates_export.bundle import read_bundle
from so3krates_export.committee import CommitteeError
from so3krates_export.export import export_model
from so3krates_export.ladder import Rung
from typer.testing import CliRunner

SAME = {"xla": 1e-11, "fused": 1e-6}  # eV, eV/A; fused members share the finest tables, which a bundle of one may not
SIGNAL = 0.01
LADDER = [Rung(256, 4608, 192, 64)]
NAMES = ("energy", "energies", "forces", "virial", "atom_virials")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of compiled programs."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def members(small_model_folder: Path) -> list[Model]:
    """The small potential, and two whose weights and shifts differ a little."""
    model, made = Model.load(small_model_folder), []
    for seed in range(3):
        random = np.random.default_rng(seed)
        params = jax.tree.map(lambda p, r=random: p * (1 + 0.01 * r.normal(size=p.shape)), model.params)
        shifts = {e: value + 0.1 * seed for e, value in model.energy_shifts.items()}
        made.append(dataclasses.replace(model, params=params, energy_shifts=shifts))
    return made


@pytest.fixture(scope="module")
def singles(
    request: pytest.FixtureRequest, members: list[Model], programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[dict[str, np.ndarray]]]:
    """The body, and what a bundle of each member says of the crystal."""
    folder = tmp_path_factory.mktemp("singles")
    found = []
    for number, model in enumerate(members):
        path = folder / f"{number}.so3k"
        export_model(model, path, precision="float64", body=request.param, ladder=LADDER)
        found.append(Runtime(path, cache=str(programs), threads=1).evaluate(crystal(), list(NAMES)))
    return request.param, found


def crystal() -> Atoms:
    atoms = rattled_wurtzite((2, 2, 2))
    del atoms[0]  # so that elements differ in number
    return atoms


def stacked(found: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    return np.array([one[name] for one in found])


@pytest.mark.parametrize(
    ("mover", "singles"),
    [
        ("first", "xla"),
        ("mean", "fused"),
        pytest.param("first", "fused", marks=pytest.mark.torture),
        pytest.param("mean", "xla", marks=pytest.mark.torture),
    ],
    indirect=["singles"],
)
def test_members_are_those_of_their_own_bundles(
    mover: str, singles: tuple[str, list[dict[str, np.ndarray]]], members: list[Model], programs: Path, tmp_path: Path
) -> None:
    body, alone = singles
    first, *others = members
    export_model(first, tmp_path / "c.so3k", precision="float64", body=body, ladder=LADDER, others=others, mover=mover)
    runtime = Runtime(tmp_path / "c.so3k", cache=str(programs), threads=1)
    deviation = stacked(alone, "forces").std(axis=0, ddof=1)
    assert np.abs(deviation).min() > 0 and deviation.max() > SIGNAL
    names = [*NAMES, "committee_forces", "member_energies", "member_strain_gradients", "uncertainty"]
    for asked in (names, list(NAMES), ["committee_forces"], names):  # in turn: what was left out comes back right
        found = runtime.evaluate(crystal(), asked)
        for name in (name for name in NAMES if name in asked):
            values = stacked(alone, name)
            expected = values.mean(axis=0) if mover == "mean" else values[0]
            assert np.abs(values - expected).max() > SIGNAL
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=SAME[body] * 32, err_msg=name)
        if "committee_forces" in asked:
            spread = np.sqrt(np.square(deviation).mean(axis=1))
            np.testing.assert_allclose(found["committee_forces"], spread, rtol=0, atol=SAME[body])
    manifest = read_bundle(tmp_path / "c.so3k").manifest
    shifts = dict(zip(manifest["elements"], manifest["energy_shifts"], strict=True))
    shift = sum(shifts[symbol] for symbol in crystal().symbols)
    # Differences of shifts are in the network's precision.
    np.testing.assert_allclose(found["member_energies"] + shift, stacked(alone, "energy"), rtol=0, atol=1e-4)
    strains = -0.5 * (found["member_strain_gradients"] + found["member_strain_gradients"].swapaxes(1, 2))
    np.testing.assert_allclose(strains, stacked(alone, "virial"), rtol=0, atol=SAME[body] * 32)


def test_other_members_run_only_where_they_are_asked_for(members: list[Model], programs: Path, tmp_path: Path) -> None:
    """Programs are compiled when they are first run: of members' own none is."""
    first, *others = members
    export_model(first, tmp_path / "c.so3k", body="fused", ladder=LADDER, others=others)
    runtime = Runtime(tmp_path / "c.so3k", threads=1, cache="off")
    runtime.evaluate(crystal())
    before = runtime.report()["programs_compiled"]
    runtime.evaluate(crystal(), ["committee_forces"])
    after = runtime.report()["programs_compiled"]
    assert after - before == len(members) + 1  # what adds each member, and the deviation


def test_who_moves_the_atoms_of_a_single_model(tmp_path: Path, small_model_folder: Path) -> None:
    arguments = ["export", str(small_model_folder), "-o", str(tmp_path / "c.so3k"), "--committee", "mean"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and "is a single model: name all" in " ".join(result.output.split())
    assert not (tmp_path / "c.so3k").exists()


def test_models_that_make_no_committee(members: list[Model], tmp_path: Path) -> None:
    first, second, _ = members
    cutoff = dataclasses.replace(second, config=dataclasses.replace(second.config, cutoff=4.5))
    with pytest.raises(CommitteeError, match=r"model 2 has cutoff = 4\.5, and the first has 4\.0: members"):
        export_model(first, tmp_path / "c.so3k", others=[cutoff])
    swapped = dataclasses.replace(second, elements=second.elements[::-1])
    with pytest.raises(CommitteeError, match="model 3 is of Ga, N, and the first of N, Ga"):
        export_model(first, tmp_path / "c.so3k", others=[second, swapped])
    with pytest.raises(CommitteeError, match="models 2 and 3 have the same weights"):
        export_model(first, tmp_path / "c.so3k", others=[second, dataclasses.replace(second)])
    with pytest.raises(ValueError, match="mover = 'second': known are first, mean"):
        export_model(first, tmp_path / "c.so3k", others=[second], mover="second")
