"""Bundles with one thing wrong: what is done to a valid one, and what the message must say."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from so3krates_export.bundle import FORMAT, VERSION, assembled

Manifest = dict[str, Any]


def forge(path: Path, manifest: Manifest, tensors: dict[str, np.ndarray]) -> bytes:
    """A file with a right checksum, whatever the manifest says, in the version that it says."""
    path.write_bytes(assembled({"format": FORMAT, "version": VERSION, **manifest}, tensors))
    return path.read_bytes()


def step(manifest: Manifest, index: int = 0) -> dict[str, Any]:
    return manifest["schedules"]["forces"][index]


BAD_MANIFESTS: dict[str, tuple[Callable[[Manifest], Any], str]] = {
    "producer": (lambda m: m.pop("producer"), '"producer" is not a string'),
    "model": (lambda m: m.update(model=[]), '"model" is not an object'),
    "no elements": (lambda m: m.update(elements=[]), '"elements" is not a list'),
    "element twice": (lambda m: m.update(elements=["Ga", "Ga"]), '"elements" is not a list of different'),
    "one shift": (lambda m: m.update(energy_shifts=[1.0]), '"energy_shifts" is not a list of 2 numbers'),
    "shift is text": (lambda m: m.update(energy_shifts=[1.0, "2"]), '"energy_shifts" is not a list of 2 numbers'),
    "cutoff": (lambda m: m.update(cutoff=0), '"cutoff" is not a positive number'),
    "reach": (lambda m: m.update(reach=m["cutoff"] - 0.1), '"reach" is not a number from the cutoff on'),
    "reach is text": (lambda m: m.update(reach="far"), '"reach" is not a number from the cutoff on'),
    "reach of atoms": (
        lambda m: m.update(atoms_reach=m["cutoff"] - 0.1),
        '"atoms_reach" is not a number from "reach" on',
    ),
    "reach of atoms is text": (lambda m: m.update(atoms_reach="far"), '"atoms_reach" is not a number from "reach" on'),
    "terms": (lambda m: m.update(terms={}), '"terms" is not a list of terms'),
    "term": (lambda m: m.update(terms=["zbl"]), '"terms" is not a list of terms'),
    "term without name": (lambda m: m.update(terms=[{"cutoff": 1.0}]), '"terms" is not a list of terms with a name'),
    "term beyond reach": (
        lambda m: m.update(terms=[{"name": "zbl", "cutoff": m["cutoff"] + 0.1}]),
        '"terms" is not a list of terms with a name and a cutoff up to the reach',
    ),
    "steps": (lambda m: m.update(message_passing_steps=1.5), '"message_passing_steps" is not'),
    "units": (lambda m: m.update(units="real"), '"units" is not "metal"'),
    "precision": (lambda m: m.update(precision="float16"), '"precision" is not'),
    "platform": (lambda m: m.update(platform="tpu"), '"platform" is not'),
    "stablehlo": (lambda m: m.update(stablehlo_version="1.13"), '"stablehlo_version" is not'),
    "training": (lambda m: m.update(training="much"), '"training" is neither'),
    "no rungs": (lambda m: m.update(ladder=[]), '"ladder" is not a list'),
    "rung": (lambda m: m["ladder"][0].update(rows=0), "rung 0 of the ladder"),
    "rung too large": (lambda m: m["ladder"][0].update(rows=2**31), "rung 0 of the ladder"),
    "ladder upside down": (
        lambda m: m["ladder"].append(m["ladder"][0] | {"rows": 1}),
        "rung 1 of the ladder holds no more than rung 0, which is tried before it: small rungs come first",
    ),
    "rung twice": (lambda m: m["ladder"].append(m["ladder"][0]), "rung 1 of the ladder holds no more than rung 0"),
    "buffers": (lambda m: m.pop("buffers"), '"buffers" is not an object'),
    "buffer's name": (lambda m: m["buffers"].update({"weights/x": {}}), "must not be named"),
    "buffer's dtype": (lambda m: m["buffers"]["slopes"].update(dtype="int64"), '"slopes" has an unknown dtype'),
    "buffer's shape": (lambda m: m["buffers"]["slopes"].update(shape=["columns"]), '"slopes" has an unknown shape'),
    "buffer's size": (lambda m: m["buffers"]["slopes"].update(shape=[2**30, 2**30]), '"slopes" is too large'),
    "buffer's role": (lambda m: m["buffers"]["slopes"].update(role="friend"), '"slopes" has an unknown role'),
    "input": (lambda m: m["buffers"]["slopes"].update(role="input"), 'no host fills an input named "slopes"'),
    "no positions": (lambda m: m["buffers"].pop("positions"), '"positions" is not an input of type float64'),
    "short forces": (lambda m: m["buffers"]["forces"].update(dtype="float32"), '"forces" is not an output of type'),
    "programs": (lambda m: m.update(programs=[]), '"programs" is not an object'),
    "program's rungs": (lambda m: m["programs"]["pair"].append("x"), 'program "pair" has not one tensor'),
    "program's tensor": (
        lambda m: m["programs"].update(pair=["programs/pair/7"]),
        'names the tensor "programs/pair/7"',
    ),
    "a weight as program": (lambda m: m["programs"].update(pair=["weights/depth"]), 'names the tensor "weights/depth"'),
    "schedules": (lambda m: m.pop("schedules"), '"schedules" is not an object'),
    "no forces": (lambda m: m.update(schedules={}), 'schedule "forces" is missing'),
    "no steps": (lambda m: m["schedules"].update(forces={}), "is not a list of steps"),
    "step of both kinds": (lambda m: step(m).update(refresh=[]), 'step 0 of schedule "forces" is neither'),
    "unknown program": (lambda m: step(m).update(run="layer"), "step 0 of schedule .* runs an unknown program"),
    "no inputs": (lambda m: step(m).pop("inputs"), "does not list its inputs and outputs"),
    "unknown input": (lambda m: step(m)["inputs"].append("x"), 'reads "x", which is neither'),
    "unknown weight": (lambda m: step(m)["inputs"].append("weights/x"), 'reads "weights/x", which is neither'),
    "output to an input": (lambda m: step(m)["outputs"].append("species"), 'computes "species", which is not'),
    "output twice": (lambda m: step(m)["outputs"].append("edges"), "computes a buffer twice"),
    "donated twice": (lambda m: step(m)["inputs"].append("edges"), 'updates "edges" in place, but reads it twice'),
    "refresh of an input": (lambda m: step(m, 2).update(refresh=["species"]), 'refreshes "species"'),
    "refresh of a matrix": (lambda m: step(m, 2).update(refresh=["strain_gradient"]), 'refreshes "strain_gradient"'),
    "no atom virials": (
        lambda m: m["schedules"].update(virials=m["schedules"]["forces"]),
        'schedule "virials" never computes "atom_vi',
    ),
    "refresh at once": (
        lambda m: m["schedules"]["forces"].insert(0, {"refresh": ["slopes"]}),
        "exchanges between ranks before it computes",
    ),
    "reduction at once": (
        lambda m: m["schedules"]["forces"].insert(0, {"reduce": ["energy"]}),
        "exchanges between ranks before it computes",
    ),
    "reduction of rows": (
        lambda m: m["schedules"]["forces"].append({"reduce": ["forces"]}),
        'reduces "forces", which is not a computed float64 buffer of a fixed size',
    ),
    "reduction of a count": (
        lambda m: m["schedules"]["forces"].append({"reduce": ["neighbours_needed"]}),
        'reduces "neighbours_needed", which is not',
    ),
    "reduction of nothing": (
        lambda m: m["schedules"]["forces"].append({"reduce": 1}),
        "does not list the sums to reduce",
    ),
    "electrons of one element": (
        lambda m: m.update(electrons={"charge": 0, "multiplicity": 1, "protons": [1]}),
        '"electrons" has not a charge, a multiplicity and the protons',
    ),
    "no multiplicity": (
        lambda m: m.update(electrons={"charge": 0, "multiplicity": 0, "protons": [31, 7]}),
        '"electrons" has not a charge, a multiplicity and the protons',
    ),
    "no energy": (lambda m: m["schedules"]["forces"].pop(), 'never computes "energy"'),
    "density dropped": (lambda m: m["schedules"]["forces"].pop(1), 'step 1 .* reads "slopes", which no step'),
    "density after pair": (lambda m: swapped(m, 1, 3), 'reads "slopes", which no step before it computes'),
    "source": (lambda m: step(m).update({"from": [0] * 9}), 'does not read what its "from" says: steps are missing'),
    "source is text": (lambda m: step(m).update({"from": "x"}), 'does not read what its "from" says'),
    "results of nothing": (lambda m: m.update(results={}), 'does not end as "results" says'),
    "results without sources": (lambda m: step(m).pop("from"), 'does not read what its "from" says'),
    "results": (lambda m: m.update(results=[]), '"results" is not an object'),
    "no results": (lambda m: m.pop("results"), '"results" is missing'),
    "no results in version 3": (lambda m: (m.pop("results"), m.update(version=3)), '"results" is missing'),
    "no outputs": (lambda m: m.pop("outputs"), '"outputs" is not an object'),
    "outputs are a list": (lambda m: m.update(outputs=["energy"]), '"outputs" is not an object'),
    "output dropped": (lambda m: m["outputs"].pop("forces"), '"outputs" does not declare "forces"'),
    "output of no buffer": (lambda m: m["outputs"].update(x=m["outputs"]["energy"]), 'declares "x", which is not'),
    "output of a state": (lambda m: m["outputs"].update(slopes=m["outputs"]["energy"]), 'declares "slopes", which'),
    "evaluator's own output": (
        lambda m: m["outputs"].update(neighbours_needed=m["outputs"]["energy"]),
        'declares "neighbours_needed", which is not a buffer of role output',
    ),
    "outputs swapped": (
        lambda m: m["outputs"].update(energy=m["outputs"]["forces"], forces=m["outputs"]["energy"]),
        'output "energy" has not the unit, ranks and standard that all potentials have',
    ),
    "output is text": (lambda m: m["outputs"].update(energy="eV"), 'output "energy" has not the strings unit'),
    "no unit": (lambda m: m["outputs"]["energy"].pop("unit"), 'output "energy" has not the strings unit'),
    "unit is a number": (lambda m: m["outputs"]["energy"].update(unit=1), 'output "energy" has not the strings unit'),
    "standard is a number": (
        lambda m: m["outputs"]["energy"].update(standard=1),
        'output "energy" has not .* standard, true or false',
    ),
    "unit of forces": (lambda m: m["outputs"]["forces"].update(unit="eV/nm"), 'output "forces" has not the unit'),
    "ranks of forces": (lambda m: m["outputs"]["forces"].update(ranks="sum"), 'output "forces" has not the unit'),
    "forces on request": (lambda m: m["outputs"]["forces"].update(standard=False), '"forces" has not the unit'),
    "output that nothing computes": (
        lambda m: declare(m, "hardness", "float64", ["rows"], "none"),
        'neither "forces" nor "virials" computes the output "hardness"',
    ),
    "kernels without lines": (
        lambda m: m.update(kernel_sizes=["A 1"]),
        '"kernel_sizes" is not a list of lists of strings',
    ),
    "guard is a list": (lambda m: m.update(guard=[]), '"guard" has not 2 x 2 distances'),
    "guard without forces": (lambda m: m.update(guard=guard(largest_force="20")), "largest_force, positive or null"),
    "guard of one element": (lambda m: m.update(guard=guard(distances=[[2.0]])), '"guard" has not 2 x 2 distances'),
    "guard that is no matrix": (lambda m: m.update(guard=guard(distances=[[2.0], [1.8]])), '"guard" has not 2 x 2'),
    "negative distance": (lambda m: m.update(guard=guard(distances=[[-2.0, 1], [1, 1]])), "positive or null"),
    "distance zero": (lambda m: m.update(guard=guard(distances=[[0, 1], [1, 1]])), "positive or null"),
    "lopsided distances": (lambda m: m.update(guard=guard(distances=[[2, 1.8], [None, 2]])), "the same both ways"),
    "the guard's output": (
        lambda m: (m.update(guard=guard()), declare(m, "close_pairs", "int32", [], "sum"), computed(m, "close_pairs")),
        'output "close_pairs" is the guard\'s',
    ),
    "network's cutoff": (lambda m: m["model"].update(cutoff=5.5), 'network\'s "cutoff" is 5.5, but "cutoff" is 4'),
    "network's cutoff is text": (lambda m: m["model"].update(cutoff="4"), 'network\'s "cutoff" is not a number'),
    "network's layers": (lambda m: m["model"].update(layers=3), '"layers" is 3, but "message_passing_steps" is 2'),
    "escape sequence": (
        lambda m: m.update(producer="so3krates \x1b[31m"),
        r'control characters .*: "so3krates \\u001b',
    ),
    "bell in a name": (lambda m: m["model"].update({"\x07": 1}), r'control characters in a text: "\\u0007"'),
    "line break": (lambda m: m.update(training={"note": "a\nb"}), r'control characters in a text: "a\\nb"'),
    "other direction": (lambda m: m.update(elements=["Ga", "\u202eN"]), r'control characters in a text: "\\u202eN"'),
    "text of 5 MB": (lambda m: m.update(producer="x" * 5000000), "holds a text of 5000000 bytes, and at most 65536"),
}


def guard(**changes: Any) -> dict[str, Any]:
    return {"distances": [[2.6, 1.8], [1.8, None]], "largest_force": 20.0} | changes


def computed(manifest: Manifest, name: str) -> None:
    """As if the first step computed it."""
    step(manifest)["outputs"].append(name)
    manifest["results"]["forces"][name] = 0


def swapped(manifest: Manifest, first: int, second: int) -> None:
    steps = manifest["schedules"]["forces"]
    steps[first], steps[second] = steps[second], steps[first]


def declare(manifest: Manifest, name: str, dtype: str, shape: list[int | str], ranks: str) -> None:
    """An output that no step computes."""
    manifest["buffers"][name] = {"dtype": dtype, "shape": shape, "role": "output"}
    manifest["outputs"][name] = {"unit": "1", "ranks": ranks, "standard": False, "meaning": "of a test"}


# Of a bundle that says which step's values each step reads.
MOVED_STEPS: dict[str, Callable[[list[Any]], Any]] = {
    "each dropped": lambda steps: [steps[:k] + steps[k + 1 :] for k in range(len(steps))],
    "neighbours swapped": lambda steps: [
        [*steps[:k], steps[k + 1], steps[k], *steps[k + 2 :]] for k in range(len(steps) - 1)
    ],
    "each repeated": lambda steps: [steps[: k + 1] + steps[k:] for k in range(len(steps))],
    "none": lambda steps: [[]],
}


def edited(data: bytes, edit: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file with another header."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    edit(header)
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data[8 + length :]


def repeated(data: bytes, name: str) -> bytes:
    """The file whose header ends with a second entry of that name."""
    length = struct.unpack("<Q", data[:8])[0]
    head = data[8 : 8 + length].rstrip()[:-1] + f",{name}:{{}}}}".encode()
    return struct.pack("<Q", len(head)) + head + data[8 + length :]


def edit_manifest(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    def edit(header: dict[str, Any]) -> None:
        metadata = header["__metadata__"]
        metadata["so3krates"] = json.dumps({**json.loads(metadata["so3krates"]), **changes})

    return edit


BAD_FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda d: b"", "cut short, or no so3krates bundle"),
    "header cut": (lambda d: d[:200], "cut short, or no so3krates bundle"),
    "data cut": (lambda d: d[:-1], "damaged or cut short"),
    "data too long": (lambda d: d + b"\0", "damaged or cut short"),
    "text": (lambda d: b"units metal\natom_style atomic\n", "cut short, or no so3krates bundle"),
    "no JSON": (lambda d: struct.pack("<Q", 4) + b"abcd", "the header is not JSON"),
    "JSON array": (lambda d: struct.pack("<Q", 2) + b"[]", "the header is not a JSON object"),
    "a tensor twice": (lambda d: repeated(d, '"weights/depth"'), 'the header has "weights/depth" twice'),
    "the manifest twice": (lambda d: repeated(d, '"__metadata__"'), 'the header has "__metadata__" twice'),
    "a key of the manifest twice": (
        lambda d: edited(
            d, lambda h: h["__metadata__"].update(so3krates=h["__metadata__"]["so3krates"][:-1] + ', "cutoff": 3}')
        ),
        'the manifest has "cutoff" twice',
    ),
    "deep JSON": (lambda d: struct.pack("<Q", 200000) + b"[" * 200000, "is not JSON"),
    "deeper JSON": (lambda d: struct.pack("<Q", 3000000) + b'{"x":' * 600000, "is not JSON of at most 64"),
    "deep and closed": (
        lambda d: edited(d, lambda h: h.update(x=json.loads("[" * 64 + "]" * 64))),
        "is not JSON of at most 64",
    ),
    "deep manifest": (
        lambda d: edited(d, edit_manifest(model={"x": json.loads("[" * 70 + "]" * 70)})),
        "the manifest is not JSON of at most 64",
    ),
    "long header": (lambda d: struct.pack("<Q", 2**24 + 1) + b" " * (2**24 + 1), "has a header of 16777217 bytes"),
    "escape in a tensor's name": (
        lambda d: edited(d, lambda h: h.update({"weights/\x1b[2J": h.pop("weights/depth")})),
        r"the header holds control characters in a text: .weights/\\u001b",
    ),
    "other safetensors file": (lambda d: safetensors.numpy.save({"x": np.zeros(3)}), "not a so3krates bundle"),
    "other metadata": (lambda d: edited(d, lambda h: h.update(__metadata__={"a": "b"})), "not a so3krates bundle"),
    "other format": (lambda d: edited(d, edit_manifest(format="other")), '"format" is not "so3krates-bundle"'),
    "newer": (lambda d: edited(d, edit_manifest(version=7)), "version 7, but this so3krates reads up to version 6"),
    "edited manifest": (lambda d: edited(d, edit_manifest(cutoff=5.5)), "does not match its checksum"),
    "renamed weight": (
        lambda d: edited(d, lambda h: h.update({"weights/deep": h.pop("weights/depth")})),
        "does not match its checksum",
    ),
    "flipped bit": (lambda d: d[:-1] + bytes([d[-1] ^ 1]), "does not match its checksum"),
    "unknown dtype": (lambda d: edited(d, lambda h: h["weights/depth"].update(dtype="F4")), "damaged|unknown type"),
}
