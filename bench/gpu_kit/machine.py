"""What the target has, what is missing, and the command that gets it; standard library only."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

RELEASES = (13, 12)  # of CUDA, in the order in which they are looked for
CPU_PLUGIN = "fastatomstruct_xla_cpu/libpjrt_cpu.so"  # in site-packages
ATTRIBUTES = {
    "processors": 16,
    "clock_khz": 13,
    "memory_clock_khz": 36,
    "memory_bus_bits": 37,
    "l2_bytes": 38,
    "major": 75,
    "minor": 76,
    "shared_bytes_of_a_block": 97,
}  # CU_DEVICE_ATTRIBUTE_...


class MissingError(RuntimeError):
    """Something that the kit needs is not there; the message has the command that gets it."""


class Driver(NamedTuple):
    """NVIDIA's driver."""

    library: str
    release: int  # of CUDA that it is made for, e.g. 13000


def open_driver(library: str) -> tuple[Driver, Any]:
    """Raises MissingError where there is no driver or no GPU."""
    name = library or "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError as error:
        raise MissingError(
            f"NVIDIA's driver is not here ({error}): run on a machine with a GPU, or with --device cpu"
        ) from error
    if (code := driver.cuInit(0)) != 0:
        raise MissingError(f"starting the driver failed with error {code}: see nvidia-smi and CUDA_VISIBLE_DEVICES")
    release = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(release))
    return Driver(name, release.value), driver


def describe_gpu(driver: Any, index: int) -> dict[str, Any]:
    """Name, memory and limits of a GPU; MissingError where there is none of that index."""
    count, device, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    driver.cuDeviceGetCount(ctypes.byref(count))
    if index >= count.value:
        raise MissingError(
            f"cuda:{index} was asked for, and the driver shows {count.value} GPUs, counted from 0: "
            "choose another --device, see CUDA_VISIBLE_DEVICES"
        )
    driver.cuDeviceGet(ctypes.byref(device), index)
    found: dict[str, Any] = {"gpus": count.value}
    name = ctypes.create_string_buffer(256)
    if hasattr(driver, "cuDeviceGetName"):  # the one that stands in for a driver has neither
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        found |= {"name": name.value.decode(), "memory_bytes": memory.value}
    for key, number in ATTRIBUTES.items():
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
        found[key] = value.value
    return found


def package_folders(given: Iterable[Path]) -> list[Path]:
    """Folders that packages may lie in: those given, this Python's, conda's."""
    folders = [*given, *(Path(folder) for folder in sys.path if folder)]
    if prefix := os.environ.get("CONDA_PREFIX"):
        folders += sorted(Path(prefix).glob("lib/python3*/site-packages"))
    return list(dict.fromkeys(folder.resolve() for folder in folders if folder.is_dir()))


def find_plugin(folders: Iterable[Path], release: int, given: str = "") -> str:
    """XLA's plugin for the newest CUDA that the driver takes. Raises MissingError where there is none."""
    given = given or os.environ.get("SO3KRATES_PJRT_CUDA", "")
    if given:
        if not Path(given).is_file():
            raise MissingError(f"there is no plugin {given}: give --plugin the path of an xla_cuda_plugin.so")
        return given
    found = [
        (cuda, path)
        for cuda in RELEASES
        for folder in folders
        if (path := folder / f"jax_plugins/xla_cuda{cuda}/xla_cuda_plugin.so").is_file()
    ]
    major = release // 1000
    for cuda, path in found:
        if cuda <= major:
            return str(path)
    extra = "cuda13" if major >= 13 else "cuda12"
    get = f"{sys.executable} -m pip install 'jax[{extra}]', or give --plugin or --packages"
    if found:
        raise MissingError(
            f"the driver is made for CUDA {major}.{release % 1000 // 10}, and the only plugin here is for CUDA "
            f"{found[-1][0]} ({found[-1][1]}): {get}, or install a newer driver"
        )
    raise MissingError(f"XLA's plugin for CUDA is not here: {get}")


def library_folders() -> list[Path]:
    """Where a CUDA that pip did not install may have its libraries."""
    folders = [Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    for variable in ("CONDA_PREFIX", "CUDA_HOME", "CUDA_PATH"):
        if prefix := os.environ.get(variable):
            folders += [Path(prefix) / "lib", Path(prefix) / "lib64", Path(prefix) / "targets/x86_64-linux/lib"]
    for toolkit in sorted(Path("/usr/local").glob("cuda*"), reverse=True):
        folders += [toolkit / "lib64", toolkit / "targets/x86_64-linux/lib"]
    return [*folders, Path("/usr/lib/x86_64-linux-gnu")]


def find_nvrtc(folders: Iterable[Path], release: int, given: Iterable[Path] = ()) -> str:
    """NVIDIA's compiler of the newest CUDA that the driver takes. Raises MissingError where there is none."""
    if named := os.environ.get("SO3KRATES_NVRTC"):
        return named
    folders, given = list(folders), list(given)
    major = release // 1000
    tried = []
    for cuda in (cuda for cuda in RELEASES if cuda <= major):
        name = f"libnvrtc.so.{cuda}"
        places = [place / sub for place in given for sub in ("", "lib", "lib64", "targets/x86_64-linux/lib")]
        places += [folder / f"nvidia/{sub}/lib" for folder in folders for sub in (f"cu{cuda}", "cuda_nvrtc")]
        for place in [*places, *library_folders()]:
            if (place / name).is_file():
                return str(place / name)
        try:
            ctypes.CDLL(name)
            return name
        except OSError:
            tried.append(name)
    package = "nvidia-cuda-nvrtc" if major >= 13 else "nvidia-cuda-nvrtc-cu12"
    raise MissingError(
        f"NVRTC, which compiles the kernels, is not here ({' and '.join(tried) or 'driver too old for any'}): "
        f"{sys.executable} -m pip install {package}, or give --cuda the folder of a CUDA toolkit"
    )


def find_cpu_plugin(folders: Iterable[Path], given: str = "") -> str:
    """The CPU plugin, for a rehearsal. Raises MissingError where there is none."""
    given = given or os.environ.get("SO3KRATES_PJRT_CPU", "")
    if given:
        if not Path(given).is_file():
            raise MissingError(f"there is no plugin {given}: give --plugin the path of a PJRT plugin for the CPU")
        return given
    for folder in folders:
        if (folder / CPU_PLUGIN).is_file():
            return str(folder / CPU_PLUGIN)
    raise MissingError(
        f"no PJRT plugin for the CPU is here: {sys.executable} -m pip install fastatomstruct-xla-cpu, or give "
        "--packages the folder site-packages of an environment that has it"
    )


def build_stand_in(sources: Path, folder: Path) -> Path:
    """NVIDIA's driver and NVRTC for machines without a GPU, as one library. Needs a C++ compiler."""
    library = folder / "cuda.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", f'-DHOST_CUDA="{sources.resolve() / "host_cuda.h"}"']
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["c++", *flags, str(sources / "fake_cuda.cpp"), "-o", str(library), "-ldl"], check=True)
    return library


def tools() -> dict[str, str]:
    """Paths of NVIDIA's tools and of compilers, those that are here."""
    names = ("nvidia-smi", "nvcc", "ncu", "compute-sanitizer", "cuobjdump", "c++", "cmake", "mpiexec")
    return {name: path for name in names if (path := _which(name))}


def _which(name: str) -> str | None:
    places = ["/usr/local/cuda/bin", *(str(p) for p in Path("/opt/nvidia/nsight-compute").glob("*"))]
    return shutil.which(name) or shutil.which(name, path=":".join(places))


def describe_host() -> dict[str, Any]:
    """Processor, memory, system, Python and the packages that matter."""
    import importlib.metadata

    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    wanted = ("jax", "jaxlib", "numpy", "mace-torch", "deepmd-kit")
    prefixes = ("jax-cuda", "nvidia-cuda-nvrtc", "nvidia-cublas", "nvidia-cudnn")
    packages = {}
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if name in wanted or name.startswith(prefixes):
            packages[name] = distribution.version
    return {
        "processor": names[0] if names else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}",
        "python": platform.python_version(),
        "packages": packages,
        "tools": tools(),
    }
