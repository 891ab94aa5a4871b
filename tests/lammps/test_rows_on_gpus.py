"""How rows of other ranks go on a GPU: as MPI says, as the driver says of XLA's memory, as the deck says.

The CPU's plugin calls itself CUDA's, a driver made for the test answers, and so does a function of MPI's that is
loaded in front of it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from decks import Bench
from moving_bundle import with_moves
from so3krates.lammps import run_deck
from toy_bundle import LADDER, write_toy_bundle
from toy_systems import gan

SAME = 1e-12  # eV/A, between two ways to the same numbers
SIGNAL = 0.1  # eV/A
CHUNK = 16  # rows
QUERY = (
    '#include <cstdlib>\nextern "C" int MPIX_Query_cuda_support() { return std::getenv("TEST_MPI_TAKES")[0] == 49; }'
)


class Way(NamedTuple):
    mpi_takes: int  # GPU memory, as it says
    ipc: int  # whether others can open that memory, as the driver says
    option: str
    words: str  # of the log: the memory, and why


OPEN = "other processes of this machine cannot open XLA's GPU memory (legacy CUDA IPC)."
WAYS = [
    Way(1, 1, "", "device memory: MPI takes it"),
    Way(1, 0, "", f"pinned host memory: {OPEN} If MPI needs no such memory, write: gpu/aware yes"),
    Way(1, 0, "gpu/aware yes", "device memory: MPI takes it"),
    Way(1, 1, "gpu/aware no", "pinned host memory: gpu/aware is no"),
    Way(0, 1, "", "pinned host memory: MPI says that it does not take GPU memory. If it does, write: gpu/aware yes"),
    Way(0, 0, "gpu/aware yes", "device memory: gpu/aware is yes"),
]


@pytest.fixture
def environment(driver: Path, cuda_by_name: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, library = tmp_path / "query.cpp", tmp_path / "query.so"
    source.write_text(QUERY)
    subprocess.run(["c++", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("SO3KRATES_CUDA_DRIVER", str(driver))
    monkeypatch.setenv("SO3KRATES_PJRT_CUDA", str(cuda_by_name))


def test_rows_go_as_mpi_driver_and_deck_say(environment: None, program_cache: Path, tmp_path: Path) -> None:
    rung = LADDER[-1]
    on_cpu = write_toy_bundle(tmp_path / "cpu.so3k", [rung])
    on_gpu = with_moves(write_toy_bundle(tmp_path / "gpu.so3k", [rung], platform="cuda"), tmp_path / "m.so3k", CHUNK)
    atoms = gan((3, 2, 2))
    atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
    dump = f'write_dump all custom "{tmp_path}/%s" fx fy fz modify sort id format float %%.17g\n'
    first = Bench(on_cpu, program_cache, tmp_path).deck(atoms) + "run 0\n" + dump % "expected"
    deck = "shell putenv TEST_MPI_TAKES=0\n" + first
    for k, way in enumerate(WAYS):
        deck += f"clear\nshell putenv TEST_MPI_TAKES={way.mpi_takes} FAKE_CUDA_IPC={way.ipc}\n"
        deck += f'print "way {k}"\n'
        here = Bench(on_gpu, program_cache, tmp_path).deck(atoms)
        deck += here.replace("threads 1", f"threads 1 device cuda {way.option}") + "run 0\n" + dump % k
    log = run_deck(deck, tmp_path, ranks=2)
    expected = np.loadtxt(tmp_path / "expected", skiprows=9)
    assert np.abs(expected).max() > SIGNAL
    for k, (way, text) in enumerate(zip(WAYS, log.split("\nway ")[1:], strict=True)):
        assert f"So3krates: rows of other ranks go through {way.words}\n" in text, text
        assert np.abs(np.loadtxt(tmp_path / str(k), skiprows=9) - expected).max() < SAME


def test_more_ranks_than_gpus(tmp_path: Path) -> None:
    """Of one GPU nothing is said: a launcher may show each rank its own."""
    calls = ["3, 1, 8, 2", "2, 1, 8, 2", "3, 1, 8, 1", "3, 1, 2, 4"]
    lines = "".join(f"std::puts(so3krates::ranks::crowding({call}).c_str());" for call in calls)
    source, program = tmp_path / "crowding.cpp", tmp_path / "crowding"
    source.write_text(f'#include <cstdio>\n#include "crowding.h"\nint main() {{ {lines} }}\n')
    headers = Path(__file__).parents[2] / "csrc" / "pair_so3krates"
    subprocess.run(["c++", "-std=c++17", f"-I{headers}", str(source), "-o", str(program)], check=True)
    gpus, enough, one, cores = subprocess.run([program], capture_output=True, text=True).stdout.splitlines()
    assert gpus.startswith("3 ranks of this machine share its 2 GPUs") and enough == one == ""
    assert cores.startswith("3 ranks of 1 thread on this machine share 2 cores")
