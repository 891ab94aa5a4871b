"""The fused CPU kernels in JAX's runtime: equal to the `xla` stages in float64, for any threads and ranks."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from helpers import cluster, host_inputs, params64, rattled_wurtzite, tiny
from plans import compile_plan, run_plan, specs
from so3krates.kernels import register_kernels
from so3krates.model import ModelConfig
from so3krates.model.reductions import tabulated, with_rank
from so3krates_export.cuda_body import CudaBody
from so3krates_export.fused import FusedError, filter_rank, fused_weights
from so3krates_export.fused_body import FusedBody
from so3krates_export.ladder import Rung
from so3krates_export.outputs import extra_outputs
from so3krates_export.plan import Body, Call, build_plan
from so3krates_export.portable_body import PortableBody, weight_arrays

PARITY = 1e-10  # relative, float64
SINGLE = 5e-6  # relative, float32: 8.4e-7 was seen, and 8.3e-7 without vector instructions
SIGNAL = 1e-2  # eV, eV/A
NUMBERS = [31, 7]
RANK = 10  # of "low rank": neither a multiple of four nor of a vector
BLOCK = 8  # rows of the GPU kernels' adjoint of four channels: fewer than there are atoms
RUNG = Rung(rows=256, atoms=4096, candidates=192, neighbours=64)
CONFIGS = {
    "two heads": ModelConfig(
        features=24, heads=2, layers=3, degrees=(1, 2, 3), cutoff=5.0, radial_basis="gaussian", radial_functions=16,
        radial_start=1.6,
    ),
    "four degrees": ModelConfig(
        features=48, heads=4, layers=2, degrees=(1, 2, 3, 4), cutoff=4.0, cutoff_function="polynomial",
        spherical_filter_features=(40, 48),
    ),
    "three heads": ModelConfig(
        features=24, heads=3, layers=3, degrees=(1, 3), cutoff=4.5, cutoff_function="exponential",
        spherical_filter_features=(5, 24), readout_features=(17,),
    ),
    "one head": ModelConfig(features=20, heads=1, layers=2, degrees=(2,), cutoff=5.0, cutoff_function="phys"),
    # More quads of features than lanes, and a hidden unit more, for the GPU kernels.
    "wide": ModelConfig(
        features=132, heads=4, layers=2, degrees=(1, 2, 3), cutoff=4.0, radial_filter_features=(16, 132),
        spherical_filter_features=(33, 132),
    ),
    # Filters whose last matrices are products through fewer numbers.
    "low rank": ModelConfig(
        features=24, heads=4, layers=3, degrees=(1, 2), cutoff=4.5, spherical_filter_features=(23, 24)
    ),
    "one layer": ModelConfig(features=24, heads=4, layers=1, degrees=(1, 2), cutoff=5.0, float32_invariants=True),
}  # fmt: skip
SCALES = {"two heads": 1.2}  # of initial parameters: 2 eV an atom, whose digits float32 has
OUTPUTS = ("energy", "atom_energies", "forces", "strain_gradient", "atom_virials", "feature_norm")


@pytest.fixture(autouse=True)
def kernels(x64):
    assert "so3krates_layer_adjoint" in register_kernels()


@functools.cache
def network(name: str):
    """A tabulated network whose biases are not zero."""
    config = CONFIGS[name]
    random = np.random.default_rng(5)
    large = params64(config, SCALES.get(name, 1.5))
    params = jax.tree.map(lambda v: v + 0.05 * random.normal(size=v.shape) if v.ndim == 1 else v, large)
    if name == "low rank":
        invariants = [np.abs(random.normal(size=(50, len(config.degrees)))) for _ in range(config.layers - 1)]
        params = with_rank(config, params, invariants, RANK)
        assert filter_rank(config, params) == RANK
    return tabulated(config, params, 64)


@functools.cache
def crystal() -> Atoms:
    return rattled_wurtzite((4, 4, 3))


@functools.cache
def programs(name: str, body: str, channels: int, threads: int = 1, precision: str = "float64", rung: Rung = RUNG):
    """Plan, weights, shapes and compiled programs."""
    config, params = network(name)
    stages: Body
    if body in ("fused", "cuda"):
        weights = fused_weights(config, params, NUMBERS)
        if body == "cuda":
            stages = CudaBody(config, precision, len(NUMBERS), channels, BLOCK)
        else:
            stages = FusedBody(config, precision, len(NUMBERS), channels, threads)
    else:
        weights = weight_arrays(params, NUMBERS)
        stages = PortableBody(config, precision, list(weights), channels)
    plan = build_plan(stages, config.layers, extra_outputs(stages, config))
    weights = {key: np.asarray(value, precision) for key, value in weights.items()}
    shapes = specs(plan, weights, rung)
    return plan, weights, shapes, compile_plan(plan, shapes)


def run(ranks: list[dict[str, np.ndarray]], ids: list[np.ndarray], *arguments, **options):
    """All arrays of every rank after one pass. ids: atom of each rank's row."""
    plan, weights, shapes, compiled = programs(*arguments, **options)
    return run_plan(plan, shapes, compiled, [weights | inputs for inputs in ranks], ids)


def run_one(atoms: Atoms, name: str, *arguments, **options) -> dict[str, np.ndarray]:
    rung = options.get("rung", RUNG)
    inputs = host_inputs(atoms, ["Ga", "N"], CONFIGS[name].cutoff + 0.7, rung)
    return run([inputs], [np.arange(len(atoms))], name, *arguments, **options)[0]


@functools.cache
def expected_of(make, name: str, channels: int) -> dict[str, np.ndarray]:
    """What the portable programs give."""
    return run_one(make(), name, "xla", channels)


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], n: int, tolerance: float) -> None:
    for key in OUTPUTS:
        if key not in expected:
            continue
        a, b = (d[key][:n] if d[key].ndim and key != "strain_gradient" else d[key] for d in (found, expected))
        scale = np.abs(b).max()
        assert scale > SIGNAL, key
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=key)


# In every run each network with one number of channels; those of "two heads" serve other tests, too.
COMPARED = {("two heads", 1), ("two heads", 4), ("four degrees", 4), ("three heads", 4), ("one head", 1)}
COMPARED |= {("low rank", 1), ("one layer", 4)}


@pytest.mark.parametrize("make", [crystal, tiny, cluster])
@pytest.mark.parametrize(
    ("name", "channels"),
    [
        pytest.param(n, c, marks=() if (n, c) in COMPARED else pytest.mark.torture)
        for n in CONFIGS
        if n != "wide"
        for c in (1, 4)
        if c == 1 or n != "one head"
    ],
)
def test_fused_equals_xla(name, channels, make):
    atoms = make()
    expected = expected_of(make, name, channels)
    found = run_one(atoms, name, "fused", channels)
    assert ("atom_virials" in expected) == (channels == 4)
    close(found, expected, len(atoms), PARITY)
    assert np.isnan(found["forces"][len(atoms) :]).all()  # rows beyond the owned ones are left alone


@pytest.mark.parametrize(
    ("threads", "channels"),
    [(3, 1), (6, 4), *(pytest.param(t, c, marks=pytest.mark.torture) for t, c in ((2, 1), (2, 4), (3, 4), (6, 1)))],
)
def test_any_number_of_threads_gives_the_same(threads, channels):
    atoms = crystal()
    expected = expected_of(crystal, "two heads", channels)
    found = run_one(atoms, "two heads", "fused", channels, threads)
    assert found["schedule"][0] == threads
    # Pairs of different threads' rows are visited in rounds of their own.
    assert found["ends"][: len(atoms), -1].sum() > found["ends"][: len(atoms), 0].sum() > 0
    close(found, expected, len(atoms), PARITY)
    again = run_one(atoms, "two heads", "fused", channels, threads)
    for key in OUTPUTS[: 4 + (channels == 4)]:
        np.testing.assert_array_equal(found[key], again[key])


def test_more_threads_than_any_desk_has():
    """Each of them gets at least 32 rows."""
    threads, large = 100, Rung(rows=3328, atoms=12288, candidates=96, neighbours=64)
    atoms = rattled_wurtzite((10, 10, 8))
    expected = run_one(atoms, "two heads", "fused", 1, 1, rung=large)
    found = run_one(atoms, "two heads", "fused", 1, threads, rung=large)
    assert found["schedule"][0] == threads
    close(found, expected, len(atoms), PARITY)


def test_every_pair_is_listed_once():
    atoms = crystal()
    n = len(atoms)
    for threads in (1, 3):
        found = run_one(atoms, "two heads", "fused", 1, threads)
        ends = found["ends"][:n, -1]
        listed = [(i, found["neighbours"][i, k]) for i in range(n) for k in range(ends[i])]
        directed = sum(2 if j >= 0 else 1 for _, j in listed)
        expected = expected_of(crystal, "two heads", 1)
        assert directed == expected["counts"][:n].sum()
        assert sorted(found["order"][:n]) == list(range(n))


@pytest.mark.parametrize("channels", [1, 4])
def test_two_ranks_are_one(channels):
    atoms = crystal()
    n, cut = len(atoms), 2 * len(atoms) // 3
    expected = expected_of(crystal, "two heads", channels)
    ids = [np.arange(n), np.roll(np.arange(n), -cut)]
    ranks = []
    for own, owned in zip(ids, (cut, n - cut), strict=True):
        inputs = host_inputs(atoms[own], ["Ga", "N"], CONFIGS["two heads"].cutoff + 0.7, RUNG)
        ranks.append(inputs | {"owned_count": np.int32(owned)})
    found = run(ranks, ids, "two heads", "fused", channels, 2)
    total = sum(f["energy"] for f in found)
    assert abs(total - expected["energy"]) < PARITY * abs(expected["energy"])
    strain = sum(f["strain_gradient"] for f in found)
    np.testing.assert_allclose(strain, expected["strain_gradient"], atol=PARITY * np.abs(strain).max())
    for key in ("atom_energies", "forces", "atom_virials")[: 2 + (channels == 4)]:
        joined = np.concatenate([found[0][key][:cut], found[1][key][: n - cut]])
        np.testing.assert_allclose(joined, expected[key][:n], atol=PARITY * np.abs(joined).max())
        assert np.abs(joined).max() > SIGNAL
        assert np.isnan(found[0][key][cut:]).all()


def test_single_precision():
    atoms = crystal()
    expected = expected_of(crystal, "two heads", 4)
    close(run_one(atoms, "two heads", "fused", 4, 2, "float32"), expected, len(atoms), SINGLE)


def test_more_neighbours_than_slots_are_reported():
    rung = RUNG._replace(neighbours=8)
    found = run_one(tiny(), "two heads", "fused", 1, rung=rung)
    enough = run_one(tiny(), "two heads", "fused", 1)
    assert found["neighbours_needed"] == enough["neighbours_needed"] > 8


def test_networks_that_the_kernels_do_not_compute_are_refused():
    config, params = network("two heads")
    with pytest.raises(FusedError, match=r"do not compute layer_normalization: export with body 'xla'"):
        FusedBody(ModelConfig(**{**config.to_dict(), "layer_normalization": True}), "float32", 2)
    with pytest.raises(FusedError, match="without tables: export with tables 'auto' or body 'xla'"):
        fused_weights(CONFIGS["two heads"], params, NUMBERS)


def test_a_wrong_shape_is_refused():
    plan, _, shapes, _ = programs("two heads", "fused", 1)
    call = next(c for c in plan.steps if isinstance(c, Call) and c.program == "project")
    arguments = [jnp.zeros(shapes[n].shape, shapes[n].dtype) for n in call.inputs]
    arguments[0] = arguments[0][:-1]
    with pytest.raises(Exception, match=r"argument 0 has shape \[11, 3, 32\] .* expects \[12, 3, 32\]"):
        jax.block_until_ready(jax.jit(plan.programs["project"])(*arguments))
