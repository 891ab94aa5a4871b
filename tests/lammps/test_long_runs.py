"""`so3krates run`: a killed rank, restart files of which one is not whole, decks that cannot go on."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from so3krates.analysis.flux import read_flux
from so3krates.cli import app
from so3krates.lammps import LammpsError
from so3krates.lammps.long_run import MAGIC, LongRunError, is_whole, newest, restart_files, run_long, variables_of
from typer.testing import CliRunner

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "lammps"
ARGON = EXAMPLES / "argon_kappa" / "in.green_kubo"
SMALL = {"cells": 3, "equilibrate": 100, "keep": 100, "every": 5, "file": "ar"}
LONG = [*sorted(EXAMPLES.glob("*_kappa/in.*")), EXAMPLES / "million" / "in.million"]
MARGIN = 1e-9  # of the flux's rms, between a run that went on and one that was left alone


def kill_a_rank(folder: Path) -> None:
    """As soon as the log has some flux, and there is a restart file."""
    log = folder / "ar.log"
    while not log.exists() or log.read_text().partition("c_flux[1] ")[2].count("\n") < 100:
        time.sleep(0.01)
    ranks = [pid for pid in filter(str.isdecimal, os.listdir("/proc")) if is_rank(int(pid), folder)]
    os.kill(int(ranks[-1]), signal.SIGKILL)


def is_rank(pid: int, folder: Path) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[0].endswith(b"/lmp") and os.fsencode(folder / "ar.log") in words


def test_a_run_whose_rank_is_killed_comes_to_the_same_end(tmp_path: Path) -> None:
    variables = SMALL | {"produce": 5000}
    said: list[str] = []
    killer = threading.Thread(target=kill_a_rank, args=(tmp_path,))
    killer.start()
    done = run_long(ARGON, tmp_path, variables, ranks=2, say=said.append)
    killer.join()
    assert done.attempts == 2 and [log.name for log in done.logs] == ["ar.log", "ar.2.log"]
    assert "LAMMPS ended with" in said[0] and "attempt 2 of 4" in said[0]
    assert "goes on from" in said[1]
    (trajectory,) = read_flux(done.logs).trajectories
    assert np.array_equal(trajectory.steps, np.arange(100, 5101, 5))
    # It is not run again, and says so.
    again = run_long(ARGON, tmp_path, variables, say=said.append)
    assert again.attempts == 0 and "came to its end before" in said[-1]


def test_a_restart_file_that_is_not_whole_is_left_out(tmp_path: Path) -> None:
    """One run is left alone; another goes on from the older file, as the newest was cut."""
    alone = run_long(ARGON, tmp_path / "alone", SMALL | {"produce": 300})
    cut = tmp_path / "cut"
    run_long(ARGON, cut, SMALL | {"produce": 150})
    (cut / "ar.log").rename(cut / "first.log")
    files = (cut / "ar.restart.1", cut / "ar.restart.2")
    assert newest(files) == (2, [])  # of steps 100 and 200
    content = files[1].read_bytes()
    files[1].write_bytes(content[: len(content) // 2])
    said: list[str] = []
    run_long(ARGON, cut, SMALL | {"produce": 300}, say=said.append)
    assert said[0] == f"{files[1]} is not whole ({len(content) // 2} bytes): left out"
    assert said[1] == f"goes on from {files[0]}"
    (one,), (other,) = (read_flux([log]).trajectories for log in (alone.logs[0], cut / "ar.log"))
    assert np.array_equal(other.steps, one.steps)
    scale = np.sqrt(np.mean(one.flux**2))
    assert scale > 0.01
    np.testing.assert_allclose(other.flux, one.flux, atol=MARGIN * scale)


def test_what_is_no_whole_restart_file(tmp_path: Path) -> None:
    for content in (b"", MAGIC, MAGIC[:-1], b"x" * 100, MAGIC + b"x" * 100, b"x" * 100 + MAGIC):
        (tmp_path / "file").write_bytes(content)
        assert not is_whole(tmp_path / "file")
    (tmp_path / "file").write_bytes(MAGIC + b"x" * 100 + MAGIC)
    assert is_whole(tmp_path / "file")


def test_decks_that_cannot_go_on_are_refused(tmp_path: Path) -> None:
    deck = tmp_path / "in.deck"
    cases = {
        "run 10\n": "writes no two restart files in turn",
        "restart 100 one.restart\nrun 10\n": "writes no two restart files in turn",
        "restart 100 a.1 a.2\nrun 10\n": "has no line variable restart index 0",
        "variable restart index 0\nrestart 100 ${x}.1 ${x}.2\n": "names its restart files by x, which is no variable",
    }
    for text, words in cases.items():
        deck.write_text(text)
        with pytest.raises(LongRunError, match=words):
            run_long(deck, tmp_path)
    with pytest.raises(LongRunError, match="no such deck"):
        run_long(tmp_path / "in.absent", tmp_path)
    deck.write_text(
        "variable restart index 0\nvariable file index 'ab'\nrestart 5 ${file}.1 ${file}.2 # both\nnonsense\n"
    )
    assert restart_files(deck, variables_of(deck), tmp_path) == (tmp_path / "ab.1", tmp_path / "ab.2")
    said: list[str] = []
    with pytest.raises(LammpsError, match="Unknown command: nonsense"):
        run_long(deck, tmp_path, say=said.append)
    assert not said  # what LAMMPS refuses is not tried again
    for option in ("--ranks", "--retries"):
        found = CliRunner().invoke(app, ["run", str(deck), option, "-1"])
        assert found.exit_code == 1 and f"{option} -1: give a number that is finite and" in found.output


@pytest.mark.parametrize("deck", LONG, ids=str)
def test_long_decks_of_the_examples_can_go_on(deck: Path, tmp_path: Path) -> None:
    first, second = restart_files(deck, variables_of(deck), tmp_path)
    assert first.name.endswith("restart.1") and second.name.endswith("restart.2")
