"""Where JAX keeps what it compiles: beside the programs of bundles, in the folder of csrc/runtime/program_cache.h."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

VARIABLE, JAX_VARIABLE = "SO3KRATES_CACHE", "JAX_COMPILATION_CACHE_DIR"
OFF = "off"


def keep_compiled() -> None:
    """Let this process, and those that it starts, keep the programs that JAX compiles, for the next ones like it.

    A training, an evaluation or an export of sizes that were met before then starts without compilation. To be called
    before JAX is imported. JAX's own variable comes first; nothing is kept with SO3KRATES_CACHE=off, or where no
    folder can be made.
    """
    folder = _folder()
    if JAX_VARIABLE in os.environ or folder is None:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        os.environ[JAX_VARIABLE] = str(folder)


def _folder() -> Path | None:
    """One for each kind of processor, as homes are shared by machines."""
    named = os.environ.get(VARIABLE)
    if named == OFF:
        return None
    home = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("HOME") and str(Path(os.environ["HOME"], ".cache")))
    if not named and not home:
        return None
    base = Path(named) if named else Path(str(home), "so3krates")
    return base / f"jax-{hashlib.sha256(_processor().encode()).hexdigest()[:8]}"


def _processor() -> str:
    """What a processor can do, as Linux says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("flags")), "")
