"""Damaged potentials and want of memory: an end on all ranks, with words, and nothing that stays wrong."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from decks import Bench, lammps_instance
from long_tables import Many
from processes import Run
from structures import structure
from test_memory import assert_all_are_said, failing_allocations, trials_of  # noqa: F401

SEED = 20250722
DAMAGED = 150
ALLOCATIONS = 150
LIMITS = range(200_000, 800_000, 50_000)  # KiB of address space
pytestmark = [
    pytest.mark.torture,
    pytest.mark.parametrize("gan_bundle64", ["fused"], indirect=True),
]


def damaged_bytes(data: bytes, header: int, choose: random.Random) -> bytes:
    """`data` with some bytes gone, zero or at random."""
    changed = data
    while changed == data:
        at = choose.randrange(header if choose.random() < 0.5 else len(data))
        length = choose.choice((0, 1, 8, 1000))
        new = choose.choice((choose.randbytes(length), bytes(length), b""))
        changed = data[:at] + new + data[at + max(1, length) :]
    return changed


def test_damaged_bundles_are_refused(bench64: Bench, gan_cell: Atoms, many: Many) -> None:
    """Bits, bytes and stretches of the file, half of them in its header: one line each, and the sound one runs on."""
    data, choose = bench64.bundle.read_bytes(), random.Random(SEED)
    header = 8 + int.from_bytes(data[:8], "little")
    damaged = bench64.folder / "damaged.so3k"
    deck = bench64.deck(structure("tiny", gan_cell))
    bad = deck.replace(str(bench64.bundle), str(damaged))
    with lammps_instance() as instance:
        instance.commands_string(deck + "run 0\n")
        expected = instance.get_thermo("pe")
    for _ in range(many(DAMAGED)):
        changed = damaged_bytes(data, header, choose)
        damaged.write_bytes(changed)
        with lammps_instance() as instance, pytest.raises(Exception, match=r"damaged\.so3k") as caught:
            instance.commands_string(bad)
        assert str(caught.value).startswith("ERROR: pair_style so3krates: ")
    with lammps_instance() as instance:
        instance.commands_string(deck + "run 0\n")
        assert instance.get_thermo("pe") == expected


def test_many_allocations_fail(
    bench64: Bench,
    gan_cell: Atoms,
    failing_allocations: Path,  # noqa: F811
    many: Many,
) -> None:
    number = many(ALLOCATIONS)
    first, *trials = trials_of(bench64, gan_cell, failing_allocations, number)
    assert len(trials) > number // 2
    assert_all_are_said(first, trials)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_rank_with_a_limit_of_memory(bench64: Bench, gan_cell: Atoms, limit: int) -> None:
    """`ulimit -v` on one rank of two: all end, with words of the pair style, of LAMMPS or of XLA."""
    deck = bench64.deck(structure("crystal", gan_cell).repeat((12, 12, 6))) + "run 1\n"
    run = Run(deck, bench64.folder, last=["sh", "-c", f'ulimit -v {limit}; exec "$@"', "sh"])
    status = run.process.wait(180)
    text = run.text()
    if status == 0:
        energies = [float(row.split()[1]) for row in text.splitlines() if re.fullmatch(r" +[01] +-[\d.]+ .*", row)]
        assert len(energies) == 2 and np.isfinite(energies).all()
    elif "EXIT CODE: 11" in text:  # LAMMPS' lists are written to memory that it did not get
        assert "Setting up Verlet run" in text and "So3krates: room for" not in text
    else:
        assert re.search(r"ERROR.*pair_style so3krates|ERROR.*(memory|allocate)|Check failed|bad_alloc", text), text[
            -900:
        ]
