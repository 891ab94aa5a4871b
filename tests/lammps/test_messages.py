"""Every refusal says what happened, with numbers, and what to do; the log says what was loaded."""

import re
from pathlib import Path

import pytest
from ase import Atoms
from decks import Bench, lammps_instance
from so3krates.lammps import run_deck
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
    "gpu/aware": ("threads 1", "threads 1 gpu/aware on", ["gpu/aware on is not known", "auto, yes or no"]),
    "device": ("threads 1", "threads 1 device tpu", ["tpu", "cpu"]),
    "plugin": ("threads 1", "threads 1 plugin /nowhere/pjrt.so", ["/nowhere/pjrt.so"]),
    "units": ("units metal", "units real", ["units real", "units metal"]),
    "element": (" Ga N\n", " Ga Xx\n", ["type 2 is 'Xx'", "knows only: ", "NULL"]),
    "few elements": (" Ga N\n", " Ga\n", ["for each of the 2 atom types, not 1"]),
    "many elements": (" Ga N\n", " Ga N N\n", ["for each of the 2 atom types, not 3"]),
    "NULL alone": (" Ga N\n", " Ga NULL\n", ["type 2 is NULL", "pair_style hybrid"]),
    "no file": ("pair_coeff * *", "pair_coeff * *\npair_coeff * *", ["pair_coeff * * FILE.so3k"]),
    "missing file": ("potential.so3k", "missing.so3k", ["missing.so3k"]),
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
