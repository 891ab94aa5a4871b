"""What the fused GPU kernels (csrc/kernels/cuda) are compiled and launched with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from so3krates import _harness
from so3krates.model.config import ModelConfig
from so3krates.model.radial_basis import spline_range

from .fused import CUTOFF_NUMBERS, QUAD, FusedError, check_fused, widths
from .plan import VIRIAL_CHANNELS
from .so3lr_fused import CELLS, LongNumbers

KERNEL_VERSION: int = _harness.kernel_constants()["gpu_version"]
CALL: str = _harness.GPU_KERNEL_CALL
WARP = 32
CHANNELS = (1, VIRIAL_CHANNELS)  # of the kernels' adjoints
SIMPLE_WARPS = 8  # of kernels that leave the matrices alone
LONG_BYTES = 256  # of shared memory for a warp of `long_pairs`


class Processor(NamedTuple):
    """What a maker's GPUs give a block."""

    shared_bytes: int  # at most; where it is less, a block has fewer warps
    tiles: dict[str, int]  # neighbours that a warp handles at once, by precision


NVIDIA = Processor(227 * 1024, {"float32": 16, "float64": 8})  # compute capability 9.0
AMD = Processor(64 * 1024, {"float32": 8, "float64": 8})  # MI200, MI300, RX 7000; compiled for, not run


class Launch(NamedTuple):
    """Block of the kernels that multiply with the degree filters' matrices."""

    tile: int
    warps: int  # of `messages`
    adjoint_warps: int  # of `messages_adjoint`
    matrix_bytes: int
    tile_bytes: int
    adjoint_bytes: int

    @property
    def least_bytes(self) -> int:
        """Shared memory of the smallest block, of one warp."""
        return self.matrix_bytes + self.tile_bytes + self.adjoint_bytes


def check_cuda(config: ModelConfig, precision: str, channels: Sequence[int] = CHANNELS) -> None:
    """Raises FusedError for a network that the GPU kernels do not compute; its radial filters must be tabulated."""
    check_fused(config)
    kernel_shared_bytes(config, precision, channels)


def launch_of(config: ModelConfig, precision: str, channels: int, processor: Processor = NVIDIA) -> Launch:
    """As many warps as shared memory holds; sizes are upper bounds, which the kernels' source checks."""
    w, real, tile = widths(config), np.dtype(precision).itemsize, processor.tiles[precision]
    quads = max(-(-w.feature_width // QUAD), len(config.degrees) * -(-w.block_width // QUAD))
    groups = -(-quads // 4)
    rest = w.hidden > WARP and w.hidden % WARP == 1  # a unit that is left over
    units = -(-(w.hidden - rest) // WARP) * WARP

    def rounded(count: int, to: int) -> int:
        return -(-count // to) * to

    matrix_bytes = rounded(2 * 16 * groups * (units + 1) * real, 64)
    edge = rounded(18 + config.orders, QUAD) + QUAD
    tile_bytes = rounded(tile * (edge + 2 * units + 16 * (groups | 1) + 2) * real, 64)
    edge_adjoint = QUAD + 2 * len(config.degrees) + channels * (5 * QUAD + 4 + config.orders)
    adjoint_bytes = rounded(tile * (rounded(edge_adjoint, QUAD) + 2 * (units + QUAD)) * real, 64)
    free = processor.shared_bytes - matrix_bytes
    warps, adjoint_warps = min(12, free // tile_bytes), min(8, free // (tile_bytes + adjoint_bytes))
    if channels == VIRIAL_CHANNELS:
        adjoint_warps = min(4, adjoint_warps)  # which leaves each thread the registers of two
    launch = Launch(tile, warps, adjoint_warps, matrix_bytes, tile_bytes, adjoint_bytes)
    if launch.least_bytes > processor.shared_bytes:
        raise FusedError(
            f"the GPU kernels do not compute features = {config.features} with {w.hidden} hidden units of the degree "
            f"filters in {precision} (their matrices leave no shared memory): export with body 'xla'"
        )
    return launch


def kernel_shared_bytes(config: ModelConfig, precision: str, channels: Sequence[int] = CHANNELS) -> int:
    """Shared memory that a block must be able to take for every kernel of a bundle."""
    return max(launch_of(config, precision, count).least_bytes for count in channels)


def kernel_sizes(
    config: ModelConfig,
    precision: str,
    elements: int,
    channels: int,
    long: LongNumbers | None = None,
    processor: Processor = NVIDIA,
) -> str:
    """What the kernels' source is compiled with, as the preprocessor reads it; long: of pairs of long range, if any."""
    w, launch = widths(config), launch_of(config, precision, channels, processor)
    least, spacing = spline_range(config.radial_functions, config.cutoff, config.spline_start)
    sizes = {
        "REAL": {"float32": "float", "float64": "double"}[precision],
        "CHANNELS": channels,
        "GROUP": w.group,
        "FEATURE_WIDTH": w.feature_width,
        "FEATURE_STRIDE": w.feature_stride,
        "DEGREES": len(config.degrees),
        "DEGREE_LIST": ", ".join(map(str, config.degrees)),
        "BLOCK_WIDTH": w.block_width,
        "BLOCK_STRIDE": w.block_stride,
        "ORDERS": config.orders,
        "ORDER_STRIDE": w.order_stride,
        "HIDDEN": w.hidden,
        "HIDDEN_STRIDE": w.hidden_stride,
        "ELEMENTS": elements,
        "NODES": config.radial_functions,
        "CUTOFF": repr(float(config.cutoff)),
        "SPLINE_START": repr(float(least)),
        "SPLINE_STEP": repr(float(spacing)),
        "CUTOFF_FUNCTION": CUTOFF_NUMBERS[config.cutoff_function],
        "POLYNOMIAL_ORDER": config.polynomial_order,
        "TILE": launch.tile,
        "MESSAGES_WARPS": launch.warps,
        "ADJOINT_WARPS": launch.adjoint_warps,
        "MATRIX_BYTES": launch.matrix_bytes,
        "TILE_BYTES": launch.tile_bytes,
        "ADJOINT_BYTES": launch.adjoint_bytes,
    }
    if long is not None:
        sizes |= {"LONG_CELLS": CELLS[precision], "LONG_BYTES": LONG_BYTES}
        sizes |= {f"LONG_{name.upper()}": ", ".join(map(repr, numbers)) for name, numbers in long._asdict().items()}
    return "".join(f"#define {name} {value}\n" for name, value in sizes.items())
