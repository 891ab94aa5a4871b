"""The fused CPU kernels in JAX's own runtime, for tests and benchmarks of programs that call them."""

import ctypes
import functools
from pathlib import Path

import jax

from .lammps import plugin_directory


class _Kernel(ctypes.Structure):
    """As in csrc/kernels/registry.h."""

    _fields_ = (("name", ctypes.c_char_p), ("handler", ctypes.c_void_p))


@functools.cache
def register_kernels(library: Path | None = None) -> list[str]:
    """Make the custom calls of `library`, by default the installed runtime, known to JAX; returns their names."""
    if library is None:
        library = Path(plugin_directory()) / "libso3krates_runtime.so"
    table = ctypes.CDLL(str(library)).so3krates_kernels
    table.restype = ctypes.POINTER(_Kernel)
    count = ctypes.c_size_t()
    kernels = table(ctypes.byref(count))
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    names = []
    for kernel in (kernels[k] for k in range(count.value)):
        names.append(kernel.name.decode())
        jax.ffi.register_ffi_target(names[-1], capsule(kernel.handler, None, None), platform="cpu")
    return names
