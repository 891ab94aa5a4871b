"""What a bundle and the CPU kernels must agree on has a version: this test says when it must be raised.

A change of the weights' layout, of arrays, calls or attributes, or of the structures that both sides share, changes the
records below: then raise kVersion in layout.h, and take the new records.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ase.data import atomic_numbers
from so3krates.model import ModelConfig, init_params
from so3krates.model.network import Params
from so3krates.model.reductions import tabulated
from so3krates.model.terms import terms_from
from so3krates.storage import Model
from so3krates_export.fused import KERNEL_VERSION, fused_weights
from so3krates_export.fused_body import FusedBody
from so3krates_export.plan import Call, Plan, build_plan
from so3krates_export.portable_body import weight_arrays
from so3krates_export.so3lr_fused import so3lr_weights
from so3krates_export.so3lr_fused_body import So3lrFusedBody
from so3krates_export.term_stages import term_stages

ROOT = Path(__file__).parents[2]
CONFIG = ModelConfig(features=24, heads=3, layers=2, degrees=(1, 3), cutoff=4.5, spherical_filter_features=(5, 24))
NUMBERS = [31, 7]

# By version.
RECORDS = {
    5: {
        "plan": "ffa6a6b629420933",
        "small": "82ab77183c68fe87",
        "so3lr": "ef4e92c9ad831397",
        "sources": "c0d2a18c8d5d53b4",
        "weights": "ae144756e1ee43d2",
    }
}


def digest_of(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def described(plan: Plan) -> list[Any]:
    arrays = {name: [array.dtype, array.shape, array.role] for name, array in plan.arrays.items()}
    return [arrays, [[s.program, s.inputs, s.outputs] if isinstance(s, Call) else list(s.arrays) for s in plan.steps]]


def plan_digest(*channels_of_plans: int, small: bool = False) -> str:
    """Of arrays, arguments and results of the calls, and the attributes' names."""
    config, _ = network()
    parts = []
    for channels in channels_of_plans:
        body = FusedBody(config, "float32", len(NUMBERS), channels, small=small)
        parts += described(
            build_plan(body, config.layers, term_stages(body, terms_from({"repulsion": {}}, ("Ga", "N"))))
        )
    return digest_of(parts)


def so3lr_digest() -> str:
    """Of the calls and the sizes of the weights of SO3LR's body, and its kernels' own words on both."""
    model = Model.load(ROOT / "examples/models/so3lr")
    config, params = tabulated(model.config, jax.tree.map(lambda p: np.asarray(p, np.float64), model.params), 32, 0.5)
    numbers = [atomic_numbers[element] for element in model.elements]
    body = So3lrFusedBody(model, config, "float32", list(weight_arrays(params, numbers)))
    plan = build_plan(body, config.layers, [*term_stages(body, model.terms), *body.further_outputs()])
    weights = so3lr_weights(config, params, numbers, model.interactions, "float32")
    return digest_of([*described(plan), {n: w.shape for n, w in weights.items()}, source_digest("so3lr.h")])


def source_digest(*names: str) -> str:
    """Of the kernels' own words on layout, without comments and white space."""
    text = "".join((ROOT / "csrc/kernels" / name).read_text() for name in names)
    code = re.sub(r"//[^\n]*|constexpr int kVersion = \d+;|\s+", "", text)
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def network() -> tuple[ModelConfig, Params]:
    """Weights that are the same with every version of JAX."""
    initial = jax.tree.map(np.shape, init_params(CONFIG, 0), is_leaf=lambda p: hasattr(p, "shape"))
    params = jax.tree.map(
        lambda shape: np.sin(1.0 + np.arange(np.prod(shape))).reshape(shape),
        initial,
        is_leaf=lambda p: type(p) is tuple,
    )
    return tabulated(CONFIG, params, 32, 0.5)


def weights_digest() -> str:
    """Of the shapes of all weights and, along each axis, of the place where the mean of their size lies."""
    found = {}
    for name, value in fused_weights(*network(), NUMBERS).items():
        size = np.abs(value) / np.abs(value).sum()
        places = [
            np.moveaxis(size, axis, 0).reshape(n, -1).sum(axis=1) @ np.arange(n) for axis, n in enumerate(value.shape)
        ]
        found[name] = [list(value.shape), [f"{place:.4f}" for place in places]]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def test_there_is_a_record_of_this_version() -> None:
    assert list(RECORDS) == [KERNEL_VERSION]


def test_a_new_layout_has_a_new_version(x64: None) -> None:
    found = {
        "plan": plan_digest(1, 4),
        "small": plan_digest(4, small=True),
        "so3lr": so3lr_digest(),
        "sources": source_digest("layout.h", "layout.cpp", "pairs.h", "call.cpp"),
        "weights": weights_digest(),
    }
    assert found == RECORDS[KERNEL_VERSION]
