"""What can be said of the GPU kernels on AMD's processors without one: `make hip-static` (docs/gpu.md)."""

from __future__ import annotations

import ctypes.util
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgpack
from so3krates.model import PRESETS
from so3krates.model.reductions import tabulated_config
from so3krates.storage import Model
from so3krates_export.cuda import AMD, kernel_sizes, launch_of
from so3krates_export.so3lr_fused import long_numbers

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "csrc" / "kernels"
BESIDE = Path(sys.prefix) / "hiprtc"  # where `make hip-static` puts Debian's
PACKAGES = ("libhiprtc6", "libhiprtc-builtins6", "libamd-comgr3", "rocm-device-libs-21")  # of unstable
PROCESSORS = {"gfx90a": "MI200", "gfx942": "MI300", "gfx1100": "RX 7900"}
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
NOTE = b"AMDGPU\0\0"


class Resources(NamedTuple):
    """Of a kernel, as its code object says; registers hold 32 bits in each lane."""

    registers: int  # accumulation registers among them
    spilled: int  # of these, to accumulation registers or memory
    scratch_bytes: int  # memory of a lane
    lanes: int  # of a wavefront


class NoHiprtcError(Exception):
    """There is no hiprtc; the message says how to get one."""


def hiprtc() -> tuple[list[str], str]:
    """A Python that can load hiprtc, as words of a command, and hiprtc's library. Raises NoHiprtcError."""
    python = [str(Path(sys.executable).resolve()), "-I"]
    named = os.environ.get("SO3KRATES_HIPRTC") or ctypes.util.find_library("hiprtc")
    if not named:
        named = next((str(path) for path in sorted(Path("/opt").glob("rocm*/lib/libhiprtc.so"))), "")
    if named:
        return python, named
    library = BESIDE / "usr/lib/x86_64-linux-gnu"
    if not (library / "libhiprtc.so.6").is_file():
        raise NoHiprtcError(
            "needs hiprtc: ROCm, SO3KRATES_HIPRTC=/path/to/libhiprtc.so, or `make hip-static` on Debian"
        )
    # Of a newer system than this one perhaps, so with its own loader and C library.
    loader = [str(library / "ld-linux-x86-64.so.2"), "--library-path", str(library)]
    return [*loader, *python], str(library / "libhiprtc.so.6")


def fetch() -> None:
    """Puts hiprtc and all that it needs, from Debian's unstable packages, into the environment; without root."""
    places = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Identifier: Packages"]
    listed = subprocess.run(places, capture_output=True, text=True, check=True).stdout.splitlines()
    mirror = next((line.split()[1] for line in listed if line.startswith("Debian ")), None)
    if mirror is None:
        raise NoHiprtcError("this system has no Debian mirror: run `apt-get update`, or set SO3KRATES_HIPRTC")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(f"deb [signed-by={KEYS}] {mirror} sid main\n")
        settings = {
            "Dir::Etc::sourcelist": "sources.list", "Dir::Etc::sourceparts": "parts", "Dir::State": ".",
            "Dir::State::lists": "lists", "Dir::State::status": "status", "Dir::Cache": "cache",
            "Dir::Etc::preferencesparts": "parts", "APT::Sandbox::User": "",
        }  # fmt: skip
        command = ["apt-get", "-q"]
        for name, value in settings.items():
            command += ["-o", f"{name}={folder / value if value else value}"]
        install = ["install", "--yes", "--no-install-recommends", "--download-only", *PACKAGES]
        for words in (["update"], install):
            subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL)
        for archive in (folder / "cache" / "archives").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive, BESIDE], check=True)


def code_object(sizes: str, architecture: str) -> bytes:
    """The kernels for an architecture, such as gfx942, with the definitions that `kernel_sizes` gives.

    Raises:
        NoHiprtcError: there is none.
        RuntimeError: what the compiler says.
    """
    python, library = hiprtc()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for header in (*(KERNELS / "cuda").glob("*.h"), *(KERNELS / "shared").glob("*.h")):
            (folder / header.name).write_text(header.read_text())
        source, output = folder / "kernels.cu", folder / "kernels.co"
        source.write_text(sizes + (KERNELS / "cuda" / "kernels.cu").read_text())
        command = [*python, Path(__file__).with_name("hiprtc.py"), library, architecture, source, output]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip() or f"hiprtc ended with {done.returncode}")
        return output.read_bytes()


def resources(code: bytes) -> dict[str, Resources]:
    """What kernels take, from the note of a code object (LLVM's "AMDGPU Code Object V3 Metadata": MessagePack)."""
    place = code.index(NOTE, code.index(b"\x7fELF"))
    (size,) = struct.unpack_from("<I", code, place - 8)
    note = msgpack.unpackb(code[place + len(NOTE) :][:size])
    return {
        kernel[".name"]: Resources(
            kernel[".vgpr_count"],
            kernel[".vgpr_spill_count"],
            kernel[".private_segment_fixed_size"],
            kernel[".wavefront_size"],
        )
        for kernel in note["amdhsa.kernels"]
    }


def rows() -> Iterator[tuple[object, ...]]:
    """Of the table that docs/gpu.md has."""
    gan = tabulated_config(PRESETS["gan"], 256, 0.5)
    so3lr = Model.load(ROOT / "examples" / "models" / "so3lr")
    for name, processor in PROCESSORS.items():
        for network, config, elements, long, channels in (
            ("GaN", gan, 2, None, 1),
            ("GaN", gan, 2, None, 4),
            ("SO3LR", tabulated_config(so3lr.config, 512, 0.5), 8, long_numbers(so3lr.interactions), 1),
        ):
            sizes = kernel_sizes(config, "float32", elements, channels, long, AMD)
            launch = launch_of(config, "float32", channels, AMD)
            found = resources(code_object(sizes, name))
            warps = {"messages": launch.warps, "messages_adjoint": launch.adjoint_warps}
            for kernel in ("messages", "messages_adjoint", *(("long_pairs",) if long else ())):
                r = found[kernel]
                taken = (r.registers, r.spilled, r.scratch_bytes, warps.get(kernel, 8), r.lanes)
                yield network, f"{processor} ({name})", f"`{kernel}`", channels, *taken


def main() -> None:
    try:
        hiprtc()
    except NoHiprtcError:
        fetch()
    print("| network | GPU | kernel | channels | registers | spilled | bytes of memory | warps | lanes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows():
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
