"""`deviation FILE every N`: how far a committee's members differ, in the format of model_devi.out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from decks import Bench, lammps_instance
from so3krates.lammps import LammpsError, run_deck
from so3krates.predictions import ModelRuntime
from so3krates.storage import Model
from structures import structure

SAME = 1e-10  # relative, of ranks and of restarts
OF_PYTHON = 1e-5  # of the largest, from the same frame evaluated in Python
SIGNAL = 1e-3  # eV/A and eV
HEADER = ["step", "max_devi_v", "min_devi_v", "avg_devi_v", "max_devi_f", "min_devi_f", "avg_devi_f"]
MD = "velocity all create 1000 7 loop geom\nfix 1 all nve\n"


@pytest.fixture
def bench(committee: Path, program_cache: Path, tmp_path: Path) -> Bench:
    return Bench(committee, program_cache, tmp_path)


def deck_with(bench: Bench, atoms: Atoms, every: int = 2, file: str = "model_devi.out") -> str:
    deck = bench.deck(atoms).replace("threads 1", f"threads 1 deviation {file} every {every}")
    return deck.replace("box tilt large", "box tilt large\nprocessors 1 1 *")


def lines(bench: Bench, file: str = "model_devi.out") -> np.ndarray:
    text = (bench.folder / file).read_text()
    assert text.splitlines()[0].lstrip("#").split() == HEADER
    return np.loadtxt(bench.folder / file, ndmin=2)


def of_python(members: list[Model], atoms: Atoms) -> np.ndarray:
    """The six numbers by their definitions, from the members' own forces and virials."""
    found = [ModelRuntime(member).evaluate(atoms) for member in members]
    forces = np.linalg.norm(np.std([f["forces"] for f in found], axis=0), axis=-1)
    virial = np.std([f["virial"] for f in found], axis=0).ravel() / len(atoms)
    mean = np.sqrt(np.square(virial).mean())
    return np.array([virial.max(), virial.min(), mean, forces.max(), forces.min(), forces.mean()])


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_numbers_are_those_of_the_members(bench: Bench, members: list[Model], gan_cell: Atoms, ranks: int) -> None:
    """And the lines of several ranks are those of one."""
    atoms = structure("slab", gan_cell)[:-1]
    run = MD + "thermo 100\nrun 5\n"
    run_deck(deck_with(bench, atoms) + run, bench.folder, ranks=ranks)
    found = lines(bench)
    assert found[:, 0].tolist() == [0, 2, 4]
    expected = of_python(members, atoms)
    assert expected[3] > 2 * expected[4] > SIGNAL and expected[0] > SIGNAL
    np.testing.assert_allclose(found[0, 1:], expected, rtol=0, atol=OF_PYTHON * expected.max())
    if ranks > 1:
        run_deck(deck_with(bench, atoms, file="one.out") + run, bench.folder)
        np.testing.assert_allclose(found, lines(bench, "one.out"), rtol=SAME, atol=0)


def test_a_restart_repeats_no_step(bench: Bench, gan_cell: Atoms) -> None:
    """After a kill between a restart file and the end: lines since are written again, those before stay."""
    atoms = structure("tiny", gan_cell)
    deck = deck_with(bench, atoms) + "thermo 100\natom_modify sort 0 0\n"
    restart = f"{bench.folder}/restart"
    run_deck(deck + MD + "run 12\n", bench.folder)
    straight = lines(bench)
    (bench.folder / "model_devi.out").unlink()
    run_deck(deck + MD + f'run 5\nwrite_restart "{restart}"\nrun 4\n', bench.folder)
    assert lines(bench)[:, 0].tolist() == [0, 2, 4, 6, 8]  # the end of one run is the begin of the next
    with (bench.folder / "model_devi.out").open("a") as file:
        file.write("          10 1.0e-3 2.")  # a line that was cut
    begin = deck.index("read_data")
    again = deck[:begin] + f'read_restart "{restart}"\n' + deck[deck.index("pair_style") :]
    run_deck(again + "fix 1 all nve\nrun 7\n", bench.folder)
    found = lines(bench)
    assert found[:, 0].tolist() == straight[:, 0].tolist() == [0, 2, 4, 6, 8, 10, 12]
    np.testing.assert_allclose(found, straight, rtol=1e-6, atol=0)
    path = bench.folder / "model_devi.out"
    path.write_text(path.read_text()[:40])  # a header that was cut
    run_deck(deck + MD + "run 3\n", bench.folder)  # another one from its begin
    assert lines(bench)[:, 0].tolist() == [0, 2]


def test_only_its_steps_evaluate_the_members(bench: Bench, gan_cell: Atoms) -> None:
    deck = deck_with(bench, structure("tiny", gan_cell), 3).replace("threads 1", "threads 1 verbose yes")
    log = run_deck(deck + MD + "minimize 0 1e-3 4 9\nrun 7\n", bench.folder)
    steps = lines(bench)[:, 0]
    assert "Loop time" in log and (steps % 3 == 0).all() and len(set(steps)) == len(steps) > 2


REFUSALS = {
    "no committee": ("deviation d.out every 2", "deviation d.out: .* holds a single model.* --committee 4, and export"),
    "every": ("deviation d.out every 0", "every 0: give a number of steps of at least 1"),
    "no number": ("deviation d.out every", "every has no value"),
    "no file": ("deviation", "option 'deviation' has no value"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(bench32: Bench, gan_cell: Atoms, case: str) -> None:
    words, message = REFUSALS[case]
    deck = bench32.deck(structure("tiny", gan_cell)).replace("threads 1", f"threads 1 {words}")
    deck = deck.replace(f'cache "{bench32.cache}"', "") if case in ("no number", "no file") else deck
    with lammps_instance() as instance, pytest.raises(Exception, match=message):
        instance.commands_string(deck + "run 0\n")


@pytest.mark.parametrize("ranks", [1, 2])
def test_other_files_are_left_alone(bench: Bench, gan_cell: Atoms, ranks: int) -> None:
    deck = deck_with(bench, structure("tiny", gan_cell), file="notes")
    for text in ("mine\n", "# step max_devi_v max_devi_f of_another_kind\n0 1 2 3\n"):
        (bench.folder / "notes").write_text(text)
        with pytest.raises(LammpsError, match="deviation notes: a file of this name is there, and it is none"):
            run_deck(deck + "run 0\n", bench.folder, ranks=ranks)
        assert (bench.folder / "notes").read_text() == text
    with pytest.raises(LammpsError, match="deviation no/where: the file cannot be written"):
        run_deck(deck_with(bench, structure("tiny", gan_cell), file="no/where") + "run 0\n", bench.folder, ranks=ranks)
