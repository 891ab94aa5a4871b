"""The kernels alone: compiled by NVRTC, loaded, and each run on its own arguments."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import numpy as np

from .first import Pieces, device, library
from .sizes import Context

TOLERANCE = {"float32": 2e-5, "float64": 1e-11}  # of the largest value of a result
SIGNAL = 1e-9  # the least that such a value must be
KERNELS = ("neighbours", "first_messages", "messages", "messages_adjoint", "first_messages_adjoint")
FUNCTION_ATTRIBUTES = {"registers": 4, "local_bytes": 3, "static_shared_bytes": 1}  # CU_FUNC_ATTRIBUTE_...


def kernels(context: Context) -> Pieces:
    """Compile times and resources, then errors against float64 on the host."""
    if not context.nvrtc:
        yield {"skipped": "neither NVRTC nor, for a rehearsal, a C++ compiler is here"}
        return
    runtime = library(context)
    description = context.description()
    driver = ctypes.CDLL(context.driver)
    architecture = _architecture(driver, context.index)
    networks = context.networks()
    for name in networks:
        network = description["networks"][name]
        # The stand-in takes seconds for each: the one whose kernels are run is enough for a rehearsal.
        for key, sizes in network["kernel_sizes"].items():
            if context.platform == "cpu" and key != "float32-1":
                continue
            start = time.perf_counter()
            code = runtime.compile_kernels(sizes, architecture)
            found: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 2), "bytes": len(code)}
            if context.platform == "cuda":
                found["kernels"] = resources(driver, context.index, code)
            yield {"compiled": {f"{name}-{key}": found}}
    opened = device(context)
    paths = [p for name in networks for p in sorted((context.kit / "references").glob(f"kernel-{name}-*.npz"))]
    for path in paths:
        for precision in ("float32", "float64") if context.platform == "cuda" else ("float32",):
            yield from run_alone(context, opened, path, precision)


def in_precision(array: np.ndarray, precision: str) -> np.ndarray:
    """float32 in that precision; positions and sums are float64 in either."""
    return array.astype(precision) if array.dtype == np.float32 else array


def _architecture(driver: Any, index: int) -> str:
    driver.cuInit(0)
    major, minor, place = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(place), index)
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, place)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, place)
    return f"sm_{major.value}{minor.value}"


def resources(driver: Any, index: int, code: bytes) -> dict[str, dict[str, int]]:
    """Registers and memory of each kernel, and warps that a processor holds by registers alone."""
    place, context, module = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()

    def call(name: str, *arguments: Any) -> None:
        if (result := getattr(driver, name)(*arguments)) != 0:
            raise RuntimeError(f"{name} failed with error {result}")

    call("cuDeviceGet", ctypes.byref(place), index)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), place)
    call("cuCtxSetCurrent", context)
    call("cuModuleLoadData", ctypes.byref(module), code)
    found: dict[str, dict[str, int]] = {}
    for name in KERNELS:
        function, value = ctypes.c_void_p(), ctypes.c_int()
        call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        found[name] = {}
        for key, number in FUNCTION_ATTRIBUTES.items():
            call("cuFuncGetAttribute", ctypes.byref(value), number, function)
            found[name][key] = value.value
        found[name]["warps_by_registers"] = 65536 // (32 * max(1, -(-found[name]["registers"] // 8) * 8))
    return found


def run_alone(context: Context, opened: Any, path: Path, precision: str) -> Pieces:
    """The largest difference of a result in units of its largest value, and whether two runs are equal to the bit."""
    _, network, channels, kernel = path.stem.split("-")
    case = f"{network}, {precision}, {channels} channels"
    with np.load(path) as arrays:
        inputs = [in_precision(arrays[n], precision) for n in sorted(arrays.files) if n.startswith("input")]
        expected = [arrays[name] for name in sorted(arrays.files) if name.startswith("output")]
        dtypes = [str(dtype) for dtype in arrays[f"dtypes_{precision}"]]
    artifact = path.with_name(f"{path.stem}-{precision}.artifact")
    program = opened.compile(artifact.read_bytes(), artifact.stem, str(context.cache))

    def results() -> list[np.ndarray]:
        buffers = program.run([opened.upload(array) for array in inputs])
        return [b.download(dtype, e.shape) for b, dtype, e in zip(buffers, dtypes, expected, strict=True)]

    found, again = results(), results()
    failures, worst = [], 0.0
    for k, (value, reference) in enumerate(zip(found, expected, strict=True)):
        if reference.dtype == np.int32:
            if not np.array_equal(value, reference):
                failures.append(f"{case} {kernel}: result {k} differs in {(value != reference).sum()} integers")
            continue
        scale = float(np.abs(reference).max())
        error = float(np.abs(value - reference).max()) / max(scale, SIGNAL)
        worst = max(worst, error)
        if not error < TOLERANCE[precision] or scale < SIGNAL:
            failures.append(f"{case} {kernel}: result {k} differs by {error:.1e} of its largest value {scale:.1e}")
    same = all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    if not same:
        failures.append(f"{case} {kernel}: two runs differ")
    yield {"errors": {case: {kernel: worst}}, "failures": failures}
