"""The runtime's C functions (csrc/harness/plain.cpp) by ctypes: any Python with numpy, no compiled module."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = ("uint8", "int32", "float32", "float64")
SAFETENSORS = {"U8": "uint8", "I32": "int32", "F32": "float32", "F64": "float64"}
MOST_RESULTS = 64
STANDARD = ("energy", "strain_gradient", "atom_energies", "forces")  # that every bundle has

_TEXT, _HANDLE, _INT, _LONG, _REAL = (
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_double,
)
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "error": (_TEXT, []),
    "plugin_attributes": (_TEXT, [_TEXT]),
    "find_plugin": (_TEXT, [_TEXT]),
    "kernel_problem": (_TEXT, [_INT, _INT, _INT]),
    "compile_kernels": (_LONG, [_TEXT, _TEXT, ctypes.POINTER(_HANDLE)]),
    "open": (_HANDLE, [_TEXT, _TEXT, _INT, _REAL]),
    "close": (None, [_HANDLE]),
    "device_kind": (_TEXT, [_HANDLE]),
    "borrow": (_HANDLE, [_HANDLE, _HANDLE, _INT, ctypes.POINTER(_LONG), _INT]),
    "allocate": (_HANDLE, [_HANDLE, _INT, ctypes.POINTER(_LONG), _INT]),
    "wait": (_INT, [_HANDLE]),
    "download": (_INT, [_HANDLE, _HANDLE, _LONG]),
    "free_buffer": (None, [_HANDLE]),
    "compile": (_HANDLE, [_HANDLE, _TEXT, _LONG, _TEXT, _TEXT, ctypes.POINTER(_INT)]),
    "run": (_INT, [_HANDLE, ctypes.POINTER(_HANDLE), _INT, ctypes.POINTER(_HANDLE), _INT]),
    "scratch_bytes": (_LONG, [_HANDLE]),
    "free_program": (None, [_HANDLE]),
    "start": (_HANDLE, [_TEXT, _TEXT, _TEXT, _TEXT, _INT, _REAL]),
    "stop": (None, [_HANDLE]),
    "set_lists": (_INT, [_HANDLE, _INT, _INT, *[_HANDLE] * 5]),
    "output_shape": (_TEXT, [_HANDLE, _TEXT]),
    "evaluate": (_INT, [_HANDLE, _HANDLE, _TEXT, _INT, ctypes.POINTER(_HANDLE)]),
    "report": (_TEXT, [_HANDLE]),
}


class HarnessError(RuntimeError):
    """What the runtime says went wrong."""


class Library:
    """`libso3krates_plain.so` of a package folder."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where the library or one that it needs cannot be loaded."""
        library = ctypes.CDLL(str(folder / "libso3krates_plain.so"))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, f"so3k_{name}")
            function.restype, function.argtypes = result, arguments
        self._library = library

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Call a function; HarnessError where it says that it failed."""
        found = getattr(self._library, f"so3k_{name}")(*arguments)
        result = _FUNCTIONS[name][0]
        if (result in (_TEXT, _HANDLE) and found is None) or (result in (_INT, _LONG) and found < 0):
            raise HarnessError(self._library.so3k_error().decode())
        return found.decode() if result is _TEXT else found

    def attributes(self, plugin: str) -> dict[str, str]:
        """What a plugin says of itself."""
        return _pairs(self("plugin_attributes", plugin.encode()))

    def compile_kernels(self, sizes: str, architecture: str) -> bytes:
        """Machine code of the GPU kernels, by NVRTC."""
        code = ctypes.c_void_p()
        size = self("compile_kernels", sizes.encode(), architecture.encode(), ctypes.byref(code))
        return ctypes.string_at(code.value or 0, size)


def _pairs(lines: str) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition(" ") for line in lines.splitlines())}


class Buffer:
    """An array on the device."""

    def __init__(self, library: Library, handle: int, kept: np.ndarray | None = None) -> None:
        self._library, self.handle, self._kept = library, handle, kept

    def __del__(self) -> None:
        if self.handle:
            self._library("free_buffer", self.handle)

    def wait(self) -> None:
        """Return when the values are there."""
        self._library("wait", self.handle)

    def download(self, dtype: str, shape: Sequence[int]) -> np.ndarray:
        """The first values, as an array of that dtype and shape."""
        array = np.empty(shape, dtype)
        self._library("download", self.handle, array.ctypes.data, array.nbytes)
        return array


class Program:
    """A compiled program."""

    def __init__(self, library: Library, handle: int, loaded: bool) -> None:
        self._library, self._handle, self.loaded = library, handle, loaded

    def __del__(self) -> None:
        if self._handle:
            self._library("free_program", self._handle)

    def run(self, arguments: Sequence[Buffer]) -> list[Buffer]:
        """Results, whose values may still be computed; donated arguments must not be used again."""
        given = (ctypes.c_void_p * len(arguments))(*[argument.handle for argument in arguments])
        found = (ctypes.c_void_p * MOST_RESULTS)()
        count = self._library("run", self._handle, given, len(arguments), found, MOST_RESULTS)
        return [Buffer(self._library, int(found[k] or 0)) for k in range(count)]

    @property
    def scratch_bytes(self) -> int:
        """Memory that a run takes besides arguments and results."""
        return int(self._library("scratch_bytes", self._handle))


class Device:
    """A device of a plugin."""

    def __init__(self, library: Library, device: str, plugin: str, memory: float = 0.9) -> None:
        self._library = library
        self._handle = library("open", device.encode(), plugin.encode(), 0, memory)
        self.kind: str = library("device_kind", self._handle)

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            self._library("close", handle)

    def upload(self, array: np.ndarray) -> Buffer:
        """The values on the device."""
        array = np.ascontiguousarray(array)
        shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        dtype = DTYPES.index(str(array.dtype))
        handle = self._library("borrow", self._handle, array.ctypes.data, dtype, shape, array.ndim)
        return Buffer(self._library, handle, array)

    def allocate(self, dtype: str, sizes: Sequence[int]) -> Buffer:
        """An array with undefined values."""
        shape = (ctypes.c_int64 * len(sizes))(*sizes)
        return Buffer(self._library, self._library("allocate", self._handle, DTYPES.index(dtype), shape, len(sizes)))

    def compile(self, artifact: bytes, name: str, cache: str = "off") -> Program:
        """A StableHLO portable artifact as a program, from the folder `cache` where it is there."""
        loaded = ctypes.c_int()
        handle = self._library(
            "compile", self._handle, artifact, len(artifact), name.encode(), cache.encode(), ctypes.byref(loaded)
        )
        return Program(self._library, handle, bool(loaded.value))


class Evaluator:
    """A bundle on a device; energies are without the elements' shifts."""

    def __init__(
        self, library: Library, bundle: Path, device: str, plugin: str, cache: str = "off", memory: float = 0.9
    ) -> None:
        self._library = library
        self._handle = library(
            "start", str(bundle).encode(), device.encode(), plugin.encode(), cache.encode(), 0, memory
        )
        self._rows = 0

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            self._library("stop", handle)

    def set_lists(self, lists: dict[str, np.ndarray]) -> None:
        """lists: arrays of the evaluator's inputs by name, int32; candidates (rows, most), or flat_candidates, one row
        after the other."""
        counts = lists["candidate_count"]
        if (candidates := lists.get("flat_candidates")) is None:
            table = lists["candidates"]
            candidates = np.ascontiguousarray(table[np.arange(table.shape[1]) < counts[:, None]], np.int32)
        arrays = [np.ascontiguousarray(lists[n], np.int32) for n in ("row_of_atom", "atom_of_row", "species")]
        arrays += [np.ascontiguousarray(counts, np.int32), candidates]
        self._rows = len(counts)
        pointers = [array.ctypes.data for array in arrays]
        self._library("set_lists", self._handle, self._rows, len(arrays[0]), *pointers)

    def evaluate(self, positions: np.ndarray, outputs: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """energy (), strain_gradient (3, 3), energies (rows,), forces (rows, 3); outputs: more of the bundle's by name,
        (rows, ...) or of the system."""
        positions = np.ascontiguousarray(positions, np.float64)
        names = dict.fromkeys((*STANDARD, *outputs))
        found = {name: np.empty(self._shape(name)) for name in names}
        pointers = (ctypes.c_void_p * len(found))(*[array.ctypes.data for array in found.values()])
        self._library(
            "evaluate", self._handle, positions.ctypes.data, "\n".join(names).encode(), self._rows, pointers
        )  # fmt: skip
        found["energies"] = found.pop("atom_energies")
        return found

    def _shape(self, name: str) -> list[int]:
        sizes = self._library("output_shape", self._handle, name.encode()).split()
        return [self._rows if size == "rows" else int(size) for size in sizes]

    def report(self) -> dict[str, str]:
        """Device, notes, memory and compile times."""
        return _pairs(self._library("report", self._handle))


class BundleFile:
    """Manifest and tensors of a `.so3k` file (docs/bundle.md), as they lie in it."""

    def __init__(self, path: Path) -> None:
        self._data = np.memmap(path, np.uint8, "r")
        length = int(np.frombuffer(self._data[:8].tobytes(), "<u8")[0])
        self._tensors = json.loads(self._data[8 : 8 + length].tobytes())
        self._begin = 8 + length
        self.manifest: dict[str, Any] = json.loads(self._tensors.pop("__metadata__")["so3krates"])

    def tensor(self, name: str) -> np.ndarray:
        """A weight or, as uint8, a program's artifact."""
        entry = self._tensors[name]
        begin, end = (self._begin + offset for offset in entry["data_offsets"])
        array = np.frombuffer(self._data[begin:end].tobytes(), SAFETENSORS[entry["dtype"]])
        return array.reshape(entry["shape"])

    def artifact(self, program: str, rung: int) -> bytes:
        """A program for a rung of the ladder."""
        return self.tensor(self.manifest["programs"][program][rung]).tobytes()

    def rung_for(self, rows: int) -> int:
        """The first rung that holds so many rows."""
        ladder = self.manifest["ladder"]
        return next((k for k, rung in enumerate(ladder) if rung["rows"] >= rows), len(ladder) - 1)


def seconds_of(call: Any, least: int = 3, most: int = 30, budget: float = 1.0) -> list[float]:
    """Times of repeated calls after one that is not counted, shortest first."""
    call()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < least or (len(times) < most and time.perf_counter() - begin < budget):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)
