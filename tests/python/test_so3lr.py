"""SO3LR: the original's numbers by the network here, import of its weights, refusals by name."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from original_so3lr import original_arrays, write_params
from so3krates.model.config import ConfigError, So3lrConfig
from so3krates.model.fitted_zbl import FittedZbl
from so3krates.model.long_range import Dispersion, Electrostatics
from so3krates.model.terms import terms_from
from so3krates.predictions import ModelRuntime
from so3krates.storage import Model, ModelError, flat_params
from so3krates_export.array_pickle import PickleError
from so3krates_export.so3lr import So3lrError, import_so3lr

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "models" / "so3lr"
EXPECTED = ROOT / "tests" / "reference" / "so3lr"
SHARED = ROOT.parent / "shared" / "reference" / "so3lr"

ENERGY_TOLERANCE = 1e-10  # eV
FORCE_TOLERANCE = 1e-9  # eV/A
PROPERTY_TOLERANCE = 1e-11  # e and 1
IMAGES_TOLERANCE = 1e-10  # eV, eV/A: a cell and several of it, added up in another order
DERIVATIVE_TOLERANCE = 1e-6  # eV, of finite differences of the strain
PARTS = {"network": "nn", "repulsion": "zbl", "electrostatics": "electrostatic", "dispersion": "dispersion"}

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs reference/so3lr of the folder 'shared' beside the project (published weights)"
)


@pytest.fixture(scope="module")
def molecules() -> list[Atoms]:
    """The largest first, for which the one program is compiled."""
    return sorted(ase.io.read(EXPECTED / "molecules.extxyz", ":"), key=len, reverse=True)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load(FOLDER)


@pytest.fixture(scope="module")
def runtime(molecules: list[Atoms]) -> ModelRuntime:
    runtime = ModelRuntime(FOLDER)
    runtime.evaluate(molecules[0])
    return runtime


def assert_same(found: dict[str, Any], atoms: Atoms, expected: Callable[[str], np.ndarray]) -> None:
    """That all outputs are the original's, and that none of them says nothing."""
    assert abs(found["energy"] - expected("energy")) < ENERGY_TOLERANCE
    for name, original in PARTS.items():
        assert abs(found[f"energy_{name}"] - expected(original).sum()) < ENERGY_TOLERANCE, name
        assert abs(found[f"energy_{name}"]) > 1e-3
    each = sum(expected(original) for original in PARTS.values())
    np.testing.assert_allclose(found["energies"], each, rtol=0, atol=ENERGY_TOLERANCE)
    np.testing.assert_allclose(found["forces"], expected("forces"), rtol=0, atol=FORCE_TOLERANCE)
    assert np.abs(found["forces"]).max() > 1.0
    gradient = expected("strain_gradient")
    np.testing.assert_allclose(found["virial"], -0.5 * (gradient + gradient.T), rtol=0, atol=FORCE_TOLERANCE)
    np.testing.assert_allclose(found["charges"], expected("charges"), rtol=0, atol=PROPERTY_TOLERANCE)
    np.testing.assert_allclose(found["hirshfeld_ratios"], expected("hirshfeld"), rtol=0, atol=PROPERTY_TOLERANCE)
    np.testing.assert_allclose(found["dipole"], expected("dipole"), rtol=0, atol=IMAGES_TOLERANCE)
    assert abs(found["charges"].sum() - atoms.info["charge"]) < PROPERTY_TOLERANCE
    assert np.abs(found["charges"]).max() > 0.05
    if atoms.pbc.all():
        np.testing.assert_allclose(found["stress"] * atoms.get_volume(), -found["virial"], rtol=1e-12, atol=1e-12)


def test_molecules_as_the_original(runtime: ModelRuntime, molecules: list[Atoms]) -> None:
    with np.load(EXPECTED / "expected.npz") as archive:
        for atoms in molecules:
            name = atoms.info["name"]
            assert_same(runtime.evaluate(atoms), atoms, lambda key, name=name: archive[f"{name}/{key}"])
    assert {atoms.info["charge"] for atoms in molecules} == {-1, 0, 1}
    assert {atoms.info["multiplicity"] for atoms in molecules} == {1, 2}


def test_charge_and_spin_matter(runtime: ModelRuntime, molecules: list[Atoms]) -> None:
    atoms = next(a for a in molecules if a.info["name"] == "methyl_radical").copy()
    doublet = runtime.evaluate(atoms)["energy"]
    for charge, multiplicity in ((0, 4), (1, 1), (-1, 1)):
        atoms.info |= {"charge": charge, "multiplicity": multiplicity}
        found = runtime.evaluate(atoms)
        assert abs(found["energy"] - doublet) > 0.01
        assert abs(found["charges"].sum() - charge) < PROPERTY_TOLERANCE


def test_all_images_within_the_cutoff(runtime: ModelRuntime, molecules: list[Atoms]) -> None:
    atoms = next(a for a in molecules if a.info["name"] == "water").copy()
    atoms.set_cell([[4.6, 0, 0], [0.8, 4.4, 0], [-0.5, 0.3, 4.5]])
    atoms.pbc = True
    found, twice = runtime.evaluate(atoms), runtime.evaluate(atoms * (1, 2, 1))
    assert abs(twice["energy"] - 2 * found["energy"]) < IMAGES_TOLERANCE
    np.testing.assert_allclose(twice["stress"], found["stress"], rtol=0, atol=IMAGES_TOLERANCE)
    np.testing.assert_allclose(twice["charges"], np.tile(found["charges"], 2), rtol=0, atol=IMAGES_TOLERANCE)
    np.testing.assert_allclose(twice["forces"], np.tile(found["forces"], (2, 1)), rtol=0, atol=IMAGES_TOLERANCE)
    energies = []
    for sign in (1, -1):
        strained = atoms.copy()
        deform = np.eye(3)
        deform[0, 1] = deform[1, 0] = sign * 1e-4
        strained.set_cell(atoms.cell.array @ deform, scale_atoms=True)
        energies.append(runtime.evaluate(strained)["energy"])
    slope = (energies[0] - energies[1]) / 2e-4
    assert abs(slope + 2 * found["virial"][0, 1]) < DERIVATIVE_TOLERANCE
    assert abs(slope) > 1e-2


@pytest.fixture(scope="module")
def arrays(model: Model) -> dict[str, np.ndarray]:
    return original_arrays(model)


def test_import(arrays: dict[str, np.ndarray], model: Model, tmp_path: Path) -> None:
    write_params(tmp_path / "params.pkl", arrays)
    for path in (tmp_path, tmp_path / "params.pkl"):
        found = import_so3lr(path, cutoff_long=20.0)
        assert found.config == model.config
        assert found.elements == model.elements
        weights, expected = flat_params(found.params), flat_params(model.params)
        assert weights.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(weights[name], expected[name], name)
        assert [part.cutoff for part in found.interactions] == [20.0, 20.0]
        # Through float32, and back.
        ours, theirs = found.terms[0], model.terms[0]
        assert isinstance(ours, FittedZbl) and isinstance(theirs, FittedZbl)
        np.testing.assert_allclose([*ours.weights, *ours.decays], [*theirs.weights, *theirs.decays], rtol=1e-6)
        again = Model.load(found.save(tmp_path / "so3lr"))
        assert (again.terms, again.interactions, again.config) == (found.terms, found.interactions, found.config)


def test_import_of_other_files(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    query = "layers_1/attention_block/Wq1"
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({query: None}, So3lrError, "layers_1/attention_block/Wq1 is None"),
        ({query: arrays[query][:, :16]}, ModelError, "layers_1/feature_query/kernel has shape"),
        ({query: np.full_like(arrays[query], np.nan)}, So3lrError, "Wq1 .*finite"),
        ({query: arrays[query].astype(int)}, So3lrError, "Wq1 .*int64"),
        ({"layers_1/attention_block/Wq3": arrays[query]}, So3lrError, "Wq3, which has no place"),
        ({"layers_3/layer_normalization_1/bias": np.zeros(128)}, ModelError, "unknown layers_3"),
        ({query: "text"}, So3lrError, "'text'"),
        ({query: [1]}, PickleError, "a list"),
    ]
    for number, (changes, kind, message) in enumerate(cases):
        path = write_params(tmp_path / f"{number}.pkl", arrays | changes)
        with pytest.raises(kind, match=message):
            import_so3lr(path)
    for name, kind in ((query, ModelError), ("observables_0/zbl_repulsion/p", So3lrError)):
        path = write_params(tmp_path / "lacks.pkl", {k: v for k, v in arrays.items() if k != name})
        with pytest.raises(kind, match=r"lacks|has no"):
            import_so3lr(path)
    with pytest.raises(FileNotFoundError):
        import_so3lr(tmp_path / "absent.pkl")
    path = write_params(tmp_path / "params.pkl", arrays)
    for cutoff in (0.0, -1.0, float("nan"), float("inf"), 1.5):
        with pytest.raises(ConfigError, match=r"terms\.(electrostatics\.cutoff|dispersion)"):
            import_so3lr(path, cutoff)


HYPERPARAMETERS: dict[str, Any] = {
    "activation_fn": "silu",
    "cutoff": 4.5,
    "cutoff_fn": "phys",
    "cutoff_lr": None,
    "degrees": [1, 2, 3, 4],
    "dispersion_energy_bool": True,
    "dispersion_energy_scale": 1.2,
    "electrostatic_energy_bool": True,
    "electrostatic_energy_scale": 4.0,
    "energy_activation_fn": "silu",
    "energy_learn_atomic_type_scales": True,
    "energy_learn_atomic_type_shifts": True,
    "energy_regression_dim": 128,
    "layer_normalization_1": True,
    "layer_normalization_2": True,
    "message_normalization": "avg_num_neighbors",
    "num_features": 128,
    "num_heads": 4,
    "num_layers": 3,
    "num_radial_basis_fn": 32,
    "qk_non_linearity": "identity",
    "radial_basis_fn": "bernstein",
    "residual_mlp_1": True,
    "residual_mlp_2": False,
    "use_charge_embed": True,
    "use_spin_embed": True,
    "zbl_repulsion_bool": True,
}


def test_settings_beside_the_weights(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    write_params(tmp_path / "params.pkl", arrays)
    settings = tmp_path / "hyperparameters.json"

    def write(changes: dict[str, Any], neighbours: Any = 13.5) -> None:
        content = {"model": HYPERPARAMETERS | changes, "data": {"avg_num_neighbors": neighbours}}
        settings.write_text(json.dumps(content))

    write({"electrostatic_energy_scale": 3.0, "cutoff": 5.0})
    found = import_so3lr(tmp_path)
    assert isinstance(found.config, So3lrConfig)
    assert (found.config.cutoff, found.config.mean_neighbours) == (5.0, 13.5)
    assert found.interactions[0] == Electrostatics(12.0, 3.0)
    for changes, message in (
        ({"radial_basis_fn": "physnet"}, "model.radial_basis_fn = 'physnet'"),
        ({"residual_mlp_2": True}, "model.residual_mlp_2 = True"),
        ({"something_new": 1}, "model.something_new = 1"),
        ({"num_heads": 5}, "not divisible by heads"),
        ({"cutoff": "far"}, "far"),
        ({"degrees": None}, "hyperparameters.json"),
    ):
        write(changes)
        with pytest.raises(So3lrError, match=re.escape(message)):
            import_so3lr(tmp_path)
    write({}, neighbours="many")
    with pytest.raises(So3lrError, match="many"):
        import_so3lr(tmp_path)
    settings.write_text(json.dumps({"model": {"cutoff": 4.5}, "data": {"avg_num_neighbors": 13.0}}))
    with pytest.raises(So3lrError, match=r"model\.activation_fn is missing"):
        import_so3lr(tmp_path)
    for text in ("[]", "{", "{}"):
        settings.write_text(text)
        with pytest.raises(So3lrError, match="damaged"):
            import_so3lr(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        ('architecture = "so3lr"', 'architecture = "so4"', "architecture = 'so4': known are so3krates, so3lr"),
        ('architecture = "so3lr"', "", "unknown model setting 'bernstein_rate'"),
        ("mean_neighbours = .*", "mean_neighbours = 0", "mean_neighbours = 0"),
        ("bernstein_rate = .*", "residual_mlp_2 = true", "residual_mlp_2 = True: the architecture so3lr has no such"),
        ("width = .*", "width = -1.0", r"terms.electrostatics.width = -1.0"),
        ("switched_over = .*", "switched_over = 13.0", r"terms.dispersion.switched_over = 13.0"),
        ("radius_scale = .*", "radius = 1.2", r"unknown key terms.dispersion.radius"),
        ('form = "predicted_charges"', 'form = "ewald"', r"terms.electrostatics.form = 'ewald'"),
        ('form = "fitted_zbl"', 'form = "zbl"', r"unknown key terms.repulsion.weights"),
        ("envelope = .*", "", r"terms.repulsion.envelope is missing"),
        ("rate = 2.*", "rate = -2.0", r"terms.repulsion: fitted numbers must be above 0"),
        (r"\[terms.electrostatics\]", "[terms.magnetism]", "unknown term 'magnetism'"),
        ('"Cl",', '"Ar",', "free atom of Ar"),
        ("version = 3", "version = 5", "version 5, this so3krates reads 1 to 4"),
    ],
)
def test_damaged_configuration(tmp_path: Path, pattern: str, replacement: str, message: str) -> None:
    for name in ("config.toml", "weights.safetensors"):
        shutil.copyfile(FOLDER / name, tmp_path / name)
    path = tmp_path / "config.toml"
    text = path.read_text()
    changed = re.sub(pattern, replacement, text, count=1)
    assert changed != text
    path.write_text(changed)
    with pytest.raises(ModelError, match=message):
        Model.load(tmp_path)


def test_elements_without_free_atom() -> None:
    with pytest.raises(ConfigError, match="free atom of Ga"):
        Dispersion.from_settings({}, ["N", "Ga"])


def test_fitted_repulsion_in_settings_of_a_training(model: Model) -> None:
    (term,) = terms_from({"repulsion": model.terms[0].settings()}, ["Ga", "N"])
    assert term.cutoff == 1.5
    assert term.outer_radii == {"Ga-Ga": 1.5, "Ga-N": 1.5, "N-N": 1.5}
    with pytest.raises(ConfigError, match=r"terms\.repulsion\.weights is missing"):
        terms_from({"repulsion": {"form": "fitted_zbl"}}, ["Ga", "N"])
    with pytest.raises(ConfigError, match="2 weights and 4 decays"):
        dataclasses.replace(term, weights=(0.5, 0.5))


@needs_shared
def test_import_of_the_published_weights(model: Model) -> None:
    found = import_so3lr(SHARED / "params" / "params.pkl")
    assert (found.config, found.terms, found.interactions) == (model.config, model.terms, model.interactions)
    assert found.energy_shifts == model.energy_shifts
    weights, expected = flat_params(found.params), flat_params(model.params)
    assert weights.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(weights[name], expected[name], name)


@needs_shared
@pytest.mark.parametrize(("cutoff", "number"), [pytest.param(12, 10, marks=pytest.mark.long), (10, 8)])
def test_reference_structures_as_the_original(cutoff: int, number: int) -> None:
    runtime = ModelRuntime(import_so3lr(SHARED / "params", float(cutoff)))
    frames = sorted(ase.io.read(SHARED / "structures.extxyz", ":"), key=len)[:number]
    with np.load(SHARED / "ref_float64.npz") as archive:
        for atoms in reversed(frames):
            name = f"{atoms.info['name']}/{cutoff}"
            assert_same(runtime.evaluate(atoms), atoms, lambda key, name=name: archive[f"{name}/{key}"])
    assert len(frames) == number
    assert any(atoms.pbc.all() for atoms in frames) == (number == 10)
