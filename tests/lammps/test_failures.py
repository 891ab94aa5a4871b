"""What fails or is killed ends on all ranks, says why once, and can go on from its last restart file."""

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from decks import Bench, two_clusters_deck
from processes import Run
from so3krates.lammps import run_deck
from so3krates_export import read_bundle, write_bundle
from structures import structure, two_clusters

SHRINK = 0.85  # of lengths, for more than 32 neighbours

# What is changed in a sound deck -> words of the refusal.
REFUSALS = {
    "option": ("threads 1", "threads 1 speed 3", "unknown option 'speed'"),
    "device": ("threads 1", "threads 1 device tpu", "tpu"),
    "virials": ("threads 1", "threads 1 virials slow", "virials slow: write fast or small"),
    "plugin": ("threads 1", "threads 1 plugin nowhere.so", "nowhere.so"),
    "units": ("units metal", "units electron", "the deck has units electron"),
    "element": (" Ga N\n", " Ga Xx\n", "atom type 2 is 'Xx'"),
    "missing file": (".so3k", "-missing.so3k", "-missing.so3k"),
}


def is_running(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


@pytest.mark.parametrize("case", REFUSALS)
def test_a_bad_deck_ends_all_ranks(bench64: Bench, gan_cell: Atoms, case: str) -> None:
    old, new, words = REFUSALS[case]
    deck = bench64.deck(structure("crystal", gan_cell)) + "run 0\n"
    assert old in deck
    text = Run(deck.replace(old, new), bench64.folder).end()
    assert len(re.findall(r"^ERROR.*pair_style so3krates: ", text, re.MULTILINE)) == 1
    assert words in text


def test_mpi_is_handed_gpu_memory_against_its_word(bench64: Bench, gan_cell: Atoms) -> None:
    """With a warning, before the want of a GPU ends the run."""
    deck = bench64.deck(structure("crystal", gan_cell)).replace("threads 1", "threads 1 device cuda gpu/aware on")
    text = Run(deck + "run 0\n", bench64.folder).end()
    assert text.count("gpu/aware is yes, but MPI says that it does not take GPU memory. If the run crashes") == 1
    assert "the device is cuda" in text


@pytest.fixture(scope="module")
def narrow_bundle(small_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ladder that holds few neighbours."""
    from so3krates.storage import Model
    from so3krates_export.export import export_model
    from so3krates_export.ladder import Rung

    path = tmp_path_factory.mktemp("narrow") / "gan.so3k"
    model, ladder = Model.load(small_model_folder), [Rung(256, 1024, 96, 32)]
    export_model(model, path, precision="float64", body="xla", ladder=ladder)
    return path


def test_too_many_neighbours_on_one_rank(
    narrow_bundle: Path, program_cache: Path, tmp_path: Path, gan_cell: Atoms
) -> None:
    """In the middle of a run a cluster that the last rank owns becomes too dense for the last rung."""
    bench = Bench(narrow_bundle, program_cache, tmp_path)
    text = Run(two_clusters_deck(bench, two_clusters(gan_cell), speed=90.0) + "run 50\n", tmp_path).end()
    assert re.search(r"^ +[1-9]\d* +-", text, re.MULTILINE)
    (message,) = re.findall("^ERROR.*pair_style so3krates: .*", text, re.MULTILINE)
    assert re.search(r"ERROR on proc 1: .* needs .* neighbours per atom, but .* holds .* 32 neighbours", message)


def test_too_many_neighbours_on_all_ranks(
    narrow_bundle: Path, program_cache: Path, tmp_path: Path, gan_cell: Atoms
) -> None:
    """Both ranks fail in the same step, and one of them tells."""
    bench = Bench(narrow_bundle, program_cache, tmp_path)
    deck = bench.deck(structure("crystal", gan_cell)) + f"change_box all x scale {SHRINK} y scale {SHRINK} z scale "
    text = Run(deck + f"{SHRINK} remap\nrun 0\n", tmp_path).end()
    assert len(re.findall("^ERROR.*pair_style so3krates: .* neighbours per atom", text, re.MULTILINE)) == 1


def test_no_finite_force_on_one_rank(bench64: Bench, gan_cell: Atoms) -> None:
    """In the middle of a run an atom of the last rank gets a type that has no weights."""
    bundle = read_bundle(bench64.bundle)
    weights = {name: np.array(value) for name, value in bundle.tensors.items()}
    (embedding,) = weights.keys() & {"weights/embedding/embedding", "weights/fused/first/embedding"}
    # Rows of no atom count as the first element.
    sound, broken = bundle.manifest["elements"]
    weights[embedding][1] = np.nan
    write_bundle(bench64.folder / "broken.so3k", bundle.manifest, weights)
    bench = Bench(bench64.folder / "broken.so3k", bench64.cache, bench64.folder)
    deck = two_clusters_deck(bench, two_clusters(gan_cell), speed=0.0)
    types = {"Ga": 1, "N": 2}
    deck += f'set group all type {types[sound]}\nrun 6 every 3 "set atom 144 type {types[broken]}"\n'
    text = Run(deck, bench.folder).end()
    (message,) = re.findall("^ERROR.*pair_style so3krates: .*", text, re.MULTILINE)
    assert re.search(r"ERROR on proc 1: .* step 3: .* on atom \d+ .* are not finite", message)


# ---- killed and resumed

COLUMNS = "id type x y z vx vy vz fx fy fz"
LAST = 60
RUN = "neighbor 1.0 bin\ntimestep 0.001\nthermo 1\natom_modify sort 0 0\nfix 1 all nve\nrestart 10 at.*\n"


def resumed(bench: Bench, step: int) -> str:
    """The rows of step `LAST` in a run from a restart file."""
    name = f"resumed.{step}.dump"
    deck = f"read_restart at.{step}\n{bench.pair()}{RUN}dump 1 all custom {LAST} {name} {COLUMNS}\n"
    run_deck(deck + f"dump_modify 1 sort id format float %.17g\nrun {LAST} upto\n", bench.folder, ranks=2)
    return (bench.folder / name).read_text().split("ITEM: TIMESTEP")[-1]


@pytest.fixture(scope="module")
def straight(gan_bundle32: Path, program_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same rows of a run that nobody kills."""
    bench = Bench(gan_bundle32, program_cache, tmp_path_factory.mktemp("straight"))
    deck = moving_deck(bench) + f"dump 1 all custom {LAST} dump {COLUMNS}\n"
    run_deck(deck + f"dump_modify 1 sort id format float %.17g\nrun {LAST}\n", bench.folder, ranks=2)
    return (bench.folder / "dump").read_text().split("ITEM: TIMESTEP")[-1]


def moving_deck(bench: Bench) -> str:
    cell = bulk("GaN", "wurtzite", a=3.19, c=5.19)
    return bench.deck(structure("orthorhombic", cell)) + "velocity all create 600 7\n" + RUN


@pytest.mark.parametrize("who", ["mpiexec", "one rank"])
def test_a_killed_run_resumes_to_the_bit(bench32: Bench, straight: str, who: str) -> None:
    """SIGTERM for mpiexec, or SIGKILL for one rank; then on from the last restart file on as many ranks."""
    run = Run(moving_deck(bench32) + "run 1000000\n", bench32.folder)
    run.wait_for(r"^ +25 +-")
    ranks = run.ranks()
    assert len(ranks) == 2
    if who == "mpiexec":
        run.process.terminate()
    else:
        os.kill(ranks[-1], signal.SIGKILL)
    run.end()
    assert not any(is_running(rank) for rank in ranks)
    assert (bench32.folder / "at.20").is_file()
    found = resumed(bench32, 20)
    assert found.startswith(f"\n{LAST}\n")
    assert found == straight
