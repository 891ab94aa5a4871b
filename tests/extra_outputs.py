"""The toy potential with outputs of its own, of every kind that can be declared."""

import copy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from so3krates_export import write_bundle
from so3krates_export.lowering import lower
from so3krates_export.manifest import results_of, with_sources
from toy_bundle import LADDER, toy_bundle

# Name -> dtype, shape, ranks.
EXTRA = {
    "coordination": ("float32", ["rows"], "none"),
    "moments": ("float64", ["rows", 2], "none"),
    "pairs": ("int32", [], "sum"),
    "most": ("int32", [], "max"),
    "extent": ("float64", [2], "min"),
}
NEWER = "hardness"  # an output that this version cannot interpret


def write_extra_bundle(path: Path) -> Path:
    """The number of an atom's neighbours, its square and cube, and of all atoms their sum, maximum and minimum."""
    manifest, tensors = toy_bundle(LADDER)
    manifest, tensors = copy.deepcopy(manifest), dict(tensors)
    for name, (dtype, shape, ranks) in {**EXTRA, NEWER: ("uint8", [4], "mean")}.items():
        manifest["buffers"][name] = {"dtype": dtype, "shape": shape, "role": "output"}
        manifest["outputs"][name] = {"unit": "1", "ranks": ranks, "standard": False, "meaning": "of a test"}
    step = {"run": "counting", "inputs": ["counts", "owned_count"], "outputs": [*EXTRA, NEWER]}
    steps = [{k: v for k, v in step.items() if k != "from"} for step in manifest["schedules"]["forces"]]
    manifest["schedules"]["forces"] = with_sources([*steps, step])
    manifest["programs"]["counting"] = [f"programs/counting/{k}" for k in range(len(LADDER))]
    manifest["results"] = results_of(manifest)
    with jax.enable_x64(True):
        for k, rung in enumerate(LADDER):
            arguments = [jax.ShapeDtypeStruct((rung["rows"],), "int32"), jax.ShapeDtypeStruct((), "int32")]
            tensors[f"programs/counting/{k}"] = np.frombuffer(lower(_counting, arguments, []), np.uint8)
    write_bundle(path, manifest, tensors)
    return path


def _counting(counts: jax.Array, owned: jax.Array) -> tuple[jax.Array, ...]:
    counts = jnp.where(jnp.arange(len(counts)) < owned, counts, 0)
    least = jnp.where(jnp.arange(len(counts)) < owned, counts, 1000).min().astype("float64")
    return (
        counts.astype("float32"),
        jnp.stack([counts**2, counts**3], axis=1).astype("float64"),
        counts.sum(dtype="int32"),
        counts.max(),
        jnp.stack([least, -counts.max().astype("float64")]),
        jnp.zeros(4, "uint8"),
    )
