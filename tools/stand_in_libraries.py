"""Libraries that a plugin needs and this machine lacks, of functions that do nothing but return an error.

So XLA's plugin for ROCm can be loaded, and compile, where there is no ROCm.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

NO_DEVICE = 100  # hipErrorNoDevice
SYSTEM = (Path("/lib/x86_64-linux-gnu"), Path("/usr/lib/x86_64-linux-gnu"), Path("/lib64"), Path("/usr/lib64"))


def stand_ins(plugin: Path, folder: Path) -> list[str]:
    """Makes them, and returns their names; for LD_LIBRARY_PATH."""
    needed = [line.split("[")[1].split("]")[0] for line in _read("readelf", "-d", plugin) if "(NEEDED)" in line]
    there = {name: path / name for name in needed for path in SYSTEM if (path / name).exists()}
    absent = [name for name in needed if name not in there]
    known = {symbol for path in there.values() for symbol in _symbols(path, "--defined-only")}
    lacking = sorted(_symbols(plugin, "--undefined-only") - known)
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "functions.S"
    labels = "".join(f'.globl "{name}"\n.type "{name}", @function\n"{name}":\n' for name in lacking)
    source.write_text(f'.text\n{labels} movl ${NO_DEVICE}, %eax\n ret\n.section .note.GNU-stack, "", @progbits\n')
    empty = folder / "nothing.S"
    empty.write_text('.section .note.GNU-stack, "", @progbits\n')
    for k, name in enumerate(absent):
        content = empty if k else source
        flags = ["-shared", "-nostdlib", f"-Wl,-soname,{name}"]
        subprocess.run(["cc", *flags, "-o", folder / name, content], check=True)
    return absent


def _symbols(library: Path, kind: str) -> set[str]:
    """Without their versions; those that may stay undefined left out."""
    lines = [line.split() for line in _read("nm", "-D", kind, library)]
    return {words[-1].split("@")[0] for words in lines if words and words[0] != "w"}


def _read(*command: str | Path) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
