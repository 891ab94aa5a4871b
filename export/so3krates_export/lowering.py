"""From a JAX function to a StableHLO portable artifact."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxlib.mlir.dialects import stablehlo
from jaxlib.mlir.ir import Context, Module
from jaxlib.mlir.passmanager import PassManager

STABLEHLO_VERSION = "1.13.7"  # of the oldest runtime: the CPU plugin's XLA
JAX_NAMES = {"oneapi": "rocm"}  # JAX knows of no donation on oneapi; portable programs of GPUs do not differ


def lower_text(
    function: Callable[..., Any],
    arguments: Sequence[jax.ShapeDtypeStruct],
    donated: Sequence[int] = (),
    platform: str = "cpu",
    products: str = "highest",
) -> str:
    """StableHLO text of function(*arguments); arguments at positions `donated` are updated in place.

    Float64 arguments need jax's x64 mode. products: jax's name of the precision of dots; "highest" is that of their
    operands on every platform, "tensorfloat32" allows a GPU to round those to TF32.
    """
    jitted = jax.jit(function, donate_argnums=tuple(donated), keep_unused=True)
    with jax.default_matmul_precision(products), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Some donated buffers were not usable")
        lowered = jitted.trace(*arguments).lower(lowering_platforms=(JAX_NAMES.get(platform, platform),))
    module = lowered.compiler_ir("stablehlo")
    # Operations of jax's own that a portable artifact cannot hold, such as the square in a layer normalisation.
    stablehlo.register_stablehlo_passes()
    with module.context:
        PassManager.parse("builtin.module(func.func(chlo-legalize-to-stablehlo))").run(module.operation)
    return str(module)


def serialise(text: str, version: str = STABLEHLO_VERSION) -> bytes:
    """The portable artifact of StableHLO text, readable by any StableHLO from `version` on."""
    with _context():
        return stablehlo.serialize_portable_artifact(Module.parse(text), version)


@functools.cache
def _context() -> Context:
    """With the dialects of jax's programs: making one costs more than what is done in it."""
    module = jax.jit(lambda x: x).lower(0.0).compiler_ir("stablehlo")
    assert module is not None
    return module.context


def lower(
    function: Callable[..., Any],
    arguments: Sequence[jax.ShapeDtypeStruct],
    donated: Sequence[int] = (),
    platform: str = "cpu",
) -> bytes:
    """`serialise(lower_text(...))`."""
    return serialise(lower_text(function, arguments, donated, platform))
