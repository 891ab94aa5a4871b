"""Parts of the kit by themselves: larger systems out of one cell, logs that are read, pieces that are merged."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from gpu_kit import dynamics
from gpu_kit.cell import copies_of
from gpu_kit.dynamics import rate_of
from gpu_kit.lammps import Deck, Run, read_run, tables, timings
from gpu_kit.page import page
from gpu_kit.process import CommandError, run_command
from gpu_kit.run import merge
from gpu_kit.sizes import CHOICES, Context

import bench

REACH = 4.5  # A
LOG = """
   Step         Atoms         PotEng         TotEng    
         0       1000  -12.5          -10.5         
Loop time of 0.1 on 1 procs for 0 steps with 1000 atoms
   Step         Atoms         PotEng         TotEng    
         0       1000  -12.5          -10.5         
         3       1000  -12.6          -10.5         
Loop time of 0.2 on 1 procs for 3 steps with 1000 atoms
   Step         Atoms         PotEng         TotEng    
         3       1000  -12.6          -10.5         
        13       1000  -12.7          -11.5         
Loop time of 2.0 on 1 procs for 10 steps with 1000 atoms
"""


def vectors_of(lists: dict[str, np.ndarray], positions: np.ndarray) -> list[set[tuple[float, ...]]]:
    """For each row its neighbours' species and the vectors to them, rounded."""
    owner, species, found = lists["row_of_atom"], lists["species"], []
    entries = np.split(lists["flat_candidates"], np.cumsum(lists["candidate_count"])[:-1])
    for row, others in enumerate(entries):
        vectors = np.round(positions[others] - positions[lists["atom_of_row"][row]], 6) + 0.0
        found.append({(float(species[owner[j]]), *map(float, v)) for j, v in zip(others, vectors, strict=True)})
    return found


@pytest.mark.parametrize("k", [1, 2, 3])
def test_copies_have_the_neighbours_of_the_cell(k: int) -> None:
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat((2, 2, 1))  # thinner than the reach
    atoms.positions += np.random.default_rng(0).normal(0.0, 0.1, atoms.positions.shape)
    cell: dict[str, Any] = bench.host_arrays(atoms, REACH) | {"numbers": atoms.numbers, "cell": atoms.cell.array}
    lists, positions = copies_of(cell, ["Ga", "N"], k)
    rows = k**3 * len(atoms)
    assert len(lists["atom_of_row"]) == rows and len(positions) == len(lists["row_of_atom"]) > rows
    filled = np.arange(cell["candidates"].shape[1]) < cell["candidate_count"][:, None]
    expected = vectors_of(cell | {"flat_candidates": cell["candidates"][filled]}, cell["positions"])
    assert min(map(len, expected)) > 20
    assert vectors_of(lists, positions) == expected * k**3


def test_a_log_is_read() -> None:
    assert [len(table["Step"]) for table in tables(LOG)] == [1, 2, 2]
    found = read_run(Run(LOG, 3.0))
    assert found["atoms"] == 1000 and found["first"]["PotEng"] == -12.5
    assert found["steps"] == 10 and found["drift"] == pytest.approx(1e-3)
    with pytest.raises(CommandError, match="LAMMPS wrote no table: nothing"):
        read_run(Run("nothing", 1.0))
    assert timings(Run(LOG, 3.0), Deck("name", "gan"))["start_seconds"] == pytest.approx(0.7)


def verbose_log(word: str) -> str:
    """Of 20 steps, as `verbose yes` writes it; compiled in 3 s with `deterministic yes`, else in 30."""
    spent = (
        "So3krates: on rank 0, programs 0.200 s, exchange of rows 0.000 s (0.000 MiB), lists 0.020 s, results 0.010 s; "
        "0 of 21 evaluations with per-atom virials; waited 0.150 s for the device\n"
    )
    head = "Step Atoms PotEng TotEng\n0 1000 -12.5 -10.5\n"
    room = (
        "So3krates: room for 2000 atoms (3000 with images, 128 candidates, 64 neighbours each), 10.0 MiB of arrays, "
        f"2.0 MiB of scratch; 9 programs compiled and 0 loaded in {3.0 if word == 'yes' else 30.0} s\n"
    )
    loops = [f"{head}Loop time of 0.4 on 1 procs for {n} steps with 1000 atoms\n{spent}" for n in (0, 3, 20)]
    return room + "Neighbor list builds = 0\n".join([*loops, ""])


def test_steps_with_and_without_timed_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decks: list[Deck] = []

    def run(context: Context, deck: Deck, timeout: float) -> Run:
        decks.append(deck)
        return Run(verbose_log(deck.options.split()[1]), 9.0)

    monkeypatch.setattr(dynamics, "run_lammps", run)
    found: dict[str, Any] = {}
    for piece in dynamics.choices(Context(tmp_path, tmp_path, "cuda:0", tmp_path), "gan", 1e6):
        merge(found, piece)
    assert [deck.options for deck in decks] == ["deterministic yes cache off", "deterministic no cache off"]
    assert {deck.atoms for deck in decks} == {CHOICES} and len({deck.steps for deck in decks}) == 1
    assert {word: row["compile_seconds"] for word, row in found["choices"].items()} == {"yes": 3.0, "no": 30.0}
    assert found["choices"]["no"]["ms_per_step"] == pytest.approx(20.0)
    kit = {"commit": "0" * 40, "made": "2026-01-01", "versions": {"so3krates": "1"}}
    entry = {"what": "", "state": "passed", "results": found}
    known = {"kit": kit, "date": "2026-01-01", "device": "cuda:0", "phases": {"speed": entry}}
    assert "deterministic no, 1000 atoms: compiled in 30.0 s, 20.000 ms/step." in page(known)


@pytest.mark.parametrize(
    ("output", "rate"),
    [
        (LOG, 5000.0),
        ("Speed of this run = 2.5e+06 atom*step/second.", 2.5e6),
        ("atom-steps/s: 1e3\natom-steps/s 2e3\n", 2e3),
    ],
)
def test_the_speed_of_a_peer(output: str, rate: float) -> None:
    assert rate_of(output) == pytest.approx(rate)


@pytest.mark.parametrize("output", ["", "atom-steps/s nan", "atom-steps/s 0", "Loop time of 0 on 1 procs"])
def test_a_peer_without_a_speed(output: str) -> None:
    with pytest.raises(ValueError, match="printed"):
        rate_of(output)


def test_pieces_are_merged() -> None:
    known: dict[str, Any] = {}
    for piece in ({"a": 1, "rows": [1], "t": {"x": {"y": 1}}}, {"a": 2, "rows": [2], "t": {"x": {"z": 2}}}):
        merge(known, piece)
    assert known == {"a": 2, "rows": [1, 2], "t": {"x": {"y": 1, "z": 2}}}


def is_gone(process: int) -> bool:
    """Whether a process has ended, be it not yet asked for its exit code."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_programs_end_with_their_time(tmp_path: Path) -> None:
    assert run_command(["echo", "two words"], 60).output == "two words\n"
    with pytest.raises(CommandError, match=r"sh ended with exit code 3: said this"):
        run_command(["sh", "-c", "echo said this; exit 3"], 60)
    with pytest.raises(CommandError, match=r"sh ended with signal SIGKILL"):
        run_command(["sh", "-c", "kill -9 $$"], 60)
    with pytest.raises(CommandError, match=r"starting no-such-program failed: there is no such program"):
        run_command(["no-such-program"], 60)
    with pytest.raises(CommandError, match=r"sh took more than 1 s: begun"):
        run_command(["sh", "-c", f"echo begun; sleep 600 & echo $! > {tmp_path}/child; wait"], 1.0)
    child = int((tmp_path / "child").read_text())
    for _ in range(600):  # a killed program takes a moment to be gone
        if is_gone(child):
            break
        time.sleep(0.1)
    assert is_gone(child)
