"""The published SO3LR model as a model folder: its pickle of weights, read without running it (docs/so3lr.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from flax.traverse_util import flatten_dict, unflatten_dict
from so3krates.model.config import ConfigError, So3lrConfig
from so3krates.model.fitted_zbl import FittedZbl
from so3krates.model.long_range import FREE_ATOMS, Dispersion, Electrostatics, Interaction
from so3krates.model.so3lr import TABLES
from so3krates.storage import Model, check_weights

from .array_pickle import read_arrays

WEIGHTS, SETTINGS = "params.pkl", "hyperparameters.json"
ELEMENTS = tuple(FREE_ATOMS)  # that it was trained on; other rows of its tables are what they began with
REPULSION_OUTER = 1.5  # A, in the original's code

# Values of the original's settings that mean what is implemented here; those of `_READ` are read.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "activation_fn": ("silu",),
    "cutoff_fn": ("phys",),
    "dispersion_energy_bool": (True,),
    "electrostatic_energy_bool": (True,),
    "energy_activation_fn": ("silu",),
    "energy_learn_atomic_type_scales": (True,),
    "energy_learn_atomic_type_shifts": (True,),
    "layer_normalization_1": (True,),
    "layer_normalization_2": (True,),
    "message_normalization": ("avg_num_neighbors",),
    "qk_non_linearity": ("identity",),
    "radial_basis_fn": ("bernstein",),
    "residual_mlp_1": (True,),
    "residual_mlp_2": (False,),
    "use_charge_embed": (True,),
    "use_spin_embed": (True,),
    "zbl_repulsion_bool": (True,),
}
_PUBLISHED: dict[str, Any] = {  # where no settings lie beside the weights
    "avg_num_neighbors": 13.168995780096482,
    "cutoff": 4.5,
    "degrees": [1, 2, 3, 4],
    "dispersion_energy_scale": 1.2,
    "electrostatic_energy_scale": 4.0,
    "energy_regression_dim": 128,
    "num_features": 128,
    "num_heads": 4,
    "num_layers": 3,
    "num_radial_basis_fn": 32,
}
# Without effect on a model that is trained, or given anew when it is used.
_IGNORED = (
    "cutoff_lr",
    "dispersion_energy_cutoff_lr_damping",
    "input_convention",
    "layers_behave_like_identity_fn_at_init",
    "num_features_head",
    "output_is_zero_at_init",
)

_OBSERVABLE = "observables_0"
_CHARGES = f"{_OBSERVABLE}/electrostatic_energy/partial_charges"
_ZBL = f"{_OBSERVABLE}/zbl_repulsion"
_HIRSHFELD = "observables_2"
_NAMES: dict[str, str] = {  # of what keeps its shape, the rows of tables apart
    "feature_embeddings_0/Embed_0/embedding": "embedding/embedding",
    f"{_OBSERVABLE}/atomic_scales": "energy_scale",
    f"{_OBSERVABLE}/energy_dense_regression": "readout/dense_0",
    f"{_OBSERVABLE}/energy_dense_final": "readout/dense_1",
    f"{_CHARGES}/charge_dense_regression_vec": "charges/network/dense_0",
    f"{_CHARGES}/charge_dense_final_vec": "charges/network/dense_1",
    f"{_CHARGES}/Embed_0/embedding": "charges/shift",
    f"{_HIRSHFELD}/hirshfeld_ratios_dense_regression": "hirshfeld/network/dense_0",
    f"{_HIRSHFELD}/hirshfeld_ratios_dense_final": "hirshfeld/network/dense_1",
    f"{_HIRSHFELD}/Embed_0/embedding": "hirshfeld/shift",
    f"{_HIRSHFELD}/Embed_1/embedding": "hirshfeld/query",
}
for _number, _name in ((1, "charge_embedding"), (2, "spin_embedding")):
    _root = f"feature_embeddings_{_number}/ChargeSpinEmbedSparse_0"
    _NAMES |= {f"{_root}/Embed_{k}/embedding": f"{_name}/{row}" for k, row in enumerate(("query", "key", "value"))}
    _NAMES |= {f"{_root}/Residual_0/layers_{k}": f"{_name}/dense_{k}" for k in range(2)}
_COLUMNS = ("charges/shift", "hirshfeld/shift")  # of one number a row, with an axis too many
_IN_LAYERS = {
    "exchange_block/mlp_layer_2": "exchange",
    "layer_normalization_1": "norm_1",
    "layer_normalization_2": "norm_2",
    "res_mlp_1_layer_1": "residual/dense_0",
    "res_mlp_1_layer_2": "residual/dense_1",
}
_MATRICES = {
    "Wq1": "feature_query",
    "Wk1": "feature_key",
    "Wv1": "feature_value",
    "Wq2": "geometric_query",
    "Wk2": "geometric_key",
}
_BLOCKS = {"1": "feature", "2": "geometric"}


class So3lrError(ValueError):
    """Files that are not SO3LR's, or of a variant that is not implemented; the message names what differs."""


def import_so3lr(path: str | Path, cutoff_long: float = 12.0) -> Model:
    """Read `params.pkl` of SO3LR, or the folder that holds it, with the `hyperparameters.json` beside it if any.

    cutoff_long: where electrostatics and dispersion end, A. Raises PickleError for a file that holds anything but
    arrays, So3lrError for other networks and settings, ConfigError for a cutoff that cannot be, OSError.
    """
    path = Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    tree = read_arrays(file)
    weights = _numbers(tree.get("params", tree), file)
    settings, source = _settings(file.parent / SETTINGS)
    config = _config(settings, source)
    repulsion = _repulsion(weights, config.cutoff, file)
    offsets = _taken(weights, f"{_OBSERVABLE}/energy_offset", file)
    try:
        renamed = {new: array for name, value in weights.items() for new, array in [_renamed(name, value, config)]}
    except KeyError as error:
        raise So3lrError(
            f"{file} holds {error.args[0]}, which has no place in the network of SO3LR: it is of another model"
        ) from error
    check_weights(renamed, config, str(file))
    interactions: tuple[Interaction, ...] = (
        Electrostatics.from_settings(
            {"cutoff": float(cutoff_long), "width": float(settings["electrostatic_energy_scale"])}, ELEMENTS
        ),
        Dispersion.from_settings(
            {"cutoff": float(cutoff_long), "radius_scale": float(settings["dispersion_energy_scale"])}, ELEMENTS
        ),
    )
    return Model(
        config=config,
        params=unflatten_dict(renamed, sep="/"),
        elements=ELEMENTS,
        energy_shifts={symbol: float(offsets[atomic_numbers[symbol]]) for symbol in ELEMENTS},
        training={"imported_from": "so3lr", "weights": file.name, "settings_of": source.name},
        terms=(repulsion,),
        interactions=interactions,
    )


def _numbers(tree: Any, file: Path) -> dict[str, np.ndarray]:
    """Flat arrays of numbers that are finite."""
    if not isinstance(tree, dict):
        raise So3lrError(f"{file} holds no nested dicts of arrays under 'params': it is of another model")
    flat = flatten_dict(tree, sep="/")
    for name, array in flat.items():
        if not isinstance(array, np.ndarray):
            raise So3lrError(f"{file}: {name} is {array!r}, and an array is wanted: it is of another model")
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise So3lrError(f"{file}: {name} ({array.dtype}) has values that are no finite real numbers")
    return flat


def _settings(path: Path) -> tuple[dict[str, Any], Path]:
    """The original's settings of the network, and where they come from."""
    if not path.is_file():
        return dict(_PUBLISHED), Path("the published model")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings, data = dict(content["model"]), content["data"]
        settings["avg_num_neighbors"] = data["avg_num_neighbors"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise So3lrError(f"{path} is damaged, or not of SO3LR: {error!r}") from error
    for key, value in settings.items():
        if key not in (*_PUBLISHED, *_IGNORED, *_SUPPORTED):
            raise So3lrError(f"{path}: model.{key} = {value!r} is not known: it is of another variant of SO3LR")
        if key in _SUPPORTED and value not in _SUPPORTED[key]:
            raise So3lrError(f"{path}: model.{key} = {value!r} is not supported: only {_SUPPORTED[key][0]!r} is")
    missing = sorted((_PUBLISHED.keys() | _SUPPORTED.keys()) - settings.keys())
    if missing:
        raise So3lrError(f"{path}: model.{missing[0]} is missing")
    return settings, path


def _config(settings: Mapping[str, Any], source: Path) -> So3lrConfig:
    try:
        return So3lrConfig(
            cutoff=float(settings["cutoff"]),
            features=settings["num_features"],
            heads=settings["num_heads"],
            layers=settings["num_layers"],
            degrees=tuple(settings["degrees"]),
            radial_functions=settings["num_radial_basis_fn"],
            readout_features=(settings["energy_regression_dim"],),
            embeddings=1 + max(atomic_numbers[symbol] for symbol in ELEMENTS),
            mean_neighbours=float(settings["avg_num_neighbors"]),
        )
    except (ConfigError, TypeError, ValueError) as error:
        raise So3lrError(f"{source}: {error}") from error


def _repulsion(weights: dict[str, np.ndarray], cutoff: float, file: Path) -> FittedZbl:
    """The numbers of the repulsion, of which the file holds what softplus makes them of."""

    def number(name: str) -> float:
        value = _taken(weights, f"{_ZBL}/{name}", file)
        return float(np.logaddexp(np.float64(value.reshape(-1)[0]), 0.0))

    parts = [number(f"c{k}") for k in range(1, 5)]
    return FittedZbl(
        ELEMENTS,
        weights=tuple(part / sum(parts) for part in parts),
        decays=tuple(number(f"a{k}") for k in range(1, 5)),
        power=number("p"),
        rate=number("d"),
        outer=REPULSION_OUTER,
        envelope=cutoff,
    )


def _taken(weights: dict[str, np.ndarray], name: str, file: Path) -> np.ndarray:
    if name not in weights:
        raise So3lrError(f"{file} has no {name}: it is of another model")
    return weights.pop(name)


def _renamed(name: str, array: np.ndarray, config: So3lrConfig) -> tuple[str, np.ndarray]:
    """An array under our name and in our shape. Raises KeyError for one that has no place."""
    new = _new_name(name)
    if new in _COLUMNS and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if new in TABLES:
        array = array[: config.embeddings]
    if re.search(r"/W[qkv][12]$", name):  # ours take (in, out)
        array = np.swapaxes(array, -1, -2)
    return new, np.ascontiguousarray(array)


def _new_name(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    root, _, leaf = name.rpartition("/")
    if root in _NAMES:
        return f"{_NAMES[root]}/{leaf}"
    if match := re.fullmatch(r"(layers_\d+)/(.*)", root):
        layer, rest = match.groups()
        if rest in _IN_LAYERS:
            return f"{layer}/{_IN_LAYERS[rest]}/{leaf}"
        if rest == "attention_block" and leaf in _MATRICES:
            return f"{layer}/{_MATRICES[leaf]}/kernel"
        if part := re.fullmatch(r"attention_block/(radial|spherical)_filter([12])_layer_([12])", rest):
            kind, block, number = part.groups()
            return f"{layer}/{_BLOCKS[block]}_filter/{kind}/dense_{int(number) - 1}/{leaf}"
    raise KeyError(name)
