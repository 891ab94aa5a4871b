"""Hundreds of decks: however the steps are made, the last frame has the energy and forces that Python has."""

import random
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from cases import Case, outcomes_of
from decks import Bench, python_evaluation
from long_tables import many
from ways import SEED, WAYS, draws

NUMBER = 200
SAMPLE = 6  # of these, in every run of the suite
FRAME = 1e-9  # eV/A and eV/atom
SIGNAL = 0.01  # eV/A

SAMPLED = set(random.Random(SEED).sample(range(len(WAYS)), SAMPLE))
pytestmark = pytest.mark.parametrize("gan_bundle64", ["fused"], indirect=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = draws(max(len(WAYS), many(metafunc.config, NUMBER)))
    marks = [[] if k in SAMPLED else [pytest.mark.torture] for k in range(len(cases))]
    table = [pytest.param(*each, id=each[0], marks=own) for each, own in zip(cases, marks, strict=True)]
    metafunc.parametrize(("name", "case", "ranks"), table)


def test_last_frame(bench64: Bench, gan_cell: Atoms, name: str, case: Case, ranks: int) -> None:
    pair = bench64.pair().replace("threads 1", "threads 1 verbose yes")
    case = replace(case, run=case.run.replace("PAIR", pair))
    (found,) = outcomes_of({"case": case}, bench64, gan_cell, ranks).values()
    expected = python_evaluation(bench64.bundle, found.atoms)
    size = np.abs(expected.forces).max()
    assert size > SIGNAL
    assert np.abs(found.forces - expected.forces).max() < FRAME * max(1.0, size)
    assert abs(found.energy - expected.energy) < FRAME * max(1.0, size) * len(expected.forces)
