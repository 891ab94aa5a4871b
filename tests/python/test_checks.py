"""The checks of a potential: a sound one passes, and each law that is broken on purpose fails its own check."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import ase.io
import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.geometry import complete_cell
from flax.traverse_util import unflatten_dict
from matscipy.neighbours import neighbour_list
from so3krates import checks, cli
from so3krates._harness import StructureError
from so3krates.checks import Answer, Check, check_errors, check_potential, laws, perfect_crystal
from so3krates.model.config import ModelConfig
from so3krates.storage import Model, ModelError, parameter_shapes
from so3krates_export.ladder import default_ladder
from toy_bundle import write_toy_bundle
from typer.testing import CliRunner

KINKS = np.arange(2.0, 3.2, 0.05)  # A
SIGNS = (-1.0) ** np.arange(len(KINKS))
STEPS = 40  # of dynamics; enough to see a leak
CRYSTAL = bulk("Cu", cubic=True)
ALL = {
    *(f"{move}, {what}" for move in ("rotation", "translation", "permutation") for what in ("energy", "forces")),
    *("rotation, stress", "force = -dE/dx", "stress = dE/dstrain / V", "force step at the cutoff"),
    *("forces in perfect crystals", "shear stress in perfect crystals", "largest force, shaken and squeezed"),
    *("NVE drift", "largest force in NVE"),
}


class Pairs:
    """A Morse potential times (1 - d^2/c^2)^3, with one law broken by an amount."""

    elements = ("Cu",)
    cutoff = 5.0
    precision = "float64"

    def __init__(self, broken: str = "", amount: float = 0.0) -> None:
        self.broken, self.amount = broken, amount

    def __call__(self, atoms: Atoms) -> Answer:
        amount = {self.broken: self.amount}
        cell = complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))
        i, d, r = neighbour_list("idD", positions=atoms.positions, cell=cell, pbc=atoms.pbc, cutoff=self.cutoff)
        shift = amount.get("cutoff", 0.0)
        depth = 0.3 + amount.get("depth", 0.0)
        well = np.exp(-1.4 * (d - 2.6))
        fade = 1 - (d / self.cutoff) ** 2
        morse = depth * (well**2 - 2 * well)
        energy = 0.5 * np.sum(morse * fade**3 + shift * (d - self.cutoff))
        slope = depth * -2.8 * (well**2 - well) * fade**3 - morse * 6 * d / self.cutoff**2 * fade**2 + shift
        if "kinks" in amount:  # of the second derivative
            gaps = np.maximum(KINKS - d[:, None], 0.0)
            energy += 0.25 * self.amount * np.sum(SIGNS * gaps**2)
            slope -= self.amount * np.sum(SIGNS * gaps, axis=1)
        pull = (slope / d)[:, None] * r
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, i, pull)
        tensor = 0.5 * np.einsum("ka,kb->ab", r, pull)
        x = atoms.positions
        energy += amount.get("rotation", 0.0) * (x[:, 0] - x[:, 0].mean()) @ (x[:, 0] - x[:, 0].mean())
        energy += (
            amount.get("translation", 0.0) * x[:, 0].sum() + amount.get("permutation", 0.0) * forces[0] @ forces[0]
        )
        forces *= 1 + amount.get("force", 0.0)
        forces += amount.get("crystal", 0.0)
        if "leak" in amount:
            # A force that is not the gradient of anything: a swirl.
            forces += self.amount * np.cross([0, 0, 1.0], x - x.mean(axis=0))
        if "nan" in amount and np.abs(forces).max() > 1e-6:
            forces[0, 0] = np.nan
        stress = (1 + amount.get("stress", 0.0)) * tensor / atoms.cell.volume if atoms.pbc.all() else None
        if stress is not None:
            stress[0, 1] += amount.get("shear", 0.0)
        return Answer(float(energy), forces, stress)


def failed(found: list[Check]) -> set[str]:
    return {check.name for check in found if check.passed is False}


def test_a_sound_potential_passes() -> None:
    found = check_potential(Pairs(), CRYSTAL, STEPS)
    assert {check.name for check in found} == ALL
    assert failed(found) == set()
    assert all(check.passed for check in found)
    (drift,) = (check for check in found if check.name == "NVE drift")
    assert 0 < drift.value < 0.5 * drift.bound


def test_second_derivatives_may_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where charges end to act: differences with a long step do not find the forces there, those with a short do."""
    names = {"force = -dE/dx", "stress = dE/dstrain / V"}
    assert not names & failed(check_potential(Pairs("kinks", 0.3), CRYSTAL, 0))
    long = dataclasses.replace(checks.BOUNDS["float64"], steps=checks.BOUNDS["float64"].steps[:1])
    monkeypatch.setitem(checks.BOUNDS, "float64", long)
    assert "force = -dE/dx" in failed(check_potential(Pairs("kinks", 0.3), CRYSTAL, 0))


@pytest.mark.parametrize(
    ("broken", "amount", "steps", "names"),
    [
        ("rotation", 1e-6, 0, {"rotation, energy"}),
        ("translation", 1e-6, 0, {"translation, energy"}),
        ("permutation", 1e-3, 0, {"permutation, energy"}),
        ("crystal", 1e-6, 0, {"forces in perfect crystals"}),
        ("shear", 1e-6, 0, {"shear stress in perfect crystals"}),
        ("force", 1e-3, 0, {"force = -dE/dx"}),
        ("stress", 1e-3, 0, {"stress = dE/dstrain / V"}),
        ("cutoff", 0.01, 0, {"force step at the cutoff"}),
        ("depth", 30.0, 0, {"largest force, shaken and squeezed"}),
        ("leak", 0.02, STEPS, {"NVE drift"}),
        ("nan", 1.0, STEPS, {"force = -dE/dx", "largest force, shaken and squeezed", "NVE drift"}),
    ],
)
def test_a_broken_law_fails_its_check(broken: str, amount: float, steps: int, names: set[str]) -> None:
    assert names <= failed(check_potential(Pairs(broken, amount), CRYSTAL, steps))


@pytest.mark.parametrize("far", [0.6, 1.0])  # eV/A, passed in NVE too, or in shaken structures alone
def test_a_refused_structure_fails_its_check(far: float) -> None:
    """A bundle refuses structures of absurd energies; what the checks made up themselves then has no finite force."""

    class Refusing(Pairs):
        made = 0

        def __call__(self, atoms: Atoms) -> Answer:
            answer = super().__call__(atoms)
            if np.abs(answer.forces).max() > far:
                self.made += 1
                raise StructureError("beyond any physical value")
            return answer

    potential = Refusing()
    found = {check.name: check for check in check_potential(potential, CRYSTAL, STEPS)}
    assert set(found) == ALL and potential.made > 0
    assert found["largest force, shaken and squeezed"].value == math.inf
    assert (found["largest force in NVE"].value == math.inf) == (far == 0.6)


def test_short_bonds_are_shaken_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spring to each atom's place tells how far it was moved."""
    monkeypatch.setattr(laws, "SQUEEZE", 1.0)

    def largest(bond: float) -> float:
        pair = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, bond]])

        class Springs(Pairs):
            def __call__(self, atoms: Atoms) -> Answer:
                return Answer(0.0, pair.positions - atoms.positions, None)

        (check,) = laws._abnormal_forces(Springs(), pair, np.random.default_rng(0))
        return check.value

    assert largest(2.6) == pytest.approx(largest(1.9), abs=1e-9) and largest(1.9) > 0.1
    assert largest(0.95) == pytest.approx(0.5 * largest(1.9), rel=1e-9)


def test_a_primitive_cell_is_repeated() -> None:
    found = check_potential(Pairs(), bulk("Cu"), steps=10)
    assert all(check.passed for check in found)
    assert "force = -dE/dx" in failed(check_potential(Pairs("force", 1e-3), bulk("Cu"), steps=0))


def test_what_is_too_small_is_not_checked() -> None:
    nothing = Pairs("depth", -0.3)
    for structure in (CRYSTAL, Atoms("Cu")):
        found = {check.name: check for check in check_potential(nothing, structure, steps=0)}
        assert found["force = -dE/dx"].note == "forces too small, 0.0e+00: give another structure"
        assert found["stress = dE/dstrain / V"].passed is None
    alone = {check.name: check.note for check in check_potential(Pairs(), Atoms("Cu"), STEPS)}
    assert alone["NVE drift"] == "a single atom"


def test_crystals_of_small_atoms_fit_a_bundle() -> None:
    crystal = perfect_crystal("H", "H")
    neighbours = np.bincount(neighbour_list("i", crystal, 5.0)).max()
    assert 64 < neighbours < max(rung.neighbours for rung in default_ladder())


def test_a_molecule_has_no_stress() -> None:
    atoms = molecule("C6H6")
    atoms.numbers[:] = 29
    atoms.positions *= 1.8
    found = check_potential(Pairs(), atoms, steps=0)
    skipped = {check.name: check.note for check in found if check.passed is None}
    assert set(skipped) == {"stress = dE/dstrain / V", "NVE drift", "largest force in NVE"}
    assert "not periodic" in skipped["stress = dE/dstrain / V"]
    assert failed(found) == set()


def test_errors_on_new_frames_are_held_against_those_on_old_ones() -> None:
    def rows(value: float | None) -> dict:
        return {"energy, means removed": {"rmse": 1.0}, "forces": {"rmse": value}, "stress": {"rmse": None}}

    found = check_errors({"train": rows(10.0), "test": rows(21.0)}, "test")
    assert [(c.name, c.passed) for c in found] == [
        ("test / train error, energy", True),
        ("test / train error, forces", False),
        ("test / train error, stress", None),
    ]
    assert found[1].value == pytest.approx(2.1)
    assert found[2].note == "no labels"
    assert check_errors({"train": rows(0.0), "test": rows(21.0)}, "test")[1].note == "the error of train is zero"


def test_a_bundle_is_checked(tmp_path: Path) -> None:
    toy = checks.open_potential(write_toy_bundle(tmp_path / "toy.so3k"))
    found = check_potential(toy, bulk("GaN", "zincblende", a=4.5, cubic=True), steps=10)
    named = {check.name: check for check in found}
    assert set(named) == ALL
    for name in ("rotation, forces", "translation, forces", "permutation, forces", "force = -dE/dx"):
        assert named[name].passed, named[name]
    with pytest.raises(ModelError, match="the structure has Cu, the potential knows Ga, N"):
        check_potential(toy, CRYSTAL)
    for position, words in ((0.0, "atoms 0 and 1 are 0 A apart"), (np.nan, "the position of atom 1 is")):
        wrong = bulk("GaN", "zincblende", a=4.5, cubic=True)
        wrong.positions[1] = wrong.positions[0] + position
        with pytest.raises(ModelError, match=words):
            check_potential(toy, wrong)


def test_a_wrong_key_is_seen_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> None:
        raise AssertionError("the other checks were made")

    atoms = CRYSTAL.copy()
    atoms.info["other"] = 1.0
    ase.io.write(tmp_path / "cu.xyz", atoms, format="extxyz")
    monkeypatch.setattr(cli, "use_float64", lambda: None)
    monkeypatch.setattr(checks, "check_potential", late)
    monkeypatch.setattr(checks, "open_potential", lambda _: Pairs())
    both = [f"--{name}-data={tmp_path / 'cu.xyz'}" for name in ("train", "test")]
    result = CliRunner().invoke(cli.app, ["check", "absent", *both, "--energy-key", "E"])
    assert result.exit_code == 1
    assert "has energy under 'E'" in result.stderr


def test_the_command_checks_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(features=8, heads=2, layers=1, degrees=(1, 2), radial_functions=8, cutoff=3.5)
    rng = np.random.default_rng(0)
    weights = {name: 0.3 * rng.normal(size=shape) for name, shape in parameter_shapes(config).items()}
    folder = Model(config, unflatten_dict(weights, sep="/"), ("Cu",), {"Cu": -2.5}).save(tmp_path / "model")
    ase.io.write(tmp_path / "cu.xyz", CRYSTAL, format="extxyz")
    report = {name: {"forces": {"rmse": rmse}} for name, rmse in (("train", 1.0), ("test", 3.0))}
    for rows in report.values():
        rows |= {"energy, means removed": {"rmse": 1.0}, "stress": {"rmse": 1.0}}
    monkeypatch.setattr(cli, "use_float64", lambda: None)
    command = ["check", str(folder), str(tmp_path / "cu.xyz"), "--steps", "0", "--json", str(tmp_path / "c.json")]
    with jax.enable_x64(True):
        result = CliRunner().invoke(cli.app, command)
        assert result.exit_code == 0, result.stderr
        found = {check["name"]: check for check in json.loads((tmp_path / "c.json").read_text())}
        assert found["rotation, forces"]["passed"] is True
        assert found["test / training error"]["passed"] is None
        (folder / "report").mkdir()
        (folder / "report" / "errors.json").write_text(json.dumps(report))
        monkeypatch.setattr(checks, "check_potential", lambda *_, **__: [Check("all else", 0.0, 1.0, "")])
        result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 1
    assert "FAIL" in result.stdout
    found = {check["name"]: check for check in json.loads((tmp_path / "c.json").read_text())}
    assert found["all else"]["passed"] is True
    assert [name for name, check in found.items() if check["passed"] is False] == ["test / train error, forces"]
