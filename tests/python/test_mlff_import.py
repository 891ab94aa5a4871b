"""Models of the original code: same weights after import, same energies, forces and stresses, refusals by name."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import ase.io
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ase import Atoms
from ase.build import bulk
from original import GAN, write_module
from so3krates.data import BatchShape, collate, frame_graphs
from so3krates.model.config import ConfigError
from so3krates.model.potential import Prediction, predict
from so3krates.runtime import Runtime
from so3krates.storage import Model, flat_params
from so3krates_export.export import export_model
from so3krates_export.ladder import Rung
from so3krates_export.mlff import MlffError, config_from_hyperparameters, import_mlff, trained_elements

SHARED = Path(__file__).resolve().parents[3] / "shared" / "reference"
SNSE = SHARED / "snse_m1"

# With the original's float32 Clebsch-Gordan factors, in float64.
ENERGY_TOLERANCE = 1e-10  # eV
FORCE_TOLERANCE = 1e-10  # eV/A, beyond the file's last digit
STRESS_TOLERANCE = 1e-11  # eV/A^3
PRINTED = 0.5e-8  # half of the last digit of positions (A) and forces (eV/A) in the reference file
# Without them: the rounding is worth about 1e-7 eV in a sum over 100 atoms and layers.
ENERGY_TOLERANCE_EXACT_FACTORS = 3e-6
FORCE_TOLERANCE_EXACT_FACTORS = 3e-7
# With tables in place of the radial filter networks.
TABLES_ENERGY_TOLERANCE = 1e-7  # eV per atom
TABLES_FORCE_TOLERANCE = 2e-5  # eV/A
TABLES_STRESS_TOLERANCE = 5e-7  # eV/A^3
FLOAT32_FORCE_TOLERANCE = 2e-5  # of the largest force
RUNG = Rung(rows=256, atoms=4608, candidates=192, neighbours=64)  # room for the reference frames
SMALLEST_SIGNAL = 0.01  # energies in eV, forces in eV/A, stresses in eV/A^3 of the references are larger

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs reference/ of the folder 'shared' beside the project (checkpoints as published)"
)


def evaluate(model: Model, frames: list[Atoms], dtype: type, **settings: object) -> list[Prediction]:
    """Energy without shifts, forces and strain gradient of each structure, all evaluated as one batch."""
    config = dataclasses.replace(model.config, **settings)
    shifts = dict.fromkeys(model.elements, 0.0)
    graphs = frame_graphs(frames, config.cutoff, shifts, read_labels=False)
    width = max(graph.table.neighbours.shape[1] for graph in graphs)
    batch, _ = collate(graphs, BatchShape(len(frames), sum(map(len, frames)), width), dtype)
    with jax.enable_x64(dtype is np.float64):
        params = jax.tree.map(lambda array: np.asarray(array, dtype), model.params)
        result = jax.tree.map(np.asarray, jax.jit(predict, static_argnums=0)(config, params, batch))
    ends = np.cumsum([len(atoms) for atoms in frames])
    return [
        Prediction(energy, forces, gradient, energies)
        for energy, forces, gradient, energies in zip(
            result.energies,
            np.split(result.forces, ends[:-1]),
            result.strain_gradients,
            np.split(result.atom_energies, ends[:-1]),
            strict=True,
        )
    ]


@pytest.fixture(scope="module")
def gan_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original's model folder: its settings, and its weights as its checkpoints hold them."""
    return write_module(tmp_path_factory.mktemp("mlff") / "module")


@pytest.fixture(scope="module")
def gan(gan_module: Path) -> Model:
    return import_mlff(gan_module)


@pytest.fixture(scope="module")
def gan_frames() -> list[tuple[Atoms, Atoms]]:
    """The reference frames as written (8 decimals) and with all digits of the positions that were evaluated.

    The originals are crystals in the file's cells with Gaussian displacements of one random stream.
    """
    printed = ase.io.read(GAN / "expected.extxyz", ":")
    wurtzite, zincblende = bulk("GaN", "wurtzite", a=3.19, c=5.19), bulk("GaN", "zincblende", a=4.5)
    recipe = [
        (wurtzite, (1, 1, 1), 0.02),
        (wurtzite, (2, 2, 1), 0.05),
        (wurtzite, (2, 1, 2), 0.1),
        (wurtzite, (2, 2, 2), 0.1),
        (zincblende, (2, 2, 2), 0.08),
        (wurtzite, (3, 3, 2), 0.05),
        (wurtzite, (1, 2, 3), 0.15),
    ]
    random = np.random.default_rng(1)
    frames = []
    for (crystal, repeats, displacement), reference in zip(recipe, printed, strict=True):
        random.normal(size=(3, 3))  # the strain, known from the cell
        atoms = crystal.repeat(repeats)
        atoms.set_cell(reference.cell, scale_atoms=True)
        atoms.positions += displacement * random.normal(size=atoms.positions.shape)
        np.testing.assert_allclose(atoms.positions, reference.positions, rtol=0, atol=1.001 * PRINTED)
        frames.append((atoms, reference))
    return frames


def test_orbax_weights_are_those_of_the_original(gan: Model) -> None:
    weights = flat_params(gan.params)
    with np.load(GAN / "params.npz") as archive:
        original = {name: archive[name] for name in archive.files}
    assert sum(array.size for array in weights.values()) == sum(array.size for array in original.values()) == 319_213
    attention = "attention_fn/VmapConvAttentionCoefficients_0"
    for mine, theirs in {
        "embedding/embedding": "feature_embeddings_0/Embed_0/embedding",
        "layers_1/feature_query/kernel": f"layers_1/FeatureBlock_0/{attention}/Dense_0/kernel",
        "layers_1/feature_key/kernel": f"layers_1/FeatureBlock_0/{attention}/Dense_1/kernel",
        "layers_1/feature_value/kernel": (
            "layers_1/FeatureBlock_0/attention_fn/VmapAttentionAggregation_0/Dense_0/kernel"
        ),
        "layers_1/geometric_key/kernel": f"layers_1/GeometricBlock_0/{attention}/Dense_1/kernel",
        "layers_1/feature_filter/radial/dense_0/kernel": "layers_1/FeatureBlock_0/filter_fn/VmapMLP_0/layers_0/kernel",
        "layers_1/geometric_filter/spherical/dense_1/bias": (
            "layers_1/GeometricBlock_0/filter_fn/VmapMLP_1/layers_1/bias"
        ),
        "layers_1/exchange/kernel": "layers_1/InteractionBlock_0/MLP_0/layers_0/kernel",
        "readout/dense_1/bias": "observables_0/MLP_0/layers_1/bias",
    }.items():
        assert np.array_equal(weights[mine], original[f"params/{theirs}"].reshape(weights[mine].shape)), mine


@needs_shared
def test_a_folder_as_the_original_wrote_it(gan: Model) -> None:
    written = import_mlff(SHARED / "mlff_gan" / "module")
    assert (written.elements, written.energy_shifts, written.config) == (gan.elements, gan.energy_shifts, gan.config)
    assert written.training is not None and gan.training is not None
    assert written.training["step"] == gan.training["step"]
    mine, theirs = flat_params(gan.params), flat_params(written.params)
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        assert np.array_equal(array, theirs[name]), name


@needs_shared
def test_msgpack_checkpoint_of_one_layer() -> None:
    model = import_mlff(SNSE)
    assert sum(array.size for array in flat_params(model.params).values()) == 126_997
    assert model.elements == ("Se", "Sn")
    assert model.energy_shifts["Sn"] == -118396.44778826952
    named = import_mlff(SNSE, checkpoint=SNSE / "checkpoint_loss_598560", elements=("Sn", "Se"))
    assert named.elements == ("Sn", "Se")


def test_what_the_folder_tells(gan: Model) -> None:
    assert gan.elements == ("N", "Ga")
    assert gan.energy_shifts == {"N": -4.427585700839031, "Ga": -4.427585700839031}
    assert gan.training is not None
    assert gan.training["step"] == 800
    assert gan.training["inputs"]["wf"] == 1.0
    assert (gan.config.cutoff, gan.config.features, gan.config.layers) == (5.0, 132, 3)


def test_parity_with_the_original_in_float64(gan: Model, gan_frames, record_property) -> None:
    worst = np.zeros(3)
    results = evaluate(gan, [atoms for atoms, _ in gan_frames], np.float64, float32_invariants=True)
    for (atoms, reference), result in zip(gan_frames, results, strict=True):
        stress = result.strain_gradients / atoms.get_volume()
        errors = [
            abs(result.energies - reference.get_potential_energy()),
            np.abs(result.forces - reference.get_forces()).max() - PRINTED,
            np.abs(stress - reference.get_stress(voigt=False)).max(),
        ]
        worst = np.maximum(worst, errors)
        assert abs(reference.get_potential_energy()) > SMALLEST_SIGNAL
        assert np.abs(reference.get_forces()).max() > SMALLEST_SIGNAL
        assert np.abs(reference.get_stress()).max() > SMALLEST_SIGNAL
    for name, value in zip(("energy_eV", "forces_beyond_print_eV_A", "stress_eV_A3"), worst, strict=True):
        record_property(name, float(value))
    print(f"largest differences: {worst[0]:.1e} eV, {worst[1]:.1e} eV/A beyond the last digit, {worst[2]:.1e} eV/A^3")
    assert worst[0] < ENERGY_TOLERANCE
    assert worst[1] < FORCE_TOLERANCE
    assert worst[2] < STRESS_TOLERANCE


def test_the_fused_body_in_float64(
    gan: Model, gan_frames, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The same cases through the CPU kernels, whose radial filters are tables."""
    zero = dict.fromkeys(gan.elements, 0.0)
    model = dataclasses.replace(
        gan, config=dataclasses.replace(gan.config, float32_invariants=True), energy_shifts=zero
    )
    choice = export_model(model, tmp_path / "gan.so3k", "float64", ladder=[RUNG])
    assert choice.body == "fused"
    assert choice.tables["force_error"] < TABLES_FORCE_TOLERANCE
    cache = tmp_path_factory.getbasetemp().parent / "lammps_program_cache"  # of all workers and of the LAMMPS tests
    runtime = Runtime(tmp_path / "gan.so3k", cache=str(cache))
    worst = np.zeros(3)
    for atoms, reference in gan_frames:
        found = runtime.evaluate(atoms)
        errors = [
            abs(found["energy"] - reference.get_potential_energy()) / len(atoms),
            np.abs(found["forces"] - reference.get_forces()).max() - PRINTED,
            np.abs(found["stress"] - reference.get_stress(voigt=False)).max(),
        ]
        worst = np.maximum(worst, errors)
    print(f"largest differences: {worst[0]:.1e} eV/atom, {worst[1]:.1e} eV/A, {worst[2]:.1e} eV/A^3")
    assert ENERGY_TOLERANCE < worst[0] < TABLES_ENERGY_TOLERANCE
    assert FORCE_TOLERANCE < worst[1] < TABLES_FORCE_TOLERANCE
    assert worst[2] < TABLES_STRESS_TOLERANCE


def test_exact_invariants_differ_from_the_original_by_its_rounding(gan: Model, gan_frames) -> None:
    results = evaluate(gan, [atoms for atoms, _ in gan_frames], np.float64)
    differences = []
    for (_, reference), result in zip(gan_frames, results, strict=True):
        differences.append(abs(result.energies - reference.get_potential_energy()))
        assert np.abs(result.forces - reference.get_forces()).max() < FORCE_TOLERANCE_EXACT_FACTORS
    assert max(differences) < ENERGY_TOLERANCE_EXACT_FACTORS
    assert min(differences) > 10 * ENERGY_TOLERANCE  # the option of the test above matters


def test_float32_forces(gan: Model, gan_frames) -> None:
    worst = 0.0
    for (_, reference), result in zip(
        gan_frames, evaluate(gan, [atoms for atoms, _ in gan_frames], np.float32), strict=True
    ):
        assert result.forces.dtype == np.float32
        error = np.abs(result.forces - reference.get_forces()).max() / np.abs(reference.get_forces()).max()
        worst = max(worst, error)
    print(f"largest float32 error: {worst:.1e} of the largest force")
    assert worst < FLOAT32_FORCE_TOLERANCE


@needs_shared
def test_published_snse_potential() -> None:
    cluster = Atoms("SnSe3", [[0, 0, 0], [2.6, 0.3, -0.2], [0.4, 2.9, 0.5], [-0.3, 0.6, 3.1]])
    (result,) = evaluate(import_mlff(SNSE), [cluster], np.float64)
    last_digit = 0.5e-8
    np.testing.assert_allclose(
        result.atom_energies, [0.53252984, 1.04168377, 0.99841556, 0.97703849], rtol=0, atol=last_digit
    )
    np.testing.assert_allclose(result.energies, 3.54966766, rtol=0, atol=last_digit)
    forces = [
        [-1.16492356, -0.30476441, 0.20477348],
        [1.3335259, -0.23129143, -0.06972282],
        [-0.23061922, 0.7580666, -0.06999762],
        [0.06201688, -0.22201076, -0.06505305],
    ]
    np.testing.assert_allclose(result.forces, forces, rtol=0, atol=last_digit)


HYPERPARAMETERS = {
    "stack_net": {
        "geometry_embeddings": [
            {
                "geometry_embed": {
                    "degrees": [1, 2],
                    "radial_basis_function": "phys",
                    "n_rbf": 16,
                    "radial_cutoff_fn": "cosine_cutoff_fn",
                    "r_cut": 4.0,
                    "sphc": True,
                    "sphc_normalization": None,
                    "mic": "bins",
                    "prop_keys": {},
                }
            }
        ],
        "feature_embeddings": [{"atom_type_embed": {"num_embeddings": 100, "features": 8, "prop_keys": {}}}],
        "layers": [
            {
                "so3krates_layer": {
                    "fb_filter": "radial_spherical",
                    "fb_rad_filter_features": [8, 8],
                    "fb_sph_filter_features": [2, 8],
                    "gb_filter": "radial_spherical",
                    "gb_rad_filter_features": [8, 8],
                    "gb_sph_filter_features": [2, 8],
                    "n_heads": 2,
                    "degrees": [1, 2],
                    "layer_normalization": False,
                }
            }
        ],
        "observables": [{"energy": {"num_embeddings": 100, "prop_keys": {}}}],
    }
}


def altered(group: str, kind: str, **settings: object) -> dict:
    hyperparameters = copy.deepcopy(HYPERPARAMETERS)
    hyperparameters["stack_net"][group][0][kind].update(settings)
    return hyperparameters


@pytest.mark.parametrize("mic", ["naive", "bins", True, False])
def test_old_names_of_periodic_images(mic: object) -> None:
    config = config_from_hyperparameters(altered("geometry_embeddings", "geometry_embed", mic=mic))
    assert (config.cutoff, config.radial_functions, config.degrees, config.features) == (4.0, 16, (1, 2), 8)


def test_cutoff_functions_of_the_original() -> None:
    config = config_from_hyperparameters(
        altered("geometry_embeddings", "geometry_embed", radial_cutoff_fn="dimenet_cutoff_fn")
    )
    assert (config.cutoff_function, config.polynomial_order) == ("polynomial", 6)


@pytest.mark.parametrize(
    ("group", "kind", "settings", "named"),
    [
        ("geometry_embeddings", "geometry_embed", {"sphc_normalization": 10.0}, "sphc_normalization"),
        ("geometry_embeddings", "geometry_embed", {"radial_basis_function": "bernstein"}, "radial_basis_function"),
        ("geometry_embeddings", "geometry_embed", {"radial_cutoff_fn": "made_up"}, "radial_cutoff_fn"),
        ("geometry_embeddings", "geometry_embed", {"solid_harmonic": True}, "solid_harmonic"),
        ("layers", "so3krates_layer", {"layer_normalization": True}, "layer_normalization"),
        ("layers", "so3krates_layer", {"residual_mlp_1": True}, "residual_mlp_1"),
        ("layers", "so3krates_layer", {"residual_mlp_2": True}, "residual_mlp_2"),
        ("layers", "so3krates_layer", {"non_local_feature": True}, "non_local_feature"),
        ("layers", "so3krates_layer", {"fb_filter": "radial"}, "fb_filter"),
        ("layers", "so3krates_layer", {"gb_rad_filter_features": [4, 8]}, "gb_rad_filter_features"),
        ("layers", "so3krates_layer", {"brand_new": 1}, "brand_new"),
        ("observables", "energy", {"zbl_repulsion": True}, "zbl_repulsion"),
        ("observables", "energy", {"per_atom_scale": [1.0]}, "per_atom_scale"),
    ],
)
def test_unsupported_settings_are_refused_by_name(group: str, kind: str, settings: dict, named: str) -> None:
    with pytest.raises(MlffError, match=named):
        config_from_hyperparameters(altered(group, kind, **settings))


def test_other_networks_are_refused() -> None:
    ace = copy.deepcopy(HYPERPARAMETERS)
    ace["stack_net"]["layers"] = [{"so3kratace_layer": {}}]
    with pytest.raises(MlffError, match="so3kratace_layer"):
        config_from_hyperparameters(ace)
    with pytest.raises(MlffError, match="stack_net"):
        config_from_hyperparameters({"model": {}})
    scalars = altered("geometry_embeddings", "geometry_embed", degrees=[0, 1])
    scalars["stack_net"]["layers"][0]["so3krates_layer"]["degrees"] = [0, 1]
    with pytest.raises(ConfigError, match="degrees"):
        config_from_hyperparameters(scalars)


@needs_shared
def test_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(MlffError, match="not a folder"):
        import_mlff(tmp_path / "absent")
    with pytest.raises(MlffError, match=r"hyperparameters\.json is missing"):
        import_mlff(tmp_path)
    for name in ("hyperparameters.json", "scales.json"):
        shutil.copyfile(SNSE / name, tmp_path / name)
    with pytest.raises(MlffError, match="checkpoint_loss"):
        import_mlff(tmp_path)
    (tmp_path / "checkpoint_loss_1").write_bytes(b"\x00not msgpack")
    with pytest.raises(MlffError, match="checkpoint_loss_1"):
        import_mlff(tmp_path)
    (tmp_path / "ckpt_7" / "state").mkdir(parents=True)
    with pytest.raises(MlffError, match="ckpt_7"):
        import_mlff(tmp_path)
    with pytest.raises(MlffError, match="'Xx'"):
        import_mlff(SNSE, elements=("Sn", "Xx"))
    scales = json.loads((tmp_path / "scales.json").read_text())
    scales["energy"]["scale"] = 2.0
    (tmp_path / "scales.json").write_text(json.dumps(scales))
    with pytest.raises(MlffError, match=r"energy\.scale"):
        import_mlff(tmp_path, checkpoint=SNSE / "checkpoint_loss_598560")


def test_highest_orbax_checkpoint_wins_and_other_networks_do_not_fit(
    tmp_path: Path, gan_module: Path, gan: Model
) -> None:
    for name in ("hyperparameters.json", "scales.json"):
        shutil.copyfile(gan_module / name, tmp_path / name)
    shutil.copytree(gan_module / "ckpt_799", tmp_path / "ckpt_799")
    # Weights of a smaller network under a higher number.
    other = {"valid_params": {"params": {"feature_embeddings_0": {"Embed_0": {"embedding": np.ones((100, 8))}}}}}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "ckpt_1000" / "state", other)
    with pytest.raises(ValueError, match="another network"):
        import_mlff(tmp_path, elements=("Ga", "N"))
    named = import_mlff(tmp_path, checkpoint=tmp_path / "ckpt_799")
    assert np.array_equal(
        flat_params(named.params)["embedding/embedding"], flat_params(gan.params)["embedding/embedding"]
    )
    with pytest.raises(MlffError, match="--elements"):
        trained_elements(other, tmp_path)
