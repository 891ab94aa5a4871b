"""The loss and its gradient: formulas, missing labels, batches and their parts."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from ase import Atoms
from so3krates.data import Buckets, DataError, Labels, collate, energy_shifts, frame_graphs, labels
from so3krates.data import with_labels as label
from so3krates.model.network import init_params
from so3krates.model.potential import Prediction, predict
from so3krates.training import (
    DataConfig,
    TrainingConfig,
    TrainingError,
    train,
)
from so3krates.training.config import LABELLED_WEIGHTS
from so3krates.training.loss import (
    ErrorSums,
    centre_of,
    error_sums,
    loss_of,
    normalised_weights,
    unit_scales,
    variance_scales,
    without_mean,
)
from so3krates.training.material import Material
from so3krates.training.step import GAIN_BELOW, energy_gain, initial_state, make_step
from training_runs import SMALL, make_frames, quiet, rows_of, settings

FORMULA = 1e-5  # relative, float32 against float64 numpy
GRADIENT = 1e-4  # of the largest component, float32 in another order


def random_case(rng: np.random.Generator) -> tuple[Prediction, object, object]:
    """A batch of two structures whose labels have holes, padded, and a prediction of everything."""
    frames = make_frames(2, repeat=(1, 2))
    frames = [
        label(atoms, Labels(rng.normal(), rng.normal(size=(len(atoms), 3)), np.diag(rng.normal(size=3))))
        for atoms in frames
    ]
    graphs = frame_graphs(frames, SMALL.cutoff, {"Cu": 0.0})
    graphs[0].virial[1, 2] = np.nan
    graphs[1].forces[3] = np.nan
    batch, targets = collate(graphs, Buckets(graphs, 2).shape([0, 1])._replace(structures=3, atoms=16))
    prediction = Prediction(rng.normal(size=3), rng.normal(size=(16, 3)), rng.normal(size=(3, 3, 3)), np.zeros(16))
    return jax.tree.map(lambda x: np.asarray(x, np.float32), prediction), batch, targets


@pytest.mark.parametrize("per_atom", [False, True])
def test_loss_is_the_formula(per_atom: bool) -> None:
    rng = np.random.default_rng(3)
    prediction, batch, targets = random_case(rng)
    frames = make_frames(5, repeat=(1, 2))
    graphs = frame_graphs(frames, SMALL.cutoff, energy_shifts(frames, "lse"))
    scales = variance_scales(graphs, per_atom)
    config = TrainingConfig(energy_weight=0.3, force_weight=2.0, stress_weight=0.7)
    got = loss_of(error_sums(prediction, batch, targets, scales), normalised_weights(config))
    loss = 0.0
    s_force = 1 / np.var(np.concatenate([g.forces.ravel() for g in graphs]))
    sizes = np.array([len(g.species) if per_atom else 1 for g in graphs])
    s_energy = 1 / np.var([g.energy for g in graphs] / sizes)
    s_stress = 1 / np.var([g.virial for g in graphs] / sizes[:, None, None], axis=0)
    atoms = np.array([4, 8, 1] if per_atom else [1, 1, 1])
    for weight, scale, value, target in (
        (0.1, s_energy, prediction.energies / atoms, targets.energies / atoms),
        (2 / 3, s_force, prediction.forces, targets.forces),
        (0.7 / 3, s_stress, prediction.strain_gradients / atoms[:, None, None], targets.virials / atoms[:, None, None]),
    ):
        difference = scale * (value.astype(np.float64) - target) ** 2
        assert 0 < np.isnan(difference).sum() < difference.size
        loss += weight * np.nanmean(difference)
    assert float(got) == pytest.approx(loss, rel=FORMULA)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_centred_loss_and_its_gradient(number: int) -> None:
    """Of energies less their mean error m, n/(n - 1) times, and 0.01 m^2; an energy alone is compared as it is."""
    _, batch, targets = random_case(np.random.default_rng(6))
    energies = np.random.default_rng(7).normal(size=3)
    labelled = np.where(np.arange(3) < number, energies, np.nan)
    atoms = np.array([4.0, 8.0, 2.0])
    targets = targets._replace(energies=labelled, atoms=atoms)
    zero = Prediction(np.zeros(3), np.zeros((16, 3)), np.zeros((3, 3, 3)), np.zeros(16))

    def loss(predicted: jax.Array) -> jax.Array:
        centre = jax.lax.stop_gradient(centre_of(predicted, targets))
        sums = error_sums(zero._replace(energies=predicted), batch, targets, unit_scales(True), centre)
        return sums.scaled[0]

    def expected(predicted: np.ndarray) -> float:
        e = ((predicted - labelled) / atoms)[:number]
        if number == 1:
            return float(e[0] ** 2)
        return float(np.var(e, ddof=1) * number + number * 0.01 * e.mean() ** 2)

    at = np.array([0.3, -1.2, 0.8])
    value, gradient = jax.value_and_grad(loss)(at)
    assert float(value) == pytest.approx(expected(at), rel=FORMULA) and value > 1e-3
    steps = 1e-5 * np.eye(3)
    finite = [(expected(at + step) - expected(at - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(gradient, finite, rtol=1e-4, atol=1e-6)
    assert np.abs(finite).max() > 1e-3


def test_a_validation_leaves_out_what_goes_into_the_shifts() -> None:
    prediction, batch, targets = random_case(np.random.default_rng(8))
    graphs = frame_graphs(make_frames(4), SMALL.cutoff, {"Cu": 0.0})
    sums = error_sums(prediction, batch, targets, variance_scales(graphs, per_atom=True))
    errors = (prediction.energies - targets.energies)[:2] / [4, 8]
    found = without_mean(sums)
    assert found.squared[0] == pytest.approx(2 * np.var(errors), rel=FORMULA)
    share = found.squared[0] / float(sums.squared[0])
    assert found.scaled[0] == pytest.approx(share * float(sums.scaled[0]), rel=FORMULA)
    assert 0.01 < share < 0.99
    np.testing.assert_array_equal(found.squared[1:], np.asarray(sums.squared)[1:])
    alone = ErrorSums(*(np.array([value, 1.0, 1.0]) for value in (2.0, 0.5, 1.0, math.sqrt(0.5))))
    assert without_mean(alone).squared[0] == 0.5  # one energy
    equal = ErrorSums(*(np.array([value, 1.0, 1.0]) for value in (2.0, 0.5, 2.0, 1.0 + 1e-9)))
    assert without_mean(equal).squared[0] == without_mean(equal).scaled[0] == 0.0  # but for rounding


def test_shown_errors_are_per_atom_and_volume() -> None:
    prediction, batch, targets = random_case(np.random.default_rng(4))
    sums = error_sums(prediction, batch, targets, unit_scales())
    energy = (prediction.energies - targets.energies)[:2] / [4, 8]
    stress = (prediction.strain_gradients - targets.virials)[:2] / targets.volumes[:2, None, None]
    squared = [np.sum(energy**2), np.nansum((prediction.forces - targets.forces) ** 2), np.nansum(stress**2)]
    np.testing.assert_allclose(sums.squared, squared, rtol=FORMULA)
    assert sums.counts.tolist() == [2, 12 * 3 - 3, 18 - 1]


def test_labels_that_are_missing_leave_no_trace_in_the_gradient() -> None:
    _, batch, targets = random_case(np.random.default_rng(5))
    params = init_params(SMALL, 0)

    def loss(params: dict, targets: object) -> jax.Array:
        sums = error_sums(predict(SMALL, params, batch), batch, targets, unit_scales())
        return loss_of(sums, normalised_weights(TrainingConfig()))

    gradient = jax.jit(jax.grad(loss))
    leaves = jax.tree.leaves(gradient(params, targets))
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert max(np.abs(leaf).max() for leaf in leaves) > 0
    nothing = jax.tree.map(lambda x: np.full_like(x, np.nan), targets)._replace(
        atoms=targets.atoms, volumes=targets.volumes
    )
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient(params, nothing)))


def test_variance_scaling_survives_constant_targets() -> None:
    frames = make_frames(4)
    graphs = frame_graphs(frames, SMALL.cutoff, energy_shifts(frames, "mean"))
    for graph in graphs:
        graph.virial[0, 1] = graph.virial[1, 0] = 0.0
    scales = variance_scales(graphs)
    variances = np.var([g.virial for g in graphs], axis=0)
    assert scales.virial[0, 0] == pytest.approx(1 / variances[0, 0])
    assert scales.virial[0, 1] == pytest.approx(1 / variances.max())
    alone = variance_scales(graphs[:1])
    assert alone.energy == 1
    assert np.all(alone.virial == 1)
    assert alone.forces == pytest.approx(1 / np.var(graphs[0].forces))
    empty = variance_scales([g._replace(forces=np.full_like(g.forces, np.nan)) for g in graphs])
    assert empty.forces == 1


def test_a_batch_has_the_gradient_of_its_structures() -> None:
    frames = make_frames(3, repeat=(1, 3, 2))
    graphs = frame_graphs(frames, SMALL.cutoff, energy_shifts(frames, "lse"))
    scales = variance_scales(graphs)
    params = init_params(SMALL, 1)

    @jax.jit
    def gradient(params: dict, batch: object, targets: object) -> dict:
        return jax.grad(lambda p: error_sums(predict(SMALL, p, batch), batch, targets, scales).scaled.sum())(params)

    shape = Buckets(graphs, 3).shape([0, 1, 2])
    together = gradient(params, *collate(graphs, shape._replace(atoms=32, structures=4)))
    alone = shape._replace(atoms=12, structures=1)
    single = [gradient(params, *collate([g], alone)) for g in graphs]
    summed = jax.tree.map(lambda *g: sum(np.asarray(x, np.float64) for x in g), *single)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(summed))
    assert largest > 0.1
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(summed), strict=True):
        np.testing.assert_allclose(a, b, atol=GRADIENT * largest)


@pytest.mark.parametrize("centred", [False, True])
def test_a_batch_in_parts_takes_the_same_step(centred: bool) -> None:
    usual = TrainingConfig(per_atom=centred, refit_shift=centred)
    frames = make_frames(3, repeat=(1, 3, 2))
    frames[1] = label(frames[1], labels(frames[1])._replace(stress=np.full((3, 3), np.nan)))
    graphs = frame_graphs(frames, SMALL.cutoff, energy_shifts(frames, "lse"))
    params, scales = jax.device_get(init_params(SMALL, 1)), variance_scales(graphs, centred)
    shape = Buckets(graphs, 2).shape([1, 2])
    pieces = [collate(graphs[:2], shape), collate(graphs[2:], shape)]
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *pieces)

    def moments(config: TrainingConfig, batch: tuple) -> tuple:
        state, result = make_step(SMALL, config)(initial_state(config, params), *batch, scales, 10)
        return jax.tree.leaves(state.moments), result.loss, result.sums.counts

    whole = moments(usual, collate(graphs, Buckets(graphs, 3).shape([0, 1, 2])))
    largest = max(np.abs(leaf).max() for leaf in whole[0])
    assert largest > 1e-3
    configs = [dataclasses.replace(usual, accumulate=2)]
    if jax.default_backend() == "cpu" or jax.device_count() > 1:  # a machine may have a single GPU
        configs.append(dataclasses.replace(usual, devices=2))
    for config in configs:
        split = moments(config, stacked)
        assert float(split[1]) == pytest.approx(float(whole[1]), rel=FORMULA)
        np.testing.assert_array_equal(split[2], whole[2])
        for a, b in zip(split[0], whole[0], strict=True):
            np.testing.assert_allclose(a, b, atol=GRADIENT * largest)


def test_energies_weigh_more_where_the_learning_rate_has_fallen() -> None:
    """The gradient of energies by their gain; losses of a run stay those of one weight."""
    falling = TrainingConfig(schedule="cosine", learning_rate=1e-3, learning_rate_stop=0, warmup_steps=2, energy_gain=4)
    half = GAIN_BELOW * falling.learning_rate / 2
    gains = [float(energy_gain(falling, step, rate)) for step, rate in ((5, 1e-3), (5, half), (5, 0.0), (1, 0.0))]
    assert gains == pytest.approx([1, 2, 4, 1], rel=FORMULA)
    frames = make_frames(2)
    graphs = frame_graphs(frames, SMALL.cutoff, energy_shifts(frames, "lse"))
    batch = collate(graphs, Buckets(graphs, 2).shape([0, 1]))
    params = jax.device_get(init_params(SMALL, 1))

    def last_step(gain: float) -> tuple[list[np.ndarray], float]:
        config = dataclasses.replace(falling, energy_gain=gain)
        state = initial_state(config, params)._replace(step=np.int32(10))
        state, result = make_step(SMALL, config)(state, *batch, variance_scales(graphs, False), 10)
        means = jax.tree.leaves(optax.tree.get(state.moments, "mu"))
        return [np.asarray(leaf, np.float64) for leaf in means], float(result.loss)

    (once, loss), (thrice, loss_of_three), (five, loss_of_five) = (last_step(gain) for gain in (1.0, 3.0, 5.0))
    assert loss > 0.1
    assert [loss_of_three, loss_of_five] == pytest.approx([loss, loss], rel=FORMULA)
    largest = max(np.abs(b - a).max() for a, b in zip(once, five, strict=True))
    assert largest > 0.01 * max(np.abs(leaf).max() for leaf in once)
    for a, b, c in zip(once, thrice, five, strict=True):
        np.testing.assert_allclose(c - a, 2 * (b - a), atol=10 * GRADIENT * largest)


def test_a_run_splits_its_batches(tmp_path: Path) -> None:
    frames = make_frames(9, repeat=(1, 2))
    config = settings(batch_size=5, accumulate=2)
    material, plain = Material(config, frames, []), Material(settings(batch_size=5), frames, [])
    for step in range(3):
        batch, targets = material.batch(step)
        assert len(batch.species) == len(targets.energies) == 2
        assert batch.atom_mask.any(axis=1).all()
        whole, energies = plain.batch(step)
        assert np.sort(targets.energies[np.isfinite(targets.energies)]).tolist() == sorted(
            energies.energies[np.isfinite(energies.energies)].tolist()
        )
        assert batch.mask.sum() == whole.mask.sum() > 0
    with pytest.raises(TrainingError, match=r"a batch of 2 structures cannot be split into .*accumulate = 3"):
        train(settings(accumulate=3), frames, [], tmp_path / "few", quiet)
    with pytest.raises(TrainingError, match=r"training\.devices = 3, but JAX sees"):
        train(settings(batch_size=3, devices=3), frames, [], tmp_path / "many", quiet)


def test_weights_on_labels_that_nobody_has_are_refused(tmp_path: Path) -> None:
    frames = [label(a, labels(a)._replace(stress=np.full((3, 3), np.nan))) for a in make_frames(3)]
    with pytest.raises(DataError, match=r"training\.stress_weight = 0\.01 but none of 3 training frames"):
        train(settings(epochs=1), frames, [], tmp_path / "a", quiet)
    with pytest.raises(DataError, match="none of 3 validation frames has a label for it"):
        train(settings(epochs=1), make_frames(3), frames, tmp_path / "a", quiet)
    result = train(settings(epochs=1, stress_weight=0.0), frames, [], tmp_path / "b", quiet)
    assert rows_of(result.folder)[0]["train_stress_rmse"] == ""


def test_weights_that_nobody_gave_follow_the_labels(tmp_path: Path) -> None:
    absent = {"energy_weight": None, "force_weight": None, "stress_weight": None, "epochs": 1}
    frames = make_frames(4)
    assert Material(settings(**absent), frames[:3], frames[3:]).config.training.weights == LABELLED_WEIGHTS
    bare = [label(a, labels(a)._replace(stress=np.full((3, 3), np.nan))) for a in frames]
    said: list[str | None] = []
    result = train(settings(**absent), bare[:3], bare[3:], tmp_path / "a", lambda status: said.append(status.message))
    assert result.model.training["settings"]["training"]["stress_weight"] == 0
    (line,) = filter(None, said)
    assert line.startswith("none of 3 training frames has stress (key 'stress'): left out of the loss")
    few = Material(settings(**absent), [*frames[:1], *bare[1:3]], bare[3:])
    assert few.config.training.weights == LABELLED_WEIGHTS | {"stress_weight": 0.033}
    assert "1 frame of the 3 that train has a stress: stress_weight is 0.033, less by that share" in few.said[0]
    assert Material(settings(**absent | {"stress_weight": 0.1}), [*frames[:1], *bare[1:3]], []).said == []
    # Validation frames that lack a label do not change what is learnt; those without any are refused.
    assert Material(settings(**absent), frames[:3], bare[3:]).config.training.stress_weight == 0.1
    stress_alone = [label(a, Labels(math.nan, np.full((4, 3), np.nan), labels(a).stress)) for a in frames]
    material = Material(settings(**absent), stress_alone, [])
    assert material.config.training.weights == {"energy_weight": 0, "force_weight": 0, "stress_weight": 0.1}
    assert "has energy (key 'energy') and forces (key 'forces'): left out of the loss" in material.said[0]
    with pytest.raises(DataError, match="none of 4 validation frames has a label that the loss weighs"):
        Material(settings(**absent), stress_alone, bare)
    left_out = dataclasses.replace(settings(**absent), data=DataConfig(stress_key=""))
    assert Material(left_out, bare, []).said == []


def test_energies_that_hardly_differ_weigh_little() -> None:
    """Their variance beside that of the forces times (0.3 A)^2, to two digits; at most 1, and what is given stands."""
    frames = make_frames(5)
    near = [label(a, labels(a)._replace(energy=len(a) * 0.001 * n)) for n, a in enumerate(frames)]
    far = [label(a, labels(a)._replace(energy=len(a) * 10.0 * n)) for n, a in enumerate(frames)]
    own = settings(energy_weight=None, force_weight=None, per_atom=True, epochs=1)

    def found(frames: list[Atoms], **changes: float | bool) -> tuple[float, list[str]]:
        config = dataclasses.replace(own, training=dataclasses.replace(own.training, **changes))
        material = Material(dataclasses.replace(config, data=DataConfig(energy_shift="none")), frames, [])
        return material.config.training.weights["energy_weight"], material.said

    forces = np.concatenate([labels(a).forces for a in frames])
    expected = np.var([0.001 * n for n in range(5)]) / (0.3**2 * np.var(forces))
    weight, said = found(near)
    assert weight == pytest.approx(expected, rel=0.05) and 1e-6 < weight < 0.1
    assert [line for line in said if line.startswith(f"energy_weight is {weight:.2g}: energies of the training frames")]
    assert f"energy_weight is {weight:.2g}, 5 times that in the end" in found(near, energy_gain=5.0)[1][0]
    assert found(far) == (1.0, [])
    for changes in ({"energy_weight": 1.0}, {"per_atom": False}, {"variance_scaling": False}):
        assert found(near, **changes) == (1.0, []), changes
    assert found(near, energy_weight=0.0)[0] == 0.0
