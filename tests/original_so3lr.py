"""The file of weights of SO3LR's authors, written from our model folder of it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np
from so3krates.storage import Model, flat_params

ROWS, FEW_ROWS = 119, 100  # of the original's tables by atomic number
REPULSION = ("a1", "a2", "a3", "a4", "c1", "c2", "c3", "c4", "p", "d")
_OBSERVABLES = {
    "readout": ("observables_0", "energy_dense_regression", "energy_dense_final"),
    "charges/network": (
        "observables_0/electrostatic_energy/partial_charges",
        "charge_dense_regression_vec",
        "charge_dense_final_vec",
    ),
    "hirshfeld/network": ("observables_2", "hirshfeld_ratios_dense_regression", "hirshfeld_ratios_dense_final"),
}


def original_arrays(model: Model) -> dict[str, np.ndarray]:
    """Arrays by the original's flat names, float32."""
    ours = dict(flat_params(model.params))
    found: dict[str, np.ndarray] = {}

    def take(name: str, original: str, rows: int = 0, column: bool = False) -> None:
        array = ours.pop(name)
        if rows:
            array = np.concatenate([array, np.full((rows - len(array), *array.shape[1:]), 0.5, np.float32)])
        found[original] = array[:, None] if column else array

    take("embedding/embedding", "feature_embeddings_0/Embed_0/embedding", ROWS)
    for number, name in ((1, "charge_embedding"), (2, "spin_embedding")):
        root = f"feature_embeddings_{number}/ChargeSpinEmbedSparse_0"
        take(f"{name}/query", f"{root}/Embed_0/embedding", ROWS)
        take(f"{name}/key", f"{root}/Embed_1/embedding")
        take(f"{name}/value", f"{root}/Embed_2/embedding")
        for k in range(2):
            take(f"{name}/dense_{k}/kernel", f"{root}/Residual_0/layers_{k}/kernel")
    take("energy_scale", "observables_0/atomic_scales", ROWS)
    take("charges/shift", f"{_OBSERVABLES['charges/network'][0]}/Embed_0/embedding", FEW_ROWS, column=True)
    take("hirshfeld/shift", "observables_2/Embed_0/embedding", FEW_ROWS, column=True)
    take("hirshfeld/query", "observables_2/Embed_1/embedding", FEW_ROWS)
    for name, (root, *dense) in _OBSERVABLES.items():
        for k, original in enumerate(dense):
            for leaf in ("kernel", "bias"):
                take(f"{name}/dense_{k}/{leaf}", f"{root}/{original}/{leaf}")
    for layer in range(model.config.layers):
        _take_layer(f"layers_{layer}", take, ours)
    assert not ours
    found["observables_0/energy_offset"] = np.zeros(ROWS, np.float32)
    repulsion = model.terms[0].settings()
    numbers = [*repulsion["decays"], *repulsion["weights"], repulsion["power"], repulsion["rate"]]
    for name, number in zip(REPULSION, numbers, strict=True):
        found[f"observables_0/zbl_repulsion/{name}"] = np.log(np.expm1([number])).astype(np.float32)
    return found


def _take_layer(layer: str, take: Any, ours: dict[str, np.ndarray]) -> None:
    block = f"{layer}/attention_block"
    for number, ending in ((1, "feature"), (2, "geometric")):
        for letter, kind in (("q", "query"), ("k", "key"), ("v", "value")):
            name = f"{layer}/{ending}_{kind}/kernel"
            if name in ours:
                ours[name] = np.ascontiguousarray(np.swapaxes(ours[name], 1, 2))
                take(name, f"{block}/W{letter}{number}")
        for kind in ("radial", "spherical"):
            for k in range(2):
                for leaf in ("kernel", "bias"):
                    take(
                        f"{layer}/{ending}_filter/{kind}/dense_{k}/{leaf}",
                        f"{block}/{kind}_filter{number}_layer_{k + 1}/{leaf}",
                    )
    for leaf in ("kernel", "bias"):
        take(f"{layer}/exchange/{leaf}", f"{layer}/exchange_block/mlp_layer_2/{leaf}")
        for k in range(2):
            take(f"{layer}/residual/dense_{k}/{leaf}", f"{layer}/res_mlp_1_layer_{k + 1}/{leaf}")
    for leaf in ("scale", "bias"):
        for k in (1, 2):
            take(f"{layer}/norm_{k}/{leaf}", f"{layer}/layer_normalization_{k}/{leaf}")


def write_params(path: Path, arrays: dict[str, Any]) -> Path:
    """Writes the pickle that the original reads."""
    with path.open("wb") as file:
        pickle.dump({"params": flax.traverse_util.unflatten_dict(arrays, sep="/")}, file)
    return path
