"""One optimiser step and one validation batch as compiled functions of arrays."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from so3krates.data import Targets
from so3krates.model.config import ModelConfig
from so3krates.model.long_range import Interaction
from so3krates.model.network import Params
from so3krates.model.potential import Batch

from .config import TrainingConfig
from .loss import Centre, ErrorSums, Scales, centre_of, error_sums, is_centred, loss_of, normalised_weights
from .optimiser import make_optimiser, make_schedule
from .pair_potential import predict_pairs
from .processes import mesh

# Settings that no step sees: how long a run is, on which frames and beside what.
COURSE = (
    "epochs",
    "steps",
    "hours",
    "batch_size",
    "valid_batch_size",
    "variance_scaling",
    "eval_every",
    "patience",
    "checkpoint_minutes",
    "max_minutes",
    "initial_model",
    "log_to",
    "seed_model",
    "seed_training",
)
GAIN_BELOW = 0.35  # of the highest learning rate: from there on the weight of energies grows
_DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(TrainingConfig)}


class TrainState(NamedTuple):
    """What changes from step to step."""

    step: jax.Array  # () int32, steps done
    params: Params
    moments: Any  # state of the optimiser
    average: Params | None  # running average of the parameters, where the run keeps one


class StepResult(NamedTuple):
    """What a step says of its batch, before the update."""

    loss: jax.Array  # ()
    sums: ErrorSums
    learning_rate: jax.Array  # ()
    finite: jax.Array  # () bool; where false the update was left out


def initial_state(config: TrainingConfig, params: Params) -> TrainState:
    """The state before the first step."""
    params = jax.tree.map(jnp.array, params)
    average = jax.tree.map(jnp.array, params) if config.ema_decay > 0 else None
    return TrainState(jnp.zeros((), jnp.int32), params, make_optimiser(config).init(params), average)


def make_step(
    model: ModelConfig,
    config: TrainingConfig,
    points: int | None = None,
    factors: Mapping[str, float] | None = None,
    interactions: tuple[Interaction, ...] = (),
) -> Callable[[TrainState, Batch, Targets, Scales, int], tuple[TrainState, StepResult]]:
    """The compiled step; its last argument are the steps of the whole run, which the schedule wants to know.

    It takes the state's memory: the old state is gone after the call.

    Scales are an argument, so that the program does not depend on the data and a compile cache can serve it. With
    more than one part (`accumulate`, `devices`) all arrays of batch and targets begin with an axis of that length.
    `points`: see `predict_pairs`. `factors`: of the learning rate, by part of the parameters
    (`RunConfig.rate_factors`); absent: 1. Parts with 0 keep their bits, and no gradient is computed for them.
    `interactions`: of what the network says of atoms.

    Runs of one process that differ in their course alone share a step, which is traced and compiled once.
    """
    seen = dataclasses.replace(config, **{name: _DEFAULTS[name] for name in COURSE})
    return _step_of(model, seen, points, tuple((factors or {}).items()), interactions)


@functools.lru_cache(maxsize=4)
def _step_of(
    model: ModelConfig,
    config: TrainingConfig,
    points: int | None,
    factors: tuple[tuple[str, float], ...],
    interactions: tuple[Interaction, ...],
) -> Callable[[TrainState, Batch, Targets, Scales, int], tuple[TrainState, StepResult]]:
    factor_of = dict(factors).get
    weights = normalised_weights(config)
    optimiser = make_optimiser(config)

    has_centre = is_centred(config)

    def objective(
        params: Params,
        batch: Batch,
        targets: Targets,
        scales: Scales,
        counts: jax.Array | None = None,
        centre: Centre | None = None,
    ) -> tuple[jax.Array, ErrorSums]:
        params = {k: part if factor_of(k, 1.0) else jax.lax.stop_gradient(part) for k, part in params.items()}
        prediction = predict_pairs(model, params, batch, points, interactions)
        if has_centre:
            own = centre_of(prediction.energies, targets) if centre is None else centre
            centre = jax.lax.stop_gradient(own)
        sums = error_sums(prediction, batch, targets, scales, centre)
        return loss_of(sums if counts is None else sums._replace(counts=counts), weights), sums

    gradient_of = jax.value_and_grad(objective, has_aux=True)
    if config.parts * jax.process_count() > 1:

        def centre_in(params: Params, batch: Batch, targets: Targets) -> Centre:
            return centre_of(predict_pairs(model, params, batch, points, interactions).energies, targets)

        gradient_of = _in_parts(gradient_of, config.devices, centre_in if has_centre else None)

    def moved(params: Params, updates: Params, rate: jax.Array, factor: float) -> Params:
        if factor == 0:
            return params
        rate = rate if factor == 1 else factor * rate
        return jax.tree.map(lambda p, u: p - rate.astype(p.dtype) * u, params, updates)

    def step(
        state: TrainState, batch: Batch, targets: Targets, scales: Scales, total_steps: int | jax.Array
    ) -> tuple[TrainState, StepResult]:
        rate = jnp.asarray(make_schedule(config, total_steps)(state.step), jnp.float32)
        gain = energy_gain(config, state.step, rate)
        grown = scales._replace(energy=scales.energy * gain)
        (loss, sums), gradient = gradient_of(state.params, batch, targets, grown)
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient))
        updates, moments = optimiser.update(gradient, state.moments, state.params)
        params = {k: moved(part, updates[k], rate, factor_of(k, 1.0)) for k, part in state.params.items()}
        new = TrainState(state.step, params, moments, _averaged(config, state, params))
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        sums = sums._replace(scaled=sums.scaled.at[0].divide(gain))  # losses of a run can be compared
        return kept._replace(step=state.step + 1), StepResult(loss_of(sums, weights), sums, rate, finite)

    return jax.jit(step, donate_argnums=0)


def energy_gain(config: TrainingConfig, step: int | jax.Array, rate: jax.Array) -> jax.Array:
    """Factor of the weight of energies in a step (): 1 at a high learning rate, `energy_gain` where it has fallen to 0.

    A high rate moves the energies of all atoms by meV in each step, which no weight mends (docs/training_study.md).
    """
    fallen = jnp.clip(1 - rate / (GAIN_BELOW * config.learning_rate), 0, 1)
    return jnp.where(step < config.warmup_steps, 1.0, config.energy_gain**fallen)


def _in_parts(
    gradient_of: Callable[..., Any], devices: int, centre_in: Callable[..., Centre] | None
) -> Callable[..., Any]:
    """`gradient_of` for a batch in parts: shared out to the devices of all processes, each takes its own in turn.

    The loss is a mean over the labels of the whole batch, so that every part is divided by the labels of all; and
    errors of energies are less the mean of all, which takes the energies of all parts (`centre_in`) beforehand.
    """

    is_shared = devices * jax.process_count() > 1

    def gradient(params: Params, batch: Batch, targets: Targets, scales: Scales) -> Any:
        counts = _label_counts(targets)
        counts = jax.lax.psum(counts, "devices") if is_shared else counts

        def of_all(function: Callable[..., Any], *more: Any) -> Any:
            def add(total: Any, part: tuple[Batch, Targets]) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, function(params, *part, *more)), None

            first = jax.tree.map(lambda x: x[0], (batch, targets))
            shapes = jax.eval_shape(function, params, *first, *more)
            zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            total, _ = jax.lax.scan(add, zero, (batch, targets))
            return jax.lax.psum(total, "devices") if is_shared else total

        return of_all(gradient_of, scales, counts, None if centre_in is None else of_all(centre_in))

    if not is_shared:
        return gradient
    whole, shared = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("devices")
    return jax.shard_map(
        gradient,
        mesh=mesh(devices),
        in_specs=(whole, shared, shared, whole),
        out_specs=whole,
        check_vma=False,
    )


def _label_counts(targets: Targets) -> jax.Array:
    """Labels of energy, forces, stress, charges, dipoles, ratios in a batch (Q,); padding has none."""
    labelled = (targets.energies, targets.forces, targets.virials, targets.charges, targets.dipoles, targets.ratios)
    known = [jnp.isfinite(x).sum() for x in labelled if x is not None]
    return jnp.stack(known).astype(targets.energies.dtype)


def _averaged(config: TrainingConfig, state: TrainState, params: Params) -> Params | None:
    """The running average with the new parameters; young averages forget faster, to lose the random start."""
    if state.average is None:
        return None
    age = state.step.astype(jnp.float32)
    decay = jnp.minimum(config.ema_decay, (1 + age) / (10 + age))
    return jax.tree.map(lambda a, p: a + (1 - decay).astype(p.dtype) * (p - a), state.average, params)


@partial(jax.jit, static_argnums=(0, 5))
def batch_errors(
    model: ModelConfig,
    params: Params,
    batch: Batch,
    targets: Targets,
    scales: Scales,
    interactions: tuple[Interaction, ...] = (),
) -> ErrorSums:
    """The error sums of a batch, compiled."""
    return error_sums(predict_pairs(model, params, batch, None, interactions), batch, targets, scales)


@partial(jax.jit, static_argnums=(0, 3))
def batch_energies(
    model: ModelConfig, params: Params, batch: Batch, interactions: tuple[Interaction, ...] = ()
) -> jax.Array:
    """Energies of the structures of a batch (S,) in eV without shifts, compiled."""
    return predict_pairs(model, params, batch, None, interactions).energies


def zero_sums(quantities: int = 3) -> ErrorSums:
    """Nothing added up yet, in float64 on the host."""
    return ErrorSums._make(np.zeros((4, quantities)))


def add_sums(total: ErrorSums, more: ErrorSums) -> ErrorSums:
    """total + more in float64 on the host."""
    return ErrorSums(*(a + np.asarray(b, np.float64) for a, b in zip(total, more, strict=True)))
