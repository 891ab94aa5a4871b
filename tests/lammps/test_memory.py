"""An allocation that fails in or under the pair style ends the run with a message, on all ranks, and no later run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ase import Atoms
from decks import Bench
from processes import Run
from structures import structure

SAME = 1e-6  # eV
TRIALS = 5
SEED = 1
WORDS = (
    r"ERROR( on proc 1)?: pair_style so3krates: step \d+: there is no memory left on rank \d of \d, which has \d+ atoms"
)
pytestmark = pytest.mark.parametrize("gan_bundle64", ["fused"], indirect=True)  # the rest is not about bodies


@pytest.fixture(scope="module")
def failing_allocations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes them fail."""
    library = tmp_path_factory.mktemp("preloaded") / "libfailing_allocations.so"
    source = Path(__file__).with_name("failing_allocations.cpp")
    subprocess.run(["c++", "-std=c++17", "-O2", "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
    return library


def trials_of(bench: Bench, gan_cell: Atoms, library: Path, number: int) -> list[dict[str, object]]:
    """What `memory_trials.py` writes; it has ended well."""
    (bench.folder / "in.deck").write_text(bench.deck(structure("tiny", gan_cell)) + "fix 1 all nve\nrun 1\n")
    command = [sys.executable, Path(__file__).with_name("memory_trials.py"), "in.deck", str(number), str(SEED)]
    done = subprocess.run(
        command, cwd=bench.folder, env=os.environ | {"LD_PRELOAD": str(library)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def assert_all_are_said(first: dict[str, object], trials: list[dict[str, object]]) -> None:
    said = [trial for trial in trials if isinstance(trial["words"], str)]
    assert len(said) > len(trials) // 2
    for trial in trials:
        assert trial["energy"] == pytest.approx(first["energy"], abs=SAME)  # the next run knows nothing of it
        if trial in said:
            assert re.search(WORDS, str(trial["words"])), trial
        else:  # what is given back at the end may fail in silence
            assert trial["words"] == pytest.approx(first["energy"], abs=SAME)


def test_every_allocation_may_fail(bench64: Bench, gan_cell: Atoms, failing_allocations: Path) -> None:
    """A few of them, chosen at random."""
    first, *trials = trials_of(bench64, gan_cell, failing_allocations, TRIALS)
    assert isinstance(first["count"], int) and first["count"] > 1000 and len(trials) >= TRIALS - 1
    assert_all_are_said(first, trials)


@pytest.mark.parametrize("number", [300, 60_000])
def test_one_rank_without_memory_ends_all(
    bench64: Bench, gan_cell: Atoms, failing_allocations: Path, number: int
) -> None:
    """While the potential is read, where ranks come together, and in the middle of a run, where they do not."""
    run = "neigh_modify every 1 delay 0 check no\nfix 1 all nve\nrun 1000000\n"  # lists are what takes memory in a run
    deck = bench64.deck(structure("crystal", gan_cell)) + run
    last = ["env", f"LD_PRELOAD={failing_allocations}", f"FAIL_ALLOCATION={number}"]
    text = Run(deck, bench64.folder, last=last).end()
    (message,) = re.findall("^ERROR.*", text, re.MULTILINE)
    assert re.search(WORDS, message)
    assert "rank 1 of 2" in message
