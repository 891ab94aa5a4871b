"""Baselines: fixed charges by Ewald's sum, styles of LAMMPS, calculators; taken off labels and added again."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from helpers import cluster, rattled_wurtzite, tiny
from scipy.special import erfc
from so3krates.analysis import heat_flux
from so3krates.baselines import (
    BaselineError,
    Baselines,
    FixedCharges,
    GivenBaseline,
    baselines_from,
    settings_of_baselines,
)
from so3krates.calculator import So3kratesCalculator
from so3krates.data import DataError, Labels, labels, with_labels
from so3krates.data.slopes import LabelSlopes
from so3krates.describe import describe
from so3krates.model.config import ConfigError
from so3krates.model.long_range import COULOMB
from so3krates.overlay import overlay_lines
from so3krates.predictions import ModelRuntime, predictions_of
from so3krates.runtime import Runtime
from so3krates.sampling import SamplingError
from so3krates.sampling.calculators import named_calculator
from so3krates.storage import Model
from so3krates.training import RunConfig, evaluate, train
from so3krates.training.run_folder import TrainingError
from so3krates.training.sources import Demands, load_frames, load_stored, without_baselines
from so3krates.training.start import baselines_of
from so3krates_export.bundle import read_bundle, write_bundle
from so3krates_export.committee import CommitteeError, check_members
from so3krates_export.guard import baselines_entry
from training_runs import make_frames, quiet, settings

EWALD = 1e-6  # eV, eV/A: error of LAMMPS' sums, whose constant of Coulomb's law has eight digits
POLYNOMIAL = 2e-5  # eV, eV/A: of LAMMPS' error function, which has seven digits
SLOPES = 1e-5  # relative, finite differences
SIGNAL = 1e-1  # eV, eV/A
MADELUNG = 1.7475645946331822  # of rock salt
CHARGES = {"Ga": 1.5, "N": -1.5}
FIXED = {"electrostatics": {"form": "fixed_charges", "charges": CHARGES}}
ZBL = {"pair_style": "zbl 1.5 2.5", "pair_coeff": ["1 1 31 31", "1 2 31 7", "2 2 7 7"], "elements": ["Ga", "N"]}
COULOMB_LJ = {"pair_style": "lj/cut/coul/dsf 0.2 5", "pair_coeff": "* * 0.01 2.0", "elements": ["Ga", "N"]}
TERSOFF = {"pair_style": "tersoff", "pair_coeff": "* * GaN.tersoff Ga N", "elements": ["Ga", "N"]}
LJ = "ase.calculators.lj:LennardJones(epsilon=0.05, sigma=2.3, rc=4.0, smooth=True)"


def charges() -> Baselines:
    return Baselines(baselines_from(FIXED, {}))


def test_rock_salt_has_its_madelung_constant() -> None:
    salt = Baselines((FixedCharges.from_settings({"charges": {"Na": 1.0, "Cl": -1.0}}),))
    for cubic in (True, False):
        crystal = bulk("NaCl", "rocksalt", a=5.6, cubic=cubic)
        found = salt.sums(crystal)
        energy = -MADELUNG * COULOMB / 2.8 * len(crystal) / 2
        assert found.energy == pytest.approx(energy, rel=3e-7)
        assert np.abs(found.forces).max() < EWALD
        # The energy goes with 1 / length: its trace of the strain gradient is the energy itself.
        np.testing.assert_allclose(found.strain_gradient, -energy / 3 * np.eye(3), atol=1e-5)


@pytest.mark.parametrize("make", [lambda: rattled_wurtzite((2, 1, 1)), tiny])
def test_derivatives_of_the_sum(make: Callable[[], Atoms]) -> None:
    """In tilted cells, one of them smaller than any cutoff."""
    atoms, step, baselines = make(), 1e-3, charges()
    found = baselines.sums(atoms)
    scale = np.abs(found.forces).max()
    assert scale > SIGNAL and np.abs(found.forces.sum(0)).max() < EWALD
    for atom, axis in ((0, 0), (len(atoms) - 1, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(baselines.sums(moved).energy)
        assert -(energies[0] - energies[1]) / (2 * step) == pytest.approx(found.forces[atom, axis], abs=SLOPES * scale)
    for a, b in ((2, 2), (0, 1)):
        energies = []
        for sign in (1, -1):
            deform = np.eye(3)
            deform[a, b] += 0.5 * sign * step
            deform[b, a] += 0.5 * sign * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ deform, scale_atoms=True)
            energies.append(baselines.sums(strained).energy)
        slope = (energies[0] - energies[1]) / (2 * step)
        assert slope == pytest.approx(found.strain_gradient[a, b], abs=SLOPES * abs(found.energy))


def ewald(atoms: Atoms, q: np.ndarray, alpha: float = 0.45) -> tuple[float, np.ndarray]:
    """Energy (eV) and forces (eV/A) by Ewald's sums as they stand in textbooks."""
    cell, volume = atoms.cell.array, atoms.get_volume()
    shifts = np.array([s for s in np.ndindex(11, 11, 7)]) - (5, 5, 3)
    vectors = atoms.positions[None, :, None] + shifts @ cell - atoms.positions[:, None, None]  # (i, j, image)
    d = np.linalg.norm(vectors, axis=-1)
    d[d < 1e-9] = np.inf
    qq = COULOMB * np.outer(q, q)[:, :, None]
    energy = 0.5 * (qq * erfc(alpha * d) / d).sum()
    slopes = qq * (erfc(alpha * d) / d + 2 * alpha / np.sqrt(np.pi) * np.exp(-((alpha * d) ** 2))) / d**2
    forces = -(slopes[..., None] * vectors).sum((1, 2))
    waves = 2 * np.pi * (np.array([k for k in np.ndindex(21, 21, 21)]) - 10) @ np.linalg.inv(cell).T
    waves = waves[(waves != 0).any(1)]
    squares = (waves**2).sum(1)
    weights = 4 * np.pi * COULOMB / volume * np.exp(-squares / (4 * alpha**2)) / squares
    phases = np.exp(1j * waves @ atoms.positions.T)
    amplitudes = phases @ q
    energy += 0.5 * (weights * abs(amplitudes) ** 2).sum() - alpha / np.sqrt(np.pi) * COULOMB * (q**2).sum()
    imaginary = (amplitudes[:, None] * phases.conj()).imag
    forces -= q[:, None] * np.einsum("k,ki,kc->ic", weights, imaginary, waves)
    return float(energy), forces


def test_the_sum_is_ewalds() -> None:
    atoms = rattled_wurtzite((1, 1, 1))
    found = charges().sums(atoms)
    energy, forces = ewald(atoms, np.array([CHARGES[symbol] for symbol in atoms.symbols]))
    assert np.abs(forces).max() > SIGNAL
    assert found.energy == pytest.approx(energy, abs=POLYNOMIAL * len(atoms))
    np.testing.assert_allclose(found.forces, forces, atol=POLYNOMIAL)


def test_open_structures_sum_over_pairs() -> None:
    """Charged ones too, which have no images."""
    atoms = cluster()
    q = np.array([CHARGES[symbol] for symbol in atoms.symbols])
    vectors = atoms.positions[:, None] - atoms.positions[None]
    distances = np.linalg.norm(vectors, axis=2) + np.diag(np.full(len(atoms), np.inf))
    pairs = COULOMB * np.outer(q, q) / distances
    forces = (pairs / distances**2)[:, :, None] * vectors
    found = charges().sums(atoms)
    assert abs(q.sum()) == 1.5 and np.abs(found.forces).max() > SIGNAL
    assert found.energy == pytest.approx(pairs.sum() / 2, abs=EWALD)
    np.testing.assert_allclose(found.forces, forces.sum(1), atol=EWALD)
    assert np.trace(found.strain_gradient) == pytest.approx(-found.energy, abs=10 * EWALD)


def test_structures_that_no_baseline_takes() -> None:
    charged = rattled_wurtzite((1, 1, 1))
    del charged[0]
    with pytest.raises(BaselineError, match=r"charges add up to -1.5 e \(1 Ga of \+1.5 e, 2 N of -1.5 e\), and the"):
        charges().sums(charged)
    with pytest.raises(BaselineError, match=r"As has no charge in \[terms.electrostatics\]: known are Ga, N"):
        charges().sums(bulk("GaAs", "zincblende", a=5.6))
    slab = rattled_wurtzite((1, 1, 1))
    slab.pbc = (True, True, False)
    with pytest.raises(
        BaselineError, match=r"pbc = \[True, True, False\]: baselines are for structures periodic in all"
    ):
        charges().sums(slab)
    zbl = Baselines((GivenBaseline.from_settings(ZBL),))
    with pytest.raises(BaselineError, match=r"As is not among the elements of \[baseline\], Ga, N"):
        zbl.sums(bulk("GaAs", "zincblende", a=5.6))
    wrong = Baselines((GivenBaseline.from_settings(ZBL | {"pair_style": "zbl 1.5"}),))
    with pytest.raises(BaselineError, match=r"the baseline \(pair_style zbl 1.5\) cannot be computed: LAMMPS refused"):
        wrong.sums(rattled_wurtzite((1, 1, 1)))


@pytest.mark.parametrize(
    ("terms", "baseline", "message"),
    [
        ({"electrostatics": 1.5}, {}, r"\[terms.electrostatics\] must be a section of keys, got 1.5"),
        ({"electrostatics": {"form": "qeq"}}, {}, r"terms.electrostatics.form = 'qeq': known are fixed_charges"),
        ({"electrostatics": {}}, {}, r"terms.electrostatics.charges = None: give e by element, as in \{Ga"),
        ({"electrostatics": {"charges": {"Gn": 1}}}, {}, r"charges: 'Gn' is no chemical symbol"),
        ({"electrostatics": {"charges": {"Ga": "1"}}}, {}, r"charges: Ga = '1': give e by element"),
        ({"electrostatics": {"charges": {"Ga": float("nan")}}}, {}, r"charges: Ga = nan: give e"),
        ({"electrostatics": {"charges": {"Ga": 0.0}}}, {}, r"charges are all 0"),
        ({"electrostatics": {"charge": {"Ga": 1}}}, {}, r"unknown key terms.electrostatics.charge: known are form, ch"),
        ({"coulomb": {}}, {}, r"unknown term 'coulomb': known are \[terms.repulsion\], \[terms.electrostatics\]"),
        ({}, {"pair": "zbl"}, r"unknown key baseline.pair: known are elements, pair_style"),
        ({}, {"elements": ["Ga"]}, r"baseline: give the words of a pair_style, .* or a calculator of ASE"),
        ({}, {"pair_style": "zbl 1 2"}, r"baseline.elements is missing: name those of atom types"),
        ({}, ZBL | {"elements": ["Ga", "Ga"]}, r"baseline.elements = \['Ga', 'Ga'\]: give each element once"),
        ({}, ZBL | {"elements": ["Ga", "Nn"]}, r"baseline.elements: 'Nn' is no chemical symbol"),
        ({}, ZBL | {"pair_style": "hybrid zbl 1 2"}, r"hybrid is no style of its own"),
        ({}, ZBL | {"pair_style": "python 5.0"}, r"python is no style of its own"),
        ({}, ZBL | {"pair_style": "zbl 1 2\nshell ls"}, r"'\\n' has a meaning of its own in decks; leave it out"),
        ({}, ZBL | {"kspace_style": "pppm $(1e-4)"}, r"'\$' has a meaning of its own in decks"),
        ({}, ZBL | {"pair_coeff": ["1 3 31 7"]}, r"'3' is no type; they are 1 = Ga, 2 = N"),
        ({}, ZBL | {"pair_coeff": ["Ga N 31 7"]}, r"'Ga' is no type; they are 1 = Ga, 2 = N"),
        ({}, ZBL | {"pair_coeff": ["1 1 31 31", "2 2 7 7"]}, r"has no line for types 1 2: write one for each pair"),
        ({}, ZBL | {"pair_coeff": []}, r"has no line for types 1 1, 1 2, 2 2: write one"),
        ({}, ZBL | {"pair_coeff": ["1"]}, r"baseline.pair_coeff has '1': write two types first"),
        ({}, ZBL | {"pair_coeff": 3}, r"baseline.pair_coeff = 3: give a list of texts"),
        ({}, ZBL | {"charges": {"Ga": 1.0}}, r"baseline.charges has none for N: give one for each"),
        ({}, {"calculator": LJ, "kspace_style": "pppm 1"}, r"baseline.kspace_style = 'pppm 1': give a pair_style"),
        (FIXED, COULOMB_LJ | {"kspace_style": "pppm 1e-4"}, r"both have a kspace_style, and a run has one"),
        (FIXED, COULOMB_LJ | {"charges": {"Ga": 1.0, "N": -1.0}}, r"other charges for the same atoms"),
        ({}, {"calculator": 5}, r"baseline.calculator = 5: give a text"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(terms: dict, baseline: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_dict({"terms": terms, "baseline": baseline})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("os:system('true')", "is no class of ASE's calculators, which alone a model may name"),
        ("ase.calculators.espresso:Espresso()", "runs a program with files, and a model may name none"),
        ("ase.calculators.lj:LennardJones(command='true')", "runs a program"),
        ("nowhere:Calculator()", "cannot be imported"),
    ],
)
def test_calculators_that_no_model_may_name(text: str, message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        named_calculator(text)
    with pytest.raises(BaselineError, match=message):
        Baselines((GivenBaseline.from_settings({"calculator": text}),)).sums(tiny())


def test_settings_come_back() -> None:
    given = ZBL | {
        "pair_coeff": ["1 1*2 31 7", "*2 2 7 7"],
        "kspace_style": "pppm 1e-4",
        "charges": {"Ga": 1.0, "N": -1.0},
    }
    without = {key: value for key, value in given.items() if key not in ("kspace_style", "charges")}
    for one in (given, without):
        terms = FIXED if one is without else {}
        parts = baselines_from(terms, one)
        found = settings_of_baselines(parts)
        assert found.get("terms.electrostatics") == terms.get("electrostatics")
        assert baselines_from({"electrostatics": found.get("terms.electrostatics")}, found["baseline"]) == parts
        run = RunConfig.from_dict({"terms": terms, "baseline": one})
        assert RunConfig.from_dict({"preset": "none", **run.to_dict()}) == run
    assert found["baseline"]["pair_coeff"] == ["1 1 31 7", "1 2 31 7", "1 2 7 7", "2 2 7 7"]


def test_a_style_of_lammps_is_what_lammps_says() -> None:
    """As a term it is our own formula, which tests of terms hold to LAMMPS."""
    from so3krates.data import terms_of_atoms
    from so3krates.model.terms import terms_from

    atoms = rattled_wurtzite((2, 2, 1))
    terms = terms_from({"repulsion": {"inner": 1.5, "outer": 2.5}}, ("Ga", "N"))
    expected, found = terms_of_atoms(terms, atoms), Baselines((GivenBaseline.from_settings(ZBL),)).sums(atoms)
    assert expected.energy > SIGNAL
    assert found.energy == pytest.approx(expected.energy, rel=1e-6)
    np.testing.assert_allclose(found.forces, expected.forces, atol=1e-6 * np.abs(expected.forces).max())
    np.testing.assert_allclose(found.strain_gradient, expected.strain_gradient, atol=1e-5)


def test_dispersion_is_that_of_simple_dftd3() -> None:
    """Grimme's D3 with the damping of Becke and Johnson; numbers of simple-dftd3 1.7.0, pairs up to 50 A."""
    given = {
        "pair_style": "dispersion/d3 bj pbe 30.0 21.0",
        "pair_coeff": ["* * Ga N"],
        "elements": ["Ga", "N"],
    }
    atoms = bulk("GaN", "wurtzite", a=3.189, c=5.185).repeat((2, 2, 1))
    atoms.rattle(0.05, seed=1)
    found = Baselines((GivenBaseline.from_settings(given),)).sums(atoms)
    assert found.energy == pytest.approx(-4.0648777, abs=1e-3)  # what pairs beyond 30 A have
    largest = np.unravel_index(np.abs(found.forces).argmax(), found.forces.shape)
    assert largest == (0, 2)
    assert found.forces[largest] == pytest.approx(-0.00195872, abs=1e-6)


@pytest.fixture
def potentials(small_model_folder: Path, gan_bundle64: Path, tmp_path: Path) -> dict[str, tuple[Path, Path]]:
    """The small potential and its bundle, each without and with fixed charges."""
    model = dataclasses.replace(Model.load(small_model_folder), baselines=charges().parts)
    bundle = read_bundle(gan_bundle64)
    path = tmp_path / "charged.so3k"
    write_bundle(path, bundle.manifest | baselines_entry(model), bundle.tensors)
    return {"folder": (small_model_folder, model.save(tmp_path / "charged")), "bundle": (gan_bundle64, path)}


@pytest.mark.parametrize("kind", ["folder", "bundle"])
def test_every_way_to_a_potential_adds_it(potentials: dict[str, tuple[Path, Path]], kind: str, x64: None) -> None:
    plain, charged = potentials[kind]
    open_runtime = ModelRuntime if kind == "folder" else Runtime
    for atoms in (rattled_wurtzite((1, 1, 1)), cluster()):
        expected = charges().sums(atoms)
        before, runtime = open_runtime(plain).evaluate(atoms), open_runtime(charged)
        for found in (runtime.evaluate(atoms), copy.deepcopy(runtime).evaluate(atoms)):
            assert found["energy"] - before["energy"] == pytest.approx(expected.energy, abs=EWALD)
            np.testing.assert_allclose(found["forces"] - before["forces"], expected.forces, atol=EWALD)
            np.testing.assert_allclose(before["virial"] - found["virial"], expected.strain_gradient, atol=EWALD)
            np.testing.assert_array_equal(found["energies"], before["energies"])
        answers = [predictions_of(path, [atoms], float64=True) for path in (plain, charged)]
        assert answers[1].energies[0] - answers[0].energies[0] == pytest.approx(expected.energy, abs=EWALD)
        np.testing.assert_allclose(answers[1].forces[0] - answers[0].forces[0], expected.forces, atol=EWALD)
        if atoms.pbc.all():
            stress = expected.strain_gradient / atoms.get_volume()
            np.testing.assert_allclose(answers[1].stresses[0] - answers[0].stresses[0], stress, atol=EWALD)
            np.testing.assert_allclose(found["stress"] - before["stress"], stress, atol=EWALD)
        calculator = pickle.loads(pickle.dumps(So3kratesCalculator(charged)))
        atoms.calc = calculator
        assert atoms.get_potential_energy() == pytest.approx(found["energy"], abs=EWALD)
        np.testing.assert_allclose(atoms.get_forces(), found["forces"], atol=EWALD)
    table = describe(charged)
    rows = dict(zip(*(list(column.cells) for column in table.columns), strict=True))
    assert "Coulomb energy of fixed charges (Ga +1.5 e, N -1.5 e)" in rows["baseline [terms.electrostatics]"]


def test_no_flux_without_the_baseline(potentials: dict[str, tuple[Path, Path]]) -> None:
    atoms = rattled_wurtzite((1, 1, 1))
    atoms.set_velocities(np.ones((len(atoms), 3)))
    plain, charged = potentials["bundle"]
    assert np.abs(heat_flux(atoms, Runtime(plain)).total).max() > SIGNAL
    with pytest.raises(ValueError, match=r"has a baseline \(Coulomb .*: compute the flux in LAMMPS, by a deck that"):
        heat_flux(atoms, Runtime(charged))


def test_what_a_deck_is_told_to_write() -> None:
    """Elements in another order, styles that name them at the end, a calculator that LAMMPS does not have."""
    sections: list[tuple[dict, dict]] = [({}, {}), ({}, {"calculator": LJ}), (FIXED, ZBL), ({}, TERSOFF)]
    texts = [overlay_lines(baselines_from(*given), "x.so3k", ["N", "Ga"], "device cuda") for given in sections]
    assert texts[0] == texts[1] == ["pair_style so3krates device cuda", "pair_coeff * * x.so3k N Ga"]
    assert texts[2] == [
        "fix charges all property/atom q ghost yes",
        "set type 1 charge -1.5",
        "set type 2 charge 1.5",
        "pair_style hybrid/overlay so3krates device cuda coul/long 10 zbl 1.5 2.5",
        "pair_coeff * * so3krates x.so3k N Ga",
        "pair_coeff * * coul/long",
        "pair_coeff 2 2 zbl 31 31",
        "pair_coeff 1 2 zbl 31 7",
        "pair_coeff 1 1 zbl 7 7",
        "kspace_style pppm 1e-05",
    ]
    assert texts[3][2:] == ["pair_coeff * * tersoff GaN.tersoff N Ga"]


def test_frames_that_it_cannot_take_are_named(potentials: dict[str, tuple[Path, Path]]) -> None:
    charged = rattled_wurtzite((1, 1, 1))
    del charged[0]
    for _, path in potentials.values():
        with pytest.raises(DataError, match=r"frame 1: the fixed charges add up to -1\.5 e"):
            predictions_of(path, [rattled_wurtzite((1, 1, 1)), charged])


def test_older_readers_refuse_what_they_would_leave_out(potentials: dict[str, tuple[Path, Path]]) -> None:
    folder, bundle = (charged for _, charged in potentials.values())
    assert "version = 4" in (folder / "config.toml").read_text()
    assert read_bundle(bundle).manifest["version"] == 6
    assert [read_bundle(plain).manifest["version"] for _, plain in [potentials["bundle"][::-1]]] == [5]
    manifest = read_bundle(bundle).manifest
    from so3krates_export.bundle import BundleError

    for wrong in ([], [{}], "charges", [manifest["baselines"][0] | {"charges": {"Ga": "1"}}]):
        with pytest.raises(BundleError, match='"baselines" is not a list of baselines with section'):
            write_bundle(bundle, manifest | {"baselines": wrong}, read_bundle(bundle).tensors)


def test_members_share_it(small_model_folder: Path) -> None:
    model = Model.load(small_model_folder)
    with pytest.raises(CommitteeError, match="model 2 has another baseline than the first"):
        check_members([model, dataclasses.replace(model, baselines=charges().parts)])


def lj_frames(count: int) -> list[Atoms]:
    """Copper by EMT, with the energy of a Lennard-Jones potential beside it."""
    frames = []
    for atoms in make_frames(count):
        own, pair = labels(atoms), atoms.copy()
        pair.calc = LennardJones(epsilon=0.05, sigma=2.3, rc=4.0, smooth=True)
        more = Labels(pair.get_potential_energy(), pair.get_forces(), pair.get_stress(voigt=False))
        frames.append(with_labels(atoms, Labels(*(a + b for a, b in zip(own, more, strict=True)))))
    return frames


def test_few_sound_frames_are_not_refused() -> None:
    """Atoms far from rest move energies in ways that no two stresses tell."""
    slopes = LabelSlopes()
    for atoms in lj_frames(8):
        slopes.add(atoms, labels(atoms))
    assert slopes.slopes()["stress"].ratio < 0.5  # far from 1, but not surely
    assert slopes.findings() == []


@pytest.fixture
def lj_file(tmp_path: Path) -> Path:
    from ase.io import write

    write(tmp_path / "frames.extxyz", lj_frames(8))
    return tmp_path / "frames.extxyz"


def lj_run(file: Path, **training: object) -> RunConfig:
    run = settings(**training)
    data = dataclasses.replace(run.data, file=str(file), n_train=6, n_valid=2)
    return dataclasses.replace(run, data=data, baseline={"calculator": LJ, "elements": ["Cu"]})


def test_training_is_on_the_rest(lj_file: Path, tmp_path: Path) -> None:
    """Labels that a run sees are EMT's alone; the model with its baseline gives the whole."""
    run = lj_run(lj_file, epochs=2)
    frames = load_frames(run.data, Demands.of(run, force=True))
    alone = {labels(atoms).energy: labels(atoms) for atoms in make_frames(8)}
    for part in frames:
        for atoms in part:
            own = labels(atoms)
            expected = alone[min(alone, key=lambda energy: abs(energy - own.energy))]
            assert own.energy == pytest.approx(expected.energy, abs=1e-7)
            np.testing.assert_allclose(own.forces, expected.forces, atol=1e-7)
            np.testing.assert_allclose(own.stress, expected.stress, atol=1e-7)
    result = train(run, *frames, tmp_path / "run", quiet)
    model = Model.load(tmp_path / "run")
    assert model.baselines == result.model.baselines == baselines_from({}, run.baseline)
    rest = evaluate(model, frames[1])
    whole = [without_baselines(Baselines(model.baselines), atoms, "", 1) for atoms in frames[1]]
    found = predictions_of(tmp_path / "run", whole)
    assert np.abs(found.energies - rest.energies).min() > SIGNAL
    for k, atoms in enumerate(whole):
        errors = found.forces[k] - labels(atoms).forces, rest.forces[k] - labels(frames[1][k]).forces
        np.testing.assert_allclose(*errors, atol=1e-6)


def test_frames_on_disk_have_it_taken_off(lj_file: Path, tmp_path: Path) -> None:
    run = lj_run(lj_file)
    in_memory = load_frames(run.data, Demands.of(run, force=True))[0]
    for given, same in ((run, True), (dataclasses.replace(run, baseline={}), False)):
        stored = load_stored(given.data, run.model.cutoff, tmp_path / "store", Demands.of(given, force=True))[0]
        found = sorted(labels(atoms).energy for atoms in stored.to_atoms(np.arange(len(stored))))
        energies = sorted(labels(atoms).energy for atoms in in_memory)
        assert np.allclose(found, energies, rtol=0, atol=1e-3) == same


def test_frames_that_a_training_cannot_take_are_named(lj_file: Path) -> None:
    run = dataclasses.replace(
        lj_run(lj_file), baseline={}, terms={"electrostatics": {"form": "fixed_charges", "charges": {"Cu": 0.5}}}
    )
    with pytest.raises(
        DataError, match=r"frames.extxyz, frame 0: the fixed charges add up to \+2 e \(4 Cu of \+0.5 e\)"
    ):
        load_frames(run.data, Demands.of(run, force=True))


def test_a_run_goes_on_with_the_baseline_of_its_model(small_model_folder: Path, tmp_path: Path) -> None:
    model = dataclasses.replace(Model.load(small_model_folder), baselines=charges().parts)
    source = str(model.save(tmp_path / "model"))
    given = {"training": {"initial_model": source}}
    assert baselines_of(RunConfig.from_settings("fast", full(given))) == model.baselines
    assert baselines_of(RunConfig.from_settings("fast", full(given | {"terms": FIXED}))) == model.baselines
    with pytest.raises(
        TrainingError, match=r"\[baseline\] asks for another baseline than training.initial_model = .* has"
    ):
        baselines_of(RunConfig.from_settings("fast", full(given | {"baseline": ZBL})))


def full(given: dict) -> dict:
    return {name: given.get(name, {}) for name in ("model", "data", "training", "terms", "baseline", "finetuning")}
