"""Damaged bundles: both readers refuse every one with one line, never with a crash, and agree on what is valid."""

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
from so3krates_export import BundleError, write_bundle
from so3krates_export.bundle import parse_bundle
from so3krates_export.bundle_outputs import KNOWN_OUTPUTS, outputs_of
from toy_bundle import DEPTH, LADDER, toy_bundle

MUTATIONS = 800
REPLACED_VALUES = 1500
SEED = 20240917

Reader = Callable[[bytes], Any]
READERS: dict[str, tuple[Reader, type[Exception]]] = {
    "python": (lambda data: parse_bundle(data, "name"), BundleError),
    "c++": (lambda data: Bundle.parse(data, "name"), Error),
}


@pytest.fixture(scope="module")
def content() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return toy_bundle(LADDER[:1])


@pytest.fixture(scope="module")
def data(content, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("bundle") / "toy.so3k"
    write_bundle(path, *content)
    return path.read_bytes()


def refusal(reader: str, data: bytes) -> str | None:
    """The reader's message, or nothing where it accepts the file; any other exception passes."""
    read, error_type = READERS[reader]
    try:
        read(data)
    except error_type as error:
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
    assert refusal("python", data) is None and refusal("c++", data) is None


@pytest.mark.parametrize("reader", READERS)
def test_every_mutation_is_refused(reader, data):
    seen: dict[str, int] = {}
    for k, (kind, damaged) in enumerate(mutations(data, MUTATIONS, SEED)):
        assert refusal(reader, damaged) is not None, f"mutation {k}, {kind}, went unnoticed"
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
def test_both_readers_say_the_same_of_a_bad_file(case, data):
    change, message = BAD_FILES[case]
    for reader in READERS:
        assert re.search(message, refusal(reader, change(data)) or "accepted"), reader


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_both_readers_say_the_same_of_a_bad_manifest(case, content, tmp_path):
    change, message = BAD_MANIFESTS[case]
    manifest = copy.deepcopy(content[0])
    change(manifest)
    data = forge(tmp_path / "bad.so3k", manifest, content[1])
    assert re.search(message, refusal("python", data) or "accepted")
    assert refusal("c++", data) == refusal("python", data)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values in a manifest."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def test_readers_agree_on_replaced_values(content, tmp_path):
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
        data = forge(tmp_path / "replaced.so3k", manifest, content[1])
        says = refusal("python", data)
        assert refusal("c++", data) == says, (parents, key, parent[key])
        accepted += says is None
    assert 0 < accepted < REPLACED_VALUES // 2


def test_both_readers_read_the_same(data):
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
        assert refusal("python", shifted) is None


@pytest.mark.parametrize("kind", MOVED_STEPS)
def test_both_readers_see_steps_that_are_missing_or_moved(kind, content, tmp_path):
    assert refusal("c++", forge(tmp_path / "right.so3k", *content)) is None
    steps = content[0]["schedules"]["forces"]
    for moved in MOVED_STEPS[kind](steps):
        data = forge(tmp_path / "moved.so3k", {**content[0], "schedules": {"forces": moved}}, content[1])
        message = refusal("python", data)
        assert message is not None and message == refusal("c++", data)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_older_versions_have_the_outputs_of_all_potentials(version, content, tmp_path):
    manifest = {**content[0], "version": version}
    del manifest["outputs"]
    data = forge(tmp_path / "old.so3k", manifest, content[1])
    found = Bundle.parse(data, "x").outputs
    assert found.keys() == content[0]["outputs"].keys() < KNOWN_OUTPUTS.keys()
    assert found == {name: output._asdict() for name, output in outputs_of(parse_bundle(data, "x").manifest).items()}
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
def test_both_readers_know_what_they_can_give(case, content, tmp_path):
    dtype, shape, ranks, is_known = DECLARED[case]
    manifest = copy.deepcopy(content[0])
    declare(manifest, "hardness", dtype, shape, ranks)
    manifest["schedules"]["forces"][0]["outputs"].append("hardness")
    manifest["results"]["forces"]["hardness"] = 0
    data = forge(tmp_path / "more.so3k", manifest, content[1])
    found = Bundle.parse(data, "x").outputs["hardness"]
    own = outputs_of(parse_bundle(data, "x").manifest)["hardness"]._asdict()
    assert (found["problem"] == "") == is_known and found["problem"] == own["problem"]
    assert "update so3krates" in found["problem"] or is_known
    if is_known:
        assert found == own and found["per_atom"] == (shape[:1] == ["rows"]) and found["unit"] == "1"


def test_a_text_in_quotes_may_hold_brackets(content, tmp_path):
    manifest = {**content[0], "producer": '[{\\"' * 100}
    assert refusal("python", forge(tmp_path / "a.so3k", manifest, content[1])) is None
    assert refusal("c++", (tmp_path / "a.so3k").read_bytes()) is None
