"""What can be said of the GPU code without a GPU: `kernels`, tables of what they take; `plugins RELEASE...`, which
releases of XLA's plugin compile a bundle's programs (12-0.11.2: for CUDA 12, of jax 0.11.2; rocm7-0.12.0: for ROCm)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import gpu_instructions
import jax
import numpy as np
from so3krates import _harness
from so3krates.model import PRESETS, ModelConfig, init_params
from so3krates.model.reductions import tabulated_config
from so3krates.storage import Model
from so3krates_export.cuda import CHANNELS, LONG_BYTES, SIMPLE_WARPS, WARP, kernel_sizes, launch_of
from so3krates_export.export import export_model
from so3krates_export.fused import widths
from so3krates_export.ladder import gpu_ladder
from so3krates_export.so3lr_fused import long_numbers
from stand_in_libraries import stand_ins

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "gpu"
BESIDE = Path(sys.prefix) / "cuda"  # where `make test` puts plugin and NVRTC
NVDISASM = Path(sys.prefix) / "nvdisasm"  # where `make gpu-static` puts it
ROWS = 100_000


class Processor(NamedTuple):
    """Of a GPU, for what a block may take (CUDA C++ Programming Guide, compute capabilities)."""

    name: str
    registers: int  # 32 bits each
    shared_bytes: int
    block_bytes: int  # that one block may take
    warps: int


PROCESSORS = {
    "sm_80": Processor("A100", 65536, 164 * 1024, 163 * 1024, 64),
    "sm_90": Processor("H100, H200", 65536, 228 * 1024, 227 * 1024, 64),
    "sm_100": Processor("B200", 65536, 228 * 1024, 227 * 1024, 64),
    "sm_120": Processor("RTX 50", 65536, 100 * 1024, 99 * 1024, 48),
}
USED = re.compile(
    r"entry function '(?P<kernel>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<stored>\d+) bytes spill stores, "
    r"(?P<loaded>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def occupancy(processor: Processor, warps: int, registers: int, shared: int) -> float:
    """Share of a processor's warps that are there at once: registers come by 8 a thread, shared memory with 1 KiB."""
    by_registers = processor.registers // (-(-registers // 8) * 8 * WARP * warps)
    by_memory = processor.shared_bytes // (shared + 1024)
    return min(by_registers, by_memory, processor.warps // warps) * warps / processor.warps


def kernels() -> None:
    """Needs a driver's name for NVRTC's release only: the stand-in of the tests serves."""
    print(
        "| network | GPU | kernel | channels | registers | spills stored, loaded | warps | shared bytes | occupancy |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    gan = tabulated_config(PRESETS["gan"], 256, 0.5)
    so3lr = Model.load(ROOT / "examples" / "models" / "so3lr")
    long = long_numbers(so3lr.interactions)
    for network, config, elements, all_channels, numbers in (
        ("GaN", gan, 2, CHANNELS, None),
        ("SO3LR", tabulated_config(so3lr.config, 512, 0.5), len(so3lr.elements), (1,), long),
    ):
        for architecture, processor in PROCESSORS.items():
            for channels in all_channels:
                sizes = kernel_sizes(config, "float32", elements, channels, numbers)
                _, text = _harness.pjrt.cuda_kernel_resources(sizes, architecture)
                found = {m["kernel"]: m for m in USED.finditer(text)}
                for kernel, (most, of_block, of_warp) in blocks_of(config, channels, numbers is not None).items():
                    used = found[kernel]
                    warps = min(most, (processor.block_bytes - of_block) // of_warp)
                    shared = of_block + warps * of_warp
                    share = occupancy(processor, warps, int(used["registers"]), shared)
                    print(
                        f"| {network} | {processor.name} ({architecture}) | `{kernel}` | {channels} "
                        f"| {used['registers']} | {used['stored']}, {used['loaded']} | {warps} | {shared} "
                        f"| {100 * share:.0f} % |"
                    )


def blocks_of(config: ModelConfig, channels: int, is_long: bool) -> dict[str, tuple[int, int, int]]:
    """Of kernels that take shared memory: warps of a block at most, bytes of a block without them, and of each."""
    launch = launch_of(config, "float32", channels)
    adjoint_bytes = launch.tile_bytes + launch.adjoint_bytes
    found = {
        "messages": (launch.warps, launch.matrix_bytes, launch.tile_bytes),
        "messages_adjoint": (launch.adjoint_warps, launch.matrix_bytes, adjoint_bytes),
    }
    return found | ({"long_pairs": (SIMPLE_WARPS, 0, LONG_BYTES)} if is_long else {})


def instructions() -> None:
    """As docs/gpu.md has them, for an H100 and one channel."""
    config = tabulated_config(PRESETS["gan"], 256, 0.5)
    cubin, _ = _harness.pjrt.cuda_kernel_resources(kernel_sizes(config, "float32", 2, 1), "sm_90")
    (nvdisasm,) = NVDISASM.glob("nvidia/*/bin/nvdisasm")
    with tempfile.TemporaryDirectory() as folder:
        code = gpu_instructions.machine_code(cubin, nvdisasm, Path(folder))
    print("| | hidden layers | filters' products | of these on matrix units | edge by edge | for a tile | |")
    print("|---|---|---|---|---|---|---|")
    for name in gpu_instructions.EDGES_AT_ONCE:
        count = gpu_instructions.counted(name, code[name], widths(config).feature_width // 4)
        print(f"| `{name}` | " + " | ".join(f"{number:.0f}" for number in (*count, count.total)) + " |")


def plugins(releases: list[str]) -> None:
    """Downloads each release and compiles every program of the GaN preset's rung for `ROWS` rows."""
    params = jax.tree.map(np.asarray, init_params(PRESETS["gan"], 0))
    model = Model(PRESETS["gan"], params, ("Ga", "N"), {"Ga": 0.0, "N": 0.0})
    rung = next(rung for rung in gpu_ladder() if rung.rows >= ROWS)
    print("| plugin | StableHLO | programs compiled | structs too small |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for release in releases:
            name, version = release.split("-", 1)
            name = f"cuda{name}" if name.isdigit() else name
            platform = name.rstrip("0123456789")
            bundle, place = Path(folder) / f"{platform}.so3k", Path(folder) / release
            if not bundle.exists():
                export_model(model, bundle, platform=platform, ladder=[rung])
            package = f"jax-{name}-pjrt=={version}"
            subprocess.run(
                [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", place, package], check=True
            )
            plugin = place / "jax_plugins" / f"xla_{name}" / f"xla_{platform}_plugin.so"
            command = [sys.executable, TESTS / "compile_bundle.py", bundle, plugin, "0"]
            environment = dict(os.environ)
            if platform == "rocm":
                stand_ins(plugin, place / "stand_ins")
                environment["LD_LIBRARY_PATH"] = str(place / "stand_ins")
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
            if done.returncode != 0:
                print(f"| {package} | | {done.stderr.strip().splitlines()[-1]} | |", flush=True)
                continue
            found = json.loads(done.stdout)
            small = [
                name
                for name, (ours, text) in found["structs"].items()
                if int(text.split("size: expected ")[1].split(",")[0]) > ours
            ]
            reads = found["attributes"]["stablehlo_current_version"]
            print(f"| {package} | {reads} | {len(found['programs'])} | {', '.join(small) or 'none'} |", flush=True)


def with_stand_in() -> None:
    """NVRTC of the environment beside this one, and the driver of the tests in front of it."""
    folder = Path(tempfile.mkdtemp())
    driver = folder / "cuda.so"
    flags = ["-std=c++17", "-shared", "-fPIC", '-DHOST_CUDA="none"']
    subprocess.run(["c++", *flags, str(TESTS / "fake_cuda.cpp"), "-o", str(driver), "-ldl"], check=True)
    os.environ["SO3KRATES_CUDA_DRIVER"] = str(driver)
    for path in ("nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"):
        if (BESIDE / path).is_file():
            os.environ.setdefault("SO3KRATES_NVRTC", str(BESIDE / path))


if __name__ == "__main__":
    if sys.argv[1] == "kernels":
        with_stand_in()
        kernels()
        instructions()
    else:
        plugins(sys.argv[2:])
