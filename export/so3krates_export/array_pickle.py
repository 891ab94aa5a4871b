"""Pickles of nested dicts of numpy arrays, read without running anything that they name."""

from __future__ import annotations

import math
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

DEPTH = 32  # of nested dicts
ENTRIES = 100_000  # of all dicts together
KINDS = re.compile(r"[fiu][1248]|b1")  # of numbers that arrays may hold
RECONSTRUCT = {("numpy._core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "_reconstruct")}
SCALAR = {("numpy._core.multiarray", "scalar"), ("numpy.core.multiarray", "scalar")}
FROMBUFFER = {("numpy._core.numeric", "_frombuffer"), ("numpy.core.numeric", "_frombuffer")}


class PickleError(ValueError):
    """A pickle that is damaged or holds anything but arrays, dicts and plain values; the message names it."""


def read_arrays(path: str | Path) -> dict[str, Any]:
    """Nested dicts by text, with numpy arrays and plain numbers, texts and None as leaves, of a pickle.

    Nothing of numpy is called by the pickle either: stand-ins note what it says, and arrays are made of that.
    Raises PickleError.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _Reader(file).load()
    except PickleError as error:
        raise PickleError(f"{path}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # bytes that are no pickle raise many kinds
        raise PickleError(f"{path} is no pickle that can be read ({type(error).__name__}: {error})") from None
    try:
        tree = _plain(content, "", 0, [0])
    except PickleError as error:
        raise PickleError(f"{path}: {error}") from None
    if not isinstance(tree, dict):
        raise PickleError(f"{path} holds {_kind(content)}: nested dicts of arrays are wanted")
    return tree


class _Reader(pickle.Unpickler):
    """Gives a stand-in for the few names that pickled arrays need, and refuses every other."""

    def find_class(self, module: str, name: str, /) -> Any:
        found = (module, name)
        if found in RECONSTRUCT:
            return _Name("array")
        if found in SCALAR:
            return _Name("scalar")
        if found in FROMBUFFER:
            return _Name("frombuffer")
        if found == ("numpy", "dtype"):
            return _Name("dtype")
        if found == ("numpy", "ndarray"):
            return _Name("ndarray")
        if found == ("_codecs", "encode"):  # bytes, in old protocols
            return _Name("encode")
        if name == "bytes" and module in ("builtins", "__builtin__"):  # empty ones, in old protocols
            return _Name("bytes")
        raise PickleError(
            f"it asks for {module}.{name}, and only numpy arrays, dicts and plain values are read; nothing was run. "
            "Where it is from a source that you trust, write it anew there with "
            "pickle.dump(jax.tree.map(numpy.asarray, params), file)"
        )

    def persistent_load(self, pid: Any, /) -> Any:
        raise PickleError(f"it refers to something outside, {str(pid)[:60]!r}: only arrays and dicts are read")


class _Dtype:
    """What a pickle says of a dtype."""

    __slots__ = ("is_swapped", "kind")

    def __init__(self, kind: str) -> None:
        self.kind, self.is_swapped = kind, False

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) >= 2 and state[1] in ("<", ">", "|", "=")):
            raise PickleError(f"a dtype has the state {str(state)[:60]}: it is damaged")
        if any(part is not None for part in state[2:5]):
            raise PickleError("an array has a dtype with fields: only arrays of numbers are read")
        self.is_swapped = state[1] == (">" if sys.byteorder == "little" else "<")

    def dtype(self) -> np.dtype[Any]:
        native = np.dtype(self.kind)
        return native.newbyteorder() if self.is_swapped else native


class _Array:
    """What a pickle says of an array; `value` once it has said all."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise PickleError("an array has a state of another form: it is damaged")
        _, shape, dtype, is_fortran, data = state
        self.value = _array(data, dtype, shape, "F" if is_fortran is True else "C")


class _Name:
    """What stands for a function or class of numpy: it may be called in the one way that pickled arrays do."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: Any) -> Any:
        match self._name, arguments:
            case "array", (_Name(), tuple(), bytes() | str()):
                return _Array()
            case "dtype", (str(kind), *_) if KINDS.fullmatch(kind):
                return _Dtype(kind)
            case "scalar", (_Dtype() as dtype, bytes() as data):
                return _array(data, dtype, (), "C")[()].item()
            case "frombuffer", (bytes() | bytearray() as data, _Dtype() as dtype, tuple() as shape, "C" | "F" as order):
                found = _Array()
                found.value = _array(data, dtype, shape, order)
                return found
            case "encode", (str(text), "latin1"):
                return text.encode("latin1")
            case "bytes", ():
                return b""
            case "dtype", (str(kind), *_):
                raise PickleError(f"an array has the dtype {kind[:20]!r}: only arrays of numbers are read")
        raise PickleError(f"it calls numpy's {self._name} in a way that no pickled array does: nothing was run")


def _array(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    sizes = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not (sizes and isinstance(dtype, _Dtype) and isinstance(data, bytes | bytearray)):
        raise PickleError("an array has a state of another form: only arrays of numbers are read")
    kind = dtype.dtype()
    if len(data) != math.prod(shape) * kind.itemsize or len(shape) > DEPTH:
        raise PickleError(f"an array of shape {shape} and dtype {kind} has {len(data)} bytes: it is damaged")
    found = np.frombuffer(data, kind).reshape(shape, order="F" if order == "F" else "C")
    return np.array(found, kind.newbyteorder("="), order="C")


def _plain(value: Any, place: str, depth: int, count: list[int]) -> Any:
    """The tree with arrays in place of stand-ins. Raises PickleError for everything else."""
    count[0] += 1
    if depth > DEPTH or count[0] > ENTRIES:
        raise PickleError(f"it holds more than {DEPTH} nested dicts or {ENTRIES} entries: parameters have fewer")
    if isinstance(value, _Array):
        if value.value is None:
            raise PickleError(f"the array {place or 'at the top'} has no content: it is damaged")
        return value.value
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                raise PickleError(f"a key of the dict {place or 'at the top'} is {_kind(key)}: texts are wanted")
        return {key: _plain(entry, f"{place}/{key}".lstrip("/"), depth + 1, count) for key, entry in value.items()}
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise PickleError(f"{place or 'its content'} is {_kind(value)}: only arrays, dicts and plain values are read")


def _kind(value: Any) -> str:
    kind = type(value).__name__.lstrip("_").lower()
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
