"""XLA's flags with which programs are compiled soon and run slowly, as tests run each of them a few times."""

from __future__ import annotations

import functools
import mmap
from pathlib import Path

import jaxlib

FLAG = "xla_cpu_use_fusion_emitters"


def quick_programs() -> str:
    """Words for XLA_FLAGS with which a compilation takes a quarter of its time, and a run four times as long."""
    return f"{quick_generator()} --xla_backend_optimization_level=0".strip()


@functools.cache
def quick_generator() -> str:
    """The word that chooses the older of XLA's code generators for the CPU, which compiles in half the time.

    Empty for a jaxlib without it, which would end the process.
    """
    with open(Path(jaxlib.__file__).with_name("libjax_common.so"), "rb") as library:
        words = mmap.mmap(library.fileno(), 0, prot=mmap.PROT_READ)
        return f"--{FLAG}=false" if words.find(b"\0" + FLAG.encode() + b"\0") >= 0 else ""
