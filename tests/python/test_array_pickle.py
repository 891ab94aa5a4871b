"""Pickles of arrays: what holds nothing else is read, all else is refused by name, and nothing is ever run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from so3krates_export.array_pickle import PickleError, read_arrays

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def looped() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    tree["a"] = tree
    return tree


REFUSED: dict[str, tuple[Any, str]] = {
    "a command": ({"a": Call(os.system, "touch MARKER")}, "system"),
    "code": ({"a": Call(eval, "open('MARKER', 'w')")}, "eval"),
    "an attribute": ({"a": Call(getattr, "x", "upper")}, "getattr"),
    "numpy's file reader": ({"a": Call(np.load, "MARKER")}, "load"),
    "numpy's array made otherwise": ({"a": Call(np.ndarray, (3,))}, "numpy's ndarray in a way"),
    "objects": ({"a": np.array([{}], object)}, "dtype 'O8'"),
    "records": ({"a": np.zeros(2, [("x", "f4")])}, "dtype"),
    "texts": ({"a": np.array(["ab"])}, "dtype 'U2'"),
    "times": ({"a": np.array(["2020-01-01"], "M8[D]")}, "dtype 'M8'"),
    "a list": ({"a": [1]}, "a is a list"),
    "a set": ({"a": {"b": {1}}}, "a/b is a set|asks for"),
    "bytes": ({"a": b"x"}, "a is a bytes|asks for"),
    "a tuple": ((1, 2), "a tuple"),
    "an array alone": (np.zeros(2), "nested dicts"),
    "numbers as keys": ({1: np.zeros(2)}, "is an int"),
    "a dict in itself": (looped(), "more than"),
    "a path": ({"a": Path("/")}, "asks for"),
    "a complex array": ({"a": np.zeros(2, complex)}, "dtype 'c16'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = REFUSED[name]
    path = tmp_path / "params.pkl"
    for protocol in PROTOCOLS:
        path.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(PickleError, match=message) as error:
            read_arrays(path)
        assert str(path) in str(error.value)
    assert not (tmp_path / "MARKER").exists()


def test_what_is_refused_would_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(REFUSED["a command"][0]))
    assert (tmp_path / "MARKER").exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_are_read_to_the_bit(protocol: int, tmp_path: Path) -> None:
    content = {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3) / 3,
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "other bytes": np.arange(3, dtype=">f8"),
        "empty": np.zeros((0, 3), np.float32),
        "point": np.array(1.5),
        "flags": np.array([True, False]),
        "deep": {"er": {"whole": np.arange(3, dtype=np.int16)}},
    }
    path = tmp_path / "params.pkl"
    plain = {"scalar": np.float32(2.5), "number": 3, "text": "silu", "none": None}
    path.write_bytes(pickle.dumps(content | plain, protocol))
    found = read_arrays(path)
    assert {name: found[name] for name in plain} == plain
    for name, array in content.items():
        if isinstance(array, np.ndarray):
            assert found[name].dtype == array.dtype.newbyteorder("=")
            assert found[name].flags.c_contiguous
            np.testing.assert_array_equal(found[name], array)
    np.testing.assert_array_equal(found["deep"]["er"]["whole"], content["deep"]["er"]["whole"])


@pytest.mark.parametrize("damage", [b"", b"abc", b"\x80\x05", b"\x80\xffK\x01."])
def test_other_bytes(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "params.pkl"
    path.write_bytes(damage)
    with pytest.raises(PickleError, match=r"params\.pkl"):
        read_arrays(path)


def test_a_cut_file(tmp_path: Path) -> None:
    path = tmp_path / "params.pkl"
    whole = pickle.dumps({"a": np.arange(1000.0)})
    for length in range(1, len(whole), len(whole) // 37):
        path.write_bytes(whole[:length])
        with pytest.raises(PickleError, match=r"params\.pkl"):
            read_arrays(path)
