"""Ranks that are killed at any time: all end, and the run goes on from its last restart file to the bit."""

import os
import random
import signal

import pytest
from decks import Bench
from long_tables import many
from processes import Run
from test_failures import LAST, is_running, moving_deck, resumed, straight  # noqa: F401

SEED = 20250722
KILLS = 10
pytestmark = pytest.mark.torture


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("number", range(many(metafunc.config, KILLS)))


def test_a_rank_killed_at_any_time(bench32: Bench, straight: str, number: int) -> None:  # noqa: F811
    """SIGKILL for either rank after a random step; then on from the last restart file."""
    choose = random.Random(SEED + number)
    run = Run(moving_deck(bench32) + "run 1000000\n", bench32.folder)
    run.wait_for(rf"^ +{choose.randint(11, 50)} +-")
    ranks = run.ranks()
    os.kill(choose.choice(ranks), signal.SIGKILL)
    run.end()
    assert not any(is_running(rank) for rank in ranks)
    files = {step: bench32.folder / f"at.{step}" for step in range(10, LAST, 10)}
    whole = files[10].stat().st_size
    last = max(step for step, file in files.items() if file.is_file() and file.stat().st_size == whole)
    assert resumed(bench32, last) == straight
