"""The libraries run on older systems than they were built on: versions of the symbols that they need."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from so3krates.lammps.environment import plugin_directory

OLDEST = {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13)}  # of Ubuntu 22.04 and Debian 12


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump, which comes with g++: apt install binutils")
@pytest.mark.parametrize("name", ["libso3krates_runtime.so", "libso3krates_plain.so", "so3kratesplugin.so"])
def test_no_symbol_is_newer_than_the_oldest_system(name: str) -> None:
    path = Path(plugin_directory()) / name
    said = subprocess.run(["objdump", "-T", path], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\*UND\*.*\((GLIBC|GLIBCXX|CXXABI)_([\d.]+)\)\s+(\S+)", said)
    assert len(needed) > 20
    late = [f"{s} {k}_{v}" for k, v, s in needed if tuple(map(int, v.split("."))) > OLDEST[k]]
    assert late == []
