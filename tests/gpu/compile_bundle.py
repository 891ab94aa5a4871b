"""Compiles a bundle's programs for an H200, on any machine that has XLA's plugin for CUDA; prints JSON.

A process of its own: JAX must not take the plugin for a device. Arguments: BUNDLE PLUGIN RUNG...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jax._src.interpreters.mlir import make_ir_context
from jax.experimental import topologies
from jaxlib import xla_client
from jaxlib.mlir.dialects import stablehlo
from so3krates import _harness

TARGET = Path(__file__).with_name("hopper.txtpb")


def main(path: str, plugin: str, rungs: list[int]) -> dict[str, object]:
    attributes = _harness.pjrt.plugin_attributes(plugin)  # opens the plugin and makes the kernels known to it
    topology = topologies.get_topology_desc(
        platform="cuda", target_config="".join(TARGET.read_text().splitlines(True)[1:]), topology="1x1x1"
    )
    client = topology.devices[0].client
    devices = xla_client.DeviceList(tuple(topology.devices))
    bundle = _harness.Bundle.read(path)
    compiled = {}
    for rung in rungs:
        for name, artifacts in bundle.programs.items():
            module = stablehlo.deserialize_portable_artifact(
                make_ir_context(), bundle.tensors[artifacts[rung]].tobytes()
            )
            executable = client.compile(module, devices, xla_client.CompileOptions())
            memory = executable.get_compiled_memory_stats()
            text = "\n".join(m.to_string() for m in executable.hlo_modules())
            compiled[f"{name}/{rung}"] = {
                "temporary": memory.temp_size_in_bytes,
                "arguments": memory.argument_size_in_bytes,
                "new_results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
                "operations": sorted({line.split("(")[0].split()[-1] for line in text.splitlines() if " = " in line}),
                "targets": sorted({t.split('"')[0] for t in text.split('custom_call_target="')[1:]}),
            }
    return {"attributes": attributes, "programs": compiled}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], [int(rung) for rung in sys.argv[3:]])))
