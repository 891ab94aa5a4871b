"""Optimiser and learning-rate schedule with optax (docs/model.md)."""

from __future__ import annotations

import optax

from .config import TrainingConfig


def make_optimiser(config: TrainingConfig) -> optax.GradientTransformation:
    """Clipping, Adam or AMSGrad, and decoupled weight decay; its updates want the factor -learning rate.

    The rate stays outside because the step count outlives a reset of Adam's moments.
    """
    parts = []
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    scale = optax.scale_by_amsgrad if config.amsgrad else optax.scale_by_adam
    parts.append(scale(b1=0.9, b2=0.999, eps=1e-8))
    if config.weight_decay > 0:
        parts.append(optax.add_decayed_weights(config.weight_decay))
    return optax.chain(*parts)


def make_schedule(config: TrainingConfig, total_steps: int) -> optax.Schedule:
    """Learning rate as a function of the step, from 0: warm-up, then the schedule over what remains.

    exponential: lr decay_factor^(t / decay_steps), continuous; cosine: from lr to learning_rate_stop at the end.
    """
    lr, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "exponential":
        main = optax.exponential_decay(lr, config.decay_steps, config.decay_factor)
    elif config.schedule == "cosine":
        main = optax.cosine_decay_schedule(lr, max(total_steps - warmup, 1), min(config.learning_rate_stop / lr, 1.0))
    else:
        main = optax.constant_schedule(lr)
    if warmup == 0:
        return main
    return optax.join_schedules([lambda t: lr * (t + 1) / (warmup + 1), main], [warmup])
