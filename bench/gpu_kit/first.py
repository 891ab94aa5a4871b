"""First contact: does anything work at all?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .harness import BundleFile, Device, Library
from .sizes import Context

Pieces = Iterator[dict[str, Any]]


def library(context: Context) -> Library:
    """The kit's runtime."""
    return Library(context.kit / "site/so3krates/lib")


def device(context: Context) -> Device:
    """The device that the kit was asked for."""
    return Device(library(context), context.device, context.plugin, context.memory)


def contact(context: Context) -> Pieces:
    """What plugin and kernels say of themselves; a client; arrays up and down."""
    runtime = library(context)
    attributes = runtime.attributes(context.plugin)
    yield {"plugin": {key: attributes[key] for key in sorted(attributes) if "version" in key}}
    opened = device(context)
    yield {"device_kind": opened.kind}
    random = np.random.default_rng(0)
    failures = []
    for dtype in ("float32", "float64", "int32"):
        array = (1000 * random.normal(size=(257, 33))).astype(dtype)
        if not np.array_equal(opened.upload(array).download(dtype, array.shape), array):
            failures.append(f"an array of {dtype} came back changed")
    yield {"arrays": "came back as they went", "failures": failures} if not failures else {"failures": failures}
    description = context.description()
    ours = description["versions"]["stablehlo"]
    theirs = attributes.get("stablehlo_current_version", "")
    if theirs and _version(theirs) < _version(ours):
        yield {"failures": [f"the bundles are StableHLO {ours}, and the plugin reads up to {theirs}: install jax>=0.9"]}
    for name in context.networks():
        shared = description["networks"][name]["shared_bytes"]["float32"]
        problem = runtime("kernel_problem", description["versions"]["kernels"], shared, context.index)
        yield {"kernels": {name: problem or "can run"}}
    kernels = BundleFile(context.bundle(context.networks()[0])).manifest
    yield {"bundle": {key: kernels.get(key) for key in ("producer", "precision", "platform", "body", "kernels")}}


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def program(context: Context) -> Pieces:
    """A sum of two arrays, compiled, run, kept in the cache and loaded from there."""
    opened = device(context)
    artifact = (context.kit / f"references/sum-{context.platform}.artifact").read_bytes()
    x, y = np.random.default_rng(0).normal(size=(2, 1024)).astype(np.float32)
    for turn in ("compiled", "loaded"):
        made = opened.compile(artifact, "sum", str(context.cache))
        (found,) = made.run([opened.upload(x), opened.upload(y)])
        if not np.array_equal(found.download("float32", [1024]), x + y):
            yield {"failures": [f"the {turn} program's sum of two arrays is wrong"]}
        yield {turn: True}
        if turn == "loaded" and not made.loaded:
            yield {"failures": ["the program was compiled twice: the cache does not serve it"]}
