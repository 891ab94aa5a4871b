"""Small random networks whose energies reach over several layers, for the tests of per-atom virials."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from unittest.mock import patch

import jax
import numpy as np
from so3krates.model import ModelConfig, init_params
from so3krates.storage import Model
from so3krates_export.export import export_model
from so3krates_export.ladder import Rung
from so3krates_export.tables import Tables

CUTOFF = 3.3  # A: 16 neighbours in GaN
SHIFTS = {"Ga": -3.0, "N": 2.0}  # eV
SIZES = {1: 2.8, 2: 1.9, 3: 1.5}  # of weights by layers, for forces of some eV/A
NODES = 24  # of the tables
RUNG = Rung(rows=256, atoms=4608, candidates=192, neighbours=64)


def random_model(layers: int) -> Model:
    """A tabulated network in float64, which the bodies `xla` and `fused` both compute."""
    config = ModelConfig(
        features=24, heads=2, layers=layers, degrees=(1, 2, 3), cutoff=CUTOFF,
        radial_basis="spline", radial_functions=NODES, radial_filter_features=(24,),
    )  # fmt: skip
    random = np.random.default_rng(5)

    def values(shape: tuple[int, ...]) -> np.ndarray:
        # Larger than an initial network's, and with biases, so that all layers matter.
        return random.normal(0.0, 0.05 if len(shape) == 1 else SIZES[layers] / np.sqrt(shape[-2]), shape)

    shapes = jax.eval_shape(partial(init_params, config, 0))
    return Model(config, jax.tree.map(lambda leaf: values(leaf.shape), shapes), ("Ga", "N"), SHIFTS)


def write_bundle_of(model: Model, body: str, folder: Path) -> Path:
    """Its float64 bundle for at most 256 atoms."""
    path = folder / f"{body}-{model.config.layers}.so3k"
    # The network's own tables, not tables of them.
    width = model.config.spherical_filter_features[0]
    tables = Tables(model.config, model.params, NODES, width, 0.0, 0.0, 0)
    with patch("so3krates_export.export.choose_tables", return_value=tables):
        export_model(model, path, precision="float64", body=body, ladder=[RUNG])
    return path
