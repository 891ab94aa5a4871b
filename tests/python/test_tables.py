"""Reductions of a network: splines for the radial filters, the collapsed first layer; and the choice of the grid."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from helpers import batch_of, params64, rattled_wurtzite
from so3krates.model import ModelConfig, predict
from so3krates.model.config import ConfigError
from so3krates.model.radial_basis import spline_basis
from so3krates.model.reductions import FILTERS, PIECE, collapsed_first_layer, radial_functions, tabulated
from so3krates_export.fused import filter_rank
from so3krates_export.tables import TableError, choose_tables, structures_for

compiled = jax.jit(predict, static_argnums=0)
pytestmark = pytest.mark.usefixtures("x64")

UNITY = 1e-14  # sums of splines
COLLAPSED = 1e-13  # coefficients of the first layer, relative
TOLERANCE = 2e-5  # eV/A, tables
DERIVATIVE = 2e-8  # eV/A, central differences of 2e-5 A
SIGNAL = 1e-2  # eV/A
LOOSE = 1e-2  # eV/A
ROUNDING = 1e-11  # eV/A
LARGE_FORCE = 10.0  # eV/A, from where errors count relative to the force
SMALL = ModelConfig(features=24, heads=2, layers=2, degrees=(1, 2, 3), cutoff=5.0)
UNIFORM = dataclasses.replace(SMALL, radial_basis="gaussian", radial_functions=16, radial_start=1.6)
SHARP = ModelConfig(features=24, heads=2, layers=2, degrees=(1, 2, 3), cutoff=5.0, radial_functions=96)


def crystal() -> Atoms:
    return rattled_wurtzite((2, 2, 1))


def test_splines_add_up_to_one_and_are_constant_outside_their_range():
    distances = jnp.linspace(0.1, 6.0, 200)
    basis = spline_basis(distances, 20, 5.0, 0.8)
    np.testing.assert_allclose(basis.sum(-1), 1.0, atol=UNITY)
    assert ((np.asarray(basis) > 0).sum(-1) <= 4).all()
    slopes = jax.vmap(jax.jacfwd(lambda d: spline_basis(d, 20, 5.0, 0.8)))(distances)
    outside = (distances < 0.8) | (distances > 5.0)
    assert np.abs(slopes[outside]).max() == 0.0 and np.abs(slopes[~outside]).max() > SIGNAL


@pytest.mark.parametrize("finer", [False, True])
def test_tables_converge(finer):
    params, batch = params64(SMALL), batch_of(crystal(), SMALL.cutoff)
    exact = compiled(SMALL, params, batch).forces
    nodes = (128, 256) if not finer else (256, 512)
    errors = [np.abs(compiled(*tabulated(SMALL, params, n), batch).forces - exact).max() for n in nodes]
    assert np.abs(exact).max() > SIGNAL and errors[0] > 1e-9
    assert errors[1] < errors[0] / 5


def test_radial_functions_of_any_number_of_distances():
    """They are computed in pieces of one size, of which the last is filled up."""
    params, distances = params64(SMALL), np.linspace(1.0, 4.9, PIECE + 7)
    values, slopes = radial_functions(SMALL, params, distances)
    assert values.shape == slopes.shape == (SMALL.layers, 2, PIECE + 7, SMALL.features)
    for part in (slice(3), slice(PIECE - 1, PIECE + 2), slice(0)):
        found = radial_functions(SMALL, params, distances[part])
        np.testing.assert_array_equal(found, (values[:, :, part], slopes[:, :, part]))
    assert np.abs(values).max() > SIGNAL


def test_radial_functions_of_splines():
    """The four that are not zero give what all of them give."""
    config, params = tabulated(SMALL, params64(SMALL), 40)
    distances = np.concatenate([[0.2, config.spline_start, config.cutoff, 6.0], np.linspace(0.6, 4.9, 50)])
    found = radial_functions(config, params, distances)
    for k in range(config.layers):
        for n, name in enumerate(FILTERS):
            dense = params[f"layers_{k}"][name]["radial"]["dense_0"]

            def values(d, dense=dense):
                return spline_basis(d, 40, config.cutoff, config.spline_start) @ dense["kernel"] + dense["bias"]

            expected = jax.jvp(values, (jnp.asarray(distances),), (jnp.ones(len(distances)),))
            assert min(np.abs(part).max() for part in expected) > SIGNAL
            np.testing.assert_allclose(found[0][k, n], expected[0], rtol=0, atol=ROUNDING)
            # At the ends themselves the slope is of one side.
            slopes, expected_slopes = (np.delete(part, (1, 2), axis=0) for part in (found[1][k, n], expected[1]))
            np.testing.assert_allclose(slopes, expected_slopes, rtol=0, atol=ROUNDING)


def test_forces_of_a_tabulated_network_are_the_derivatives_of_its_energy():
    config, params = tabulated(SMALL, params64(SMALL), 40)
    atoms, step = crystal(), 2e-5
    forces = compiled(config, params, batch_of(atoms, config.cutoff)).forces
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[3, 1] += sign * step
        energies.append(float(compiled(config, params, batch_of(moved, config.cutoff)).energies[0]))
    assert abs(forces[3, 1]) > SIGNAL
    assert abs((energies[1] - energies[0]) / (2 * step) - forces[3, 1]) < DERIVATIVE


def test_the_collapsed_first_layer_is_the_first_layer():
    """Attention coefficients of every ordered pair of species at several distances."""
    from so3krates.model.layer import Layer

    config, params = tabulated(SMALL, params64(SMALL), 48)
    numbers = [31, 7]
    first = collapsed_first_layer(config, params, numbers)
    layer, x = params["layers_0"], params["embedding"]["embedding"][np.asarray(numbers)]
    chi = jnp.zeros((2, config.orders))
    centre, other = Layer(config).apply({"params": layer}, x, chi, method="project")
    distances = jnp.asarray([0.3, 1.9, 3.3, 4.9])
    basis = spline_basis(distances, 48, config.cutoff, config.spline_start)
    filters = Layer(config).apply({"params": layer}, basis, jnp.zeros((4, config.orders)), method="filters")
    for name, heads, query, key, w in (
        ("heads", config.heads, centre.query, other.key, filters.feature),
        ("degrees", 3, centre.geometric_query, other.geometric_key, filters.geometric),
    ):
        products = (query[:, None, None] * w * key[None, :, None]).reshape(2, 2, 4, heads, -1)
        plain = products.sum(-1) / np.sqrt(products.shape[-1])
        collapsed = np.einsum("dn,ijnh->ijdh", basis, getattr(first, name))
        assert np.abs(plain).max() > 1e-3
        np.testing.assert_allclose(collapsed, plain, atol=COLLAPSED * np.abs(plain).max())
    np.testing.assert_array_equal(first.values, other.value)


def test_the_grid_is_the_coarsest_that_is_fine_enough():
    params = params64(UNIFORM)
    found = choose_tables(UNIFORM, params, ("Ga", "N"), TOLERANCE)
    assert (found.config.radial_basis, found.config.radial_start) == ("spline", None)
    assert 0 < found.force_error < TOLERANCE and found.largest_force > SIGNAL
    assert found.config.radial_functions == found.nodes == found.describe()["nodes"]
    looser = choose_tables(UNIFORM, params, ("Ga", "N"), 1.0)
    assert looser.nodes <= found.nodes
    # On structures that the choice has not seen.
    batch = batch_of(crystal(), UNIFORM.cutoff)
    change = compiled(found.config, found.params, batch).forces - compiled(UNIFORM, params, batch).forces
    assert 0 < np.abs(change).max() < 2 * TOLERANCE


def test_the_rank_is_the_lowest_that_is_high_enough():
    """Filters of small Euclidean variables are nearly linear in the invariants; of large ones they are not."""
    config = dataclasses.replace(SMALL, spherical_filter_features=(24, 24))
    params = params64(config)
    found = choose_tables(config, params, ("Ga", "N"), TOLERANCE)
    assert filter_rank(found.config, found.params) == found.rank == found.describe()["rank"] < 24
    assert 0 < found.force_error < TOLERANCE
    batch = batch_of(crystal(), config.cutoff)
    change = compiled(found.config, found.params, batch).forces - compiled(config, params, batch).forces
    assert 0 < np.abs(change).max() < 2 * TOLERANCE
    for layer in range(config.layers):
        exchange = params[f"layers_{layer}"]["exchange"]
        params[f"layers_{layer}"] = {
            **params[f"layers_{layer}"],
            "exchange": jax.tree.map(lambda p: 60.0 * p, exchange),
        }
    bent = choose_tables(config, params, ("Ga", "N"), TOLERANCE)
    assert filter_rank(bent.config, bent.params) == bent.rank == 24


def test_the_recorded_error_is_that_of_the_forces():
    """Each structure by itself, through the whole network with and without tables."""
    exact, found = params64(SHARP), choose_tables(SHARP, params64(SHARP), ("Ga",), LOOSE)
    errors, largest = [], []
    for atoms in structures_for(("Ga",)):
        if not atoms.pbc.any():
            atoms.center(vacuum=SHARP.cutoff)
        batch = batch_of(atoms, SHARP.cutoff)
        expected = np.asarray(compiled(SHARP, exact, batch).forces)
        change = compiled(found.config, found.params, batch).forces - expected
        scale = np.maximum(1.0, np.linalg.norm(expected, axis=1, keepdims=True) / LARGE_FORCE)
        errors.append(np.abs(change / scale).max())
        largest.append(np.abs(expected).max())
    assert max(errors) > 100 * ROUNDING
    assert abs(found.force_error - max(errors)) < ROUNDING
    assert abs(found.largest_force - max(largest)) < ROUNDING


@pytest.mark.torture
def test_a_tighter_tolerance_gives_a_smaller_error():
    params = params64(SHARP)
    errors = {t: choose_tables(SHARP, params, ("Ga", "N"), t).force_error for t in (1e-3, TOLERANCE, 1e-6)}
    assert all(0 < error < tolerance for tolerance, error in errors.items())
    assert errors[1e-3] > 2 * errors[TOLERANCE] > 4 * errors[1e-6]


def test_impossible_tolerances_are_refused():
    with pytest.raises(TableError, match=r"tables of \d+ nodes change forces by .*, and 1\.0e-30 is allowed"):
        choose_tables(SMALL, params64(SMALL), ("Ga",), 1e-30)


def test_structures_cover_all_pairs_of_elements():
    structures = structures_for(("Ga", "N", "Al"))
    assert {frozenset(s.get_chemical_symbols()) for s in structures} >= {
        frozenset(pair) for pair in (("Ga", "N"), ("N", "Al"), ("Ga", "Al"), ("Ga",), ("N",), ("Al",))
    }
    again = structures_for(("Ga", "N", "Al"))
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(structures, again, strict=True))


def test_spline_settings_are_checked():
    with pytest.raises(ConfigError, match="spline_start"):
        ModelConfig(spline_start=6.0)
    with pytest.raises(ConfigError, match="radial_functions"):
        ModelConfig(radial_basis="spline", radial_functions=3)
