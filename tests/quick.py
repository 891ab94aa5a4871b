"""What makes tests short: programs that are compiled soon and run slowly, exports that do no work twice."""

from __future__ import annotations

import functools
import hashlib
import mmap
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxlib  # not JAX, whose variables are set later

MOST_KEPT = 2e9  # bytes of programs
FLAG = "xla_cpu_use_fusion_emitters"


def kept_programs(folder: Path) -> Path:
    """Where compiled programs are kept from one run of tests to the next, for processors like this one.

    JAX and the runtime name programs by all that they depend on but the processor. Old ones go, all together, where
    they have become too many.
    """
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    features = sorted({line for line in lines if line.startswith(("flags", "Features"))})  # as x86-64 and aarch64 say
    place = folder / f"programs-{hashlib.sha256(str(features).encode()).hexdigest()[:12]}"
    if sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) > MOST_KEPT:
        shutil.rmtree(place)
    return place


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


def quick_exports() -> None:
    """Exports of this process choose the tables of a network once, and compare two traces of a program for the first
    network that has its name and kind of arguments, not for each."""
    from so3krates_export import export, ladder

    ladder._traced = _trace_once(ladder._traced, ladder._text, ladder._TRACED[0])
    export.choose_tables = _remembered(export.choose_tables)


def _trace_once(own: Callable[..., str], text: Callable[..., str], sizes: Any) -> Callable[..., str]:
    compared: set[Any] = set()

    @functools.lru_cache(maxsize=128)
    def traced(function: Any, arguments: Any, donated: Any, platform: str, products: str, is_x64: bool) -> str:
        form = tuple((a.dtype, len(a.shape)) for a in arguments)
        kind = getattr(function, "__name__", ""), form, donated, platform, products, is_x64
        if kind in compared:
            return text(function, arguments, donated, platform, products, sizes)
        compared.add(kind)
        return own(function, arguments, donated, platform, products, is_x64)

    return traced


def _remembered(choose: Callable[..., Any]) -> Callable[..., Any]:
    import jax
    import numpy as np

    known: dict[Any, Any] = {}

    def chosen(config: Any, params: Any, *more: Any) -> Any:
        leaves, tree = jax.tree.flatten(params)
        key = config, tree, more, *((np.asarray(leaf).dtype.str, np.asarray(leaf).tobytes()) for leaf in leaves)
        if key not in known:
            known[key] = choose(config, params, *more)
        return known[key]

    return chosen
