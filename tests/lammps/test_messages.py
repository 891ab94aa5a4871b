"""Every refusal says what happened, with numbers, and what to do; the log says what was loaded."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from ase import Atoms
from decks import Bench, in_lammps_frame, lammps_instance
from so3krates.lammps import run_deck
from so3krates.lammps.environment import child_environment, lmp_path, mpi_file
from so3krates.runtime import Runtime
from so3krates_export import read_bundle, write_bundle
from structures import structure

NO_VALUE = "pair_style so3krates verbose\npair_style so3krates"

# What is changed in a sound deck (or written instead of its last line) -> words of the refusal.
REFUSALS = {
    "option": ("pair_style so3krates", "pair_style so3krates speed 3", ["unknown option 'speed'", "device cpu|cuda"]),
    "no value": (
        "pair_style so3krates",
        "pair_style so3krates verbose\npair_style so3krates",
        ["'verbose' has no value", "verbose yes|no"],
    ),
    "threads": ("threads 1", "threads -2", ["threads -2 is negative"]),
    "device": ("threads 1", "threads 1 device tpu", ["tpu", "cpu"]),
    "plugin": ("threads 1", "threads 1 plugin /nowhere/pjrt.so", ["/nowhere/pjrt.so"]),
    "units": ("units metal", "units lj", ["units lj", "units metal", "units real"]),
    "element": (" Ga N\n", " Ga Xx\n", ["type 2 is 'Xx'", "knows only: ", "NULL"]),
    "few elements": (" Ga N\n", " Ga\n", ["for each of the 2 atom types, not 1"]),
    "many elements": (" Ga N\n", " Ga N N\n", ["for each of the 2 atom types, not 3"]),
    "NULL alone": (" Ga N\n", " Ga NULL\n", ["type 2 is NULL", "pair_style hybrid"]),
    "no file": ("pair_coeff * *", "pair_coeff * *\npair_coeff * *", ["pair_coeff * * FILE.so3k"]),
    "missing file": ("potential.so3k", "missing.so3k", ["missing.so3k", "cannot be read: No such file"]),
}


def sound_deck(bench: Bench, gan_cell: Atoms) -> str:
    """A deck that runs, with the potential linked into its folder under a plain name."""
    link = bench.folder / "potential.so3k"
    if not link.exists():
        link.symlink_to(bench.bundle)
    deck = bench.deck(structure("tiny", gan_cell)).replace(str(bench.bundle), str(link))
    return deck + "run 0\n"


def refusal(deck: str) -> str:
    with lammps_instance() as instance, pytest.raises(Exception, match="so3krates") as caught:
        instance.commands_string(deck)
    return str(caught.value)


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal(bench64: Bench, gan_cell: Atoms, case: str) -> None:
    old, new, words = REFUSALS[case]
    deck = sound_deck(bench64, gan_cell)
    assert old in deck
    message = refusal(deck.replace(old, new))
    for word in words:
        assert word in message


def test_group_group_is_refused(bench64: Bench, gan_cell: Atoms) -> None:
    lines = "compute g all group/group all\nthermo_style custom step c_g\nrun 0\n"
    with lammps_instance() as instance, pytest.raises(Exception, match="compute group/group"):
        instance.commands_string(sound_deck(bench64, gan_cell) + lines)


def test_ghosts_of_a_group_are_refused(bench64: Bench, gan_cell: Atoms) -> None:
    deck = sound_deck(bench64, gan_cell).replace("run 0\n", "")
    lines = "group some type 1\natom_modify first some\nneigh_modify include some\ncomm_modify group some\nrun 0\n"
    atoms = len(structure("tiny", gan_cell))
    assert f"comm_modify group some leaves {atoms // 2} of {atoms} atoms out" in refusal(deck + lines)
    with lammps_instance() as instance:
        instance.commands_string(deck + "comm_modify group all\nrun 0\n")


def test_damaged_file(bench64: Bench, gan_cell: Atoms) -> None:
    deck = sound_deck(bench64, gan_cell)
    data = bench64.bundle.read_bytes()
    (bench64.folder / "cut.so3k").write_bytes(data[: len(data) // 2])
    message = refusal(deck.replace("potential.so3k", "cut.so3k"))
    assert "cut.so3k" in message


def test_special_bonds(bench64: Bench, gan_cell: Atoms) -> None:
    deck = sound_deck(bench64, gan_cell)
    lines = "bond_style zero\nbond_coeff 1\ncreate_bonds single/bond 1 1 2\nrun 0\n"
    deck = deck.replace("read_data", "atom_style bond\nread_data").replace("# atomic", "# bond")
    data = bench64.folder / "atoms.data"
    text = data.read_text().replace("# atomic", "# bond").replace("2 atom types", "2 atom types\n1 bond types")
    head, rows = text.split("Atoms # bond\n\n")
    rows = re.sub(r"^(\d+) ", r"\1 1 ", rows, flags=re.MULTILINE)
    data.write_text(head + "Atoms # bond\n\n" + rows)
    deck = deck.replace('atoms.data"', 'atoms.data" extra/bond/per/atom 2 extra/special/per/atom 4')
    # Molecules without bonds are fine, and so are bonds when all neighbours count.
    with lammps_instance() as instance:
        instance.commands_string(deck)
        free = instance.get_thermo("pe")
        instance.commands_string("special_bonds lj/coul 1 1 1\n" + lines)
        assert instance.get_thermo("pe") == pytest.approx(free, abs=1e-9)
        instance.commands_string("special_bonds lj/coul 0.5 0.5 0.5\nrun 0\n")
        assert instance.get_thermo("pe") == pytest.approx(free, abs=1e-9)
        with pytest.raises(Exception, match="special_bonds lj/coul 1 1 1"):
            instance.commands_string("special_bonds lj/coul 0 1 1\nspecial_bonds lj 0 1 1 coul 0 1 1\nrun 0\n")


def test_log_says_what_was_loaded(bench32: Bench, gan_cell: Atoms) -> None:
    deck = sound_deck(bench32, gan_cell).replace("threads 1", "threads 1 verbose yes")
    log = run_deck(deck + "run 0\n", bench32.folder)
    for words in (
        "atom types  1 = Ga, 2 = N",
        f"cutoff      {read_bundle(bench32.bundle).manifest['cutoff']:g} A",
        "float32",
        "message-passing steps",
        "device      cpu",
    ):
        assert log.count(words) == 1
    assert re.search(r"room for \d+ atoms .* MiB of arrays, .* programs compiled and \d+ loaded in [\d.]+ s", log)
    assert log.count("candidates\n") == 2  # verbose: one line for every set of lists


def test_not_a_number_stops_the_run(bench64: Bench, gan_cell: Atoms, tmp_path: Path) -> None:
    """A potential with a broken weight: the refusal names step, atom and place."""
    import numpy as np

    bundle = read_bundle(bench64.bundle)
    weights = {name: np.array(value) for name, value in bundle.tensors.items()}
    for name, value in weights.items():
        if name.startswith("weights/") and value.dtype.kind == "f":
            value[...] = np.nan
    write_bundle(tmp_path / "broken.so3k", bundle.manifest, weights)
    deck = sound_deck(bench64, gan_cell).replace(str(bench64.folder / "potential.so3k"), str(tmp_path / "broken.so3k"))
    message = refusal(deck)
    assert re.search(r"step 0: .* on atom \d \((Ga|N), type [12]\) at \(.*\) A are not finite", message)
    assert "timestep" in message


def lost_in_a_run(bench: Bench, gan_cell: Atoms) -> str:
    """Of an atom that becomes nan between two steps."""
    deck = sound_deck(bench, gan_cell) + "fix 1 all nve\nrun 2\n"
    with lammps_instance() as instance:
        instance.commands_string(deck)
        ids = instance.numpy.extract_atom("id")
        instance.numpy.extract_atom("x")[list(ids).index(2), 1] = float("nan")
        with pytest.raises(Exception, match="so3krates") as caught:
            instance.command("run 1 pre no")
    return str(caught.value)


def test_a_lost_atom_is_named(bench64: Bench, gan_cell: Atoms) -> None:
    message = lost_in_a_run(bench64, gan_cell)
    atom = r"atom 2 \((Ga|N), type [12]\)"
    several = rf"positions of \d+ atoms are not finite, the first of them {atom} at"
    words = rf"step 3: the ({several}|position of {atom} is not finite:) \(.*nan"
    assert re.search(words, message)


def test_two_atoms_at_one_place_are_named_as_by_the_calculator(bench64: Bench, gan_cell: Atoms) -> None:
    atoms = structure("tiny", gan_cell)
    atoms.positions[1] = atoms.positions[0] + [0, 0, 1e-9]
    link = bench64.folder / "potential.so3k"
    deck = sound_deck(bench64, gan_cell).replace(str(link), str(bench64.bundle))
    bench64.write_data(in_lammps_frame(atoms), ("Ga", "N"))
    message = refusal(deck)
    words = (
        r"atom [12] \(\w+(, type [12])?\) and atom [12] \(\w+(, type [12])?\) are at the same place: 1e-09 A apart, at "
    )
    assert re.search("step 0: " + words, message)
    with pytest.raises(ValueError, match=words.replace("[12] \\(", "[01] \\(")) as caught:
        Runtime(bench64.bundle, cache=str(bench64.cache), threads=1).evaluate(atoms)
    assert str(caught.value).rpartition(". ")[2] in message


def test_the_log_says_what_limits_the_threads(bench64: Bench, gan_cell: Atoms) -> None:
    """One core of several, as a batch system binds a rank; and ranks bound to cores of their own share nothing."""
    cores = sorted(os.sched_getaffinity(0))
    deck = sound_deck(bench64, gan_cell).replace("threads 1", "")
    try:
        os.sched_setaffinity(0, cores[:1])
        log = run_deck(deck, bench64.folder)
    finally:
        os.sched_setaffinity(0, cores)
    assert "WARNING: pair_style so3krates" not in log
    every = os.cpu_count()
    limits = rf" \(affinity mask allows 1 of {every} cores\)" if every != 1 else ""
    assert re.search(rf"device .*, 1 thread{limits}$", log, re.MULTILINE)


def test_ranks_that_are_bound_to_cores_of_their_own(bench64: Bench, gan_cell: Atoms) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    deck = bench64.deck(structure("tiny", gan_cell)).replace("threads 1", "") + "run 0\n"
    (bench64.folder / "in.bound").write_text(deck)
    # Rank 0 has the first core for itself and shares the second with rank 1.
    script = f'c={cores[0]},{cores[1]}; [ "$PMI_RANK" = 1 ] && c={cores[1]}; exec taskset -c $c "$@"'
    command = [mpi_file("mpiexec"), "-n", "2", "sh", "-c", script, "sh", lmp_path(), "-in", "in.bound"]
    done = subprocess.run(
        [str(word) for word in command], cwd=bench64.folder, env=child_environment(), capture_output=True, text=True
    )
    assert re.search(r"device .*, 1 thread\b", done.stdout), done.stdout + done.stderr


@pytest.mark.parametrize("ranks", [1, 2])
def test_more_threads_than_cores(bench64: Bench, gan_cell: Atoms, ranks: int) -> None:
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("needs two cores")
    deck = sound_deck(bench64, gan_cell).replace("threads 1", f"threads {3 - ranks}")
    try:
        os.sched_setaffinity(0, sorted(cores)[:1])
        log = run_deck(deck, bench64.folder, ranks=ranks)
    finally:
        os.sched_setaffinity(0, cores)
    told = {1: "1 rank of 2 threads", 2: "2 ranks of 1 thread"}[ranks]
    assert log.count(f"WARNING: pair_style so3krates: {told} on this machine share 1 core: they wait") == 1


@pytest.mark.parametrize("threads", [2**31 - 1, 20000])
def test_absurd_threads(bench64: Bench, gan_cell: Atoms, threads: int) -> None:
    message = refusal(sound_deck(bench64, gan_cell).replace("threads 1", f"threads {threads}"))
    assert f"threads is {threads}, but this machine has {os.cpu_count()} core" in message and "give at most" in message


def test_an_unknown_instruction_set(bench64: Bench, gan_cell: Atoms) -> None:
    (bench64.folder / "in.deck").write_text(sound_deck(bench64, gan_cell))
    done = subprocess.run(
        [str(lmp_path()), "-in", "in.deck"],
        cwd=bench64.folder,
        env={**child_environment(), "SO3KRATES_KERNELS": "avx3"},
        capture_output=True,
        text=True,
    )
    message = "ERROR: pair_style so3krates: SO3KRATES_KERNELS is 'avx3': known are generic, avx2 and avx512"
    assert done.returncode == 1 and message in done.stdout + done.stderr


@pytest.mark.parametrize("option", ["cache", "file"])
def test_letters_that_lammps_drops(bench64: Bench, gan_cell: Atoms, option: str) -> None:
    deck = sound_deck(bench64, gan_cell)
    if option == "cache":
        deck = deck.replace("threads 1", 'threads 1 cache "cäche" cache')
    else:
        deck = deck.replace("potential.so3k", "pötential.so3k")
    message = refusal(deck)
    assert "LAMMPS has dropped a part of a letter beyond ASCII in " in message and "a name of ASCII letters" in message


def test_energies_beyond_physics_stop_the_run(bench64: Bench, gan_cell: Atoms, tmp_path: Path) -> None:
    """A potential whose last bias is absurd: numbers, but none that an atom can have."""
    bundle = read_bundle(bench64.bundle)
    weights = dict(bundle.tensors)
    (name,) = weights.keys() & {"weights/readout/dense_1/bias", "weights/fused/readout/out_bias"}
    weights[name] = weights[name] + 1e9
    write_bundle(tmp_path / "absurd.so3k", bundle.manifest, weights)
    deck = sound_deck(bench64, gan_cell).replace(str(bench64.folder / "potential.so3k"), str(tmp_path / "absurd.so3k"))
    message = refusal(deck)
    assert re.search(
        r"step 0: energy -?[\d.e+]+ eV .* of atom \d \((Ga|N), type [12]\) at .* is beyond any phys", message
    )
