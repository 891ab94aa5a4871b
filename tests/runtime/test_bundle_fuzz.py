"""Damaged bundles: the reader refuses every one with one line, never with a crash."""

import copy
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_bundles import BAD_FILES, BAD_MANIFESTS, MOVED_STEPS, declare, forge
from so3krates._harness import Bundle, Error
from so3krates_export import write_bundle
from so3krates_export.bundle import parse_bundle
from so3krates_export.manifest import printable
from toy_bundle import DEPTH, LADDER, toy_bundle

MUTATIONS = 800
REPLACED_VALUES = 1500
SEED = 20240917


@pytest.fixture(scope="module")
def content() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return toy_bundle(LADDER[:1])


@pytest.fixture(scope="module")
def data(content, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("bundle") / "toy.so3k"
    write_bundle(path, *content)
    return path.read_bytes()


def refusal(data: bytes) -> str | None:
    """The reader's message, or nothing where it accepts the file; any other exception passes."""
    try:
        Bundle.parse(data, "name")
    except Error as error:
        message = str(error)
        assert message.startswith("name: ") and "\n" not in message and len(message) < 500, message
        return message
    return None


def mutations(data: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Damaged copies of a file, half of them damaged in the header."""
    rng = random.Random(seed)
    header = 8 + int.from_bytes(data[:8], "little")

    def place() -> int:
        return rng.randrange(header) if rng.random() < 0.5 else rng.randrange(len(data))

    def noise(length: int) -> bytes:
        return rng.randbytes(length) if rng.random() < 0.7 else bytes(length)

    kinds: dict[str, Callable[[int, int], bytes]] = {
        "flip a bit": lambda at, n: data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :],
        "set a byte": lambda at, n: data[:at] + noise(1) + data[at + 1 :],
        "overwrite": lambda at, n: (data[:at] + noise(n) + data[at + n :])[: len(data)],
        "cut": lambda at, n: data[:at],
        "extend": lambda at, n: data + noise(n),
        "insert": lambda at, n: data[:at] + noise(n) + data[at:],
        "delete": lambda at, n: data[:at] + data[at + n :],
        "repeat": lambda at, n: data[: at + n] + data[at:],
        "length": lambda at, n: rng.choice([n, len(data), 2**32, 2**63, 2**64 - 1]).to_bytes(8, "little") + data[8:],
        "digit": lambda at, n: (
            re.sub(rb"[0-9]", lambda m: bytes([48 + rng.randrange(10)]), data[:at], count=rng.randrange(1, 300))
            + data[at:]
        ),
    }
    while count > 0:
        kind = rng.choice(list(kinds))
        damaged = kinds[kind](place(), rng.choice([1, 2, 3, 8, 64, 1000]))
        if damaged != data:
            count -= 1
            yield kind, damaged


def test_the_bundle_itself_is_accepted(data):
    assert refusal(data) is None


def test_every_mutation_is_refused(data):
    seen: dict[str, int] = {}
    for k, (kind, damaged) in enumerate(mutations(data, MUTATIONS, SEED)):
        assert refusal(damaged) is not None, f"mutation {k}, {kind}, went unnoticed"
        seen[kind] = seen.get(kind, 0) + 1
    assert sum(seen.values()) == MUTATIONS and min(seen.values()) > MUTATIONS // 50


def test_no_mutation_crashes_the_process(data, tmp_path):
    files = [damaged for _, damaged in mutations(data, MUTATIONS, SEED + 1)]
    for k, damaged in enumerate(files):
        (tmp_path / f"{k}.so3k").write_bytes(damaged)
    script = (
        "import pathlib, sys\n"
        "from so3krates._harness import Bundle, Error\n"
        "refused = 0\n"
        "for path in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    try:\n"
        "        Bundle.read(str(path))\n"
        "    except Error:\n"
        "        refused += 1\n"
        "print(refused)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(len(files))), done.stderr


@pytest.mark.parametrize("case", BAD_FILES)
def test_what_is_said_of_a_bad_file(case, data):
    change, message = BAD_FILES[case]
    assert re.search(message, refusal(change(data)) or "accepted")


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_what_is_said_of_a_bad_manifest(case, content, tmp_path):
    change, message = BAD_MANIFESTS[case]
    manifest = copy.deepcopy(content[0])
    change(manifest)
    assert re.search(message, refusal(forge(tmp_path / "bad.so3k", manifest, content[1])) or "accepted")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values in a manifest."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def test_replaced_values_are_refused_or_read(content, tmp_path):
    rng = random.Random(SEED)
    values = [None, True, 0, -1, 1, 2**31, 2**63, 2**64, 2**70, 0.5, 1e308, "", "rows", "weights/depth", [], {}, [[]]]
    paths = list(places(content[0]))
    accepted = 0
    for _ in range(REPLACED_VALUES):
        manifest = copy.deepcopy(content[0])
        *parents, key = rng.choice(paths)
        parent = manifest
        for name in parents:
            parent = parent[name]
        parent[key] = rng.choice(values)
        accepted += refusal(forge(tmp_path / "replaced.so3k", manifest, content[1])) is None
    assert 0 < accepted < REPLACED_VALUES // 2


def test_what_is_read(data):
    python, cpp = parse_bundle(data, "x"), Bundle.parse(data, "x")
    manifest = python.manifest
    for key in ("producer", "units", "precision", "platform", "stablehlo_version", "elements", "energy_shifts"):
        assert getattr(cpp, key) == manifest[key]
    assert (cpp.path, cpp.sha256, cpp.cutoff) == ("x", python.sha256, manifest["cutoff"])
    assert (cpp.message_passing_steps, cpp.ladder, cpp.programs) == (2, manifest["ladder"], manifest["programs"])
    assert cpp.tensors.keys() == python.tensors.keys()
    for name, array in python.tensors.items():
        assert cpp.tensors[name].dtype == array.dtype and np.array_equal(cpp.tensors[name], array)


def test_a_file_that_cannot_be_read(tmp_path):
    for path, reason in ((tmp_path / "none.so3k", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(Error, match=f"{re.escape(str(path))}: cannot be read: {reason}"):
            Bundle.read(str(path))


def test_a_header_of_odd_length(data, tmp_path: Path):
    """Tensors may start at any address."""
    length = int.from_bytes(data[:8], "little")
    for padding in range(1, 8):
        shifted = (length + padding).to_bytes(8, "little") + data[8 : 8 + length] + b" " * padding + data[8 + length :]
        assert np.array_equal(Bundle.parse(shifted, "x").tensors["weights/depth"], DEPTH)
        assert refusal(shifted) is None


@pytest.mark.parametrize("kind", MOVED_STEPS)
def test_steps_that_are_missing_or_moved_are_seen(kind, content, tmp_path):
    assert refusal(forge(tmp_path / "right.so3k", *content)) is None
    steps = content[0]["schedules"]["forces"]
    for moved in MOVED_STEPS[kind](steps):
        data = forge(tmp_path / "moved.so3k", {**content[0], "schedules": {"forces": moved}}, content[1])
        assert refusal(data) is not None


@pytest.mark.parametrize("version", [1, 2, 3])
def test_older_versions_have_the_outputs_of_all_potentials(version, content, tmp_path):
    manifest = {**content[0], "version": version}
    del manifest["outputs"]
    data = forge(tmp_path / "old.so3k", manifest, content[1])
    found = Bundle.parse(data, "x").outputs
    assert found.keys() == content[0]["outputs"].keys()
    assert found["forces"]["unit"] == "eV/A" and found["strain_gradient"]["shape"] == (3, 3)


# What a newer version may declare, and whether this one can give it.
DECLARED = {
    "of atoms": ("float32", ["rows"], "none", True),
    "matrices of atoms": ("float64", ["rows", 3, 3], "none", True),
    "of the system": ("int32", [], "max", True),
    "bytes": ("uint8", ["rows"], "none", False),
    "a cube of atoms": ("float64", ["rows", 3, 3, 3], "none", False),
    "of neighbours": ("float64", ["rows", "neighbours"], "none", False),
    "nothing": ("float64", ["rows", 0], "none", False),
    "summed over atoms": ("float64", ["rows"], "sum", False),
    "of the system by rank": ("float64", [3], "none", False),
    "unknown ranks": ("float64", [3], "mean", False),
}


@pytest.mark.parametrize("case", DECLARED)
def test_what_can_be_given_is_known(case, content, tmp_path):
    dtype, shape, ranks, is_known = DECLARED[case]
    manifest = copy.deepcopy(content[0])
    declare(manifest, "hardness", dtype, shape, ranks)
    manifest["schedules"]["forces"][0]["outputs"].append("hardness")
    manifest["results"]["forces"]["hardness"] = 0
    data = forge(tmp_path / "more.so3k", manifest, content[1])
    found = Bundle.parse(data, "x").outputs["hardness"]
    assert (found["problem"] == "") == is_known and ("update so3krates" in found["problem"]) != is_known
    if is_known:
        assert found["per_atom"] == (shape[:1] == ["rows"]) and found["unit"] == "1"


def test_a_text_in_quotes_may_hold_brackets(content, tmp_path):
    manifest = {**content[0], "producer": '[{\\"' * 100}
    assert refusal(forge(tmp_path / "a.so3k", manifest, content[1])) is None


def test_control_characters_are_replaced_by_what_is_read(content, tmp_path):
    every = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A)]))
    for character in every:
        assert refusal(forge(tmp_path / "a.so3k", {**content[0], "producer": character}, content[1])) is not None
    manifest = printable({**content[0], "producer": every, "training": {every: [every]}})
    assert refusal(forge(tmp_path / "a.so3k", manifest, content[1])) is None
