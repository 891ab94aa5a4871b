"""Writing and reading of bundles, `*.so3k`; the format is described in docs/bundle.md.

What makes a bundle valid is stated in C++ alone (csrc/runtime/bundle.cpp): both directions ask that reader.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from so3krates import _harness
from so3krates.files import WriteError, looked_for, write_bytes

FORMAT: str = _harness.BUNDLE_FORMAT
VERSION: int = _harness.BUNDLE_VERSION
START = b'{"__metadata__":{"so3krates":'  # behind the length of the header


class BundleError(ValueError):
    """A bundle that cannot be read or must not be written; one line, "PATH: what is wrong"."""


@dataclass(frozen=True)
class Bundle:
    """Content of a bundle: the manifest and every tensor under its full name (`weights/...`, `programs/...`)."""

    manifest: dict[str, Any]
    tensors: dict[str, np.ndarray]
    sha256: str


def write_bundle(path: str | Path, manifest: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Write a bundle, replacing a file of that name only when all is well.

    Args:
        path: file to write.
        manifest: as in docs/bundle.md; `format` and `version` are filled in here.
        tensors: arrays under their full names.

    Raises:
        BundleError: the manifest and the tensors do not make a valid bundle.
        WriteError: the file cannot be written.
    """
    path = Path(path)
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        # Older readers would leave baselines out.
        version = VERSION if "baselines" in manifest else VERSION - 1
        content = assembled({**manifest, "format": FORMAT, "version": version}, arrays)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{path}: {error}") from None
    _verify(content, str(path))
    write_bytes(path, content)


def assembled(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """A file with a right checksum, whatever the manifest says. Raises what `json` does."""
    text = json.dumps(manifest, allow_nan=False)
    header, data = _split(safetensors.numpy.save(dict(arrays), metadata={"so3krates": text}))
    header["__metadata__"]["sha256"] = _digest(header, data)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + data


def require_no_other_file(path: Path) -> None:
    """Raises WriteError where a file that is no bundle would be lost: data, or the weights of a model."""
    try:
        with path.open("rb") as file:
            start = file.read(8 + len(START))
    except OSError:
        return
    if start and start[8:] != START:
        raise WriteError(f"{path} is there and no bundle, and would be lost: choose another name, or remove it")


def read_bundle(path: str | Path) -> Bundle:
    """Read and verify a bundle.

    Raises:
        BundleError: the file is missing, cut, altered, foreign, or newer than this reader.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}{looked_for(path)}") from None
    return parse_bundle(data, str(path))


def parse_bundle(data: bytes, name: str) -> Bundle:
    """The same from memory; `name` takes the place of the path in messages."""
    _verify(data, name)
    metadata = _split(data)[0]["__metadata__"]
    return Bundle(json.loads(metadata["so3krates"]), safetensors.numpy.load(data), metadata["sha256"])


def _verify(data: bytes, name: str) -> None:
    try:
        _harness.Bundle.parse(data, name)
    except _harness.Error as error:
        raise BundleError(str(error)) from None


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data section of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _digest(header: dict[str, Any], data: bytes) -> str:
    digest = hashlib.sha256(header["__metadata__"]["so3krates"].encode("utf-8", "surrogatepass"))
    for name in sorted(header.keys() - {"__metadata__"}, key=str.encode):
        tensor = header[name]
        begin, end = tensor["data_offsets"]
        digest.update(f"{name} {tensor['dtype']} {','.join(map(str, tensor['shape']))} {begin} {end}\n".encode())
    digest.update(data)
    return digest.hexdigest()
