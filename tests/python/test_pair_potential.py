"""The training step's potential on pairs: against the one on rows, to the second derivative."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from so3krates.data import Buckets, FrameGraph, collate, frame_graphs
from so3krates.model import ModelConfig, init_params, predict
from so3krates.model.potential import Batch
from so3krates.training import attention
from so3krates.training.pair_potential import FILTERS, _radial_filters, predict_pairs, radial_points

pytestmark = pytest.mark.usefixtures("x64")

ROUNDING = 1e-11  # of the largest, float64
SINGLE = 2e-5  # of the largest, float32
HALF = 0.5 * float(np.finfo(np.float32).eps)  # largest relative error of rounding to float32
INTERPOLATION = 1e-6  # of the largest filter, float64
SLOPE = 2e-5  # of the largest derivative of a filter
SIGNAL = 1e-3
CONFIG = ModelConfig(features=24, heads=4, layers=2, degrees=(1, 2, 3), radial_functions=32, cutoff=4.0)


def structures(rng: np.random.Generator) -> list[Atoms]:
    """A crystal, a cell much smaller than the cutoff, a molecule and a lone atom."""
    crystal = bulk("GaN", "wurtzite", a=3.19, c=5.19) * (2, 2, 1)
    found = [crystal, bulk("Ga", "fcc", a=3.4), molecule("NH3"), Atoms("N")]
    for atoms in found:
        atoms.rattle(0.08, seed=int(rng.integers(100)))
    return found


def batch_of(graphs: list[FrameGraph], dtype: type = np.float64) -> Batch:
    """With padding."""
    shape = Buckets(graphs, len(graphs)).shape(range(len(graphs)))
    batch, _ = collate(graphs, shape._replace(atoms=shape.atoms + 2, pairs=shape.pairs + 7), dtype)
    return jax.tree.map(jnp.asarray, batch)


@pytest.fixture
def batch() -> Batch:
    graphs = frame_graphs(structures(np.random.default_rng(0)), CONFIG.cutoff, dict.fromkeys(("Ga", "N", "H"), 0.0))
    return batch_of(graphs)


def params_of(config: ModelConfig, dtype: type = np.float64) -> Any:
    """Random weights that are large enough for layers to matter."""
    return jax.tree.map(lambda p: jnp.asarray(1.5 * p, dtype), init_params(config, 2))


def close(found: Any, expected: Any, tolerance: float) -> None:
    largest = max(float(jnp.abs(e).max()) for e in jax.tree.leaves(expected))
    assert largest > SIGNAL
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(f, e, atol=tolerance * largest, rtol=0)


def test_pairs_are_the_rows(batch: Batch) -> None:
    pairs = batch.pairs
    count = int(pairs.used)
    room = pairs.ends.shape[1]
    assert 2 * count == int(batch.mask.sum())
    assert 0 < count < room
    assert (np.asarray(pairs.slots < 2 * room) == np.asarray(batch.mask)).all()
    for way, sign in ((0, 1), (1, -1)):
        row, slot = np.nonzero((pairs.slots // room == way) & batch.mask)
        pair = np.asarray(pairs.slots)[row, slot] - way * room
        assert (np.sort(pair) == np.arange(count)).all()
        np.testing.assert_array_equal(pairs.ends[way, pair], row)
        np.testing.assert_array_equal(pairs.ends[1 - way, pair], batch.neighbours[row, slot])
        np.testing.assert_array_equal(sign * pairs.shifts[pair], batch.shifts[row, slot])


@pytest.mark.parametrize(
    ("heads", "dtype", "tolerance"), [(1, np.float64, ROUNDING), (3, np.float32, SINGLE), (4, np.float64, ROUNDING)]
)
def test_kernels_and_their_derivatives(batch: Batch, heads: int, dtype: type, tolerance: float) -> None:
    rng = np.random.default_rng(heads)
    atoms, room = len(batch.species), batch.pairs.ends.shape[1]

    def random(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), dtype)

    query, key, value, bar = (random(atoms, 12) for _ in range(4))
    filters = jnp.where(jnp.arange(room)[:, None] < batch.pairs.used, random(room, 12), 0)

    def kernels(query: jax.Array, filters: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attention.gather(batch.pairs, attention.attend(batch.pairs, query, filters, key, heads), value)

    def reference(query: jax.Array, filters: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        coefficients = attention._attend_reference(heads, batch.pairs, query, filters, key)
        return attention._gather_reference(heads, batch.pairs, coefficients, value)

    def first(function: Any) -> Any:
        return jax.grad(lambda arrays: (function(*arrays) * bar).sum())

    def second(function: Any) -> Any:
        squares = lambda arrays: sum(jnp.sum(jnp.sin(g)) for g in first(function)(arrays))  # noqa: E731
        return jax.grad(squares)

    arrays = (query, filters, key, value)
    for order in (lambda function: lambda arrays: function(*arrays), first, second):
        close(jax.jit(order(kernels))(arrays), jax.jit(order(reference))(arrays), tolerance)


def test_many_pairs_on_several_threads_add_up() -> None:
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True) * (4, 4, 4)
    batch = batch_of(frame_graphs([atoms], 5.0, {"Cu": 0.0}))
    assert int(batch.pairs.used) > 4096  # tasks hold 512 at least
    rng = np.random.default_rng(0)
    coefficients = jnp.asarray(rng.normal(size=(2, batch.pairs.ends.shape[1], 2)))
    values = jnp.asarray(rng.normal(size=(len(batch.species), 8)))
    found = jax.jit(attention.gather)(batch.pairs, coefficients, values)
    expected = jax.jit(partial(attention._gather_reference, 2))(batch.pairs, coefficients, values)
    close(found, expected, ROUNDING)


def test_predictions_are_those_of_the_rows(batch: Batch) -> None:
    params = params_of(CONFIG)
    found = jax.jit(lambda: predict_pairs(CONFIG, params, batch, None))()
    close(found, jax.jit(lambda: predict(CONFIG, params, batch))(), ROUNDING)


@pytest.mark.parametrize(
    ("dtype", "points", "tolerance"),
    # The slope of a Chebyshev polynomial of degree n reaches n^2, and with it what rounding of its argument does.
    [
        (np.float64, None, ROUNDING),
        pytest.param(np.float64, 96, 1e-9, marks=pytest.mark.torture),
        pytest.param(np.float32, None, SINGLE, marks=pytest.mark.torture),
        (np.float32, 64, 64**2 * HALF),
    ],
)
def test_the_gradient_of_a_loss_is_that_of_the_rows(dtype: type, points: int | None, tolerance: float) -> None:
    graphs = frame_graphs(structures(np.random.default_rng(1))[:3], CONFIG.cutoff, dict.fromkeys(("Ga", "N", "H"), 0.0))
    batch, exact = batch_of(graphs, dtype), batch_of(graphs)

    def gradient(predicted: Any, batch: Batch, dtype: type) -> Any:
        def loss(params: Any) -> jax.Array:
            found = predicted(params, batch)
            return sum(jnp.sum(jnp.cos(x)) for x in (found.energies, found.forces, found.strain_gradients))

        return jax.jit(jax.grad(loss))(params_of(CONFIG, dtype))

    found = gradient(lambda p, b: predict_pairs(CONFIG, p, b, points), batch, dtype)
    close(found, gradient(lambda p, b: predict(CONFIG, p, b), exact, np.float64), tolerance)


@pytest.mark.parametrize(
    ("shortest", "basis"),
    [(1.6, {}), (1.0, {}), (0.7, {})]
    + [(d, {"radial_basis": "gaussian", "radial_functions": 16, "radial_start": round(0.9 * d, 1)}) for d in (2.2,)],
)
def test_interpolated_filters(shortest: float, basis: dict[str, Any]) -> None:
    config = ModelConfig(features=24, cutoff=5.0, **basis)
    params = params_of(config)
    distances = jnp.linspace(shortest, 4.99, 400)  # the first is the shortest: the end of the range
    points = radial_points(config, shortest)
    assert 16 < points <= 64

    def filters(points: int | None) -> Any:
        def stacked(d: jax.Array) -> jax.Array:
            found = _radial_filters(config, params, d, points)
            return jnp.stack([w for name in FILTERS for w in found[name]])

        return jax.jit(lambda d: jax.jvp(stacked, (d,), (jnp.ones_like(d),)))(distances)

    for found, expected, tolerance in zip(filters(points), filters(None), (INTERPOLATION, SLOPE), strict=True):
        close(found, expected, tolerance)


def test_splines_are_not_interpolated() -> None:
    assert radial_points(ModelConfig(radial_basis="spline", radial_filter_features=(132,)), 1.5) is None


def test_a_kernel_refuses_arrays_that_do_not_fit(batch: Batch) -> None:
    room, atoms = batch.pairs.ends.shape[1], len(batch.species)
    rows = jnp.ones((atoms, 12))
    with pytest.raises(Exception, match=r"argument 4 has .* elements, not"):
        attention.attend(batch.pairs, rows, jnp.ones((room, 11)), rows, 4).block_until_ready()
