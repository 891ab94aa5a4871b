"""Compiles a bundle's programs for an H200 with a plugin for CUDA, or for an MI300X with one for ROCm, on any machine;
prints JSON.

A process of its own, because plugins are never unloaded. JAX has no part in it, so that any release of the plugin can
be tried. Arguments: BUNDLE PLUGIN RUNG...
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.version import Version
from so3krates import _harness

TARGETS = {"cuda": "hopper.txtpb", "rocm": "mi300.txtpb"}
NEW_TARGET = Version("1.17")  # of StableHLO, in jax 0.10


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of protocol buffers, and where the next thing begins."""
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def fields(data: bytes, wanted: int) -> Iterator[bytes]:
    """Contents of the fields `wanted` of a message of protocol buffers, where these are messages or texts."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 2:
            length, at = varint(data, at)
            if key >> 3 == wanted:
                yield data[at : at + length]
            at += length
        elif kind == 0:
            _, at = varint(data, at)
        else:
            at += {1: 8, 5: 4}[kind]


def instructions(program: bytes) -> Iterator[bytes]:
    """The messages xla.HloInstructionProto of a xla.HloModuleProtoWithConfig."""
    for module in fields(program, 1):
        for computation in fields(module, 3):
            yield from fields(computation, 2)


def main(path: str, plugin: str, rungs: list[int]) -> dict[str, Any]:
    attributes = _harness.pjrt.plugin_attributes(plugin)
    is_old = Version(attributes["stablehlo_current_version"]) < NEW_TARGET
    bundle = _harness.Bundle.read(path)
    lines = Path(__file__).with_name(TARGETS[bundle.platform]).read_text().splitlines(keepends=True)
    target = "".join(line for line in lines if not (is_old and "# not in 0.9" in line))
    compiled = {}
    for rung in rungs:
        for name, artifacts in bundle.programs.items():
            artifact = bundle.tensors[artifacts[rung]].tobytes()
            found = _harness.pjrt.compile_for(plugin, target, artifact, name, platform=bundle.platform)
            program = found.pop("program")
            compiled[f"{name}/{rung}"] = found | {
                "new_results": found["results"] - found["aliases"],
                "operations": sorted({text.decode() for i in instructions(program) for text in fields(i, 2)}),
                "targets": sorted({text.decode() for i in instructions(program) for text in fields(i, 28)}),
            }
    sizes = _harness.pjrt.struct_sizes(plugin)
    return {"attributes": attributes, "programs": compiled, "structs": sizes}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], [int(rung) for rung in sys.argv[3:]])))
