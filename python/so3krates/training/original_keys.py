"""The settings of mlff and tools.mlff under their own names."""

from __future__ import annotations

from typing import Any

from so3krates.model.config import ConfigError

# Keys of mlff and tools.mlff and what they are here.
ORIGINAL_KEYS: dict[str, tuple[str, str]] = {
    "r_cut": ("model", "cutoff"),
    "F": ("model", "features"),
    "L": ("model", "layers"),
    "H": ("model", "heads"),
    "degrees": ("model", "degrees"),
    "file_data": ("data", "file"),
    "train_split": ("data", "train_split"),
    "seed_data": ("data", "seed"),
    "we": ("training", "energy_weight"),
    "wf": ("training", "force_weight"),
    "ws": ("training", "stress_weight"),
    "loss_variance_scaling": ("training", "variance_scaling"),
    "epochs": ("training", "epochs"),
    "lr": ("training", "learning_rate"),
    "lr_stop": ("training", "learning_rate_stop"),
    "lr_decay_exp_transition_steps": ("training", "decay_steps"),
    "lr_decay_exp_decay_factor": ("training", "decay_factor"),
    "clip_by_global_norm": ("training", "clip_norm"),
    "size_batch": ("training", "batch_size"),
    "size_batch_training": ("training", "batch_size"),
    "size_batch_validation": ("training", "valid_batch_size"),
    "eval_every_t": ("training", "eval_every"),
    "seed_model": ("training", "seed_model"),
    "seed_training": ("training", "seed_training"),
    "float64": ("training", "float64"),
}
# Keys of the original that change nothing in a model without ACE, or that a run here does not need.
IGNORED_ORIGINAL_KEYS = frozenset(
    {"ckpt_dir", "overwrite_module", "outfile_inputs", "max_body_order", "F_body_order", "mic"}
    | {"wandb_name", "wandb_group", "wandb_project"}
)


def sections_from_original(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections model, data, training from the original's flat keys; null means absent there.

    Raises ConfigError for keys that are neither here nor ignored, and for the ACE variant.
    """
    sections: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "training": {}}
    settings = dict(settings)
    if settings.pop("ace", False):
        raise ConfigError("ace = true: the ACE variant of the original is not supported")
    if "l_min" in settings or "l_max" in settings:
        low, high = settings.pop("l_min", 1), settings.pop("l_max", 3)
        sections["model"]["degrees"] = list(range(low, high + 1))
    if "shift_mean" in settings:
        sections["data"]["energy_shift"] = "mean" if settings.pop("shift_mean") else "none"
    for key, value in settings.items():
        if key in IGNORED_ORIGINAL_KEYS:
            continue
        if key not in ORIGINAL_KEYS:
            raise ConfigError(
                f"unknown key {key!r}: give sections [model], [data], [training], a preset, or the original's keys "
                f"({', '.join(sorted(ORIGINAL_KEYS))}, l_min, l_max, shift_mean)"
            )
        section, name = ORIGINAL_KEYS[key]
        if value is not None:
            sections[section][name] = value
    return sections
