"""Writing and reading of bundles, `*.so3k`; the format is described in docs/bundle.md."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from so3krates.files import write_bytes

from .bundle_checks import (
    LARGEST_HEADER,
    BundleError,
    check_network,
    check_sources,
    check_texts,
    load_json,
    need,
)
from .bundle_outputs import check_outputs

FORMAT = "so3krates-bundle"
VERSION = 4
PLATFORMS = ("cpu", "cuda")
PRECISIONS = ("float32", "float64", "tf32")
SIZES = ("rows", "atoms", "candidates", "neighbours")
ROLES = ("input", "state", "output")
DTYPES = ("float32", "float64", "int32", "uint8")

# Buffers that a host fills and reads: dtype and shape.
INPUTS: dict[str, tuple[str, list[str | int]]] = {
    "positions": ("float64", ["atoms", 3]),
    "row_of_atom": ("int32", ["atoms"]),
    "atom_of_row": ("int32", ["rows"]),
    "species": ("int32", ["rows"]),
    "candidate_count": ("int32", ["rows"]),
    "candidates": ("int32", ["rows", "candidates"]),
    "owned_count": ("int32", []),
    "row_count": ("int32", []),
}
OUTPUTS: dict[str, tuple[str, list[str | int]]] = {
    "energy": ("float64", []),
    "atom_energies": ("float64", ["rows"]),
    "forces": ("float64", ["rows", 3]),
    "strain_gradient": ("float64", [3, 3]),
    "neighbours_needed": ("int32", []),
}
VIRIALS: dict[str, tuple[str, list[str | int]]] = {"atom_virials": ("float64", ["rows", 3, 3])}
# What a schedule computes; all but "forces" are optional.
SCHEDULES = {"forces": OUTPUTS, "virials": OUTPUTS | VIRIALS}
SCHEDULES |= {f"portable_{name}": outputs for name, outputs in SCHEDULES.items()}

_WEIGHT_DTYPES = ("float32", "float64", "int32")
_LARGEST_SIZE = 2**31 - 1
_LARGEST_BUFFER = 2**48  # bytes; keeps every product of sizes far from the limits of 64-bit integers


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
        text = json.dumps({**manifest, "format": FORMAT, "version": VERSION}, allow_nan=False)
        _validate(json.loads(text), arrays)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{path}: {error}") from None
    header, data = _split(safetensors.numpy.save(arrays, metadata={"so3krates": text}))
    header["__metadata__"]["sha256"] = _digest(header, data)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    write_bytes(path, len(head).to_bytes(8, "little") + head + data)


def read_bundle(path: str | Path) -> Bundle:
    """Read and verify a bundle.

    Raises:
        BundleError: the file is missing, cut, altered, foreign, or newer than this reader.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from None
    return parse_bundle(data, str(path))


def parse_bundle(data: bytes, name: str) -> Bundle:
    """The same from memory; `name` takes the place of the path in messages."""
    try:
        header, body = _split(data)
        arrays = _arrays(data)
        metadata = header.get("__metadata__") or {}
        if not {"so3krates", "sha256"} <= metadata.keys():
            raise BundleError("is a safetensors file, but not a so3krates bundle")
        manifest = load_json(metadata["so3krates"], "the manifest")
        _validate_version(manifest)
        if metadata["sha256"] != _digest(header, body):
            raise BundleError("is damaged: its content does not match its checksum; copy or export it again")
        _validate(manifest, arrays)
    except BundleError as error:
        raise BundleError(f"{name}: {error}") from None
    return Bundle(manifest, arrays, metadata["sha256"])


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data section of a safetensors file; all else about them is checked by safetensors itself."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise BundleError("is cut short, or no so3krates bundle")
    need(length <= LARGEST_HEADER, f"has a header of {length} bytes, and at most {LARGEST_HEADER} are read")
    head = data[8 : 8 + length]
    header = load_json(head, "the header")
    if head.rstrip(b" ")[-1:] != b"}":
        raise BundleError("is damaged: the header is followed by other bytes")
    check_texts({name: entry for name, entry in header.items() if name != "__metadata__"}, "the header")
    return header, data[8 + length :]


def _arrays(data: bytes) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(data)
    except KeyError as error:
        raise BundleError(f"holds a tensor of the unknown type {error.args[0]}") from None
    except (safetensors.SafetensorError, ValueError, OverflowError, MemoryError) as error:
        raise BundleError(f"is damaged or cut short ({' '.join(str(error).split())})") from None


def _digest(header: dict[str, Any], data: bytes) -> str:
    digest = hashlib.sha256(header["__metadata__"]["so3krates"].encode("utf-8", "surrogatepass"))
    for name in sorted(header.keys() - {"__metadata__"}, key=str.encode):
        tensor = header[name]
        begin, end = tensor["data_offsets"]
        digest.update(f"{name} {tensor['dtype']} {','.join(map(str, tensor['shape']))} {begin} {end}\n".encode())
    digest.update(data)
    return digest.hexdigest()


def _is_integer(value: Any, low: int = 1, high: int = _LARGEST_SIZE) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(value: Any) -> bool:
    return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) < 2**1000)


def _is_names(value: Any) -> bool:
    return type(value) is list and all(type(name) is str for name in value)


def _is_one_of(value: Any, allowed: Iterable[str]) -> bool:
    return type(value) is str and value in allowed


def _entry(manifest: Mapping[str, Any], name: str) -> Any:
    """An entry that may be missing; the caller asks for its type next."""
    return manifest.get(name)


def _validate_version(manifest: Mapping[str, Any]) -> None:
    need(_entry(manifest, "format") == FORMAT, f'is not a so3krates bundle: "format" is not "{FORMAT}"')
    version = _entry(manifest, "version")
    need(_is_integer(version), 'manifest: "version" is not a positive integer')
    need(
        version <= VERSION,
        f"was written in bundle version {version}, but this so3krates reads up to version {VERSION}: update so3krates",
    )


def _validate(manifest: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Everything that docs/bundle.md promises to a reader, cross references included."""
    _validate_version(manifest)
    check_texts(manifest, "the manifest")
    _validate_model(manifest)
    _validate_tensors(tensors)
    _validate_ladder(manifest)
    _validate_buffers(manifest)
    _validate_programs(manifest, tensors)
    _validate_schedules(manifest, tensors)
    check_sources(manifest)
    check_outputs(manifest)


def _validate_model(manifest: Mapping[str, Any]) -> None:
    need(type(_entry(manifest, "producer")) is str, 'manifest: "producer" is not a string')
    need(type(_entry(manifest, "model")) is dict, 'manifest: "model" is not an object')
    elements, shifts = _entry(manifest, "elements"), _entry(manifest, "energy_shifts")
    need(
        _is_names(elements) and 0 < len(elements) == len(set(elements)) and all(elements),
        'manifest: "elements" is not a list of different chemical symbols',
    )
    need(
        type(shifts) is list and len(shifts) == len(elements) and all(map(_is_number, shifts)),
        f'manifest: "energy_shifts" is not a list of {len(elements)} numbers, one per element',
    )
    cutoff = _entry(manifest, "cutoff")
    need(_is_number(cutoff) and cutoff > 0, 'manifest: "cutoff" is not a positive number')
    steps = _entry(manifest, "message_passing_steps")
    need(_is_integer(steps), 'manifest: "message_passing_steps" is not a positive integer')
    check_network(manifest)
    need(_entry(manifest, "units") == "metal", 'manifest: "units" is not "metal"')
    need(
        _is_one_of(_entry(manifest, "precision"), PRECISIONS),
        'manifest: "precision" is not "float32", "float64" or "tf32"',
    )
    need(_is_one_of(_entry(manifest, "platform"), PLATFORMS), 'manifest: "platform" is not "cpu" or "cuda"')
    version = _entry(manifest, "stablehlo_version")
    need(
        type(version) is str and re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version) is not None,
        'manifest: "stablehlo_version" is not a version such as "1.13.7"',
    )
    training = _entry(manifest, "training")
    need(training is None or type(training) is dict, 'manifest: "training" is neither an object nor null')


def _validate_tensors(tensors: Mapping[str, np.ndarray]) -> None:
    for name, array in tensors.items():
        if name.startswith("weights/"):
            need(array.dtype.name in _WEIGHT_DTYPES, f'weight "{name}" is of the type {array.dtype.name}')
        else:
            need(name.startswith("programs/"), f'tensor "{name}" is neither a weight nor a program')
            is_bytes = array.dtype == np.uint8 and array.ndim == 1 and array.size > 0
            need(is_bytes, f'tensor "{name}" does not hold a program')


def _validate_ladder(manifest: Mapping[str, Any]) -> None:
    ladder = _entry(manifest, "ladder")
    need(type(ladder) is list and len(ladder) > 0, 'manifest: "ladder" is not a list of rungs')
    for index, rung in enumerate(ladder):
        need(
            type(rung) is dict and all(_is_integer(rung.get(size)) for size in SIZES),
            f"manifest: rung {index} of the ladder has not the positive integers {', '.join(SIZES)}",
        )


def _validate_buffers(manifest: Mapping[str, Any]) -> None:
    buffers = _entry(manifest, "buffers")
    need(type(buffers) is dict, 'manifest: "buffers" is not an object')
    for name, buffer in buffers.items():
        need(name != "" and not name.startswith("weights/"), f'manifest: a buffer must not be named "{name}"')
        need(type(buffer) is dict, f'manifest: buffer "{name}" is not an object')
        need(_is_one_of(buffer.get("dtype"), DTYPES), f'manifest: buffer "{name}" has an unknown dtype')
        shape = buffer.get("shape")
        need(
            type(shape) is list and all(_is_integer(size, low=0) or _is_one_of(size, SIZES) for size in shape),
            f'manifest: buffer "{name}" has an unknown shape',
        )
        for rung in manifest["ladder"]:
            entries = math.prod(rung.get(size, size) for size in shape)
            need(
                entries * np.dtype(buffer["dtype"]).itemsize <= _LARGEST_BUFFER,
                f'manifest: buffer "{name}" is too large',
            )
        need(_is_one_of(buffer.get("role"), ROLES), f'manifest: buffer "{name}" has an unknown role')
        need(buffer["role"] != "input" or name in INPUTS, f'manifest: no host fills an input named "{name}"')
    virials = {name: VIRIALS[name] for name in VIRIALS if name in buffers}
    for role, contract in (("input", INPUTS), ("output", OUTPUTS | virials)):
        for name, (dtype, shape) in contract.items():
            found = buffers.get(name)
            need(
                found is not None and (found["role"], found["dtype"], found["shape"]) == (role, dtype, shape),
                f'manifest: buffer "{name}" is not an {role} of type {dtype} and shape [{", ".join(map(str, shape))}]',
            )


def _validate_programs(manifest: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    programs, rungs = _entry(manifest, "programs"), len(manifest["ladder"])
    need(type(programs) is dict, 'manifest: "programs" is not an object')
    for name, artifacts in programs.items():
        need(
            name != "" and _is_names(artifacts) and len(artifacts) == rungs,
            f'manifest: program "{name}" has not one tensor for each of the {rungs} rungs',
        )
        for tensor in artifacts:
            need(
                tensor in tensors and tensor.startswith("programs/"),
                f'manifest: program "{name}" names the tensor "{tensor}", which the file does not hold',
            )


def _validate_schedules(manifest: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    schedules = _entry(manifest, "schedules")
    need(type(schedules) is dict, 'manifest: "schedules" is not an object')
    need("forces" in schedules, 'manifest: the schedule "forces" is missing')
    for name in ("kernels", "kernel_shared_bytes"):
        need(_is_integer(manifest.get(name, 1)), f'manifest: "{name}" is not a positive integer')
    sizes = manifest.get("kernel_sizes", [])
    need(
        type(sizes) is list
        and all(type(lines) is list and all(type(line) is str for line in lines) for lines in sizes),
        'manifest: "kernel_sizes" is not a list of lists of strings',
    )
    if "kernels" in manifest and manifest["platform"] == "cuda":
        need("portable_forces" in schedules, 'manifest: the schedule "portable_forces" is missing')
    for name, steps in schedules.items():
        need(type(steps) is list, f'manifest: schedule "{name}" is not a list of steps')
        for index, step in enumerate(steps):
            _validate_step(step, f'manifest: step {index} of schedule "{name}"', manifest, tensors)
    _validate_moves(manifest)
    for schedule, contract in SCHEDULES.items():
        if schedule not in schedules:
            continue
        where = f'manifest: the schedule "{schedule}"'
        written: set[str] = set()
        for step in schedules[schedule]:
            written.update(step.get("outputs", ()))
            need(
                not step.get("refresh") or "neighbours_needed" in written,
                f'{where} refreshes rows before it computes "neighbours_needed"',
            )
        for name in contract:
            need(name in written, f'{where} never computes "{name}"')


def _validate_moves(manifest: Mapping[str, Any]) -> None:
    if "moves" not in manifest:
        return
    moves = manifest["moves"]
    need(
        type(moves) is dict and _is_integer(moves.get("rows")) and type(moves.get("programs")) is dict,
        'manifest: "moves" has not a number of rows and programs',
    )
    for name, programs in moves["programs"].items():
        known = _is_names(programs) and len(programs) == 2 and all(p in manifest["programs"] for p in programs)
        need(known, f'manifest: "moves" has not two programs for "{name}"')
    for schedule, steps in manifest["schedules"].items():
        for name in (name for step in steps for name in step.get("refresh", ())):
            need(name in moves["programs"], f'manifest: "moves" lacks "{name}", which "{schedule}" refreshes')


def _validate_step(step: Any, where: str, manifest: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    buffers = manifest["buffers"]

    def is_written(name: str) -> bool:
        return name in buffers and buffers[name]["role"] != "input"

    need(type(step) is dict and ("run" in step) != ("refresh" in step), f'{where} is neither a "run" nor a "refresh"')
    if "refresh" in step:
        need(_is_names(step["refresh"]), f"{where} does not list the buffers to refresh")
        for name in step["refresh"]:
            need(
                is_written(name) and buffers[name]["shape"][:1] == ["rows"],
                f'{where} refreshes "{name}", which is not a computed buffer of rows',
            )
        return
    need(_is_one_of(step["run"], manifest["programs"]), f"{where} runs an unknown program")
    inputs, outputs = step.get("inputs"), step.get("outputs")
    need(_is_names(inputs) and _is_names(outputs), f"{where} does not list its inputs and outputs")
    need(len(set(outputs)) == len(outputs), f"{where} computes a buffer twice")
    for name in inputs:
        known = name in buffers or (name.startswith("weights/") and name in tensors)
        need(known, f'{where} reads "{name}", which is neither a buffer nor a weight')
    for name in outputs:
        need(is_written(name), f'{where} computes "{name}", which is not a state or an output')
        need(inputs.count(name) < 2, f'{where} updates "{name}" in place, but reads it twice')
