"""The network: settings, basis functions, symmetries, derivatives, parameter counts."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from helpers import batch_of, params64
from scipy.spatial.transform import Rotation
from so3krates.model import ConfigError, ModelConfig, init_params, predict
from so3krates.model.cutoff import cutoff_function
from so3krates.model.harmonics import invariants, parity, spherical_harmonics
from so3krates.model.initial import embedding_normal, lecun_normal
from so3krates.model.radial_basis import phys_basis, radial_basis

pytestmark = pytest.mark.usefixtures("x64")

ROUNDING = 1e-12  # float64, quantities of order 1
ULPS = 2  # units in the last place: XLA multiplies one value by constants in another order from release to release
SYMMETRY = 1e-11  # eV, eV/A: invariance of energies and forces in float64
DIFFERENCE = 1e-6  # eV, and relative: differences of fourth order with step 1e-4 in float64
SIGNAL = 1e-2  # eV/A: forces that a test must see

SMALL = ModelConfig(features=24, heads=2, layers=2, degrees=(1, 2), cutoff=4.0, radial_functions=16)


def structure(seed: int = 0) -> Atoms:
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19)
    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0.0, 0.02, (3, 3))), scale_atoms=True)
    return atoms


compiled_predict = jax.jit(predict, static_argnums=0)


def derivative(function, h: float = 1e-4) -> float:
    """f'(0) with an error of fourth order in h."""
    return (8 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12 * h)


def evaluate(config: ModelConfig, params, atoms: Atoms):
    return compiled_predict(config, params, batch_of(atoms, config.cutoff))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 5}, "features = 132 is not divisible by heads = 5: take features = 135"),
        ({"features": 40, "degrees": [1, 2, 3]}, "not divisible by the number of degrees, 3: take features = 42"),
        ({"degrees": [0, 1]}, "degrees"),
        ({"degrees": [3, 1]}, "ascending"),
        ({"cutoff": 0.0}, "cutoff"),
        ({"layers": 0}, "layers"),
        ({"layers": 10**20}, "layers = 100000000000000000000: give a whole number of at least 1, and at most 65536"),
        ({"features": "many"}, "features = 'many': give a whole number"),
        ({"degrees": 2}, "degrees = 2: give ascending"),
        ({"readout_features": [16, "x"]}, "readout_features"),
        ({"cutoff": True}, "cutoff = True: give a length"),
        ({"residual_mlp_1": "no"}, "residual_mlp_1 = 'no': give true or false"),
        ({"cutoff_function": "step"}, "known are cosine"),
        ({"radial_basis": "sinc"}, "known are phys"),
        ({"radial_filter_features": [64, 64]}, "end with features = 132"),
        ({"feature": 3}, "unknown model setting 'feature'"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        ModelConfig.from_dict(settings)


def test_settings_survive_a_round_trip():
    assert ModelConfig.from_dict(SMALL.to_dict()) == SMALL


@pytest.mark.parametrize(("layers", "count"), [(1, 126_997), (2, 223_105), (3, 319_213)])
def test_parameter_counts(layers, count):
    params = jax.eval_shape(functools.partial(init_params, ModelConfig(layers=layers)), 0)
    assert sum(v.size for v in jax.tree.leaves(params)) == count


def test_initial_values_are_those_of_flax():
    key = jax.random.PRNGKey(5)
    head_kernel = nn.initializers.lecun_normal(batch_axis=0)
    embedding = nn.Embed(1, 1).embedding_init
    for ours, flax, shape in (
        (lecun_normal, nn.Dense(1).kernel_init, (32, 132)),
        (lecun_normal, nn.Dense(1).kernel_init, (300, 200)),  # more than DRAWS
        (lecun_normal, head_kernel, (4, 33, 33)),
        (embedding_normal, embedding, (100, 132)),
    ):
        values = ours(key, shape)
        assert values.dtype == jnp.float32
        np.testing.assert_array_max_ulp(np.asarray(values), np.asarray(flax(key, shape, jnp.float32)), ULPS)
        assert np.asarray(values).std() > SIGNAL


def test_harmonics_are_orthonormal_and_have_their_parity():
    degrees = (1, 2, 3, 4)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    phi = np.arange(24) * 2 * np.pi / 24
    z, p = np.meshgrid(nodes, phi, indexing="ij")
    rho = np.sqrt(1 - z**2)
    points = np.stack([rho * np.cos(p), rho * np.sin(p), z], -1).reshape(-1, 3)
    area = np.repeat(weights, 24) * 2 * np.pi / 24
    values = np.asarray(spherical_harmonics(jnp.asarray(points), degrees))
    np.testing.assert_allclose(values.T @ (area[:, None] * values), np.eye(24), atol=ROUNDING)
    mirrored = spherical_harmonics(jnp.asarray(-points), degrees)
    np.testing.assert_allclose(mirrored, parity(degrees) * values, atol=ROUNDING)


def test_invariants_do_not_change_under_rotation():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(5, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    weights = rng.normal(size=5)

    def chi(rotation):
        return jnp.asarray(weights) @ spherical_harmonics(jnp.asarray(points @ rotation.T), (1, 2, 3, 4))

    before = invariants(chi(np.eye(3)), (1, 2, 3, 4))
    after = invariants(chi(Rotation.random(None, rng).as_matrix()), (1, 2, 3, 4))
    assert float(jnp.min(before)) > SIGNAL
    np.testing.assert_allclose(after, before, rtol=ROUNDING)


@pytest.mark.parametrize("name", ["cosine", "phys", "polynomial", "exponential"])
def test_cutoff_functions_go_smoothly_to_zero(name):
    config = ModelConfig(cutoff=4.0, cutoff_function=name)
    slope = jax.vmap(jax.grad(lambda d: cutoff_function(d, config)))
    distances = jnp.asarray([1e-6, 2.0, 3.9999, 4.0, 4.5, 80.0])
    values = cutoff_function(distances, config)
    assert abs(float(values[0]) - 1) < 1e-9 and 0.2 < float(values[1]) < 0.9
    assert float(abs(values[2])) < 1e-6 and float(abs(slope(distances)[2])) < 1e-2
    assert not np.any(values[3:]) and not np.any(slope(distances)[3:])


def test_radial_basis_is_one_at_its_centres():
    centres = -np.log(np.linspace(np.exp(-5.0), 1.0, 32))
    np.testing.assert_allclose(np.diag(phys_basis(jnp.asarray(centres), 32, 5.0)), 1.0, atol=ROUNDING)


def test_gaussians_are_uniform_between_their_start_and_the_cutoff():
    centres = np.linspace(1.5, 5.0, 8)
    config = ModelConfig(radial_basis="gaussian", radial_functions=8, radial_start=1.5)
    basis = np.asarray(radial_basis(jnp.asarray(centres), config))
    np.testing.assert_allclose(np.diag(basis), 1.0, atol=ROUNDING)
    np.testing.assert_allclose(np.diag(basis, 1), np.exp(-0.25), atol=ROUNDING)  # a spacing is half a width
    np.testing.assert_allclose(basis, basis.T, atol=ROUNDING)
    assert radial_basis(jnp.asarray(2.0, jnp.float32), config).dtype == jnp.float32
    near, far = (np.asarray(radial_basis(jnp.asarray(d), config)) for d in (0.0, 80.0))
    assert 0 < near.max() < 0.2  # far from all centres filters go over to constants
    assert far.max() == 0
    with pytest.raises(ConfigError, match="begins at radial_start, which is not given"):
        radial_basis(jnp.asarray(2.0), ModelConfig(radial_basis="gaussian"))
    with pytest.raises(ConfigError, match=r"radial_start = 5\.0: give a length in A from 0 to below the cutoff"):
        ModelConfig(radial_start=5.0)


def test_rotation_translation_permutation():
    params, atoms = params64(SMALL), structure()
    base = evaluate(SMALL, params, atoms)
    assert float(jnp.abs(base.forces).max()) > SIGNAL
    rotation = Rotation.random(None, np.random.default_rng(2)).as_matrix()
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ rotation.T)
    turned.positions = atoms.positions @ rotation.T + [0.3, -1.2, 7.0]
    order = [2, 0, 3, 1]
    moved = evaluate(SMALL, params, turned[order])
    np.testing.assert_allclose(moved.energies, base.energies, atol=SYMMETRY)
    np.testing.assert_allclose(moved.forces, (base.forces @ rotation.T)[np.array(order)], atol=SYMMETRY)
    np.testing.assert_allclose(
        moved.strain_gradients[0], rotation @ base.strain_gradients[0] @ rotation.T, atol=SYMMETRY
    )


def test_supercell_repeats_the_primitive_cell():
    params, atoms = params64(SMALL), structure()
    once, twice = evaluate(SMALL, params, atoms), evaluate(SMALL, params, atoms.repeat((2, 1, 1)))
    np.testing.assert_allclose(twice.forces, np.tile(once.forces, (2, 1)), atol=SYMMETRY)
    np.testing.assert_allclose(twice.energies, 2 * once.energies, atol=SYMMETRY)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        (SMALL, 1.5),
        (ModelConfig(features=24, heads=2, layers=2, degrees=(1, 4), cutoff=4.0, cutoff_function="phys"), 1.5),
        (
            ModelConfig(
                features=12, heads=2, layers=2, degrees=(2,), cutoff=4.0,
                layer_normalization=True, residual_mlp_1=True, residual_mlp_2=True, readout_features=(8, 8),
            ),
            1.0,
        ),
    ],
    ids=["small", "other-degrees", "norms-and-residuals"],
)  # fmt: skip
def test_forces_and_strain_gradient_are_derivatives(config, scale):
    params, atoms = params64(config, scale), structure()
    base = evaluate(config, params, atoms)
    assert float(jnp.abs(base.forces).max()) > SIGNAL

    def energy(positions, cell):
        moved = atoms.copy()
        moved.set_cell(cell)
        moved.positions = positions
        return float(evaluate(config, params, moved).energies[0])

    rng = np.random.default_rng(3)
    direction = rng.normal(size=atoms.positions.shape)
    slope = derivative(lambda h: energy(atoms.positions + h * direction, atoms.cell))
    assert slope == pytest.approx(-float(np.sum(base.forces * direction)), rel=DIFFERENCE, abs=DIFFERENCE)
    strain = rng.normal(size=(3, 3))
    strain = 0.5 * (strain + strain.T)

    def strained(e):
        deform = np.eye(3) + e * strain
        return energy(atoms.positions @ deform.T, atoms.cell.array @ deform.T)

    slope = derivative(strained)
    assert abs(slope) > SIGNAL
    assert slope == pytest.approx(float(np.sum(base.strain_gradients[0] * strain)), rel=DIFFERENCE, abs=DIFFERENCE)


def test_an_isolated_atom_has_energy_and_no_forces():
    result = evaluate(SMALL, params64(SMALL), Atoms("Ga", positions=[[0, 0, 0]]))
    assert abs(float(result.energies[0])) > 1e-4
    assert not np.any(result.forces) and not np.any(result.strain_gradients)
