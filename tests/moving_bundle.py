"""Bundles for a CPU that move rows as those for devices with memory of their own do (docs/bundle.md)."""

from pathlib import Path

import jax
import numpy as np
from so3krates_export import read_bundle, write_bundle
from so3krates_export.lowering import lower
from so3krates_export.moves import put_rows, take_rows


def with_moves(bundle: Path, path: Path, rows: int) -> Path:
    """The same bundle with programs that move `rows` rows of its refreshed arrays at a time."""
    found = read_bundle(bundle)
    manifest, tensors = dict(found.manifest), dict(found.tensors)
    refreshed = {name for steps in manifest["schedules"].values() for step in steps for name in step.get("refresh", ())}
    programs, moved = {}, {}
    for name in sorted(refreshed):
        dtype, shape = manifest["buffers"][name]["dtype"], manifest["buffers"][name]["shape"]
        kind = "x".join(map(str, shape[1:])) + f"_{dtype}"
        moved[name] = [f"take_{kind}", f"put_{kind}"]
        for k, rung in enumerate(manifest["ladder"]):
            with jax.enable_x64(True):
                array = jax.ShapeDtypeStruct((rung["rows"], *shape[1:]), dtype)
                chunk = jax.ShapeDtypeStruct((min(rows, rung["rows"]), *shape[1:]), dtype)
                indices = jax.ShapeDtypeStruct(chunk.shape[:1], "int32")
                take = lower(take_rows, [array, indices])
                put = lower(put_rows, [array, chunk, jax.ShapeDtypeStruct((), "int32")], [0])
            for program, artifact in zip(moved[name], (take, put), strict=True):
                tensors[f"programs/{program}/{k}"] = np.frombuffer(artifact, np.uint8)
                programs.setdefault(program, {})[k] = f"programs/{program}/{k}"
    manifest["programs"] = manifest["programs"] | {name: list(found.values()) for name, found in programs.items()}
    manifest["moves"] = {"rows": rows, "programs": moved}
    write_bundle(path, manifest, tensors)
    return path
