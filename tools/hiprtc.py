"""Compiles a source by AMD's hiprtc: LIBRARY ARCHITECTURE SOURCE OUTPUT, headers beside the source. Standard library
only: it may run under another system's loader."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

# As NVRTC's in csrc/runtime/cuda_kernels.cpp, where lambdas take an option of their own; a block of the kernels that
# say nothing else has 256 threads (SIMPLE_WARPS in so3krates_export/cuda.py).
OPTIONS = ("--std=c++17", "-fgpu-flush-denormals-to-zero", "--gpu-max-threads-per-block=256")


class HiprtcError(Exception):
    """What hiprtc says."""


def compiled(library: str, architecture: str, source: str, headers: dict[str, str]) -> bytes:
    """The code object for an architecture, such as gfx942. Raises HiprtcError with the compiler's words, and OSError
    where the library cannot be loaded."""
    rtc = ctypes.CDLL(library)
    rtc.hiprtcGetErrorString.restype = ctypes.c_char_p

    def call(name: str, *arguments: object) -> None:
        error = getattr(rtc, name)(*arguments)
        if error != 0:
            raise HiprtcError(f"{name} failed: {rtc.hiprtcGetErrorString(error).decode()}")

    def result(what: str, size_of: str) -> bytes:
        size = ctypes.c_size_t()
        call(size_of, program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        call(what, program, data)
        return data.raw

    def texts(values: list[str]) -> ctypes.Array[ctypes.c_char_p]:
        return (ctypes.c_char_p * len(values))(*(value.encode() for value in values))

    program = ctypes.c_void_p()
    names = [texts(list(headers.values())), texts(list(headers))]
    call("hiprtcCreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", len(headers), *names)
    options = [f"--gpu-architecture={architecture}", *OPTIONS]
    try:
        call("hiprtcCompileProgram", program, len(options), texts(options))
    except HiprtcError as error:
        log = result("hiprtcGetProgramLog", "hiprtcGetProgramLogSize")
        raise HiprtcError(f"{error}\n{log.rstrip(bytes(1)).decode(errors='replace')}") from None
    return result("hiprtcGetCode", "hiprtcGetCodeSize")


def main(library: str, architecture: str, source: str, output: str) -> None:
    path = Path(source)
    headers = {header.name: header.read_text() for header in path.parent.glob("*.h")}
    try:
        code = compiled(library, architecture, path.read_text(), headers)
    except (HiprtcError, OSError) as error:
        sys.exit(str(error))
    Path(output).write_bytes(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
