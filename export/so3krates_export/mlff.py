"""Import of models trained with the original code: folders of mlff and tools.mlff (docs/model.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict, unflatten_dict
from so3krates.model.config import ModelConfig
from so3krates.storage import Model, check_weights

# Values of the original's settings that mean the network implemented here. Settings that are read are not listed.
SUPPORTED: dict[str, dict[str, tuple[Any, ...]]] = {
    "geometry_embed": {
        "radial_basis_function": ("phys",),
        "sphc": (True,),
        "sphc_normalization": (None,),
        "solid_harmonic": (False,),
        "input_convention": ("positions", "displacements"),
        "mic": (True, False, None, "naive", "bins"),  # how periodic images were found; any cell works here
    },
    "atom_type_embed": {},
    "so3krates_layer": {
        "fb_filter": ("radial_spherical",),
        "gb_filter": ("radial_spherical",),
        "fb_attention": ("conv_att",),
        "gb_attention": ("conv_att",),
        "residual_mlp_1": (False,),
        "residual_mlp_2": (False,),
        "non_local_sphc": (False,),
        "non_local_feature": (False,),
        "fast_attention_kwargs": (None, {}),
        "chi_cut": (None,),
        "chi_cut_dynamic": (False,),
        "parity": (True, False),  # without effect in the original
        "layer_normalization": (False,),
        "sphc_normalization": (True, False),  # without effect in the original
        "neighborhood_normalization": (False,),
        "final_layer": (True, False),  # without effect while layer_normalization is off
    },
    "energy": {
        "per_atom_scale": (None,),
        "per_atom_shift": (None,),
        "output_convention": ("per_structure", "per_atom"),
        "zbl_repulsion": (False,),
    },
}
READ: dict[str, tuple[str, ...]] = {
    "geometry_embed": ("degrees", "n_rbf", "r_cut", "radial_cutoff_fn"),
    "atom_type_embed": ("features", "num_embeddings"),
    "so3krates_layer": (
        "degrees",
        "n_heads",
        "fb_rad_filter_features",
        "gb_rad_filter_features",
        "fb_sph_filter_features",
        "gb_sph_filter_features",
    ),
    "energy": ("num_embeddings", "zbl_repulsion_shift"),
}
CUTOFF_FUNCTIONS = {  # the original's name -> (name, polynomial order or None)
    "cosine_cutoff_fn": ("cosine", None),
    "phys_cutoff_fn": ("phys", None),
    "dimenet_cutoff_fn": ("polynomial", 6),
    "exponential_cutoff_fn": ("exponential", None),
}
EMBEDDING = "feature_embeddings_0/Embed_0/embedding"


class MlffError(ValueError):
    """A folder that cannot be imported; the message names the file or setting and what to do."""


def import_mlff(
    module_dir: str | Path, elements: Sequence[str] | None = None, checkpoint: str | Path | None = None
) -> Model:
    """Read a model folder of mlff or tools.mlff.

    `checkpoint` is a file or folder inside or outside of `module_dir`; by default the highest-numbered `ckpt_*`
    (orbax), else the highest-numbered `checkpoint_loss_*` (msgpack). `elements` are by default those that the
    optimiser has seen: rows of the embedding whose Adam moments are not zero.

    Raises MlffError for missing files and for settings that the network here does not have.
    """
    folder = Path(module_dir)
    if not folder.is_dir():
        raise MlffError(f"{folder} is not a folder")
    hyperparameters = _read_json(folder / "hyperparameters.json")
    config = config_from_hyperparameters(hyperparameters)
    source = Path(checkpoint) if checkpoint is not None else find_checkpoint(folder)
    state = read_state(source)
    weights = rename_parameters(_parameters(state, source))
    check_weights(weights, config, str(source))
    for name, array in weights.items():
        if not np.all(np.isfinite(array)):
            raise MlffError(f"{source}: {name} has values that are not finite: take another checkpoint")
    symbols = tuple(elements) if elements is not None else trained_elements(state, source)
    return Model(
        config=config,
        params=unflatten_dict(weights, sep="/"),
        elements=symbols,
        energy_shifts=_energy_shifts(folder / "scales.json", symbols),
        training=_training_record(folder, hyperparameters, state, source),
    )


def config_from_hyperparameters(hyperparameters: dict[str, Any]) -> ModelConfig:
    """The network's settings from the content of `hyperparameters.json`.

    Raises MlffError naming the first setting that is not supported.
    """
    if "stack_net" not in hyperparameters:
        raise MlffError("hyperparameters.json has no stack_net: it is not of the dense So3krates of mlff or tools.mlff")
    net = hyperparameters["stack_net"]
    geometry = _module(net, "geometry_embeddings", "geometry_embed")
    embedding = _module(net, "feature_embeddings", "atom_type_embed")
    _module(net, "observables", "energy")
    layers = [_checked(entry, "layers", "so3krates_layer") for entry in net["layers"]]
    if not layers:
        raise MlffError("layers of hyperparameters.json is empty: a network needs at least one so3krates_layer")
    layer = layers[0]
    for k, other in enumerate(layers):
        for key in READ["so3krates_layer"]:
            if other.get(key) != layer.get(key):
                raise MlffError(
                    f"so3krates_layer.{key} is {layer.get(key)!r} in layer 0 and {other.get(key)!r} in layer {k}: "
                    "only equal layers are supported"
                )
    for kind in ("rad_filter_features", "sph_filter_features"):
        if layer[f"fb_{kind}"] != layer[f"gb_{kind}"]:
            raise MlffError(
                f"so3krates_layer.fb_{kind} = {layer[f'fb_{kind}']} differs from gb_{kind} = {layer[f'gb_{kind}']}: "
                "only equal filters of both blocks are supported"
            )
    if list(layer["degrees"]) != list(geometry["degrees"]):
        raise MlffError(f"degrees of layers {layer['degrees']} and of geometry_embed {geometry['degrees']} differ")
    name = geometry["radial_cutoff_fn"]
    if name not in CUTOFF_FUNCTIONS:
        raise MlffError(
            f"geometry_embed.radial_cutoff_fn = {name!r} is not supported: known are {', '.join(CUTOFF_FUNCTIONS)}"
        )
    cutoff_function, order = CUTOFF_FUNCTIONS[name]
    polynomial: dict[str, Any] = {} if order is None else {"polynomial_order": order}
    return ModelConfig(
        cutoff=float(geometry["r_cut"]),
        features=embedding["features"],
        heads=layer["n_heads"],
        layers=len(layers),
        degrees=tuple(geometry["degrees"]),
        radial_functions=geometry["n_rbf"],
        cutoff_function=cutoff_function,
        radial_filter_features=tuple(layer["fb_rad_filter_features"]),
        spherical_filter_features=tuple(layer["fb_sph_filter_features"]),
        embeddings=embedding.get("num_embeddings", 100),
        **polynomial,
    )


def find_checkpoint(folder: Path) -> Path:
    """The checkpoint that the original's loader would take: newest orbax, else newest msgpack by loss."""
    for pattern in ("ckpt_*", "checkpoint_loss_*"):
        numbered = [
            (int(match[1]), path) for path in folder.glob(pattern) if (match := re.search(r"_(\d+)$", path.name))
        ]
        if numbered:
            return max(numbered)[1]
    raise MlffError(f"{folder} has neither ckpt_* nor checkpoint_loss_*: name the file with --checkpoint")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Training state as nested dicts of numpy arrays, from an orbax folder or a flax-msgpack file."""
    if checkpoint.is_file():
        try:
            return msgpack_restore(checkpoint.read_bytes())
        except Exception as error:  # msgpack raises many kinds
            raise MlffError(f"{checkpoint} is not a flax-msgpack checkpoint: {error}") from error
    folder = checkpoint / "state" if (checkpoint / "state").is_dir() else checkpoint
    if not folder.is_dir():
        raise MlffError(f"{checkpoint} does not exist")
    return _restore_orbax(folder)


def rename_parameters(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The original's flat parameters under the names and shapes used here.

    Raises MlffError for a parameter that has no place in the network.
    """
    return {_new_name(name): _without_unit_axis(name, np.asarray(array)) for name, array in params.items()}


def trained_elements(state: dict[str, Any], source: Path) -> tuple[str, ...]:
    """Chemical symbols whose embeddings the optimiser has updated, by atomic number."""
    moments = [
        np.asarray(array)
        for name, array in flatten_dict(_dicts(state.get("opt_state", {})), sep="/").items()
        if name.endswith(f"nu/params/{EMBEDDING}")
    ]
    numbers = np.flatnonzero(np.any(moments[0] != 0, axis=-1)) if moments else np.array([], int)
    symbols = tuple(chemical_symbols[z] for z in numbers if 1 <= z < len(chemical_symbols))
    if not symbols:
        raise MlffError(f"{source} does not tell which elements it was trained on: name them, as in --elements Ga,N")
    return symbols


def _module(net: dict[str, Any], group: str, expected: str) -> dict[str, Any]:
    entries = net.get(group, [])
    if len(entries) != 1:
        names = [next(iter(entry)) for entry in entries]
        raise MlffError(f"{group} = {names} is not supported: exactly one {expected} is")
    return _checked(entries[0], group, expected)


def _checked(entry: dict[str, Any], group: str, expected: str) -> dict[str, Any]:
    """Settings of one module, refused unless all of them mean what is implemented here."""
    ((kind, settings),) = entry.items()
    if kind != expected:
        raise MlffError(f"{group} holds {kind!r}, which is not supported: only {expected} is")
    for key, value in settings.items():
        if key == "prop_keys" or key in READ[expected]:
            continue
        if key not in SUPPORTED[expected]:
            raise MlffError(f"{expected}.{key} = {value!r} is not supported: the setting is not known")
        if value not in SUPPORTED[expected][key]:
            raise MlffError(f"{expected}.{key} = {value!r} is not supported: only {SUPPORTED[expected][key][0]!r} is")
    missing = [key for key in READ[expected] if key not in settings and expected not in ("atom_type_embed", "energy")]
    if missing:
        raise MlffError(f"{expected}.{missing[0]} is missing in hyperparameters.json")
    return settings


def _restore_orbax(folder: Path) -> dict[str, Any]:
    from so3krates.training.checkpoints import read_orbax

    try:
        return read_orbax(folder)
    except Exception as error:  # orbax and tensorstore raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MlffError(f"{folder} is not an orbax checkpoint that can be read: {reason}") from error


def _parameters(state: dict[str, Any], source: Path) -> dict[str, np.ndarray]:
    try:
        return flatten_dict(state["valid_params"]["params"], sep="/")
    except (KeyError, TypeError) as error:
        raise MlffError(f"{source} has no valid_params/params: it is not a training state of mlff") from error


_LAYER_NAMES = {
    "attention_fn/VmapConvAttentionCoefficients_0/Dense_0/kernel": "query/kernel",
    "attention_fn/VmapConvAttentionCoefficients_0/Dense_1/kernel": "key/kernel",
    "attention_fn/VmapAttentionAggregation_0/Dense_0/kernel": "value/kernel",
}
_BLOCKS = {"FeatureBlock_0": "feature", "GeometricBlock_0": "geometric"}
_FILTERS = {"VmapMLP_0": "radial", "VmapMLP_1": "spherical"}


def _new_name(name: str) -> str:
    if name == EMBEDDING:
        return "embedding/embedding"
    if match := re.fullmatch(r"observables_0/MLP_0/layers_(\d+)/(kernel|bias)", name):
        return f"readout/dense_{match[1]}/{match[2]}"
    if match := re.fullmatch(r"(layers_\d+)/InteractionBlock_0/MLP_0/layers_0/(kernel|bias)", name):
        return f"{match[1]}/exchange/{match[2]}"
    if match := re.fullmatch(r"(layers_\d+)/(FeatureBlock_0|GeometricBlock_0)/(.*)", name):
        layer, block, rest = match[1], _BLOCKS[match[2]], match[3]
        if rest in _LAYER_NAMES:
            return f"{layer}/{block}_{_LAYER_NAMES[rest]}"
        if match := re.fullmatch(r"filter_fn/(VmapMLP_[01])/layers_(\d+)/(kernel|bias)", rest):
            return f"{layer}/{block}_filter/{_FILTERS[match[1]]}/dense_{match[2]}/{match[3]}"
    raise MlffError(f"parameter {name} of the original has no place in the network")


def _without_unit_axis(name: str, array: np.ndarray) -> np.ndarray:
    # The filter networks are vmapped over one head.
    return array[0] if "/filter_fn/" in name and array.shape[0] == 1 else array


def _energy_shifts(path: Path, symbols: Sequence[str]) -> dict[str, float]:
    energy = _read_json(path).get("energy", {})
    scale = energy.get("scale", 1.0)
    if scale != 1.0:
        raise MlffError(f"{path}: energy.scale = {scale} is not supported: only 1 is")
    shifts = energy.get("per_atom_shift")
    if shifts is None:
        raise MlffError(f"{path} has no energy.per_atom_shift")
    numbers = {symbol: chemical_symbols.index(symbol) for symbol in symbols if symbol in chemical_symbols}
    for symbol in symbols:
        if numbers.get(symbol, len(shifts)) >= len(shifts):
            raise MlffError(f"{path} has no energy shift for {symbol!r}: give elements out of 1 to {len(shifts) - 1}")
    return {symbol: float(shifts[number]) for symbol, number in numbers.items()}


def _training_record(
    folder: Path, hyperparameters: dict[str, Any], state: dict[str, Any], source: Path
) -> dict[str, Any]:
    """What the folder tells of the training, kept with the model."""
    coach = hyperparameters.get("coach", {})
    record: dict[str, Any] = {
        "imported_from": "mlff",
        "checkpoint": source.name,
        "split": hyperparameters.get("dataset", {}).get("split", {}),
        "loss_weights": coach.get("loss_weights", {}),
        "epochs": coach.get("epochs"),
    }
    if "step" in state:
        record["step"] = int(np.asarray(state["step"]))
    for path in (folder / "inputs.json", folder.parent / "inputs.json"):
        if path.is_file():
            record["inputs"] = _read_json(path)
            break
    return record


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MlffError(f"{path.parent} is not a model folder of mlff: {path.name} is missing")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MlffError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise MlffError(f"{path} is damaged: it holds no table")
    return content


def _dicts(tree: Any) -> Any:
    """Nested lists and tuples as dicts by position, so that both kinds of checkpoints look alike."""
    if isinstance(tree, list | tuple):
        return {str(k): _dicts(item) for k, item in enumerate(tree)}
    if isinstance(tree, dict):
        return {str(key): _dicts(item) for key, item in tree.items()}
    return tree
