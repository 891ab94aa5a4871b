"""Libraries compiled for tests: a driver of GPUs that are not there; XLA's plugin for the CPU by another name; ranks
that wait."""

from __future__ import annotations

import subprocess
from pathlib import Path

from so3krates._harness import pjrt

TESTS = Path(__file__).parent
SHARED = ["c++", "-std=c++17", "-shared", "-fPIC"]


def cuda_driver(folder: Path) -> Path:
    """Functions of NVIDIA's driver and NVRTC, which answer as the environment says (fake_cuda.cpp)."""
    library = folder / "cuda.so"
    source = TESTS / "gpu" / "fake_cuda.cpp"
    subprocess.run([*SHARED, '-DHOST_CUDA="none"', str(source), "-o", str(library), "-ldl"], check=True)
    return library


def waiting_ranks(folder: Path) -> Path:
    """What ranks are given to wait without taking a core (waiting_ranks.c)."""
    library = folder / "waiting.so"
    source = TESTS / "lammps" / "waiting_ranks.c"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"], check=True)
    return library


def other_plugin(
    folder: Path, pin: str = "map_memory", unpin: str = "unmap_memory", platform: str | None = None
) -> Path:
    """The CPU plugin with other entries of its table, C++ expressions, for memory that is pinned; and perhaps with the
    name of another platform."""
    library = folder / "plugin.so"
    defined = [f'-DPLUGIN="{pjrt.find_plugin("cpu")[0]}"', f"-DPIN={pin}", f"-DUNPIN={unpin}"]
    if platform is not None:
        defined.append(f'-DPLATFORM="{platform}"')
    headers = TESTS.parent / "csrc" / "third_party" / "xla"
    source = TESTS / "runtime" / "pinning_plugin.cpp"
    subprocess.run([*SHARED, f"-I{headers}", *defined, str(source), "-o", str(library), "-ldl"], check=True)
    return library
