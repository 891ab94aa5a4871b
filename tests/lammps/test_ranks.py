"""Several MPI ranks give what one rank gives. All cases of a bundle are one deck, as each start costs seconds."""

import os
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from cases import MD, Case, Outcome, kind, outcomes_of
from decks import BAR_PER_EV_A3, Bench, python_evaluation, two_clusters_deck
from moving_bundle import with_moves
from so3krates.lammps import run_deck
from so3krates.lammps.thermo import read_log
from structures import structure, two_clusters

FORCE_64 = 1e-10  # eV/A
TOTAL_64 = 1e-12  # of the sum of the atomic energies' sizes; of the largest component of the virial
FORCE_32 = 2e-5  # of the largest force
TOTAL_32 = 2e-6  # of the same as TOTAL_64
END = 1e-8  # A, positions after MD at 3000 K
FRAME = 1e-9  # eV/A, the last frame of a run against Python
SIGNAL = 0.05  # eV/A and eV
TABLES = 2e-2  # eV/A, coarse tables are made soon
RANKS = (1, 2, 4)

LISTS = r"atoms, (\d+) rows of other ranks, (\d+) with images"  # the log's

Outcomes = Callable[[Path, int], dict[str, Outcome]]
Moved = Callable[[str, int], dict[str, Outcome]]


def chain(cell: Atoms) -> Atoms:
    """Four atoms, of which each of four ranks along x has one."""
    return Atoms("GaNGaN", [[2 + 2.5 * k, 5, 5 + 0.3 * k**2] for k in range(4)], cell=[11.5, 10, 12])


def corner(cell: Atoms) -> Atoms:
    """A cluster at one end of a long box."""
    atoms = structure("cluster", cell)
    atoms.set_cell(atoms.cell.array + np.diag([60, 0, 0]))
    return atoms


def beside_argon(cell: Atoms) -> Atoms:
    """GaN at one end of a long box, argon beside it and at the other end, where there are no other atoms."""
    gan = structure("cluster", cell)
    x, y, z = gan.positions.max(axis=0)
    argon = Atoms("Ar6", [[x + 2.8, y - d, z - d] for d in (0, 4, 8)] + [[x + 50, y - d, z] for d in (0, 4, 8)])
    atoms = gan[:30] + argon + gan[30:]
    atoms.set_cell(gan.cell.array + np.diag([55, 0, 0]))
    return atoms


ARGON = " lj/cut 6.0\npair_coeff * 2 lj/cut 0.01 3.0\npair_coeff 2 3 lj/cut 0.01 3.0\n"
CHARGED = "fix q all property/atom q ghost yes\nset type 1 charge 0.6\nset type 2 charge -0.6\n"
ZBL = "pair_coeff 1 1 zbl 31 31\npair_coeff 1 2 zbl 31 7\npair_coeff 2 2 zbl 7 7\npair_coeff * * coul/long\n"

STANDING = {
    "crystal": Case(kind("crystal")),
    "long": Case(kind("crystal", (2, 1, 1))),
    "newton off": Case(kind("triclinic"), newton="off"),
    "triclinic": Case(kind("triclinic"), before="processors * * 1"),
    "smaller than the cutoff": Case(kind("tiny")),
    "slab": Case(kind("slab"), before="processors 1 1 *"),
    "wire": Case(kind("wire")),
    "both sides": Case(kind("crystal", (1, 1, 2)), before="processors 1 1 *"),
    "one atom each": Case(chain, before="processors * 1 1"),
    "empty ranks": Case(corner, before="processors * 1 1"),
    "shifted": Case(corner, before="processors * 1 1", run="balance 1.0 shift x 20 1.01\nrun 0"),
    "tiled": Case(kind("crystal", (2, 1, 1)), before="comm_style tiled", run="balance 1.0 rcb\nrun 0"),
    "tiled cluster": Case(corner, before="comm_style tiled", newton="off", run="balance 1.0 rcb\nrun 0"),
    "NULL": Case(beside_argon, before="processors 1 * 1", elements=("Ga", "Ar", "N"), others=ARGON),
    "NULL only": Case(beside_argon, before="processors * 1 1", elements=("Ga", "Ar", "N"), others=ARGON),
    "kspace": Case(
        kind("crystal"), others=" zbl 2.0 3.0 coul/long 6.0\n" + ZBL + CHARGED + "kspace_style ewald 1e-5\n"
    ),
}
MOVING = {
    "hot": Case(kind("crystal"), run=MD + "run 20"),
    "hot, tiled": Case(
        kind("crystal", (2, 1, 1)), before="comm_style tiled", run=MD + "fix 2 all balance 5 1.0 rcb\nrun 12"
    ),
    "balanced": Case(corner, before="processors * 1 1", run=MD + "fix 2 all balance 5 1.0 shift x 10 1.01\nrun 12"),
    "deformed": Case(
        kind("triclinic"),
        run=MD + "fix 2 all deform 1 x erate 5 xy erate -60 remap x flip yes\nrun 15\nunfix 2\nrun 0",
    ),
    "relaxed": Case(kind("crystal"), run="fix 1 all box/relax aniso 0.0 vmax 0.01\nminimize 0 1e-4 6 20"),
    "created and deleted": Case(
        kind("slab"),
        before="processors 1 1 *",
        run="run 0\ngroup gone id 1 5 7 20\ndelete_atoms group gone compress no\nrun 0\n"
        "create_atoms 2 single 1.2 0.4 2.0\ncreate_atoms 1 single 4.0 3.0 2.5\n"
        "set atom 2 type 1\nset atom 3 type 2\nrun 1",
    ),
    "swapped": Case(
        kind("crystal"),
        run="fix swap all atom/swap 1 4 77 1e9 ke no types 1 2\nneigh_modify delay 1000\nrun 2",
    ),
    "evaporating": Case(
        kind("slab"),
        before="processors 1 1 *",
        run=MD + "region top block INF INF INF INF 14 INF\nfix 2 all evaporate 4 3 top 49\nrun 10",
    ),
}

# On four ranks, which take turns on a small machine, and with the other potentials.
FOUR = (
    "long",
    "newton off",
    "smaller than the cutoff",
    "slab",
    "both sides",
    "one atom each",
    "empty ranks",
    "shifted",
    "tiled",
)
# Option -> what the log says of the way that rows go.
MOVED = {
    "gpu/aware no": "So3krates: rows of other ranks go through host memory: gpu/aware is no\n",
    "gpu/aware auto": "So3krates: rows of other ranks go through device memory: this device's memory is the host's\n",
}
MOVED_FEW = ("long", "both sides", "smaller than the cutoff", "empty ranks", "NULL", "relaxed", "balanced")
MOVED_ROWS = 16
FEW = ("long", "smaller than the cutoff", "empty ranks", "NULL")
PORTABLE = (*FEW, "hot", "balanced")  # with the portable programs, as rows go the same ways
# What differs there is how rows are divided, not who computes them: one body does.
on_four_ranks = pytest.mark.parametrize("gan_bundle64", ["fused"], indirect=True)


@pytest.fixture(scope="module")
def fused_bundle64(small_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from so3krates.storage import Model
    from so3krates_export.export import export_model
    from so3krates_export.ladder import Rung

    path = tmp_path_factory.mktemp("fused") / "gan.so3k"
    ladder = [Rung(rows, 4096, 192, 64) for rows in (256, 1024)]
    export_model(Model.load(small_model_folder), path, precision="float64", body="fused", tables=TABLES, ladder=ladder)
    return path


@pytest.fixture(scope="module")
def climbing_bundle(small_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its rungs suit few atoms or many, sparse or dense."""
    from so3krates.storage import Model
    from so3krates_export.export import export_model
    from so3krates_export.ladder import Rung

    path = tmp_path_factory.mktemp("climbing") / "gan.so3k"
    ladder = [Rung(rows, 1024, 96, neighbours) for neighbours in (24, 48) for rows in (96, 256)]
    export_model(Model.load(small_model_folder), path, precision="float64", body="fused", tables=TABLES, ladder=ladder)
    return path


@pytest.fixture(scope="module")
def outcomes(program_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Outcomes of all cases with a bundle on so many ranks, computed when first asked for.

    Of no bundle: what depends on one is made anew for each test that is a body and a case.
    """
    cell = bulk("GaN", "wurtzite", a=3.19, c=5.19)
    every = STANDING | MOVING

    @cache
    def compute(bundle: Path, ranks: int) -> dict[str, Outcome]:
        if ranks > 1:
            compute(bundle, 1)  # fills the cache of programs
        names = FEW if "float32" in bundle.stem else PORTABLE if "xla" in bundle.stem else every
        if ranks == 4:  # of which few, as ranks without a core of their own wait long for each other
            names = (*FOUR, "balanced")
        bench = Bench(bundle, program_cache, tmp_path_factory.mktemp("ranks"))
        return outcomes_of({name: every[name] for name in names}, bench, cell, ranks)

    return compute


def with_bodies(names: Iterable[str]) -> pytest.MarkDecorator:
    """Cases with the fused kernels, and some of them with the portable programs."""
    cases = [(body, name) for body in ("fused", "xla") for name in names if body == "fused" or name in PORTABLE]
    return pytest.mark.parametrize(("gan_bundle64", "name"), cases, indirect=["gan_bundle64"])


def assert_same(found: Outcome, expected: Outcome, force: float, total: float) -> None:
    assert np.abs(expected.forces).max() > SIGNAL and np.abs(expected.virial).max() > SIGNAL
    size = np.abs(expected.atom_energies).sum()
    assert np.abs(found.forces - expected.forces).max() < force
    assert abs(found.energy - expected.energy) < total * size
    assert np.abs(found.atom_energies - expected.atom_energies).max() < total * size
    assert np.abs(found.virial - expected.virial).max() < total * size


@with_bodies(STANDING)
def test_float64(outcomes: Outcomes, gan_bundle64: Path, name: str) -> None:
    assert_same(outcomes(gan_bundle64, 2)[name], outcomes(gan_bundle64, 1)[name], FORCE_64, TOTAL_64)


@on_four_ranks
@pytest.mark.parametrize("name", FOUR)
def test_float64_on_four_ranks(outcomes: Outcomes, gan_bundle64: Path, name: str) -> None:
    assert_same(outcomes(gan_bundle64, 4)[name], outcomes(gan_bundle64, 1)[name], FORCE_64, TOTAL_64)


@pytest.mark.parametrize("name", FEW)
def test_float32(outcomes: Outcomes, gan_bundle32: Path, name: str) -> None:
    found, expected = outcomes(gan_bundle32, 2)[name], outcomes(gan_bundle32, 1)[name]
    assert_same(found, expected, FORCE_32 * np.abs(expected.forces).max(), TOTAL_32)


@pytest.fixture(scope="module")
def moving_bundle(fused_bundle64: Path) -> Path:
    return with_moves(fused_bundle64, fused_bundle64.with_name("moving.so3k"), MOVED_ROWS)


@pytest.fixture(scope="module")
def moved(moving_bundle: Path, program_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Moved:
    """Some cases on so many ranks, with options of the pair style; rows move by chunks."""
    folder = tmp_path_factory.mktemp("moved")
    cases = {name: case for name, case in (STANDING | MOVING).items() if name in MOVED_FEW}
    cell = bulk("GaN", "wurtzite", a=3.19, c=5.19)

    @cache
    def compute(options: str, ranks: int) -> dict[str, Outcome]:
        bench = Bench(moving_bundle, program_cache, folder / options.replace("/", " "))
        return outcomes_of(cases, bench, cell, ranks, options, MOVED.get(options, ""))

    return compute


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.torture)])
@pytest.mark.parametrize("option", MOVED)
def test_rows_move_by_chunks(moved: Moved, option: str, ranks: int) -> None:
    """As on a device with memory of its own, by host memory and from device to device."""
    expected = moved("", 1)
    for name, outcome in moved(option, ranks).items():
        assert_same(outcome, expected[name], FORCE_64, TOTAL_64)


def test_per_atom_virials_move_by_chunks(
    moving_bundle: Path, program_cache: Path, tmp_path: Path, gan_cell: Atoms
) -> None:
    """Rows of four channels."""
    bench = Bench(moving_bundle, program_cache, tmp_path)
    deck = bench.deck(structure("crystal", gan_cell)) + "compute w all centroid/stress/atom NULL virial\n"
    deck += f'dump 1 all custom 1 "{tmp_path}/dump" id c_w[*]\ndump_modify 1 sort id format float %.17g\nrun 0\n'
    virials = []
    for option, ranks in (("", 1), *((option, 2) for option in MOVED)):
        run_deck(deck.replace("threads 1", f"threads 1 {option}"), tmp_path, ranks=ranks)
        virials.append(np.loadtxt(tmp_path / "dump", skiprows=9)[:, 1:] / BAR_PER_EV_A3)
    assert np.abs(virials[0]).max() > SIGNAL
    for found in virials[1:]:
        assert np.abs(found - virials[0]).max() < FORCE_64


def test_only_rows_of_neighbours_are_exchanged(bench32: Bench, gan_cell: Atoms) -> None:
    """Ghosts that no list holds have none; an atom with many images has one."""
    log = {}
    for cutoff in (6.0, 12.0):
        deck = bench32.deck(structure("crystal", gan_cell).repeat((1, 1, 2)))
        deck = deck.replace("threads 1", "threads 1 verbose yes") + f"comm_modify cutoff {cutoff}\nrun 0\n"
        log[cutoff] = run_deck(deck, bench32.folder, ranks=2)
    rows, images = zip(*(map(int, re.search(LISTS, text).groups()) for text in log.values()), strict=True)
    assert images[1] > 2 * images[0]
    assert rows[0] == rows[1] < 72  # of the other rank's atoms
    (bytes_moved,) = {re.search(r"exchange of rows [\d.]+ s \(([\d.]+) MiB\)", text).group(1) for text in log.values()}
    assert float(bytes_moved) > 0


@on_four_ranks
def test_cases_are_what_they_say(outcomes: Outcomes, gan_bundle64: Path) -> None:
    """How many atoms the emptiest and the fullest of four ranks have."""
    four = outcomes(gan_bundle64, 4)
    assert four["one atom each"].owned == (1, 1)
    for name in ("empty ranks", "slab"):
        assert four[name].owned[0] == 0
    for name in ("shifted", "balanced", "tiled"):
        assert four[name].owned[0] > 0


def assert_pythons_forces(found: Outcome, bundle: Path) -> None:
    expected = python_evaluation(bundle, found.atoms)
    size = np.abs(expected.forces).max()
    assert size > SIGNAL
    assert np.abs(found.forces - expected.forces).max() < FRAME * max(1.0, size)
    assert abs(found.energy - expected.energy) < FRAME * len(expected.forces)


@pytest.mark.parametrize("ranks", [1, 2])
@with_bodies(MOVING)
def test_last_frame_has_the_forces_that_python_has(
    outcomes: Outcomes, gan_bundle64: Path, name: str, ranks: int
) -> None:
    """After steps in which atoms change their rank, come, go or change their type."""
    assert_pythons_forces(outcomes(gan_bundle64, ranks)[name], gan_bundle64)


def assert_same_end(found: Outcome, expected: Outcome) -> None:
    assert np.abs(found.atoms.positions - expected.atoms.positions).max() < END


@with_bodies([name for name in MOVING if name != "evaporating"])
def test_trajectories_agree(outcomes: Outcomes, gan_bundle64: Path, name: str) -> None:
    """(Which atoms evaporate depends on the ranks.)"""
    assert_same_end(outcomes(gan_bundle64, 2)[name], outcomes(gan_bundle64, 1)[name])


@on_four_ranks
def test_a_trajectory_on_four_ranks(outcomes: Outcomes, gan_bundle64: Path) -> None:
    found = outcomes(gan_bundle64, 4)["balanced"]
    assert_pythons_forces(found, gan_bundle64)
    assert_same_end(found, outcomes(gan_bundle64, 1)["balanced"])


# ---- capacities and threads


def test_one_rank_outgrows_its_rung(
    climbing_bundle: Path, program_cache: Path, tmp_path: Path, gan_cell: Atoms
) -> None:
    """Within a run its atoms get more neighbours than the rung holds; then it gets more atoms."""
    energies = []
    for ranks in (1, 2):
        bench = Bench(climbing_bundle, program_cache, tmp_path / str(ranks))
        bench.folder.mkdir()
        deck = two_clusters_deck(bench, two_clusters(gan_cell), speed=90.0) + "run 12\n"
        deck += "region new block 33 48 14.5 19 3 18\ncreate_atoms 1 random 30 7 new overlap 1.2 maxtry 100\nrun 0\n"
        log = run_deck(deck, bench.folder, ranks=ranks)
        assert "Created 30 atoms" in log
        assert log.count("a capacity was outgrown") == (1 if ranks == 1 else 0)  # the log is rank 0's
        energies.append(np.concatenate([run["PotEng"] for run in read_log(bench.folder / "log.lammps")]))
    assert len(energies[0]) == 14 and np.ptp(energies[0]) > SIGNAL
    assert np.abs(energies[1] - energies[0]).max() < FRAME * 174


@pytest.mark.parametrize("ranks", RANKS)
def test_threads_of_a_rank(bench32: Bench, gan_cell: Atoms, ranks: int) -> None:
    """By default the ranks share the cores of their machine."""
    shared = max(1, len(os.sched_getaffinity(0)) // ranks)
    deck = bench32.deck(structure("tiny", gan_cell))
    text = "".join(deck.replace("threads 1", options) + "run 0\nclear\n" for options in ("", "threads 3"))
    log = run_deck(text, bench32.folder, ranks=ranks)
    assert re.findall(r"device .* (\d+) threads?$", log, re.MULTILINE) == [str(shared), "3"]
