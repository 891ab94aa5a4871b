"""Optimiser and learning-rate schedule with optax (docs/training.md)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from .config import TrainingConfig

MUON_RMS = 0.2  # of an update: Adam's in practice (arXiv:2502.16982), so that rates mean the same for both


def make_optimiser(config: TrainingConfig) -> optax.GradientTransformation:
    """Clipping, Adam, AMSGrad or Muon, and decoupled weight decay; its updates want the factor -learning rate.

    The rate stays outside because the step count outlives a reset of the moments.
    """
    parts = []
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.optimiser == "muon":
        parts += [
            contrib.muon(1.0, consistent_rms=MUON_RMS, muon_weight_dimension_numbers=matrices),
            optax.scale(-1.0),  # muon's updates have the sign of a descent
        ]
    else:
        scale = optax.scale_by_amsgrad if config.optimiser == "amsgrad" else optax.scale_by_adam
        parts.append(scale(b1=0.9, b2=0.999, eps=1e-8))
    if config.weight_decay > 0:
        parts.append(optax.add_decayed_weights(config.weight_decay))
    return optax.chain(*parts)


def matrices(params: Any) -> Any:
    """Which weights are matrices [..., in, out] to Muon, each of a stack by itself; those with None are Adam's.

    Embeddings and the last layer, with its one output, are none in this sense (kellerjordan.github.io/posts/muon).
    """

    def axes(path: tuple[Any, ...], weights: jax.Array) -> contrib.MuonDimensionNumbers | None:
        if weights.ndim < 2 or weights.shape[-1] == 1 or path[-1].key == "embedding":
            return None
        return contrib.MuonDimensionNumbers(weights.ndim - 2, weights.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)


def make_schedule(config: TrainingConfig, total_steps: int | jax.Array) -> optax.Schedule:
    """Learning rate as a function of the step, from 0: warm-up, then the schedule over what remains.

    exponential: lr decay_factor^(t / decay_steps), continuous; cosine: from lr to learning_rate_stop at the end.
    """
    lr, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "exponential":
        main = optax.exponential_decay(lr, config.decay_steps, config.decay_factor)
    elif config.schedule == "cosine":
        stop = min(config.learning_rate_stop, lr)
        span = jnp.maximum(total_steps - warmup, 1)  # total_steps may be an argument of the compiled step

        def main(t: Any) -> Any:
            return stop + 0.5 * (lr - stop) * (1.0 + jnp.cos(jnp.pi * jnp.minimum(t / span, 1.0)))
    else:
        main = optax.constant_schedule(lr)
    if warmup == 0:
        return main
    return optax.join_schedules([lambda t: lr * (t + 1) / (warmup + 1), main], [warmup])
