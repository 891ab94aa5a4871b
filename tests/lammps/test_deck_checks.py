"""Decks that contradict the potential or themselves are refused or warned of, also where that happens within a run."""

import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from decks import MASSES, Bench, by_tag, lammps_instance, python_evaluation
from so3krates.lammps import LammpsError, run_deck
from so3krates_export import read_bundle, write_bundle
from structures import structure

SAME = 1e-9  # eV/A
SIGNAL = 0.05  # eV/A
DISTANCE = 3.4  # A, of two argon atoms
pytestmark = pytest.mark.parametrize("gan_bundle64", ["fused"], indirect=True)  # the rest is not about bodies

# Masses of the two types -> what is wrong with them as Ga and N.
MASSES_OF_TYPES = {
    "right": (69.723, 14.007, []),
    "isotopes": (71.0, 15.0, []),
    "swapped": (14.007, 69.723, ["type 1 has the mass 14.007 but is Ga", "type 2 has the mass 69.723 but is N"]),
    "one": (69.7, 28.0, ["type 2 has the mass 28 but is N in pair_coeff, whose standard mass is 14.007"]),
    "just within": (69.723 * 1.19, 14.007 * 0.81, []),
    "just beyond": (69.723 * 1.21, 14.007 * 0.79, ["type 1 has", "type 2 has"]),
}


def bonded_deck(
    bench: Bench, atoms: Atoms, special: str, elements: tuple[str, ...] = ("Ga", "N"), pair: str | None = None
) -> str:
    """A deck whose atoms may be bonded, all in one molecule, and whose special_bonds are `special`."""
    deck = bench.deck(atoms, elements, pair=pair).replace("read_data", "atom_style bond\nread_data")
    data = bench.folder / "atoms.data"
    text = re.sub(r"(\d) atom types", r"\1 atom types\n1 bond types", data.read_text())
    head, rows = text.split("Atoms # atomic\n\n")
    data.write_text(head + "Atoms # bond\n\n" + re.sub(r"^(\d+) ", r"\1 1 ", rows, flags=re.MULTILINE))
    deck = deck.replace('atoms.data"', 'atoms.data" extra/bond/per/atom 4 extra/special/per/atom 30')
    return deck + f"bond_style zero\nbond_coeff 1\nspecial_bonds {special}\ncomm_modify cutoff 12\n"


# ---- masses


@pytest.mark.parametrize("per_atom", [False, True])
def test_masses_against_elements(bench64: Bench, gan_cell: Atoms, per_atom: bool) -> None:
    """Of types, or of every atom by itself."""
    deck = bench64.deck(structure("tiny", gan_cell))
    if per_atom:
        data = bench64.folder / "atoms.data"
        head, rows = data.read_text().split("Atoms # atomic\n\n")
        rows = re.sub(r"^(\d+ \d+) (.*)$", r"\1 1.0 1.0 \2", rows, flags=re.MULTILINE)
        data.write_text(head.split("Masses")[0] + "Atoms # sphere\n\n" + rows)
        deck = deck.replace("read_data", "atom_style sphere\nread_data")
    text = ""
    for gallium, nitrogen, _ in MASSES_OF_TYPES.values():
        if per_atom:
            text += f"clear\n{deck}set type 1 mass {gallium}\nset type 2 mass {nitrogen}\n"
        else:
            text += f"clear\n{deck}mass 1 {gallium}\nmass 2 {nitrogen}\n"
        text += 'run 0\nrun 0\nprint "next case"\n'
    parts = run_deck(text, bench64.folder).split('next case"')
    for (_, _, expected), part in zip(MASSES_OF_TYPES.values(), parts[:-1], strict=True):
        found = re.findall(r"WARNING: pair_style so3krates: mass and pair_coeff contradict each other: (.*)", part)
        assert len(found) == min(1, len(expected))
        for words in expected:
            assert words in found[0]


def test_masses_of_neighbours_are_seen_when_they_are_swapped(bench64: Bench, gan_cell: Atoms, tmp_path: Path) -> None:
    """Gallium and arsenic are 7 % apart: what counts is that each has the other's."""
    bundle = read_bundle(bench64.bundle)
    path = tmp_path / "gaas.so3k"
    named = {"elements": ["As" if name == "N" else name for name in bundle.manifest["elements"]]}
    write_bundle(path, bundle.manifest | named, bundle.tensors)
    deck = bench64.deck(structure("tiny", gan_cell)).replace(" Ga N\n", " Ga As\n")
    deck = deck.replace(str(bench64.bundle), str(path))
    said = {}
    for name, masses in {"right": (69.723, 74.92), "isotopes": (69.723, 69.9), "swapped": (74.9216, 69.7)}.items():
        log = run_deck(f"{deck}mass 1 {masses[0]}\nmass 2 {masses[1]}\nrun 0\n", bench64.folder)
        said[name] = re.findall("contradict each other: (.*)", log)
    assert not said["right"]
    assert not said["isotopes"]
    assert "type 1 has the mass 74.9216 but is Ga" in said["swapped"][0]
    assert "type 2 has the mass 69.7 but is As" in said["swapped"][0]


def test_standard_masses_are_those_of_ase(request: pytest.FixtureRequest, gan_bundle64: object) -> None:
    text = (request.config.rootpath / "csrc" / "pair_so3krates" / "standard_masses.h").read_text()
    table = dict(re.findall(r'\{"(\w+)", ([\d.]+)\}', text.split("STANDARD_MASSES")[1].split("FAR_ISOTOPES")[0]))
    assert len(table) == 103
    assert all(float(mass) == pytest.approx(MASSES[symbol], rel=1e-4) for symbol, mass in table.items())


# ---- time steps

TIMESTEPS = {
    "femtoseconds in units metal": ("timestep 1.0", "timestep 1 is 1000 fs, as times are in ps in units metal"),
    "long": ("timestep 0.02", ""),
    "usual": ("timestep 0.001", ""),
    "too short": ("timestep 5e-6", "timestep 5e-06 is 0.005 fs"),
    "changed by a fix": ("timestep 5e-6\nfix 2 all dt/reset 1 NULL 0.002 0.1", ""),
}


def test_time_steps_in_another_unit_are_said(bench64: Bench, gan_cell: Atoms) -> None:
    deck = bench64.deck(structure("tiny", gan_cell))
    runs = {name: (f"{line}\nfix 1 all nve\nrun 0\nrun 0", words) for name, (line, words) in TIMESTEPS.items()}
    runs["nothing moves"] = ("timestep 1.0\nrun 0", "")
    runs["a minimisation"] = ("timestep 1.0\nfix 1 all nve\nminimize 0 0 1 1", "")
    text = "".join(f'clear\n{deck}{lines}\nprint "next case"\n' for lines, _ in runs.values())
    parts = run_deck(text, bench64.folder).split('next case"')
    for (name, (_, words)), part in zip(runs.items(), parts[:-1], strict=True):
        assert part.count("WARNING: pair_style so3krates: timestep") == (1 if words else 0), name
        assert words in part
        assert ("write timestep 0.001 for 1 fs" in part) == bool(words)
    real = run_deck(f"{deck.replace('units metal', 'units real')}fix 1 all nve\nrun 0\n", bench64.folder)
    assert "timestep 0.001 is 0.001 fs, as times are in fs in units real" in real


# ---- bonds


@pytest.mark.parametrize("ranks", [1, 2])
def test_bonds_made_in_the_run_are_refused(bench64: Bench, gan_cell: Atoms, ranks: int) -> None:
    """Where lists then lack bonded neighbours; else they change nothing."""
    atoms = structure("crystal", gan_cell)
    making = "fix make all bond/create 3 1 2 2.3 1\nfix 1 all nve\nthermo_style custom step pe\nrun 5\n"
    with pytest.raises(LammpsError, match=r"step 3: special_bonds removes 1-2 neighbours .* atom \d+.*lj/coul 1 1 1"):
        run_deck(bonded_deck(bench64, atoms, "lj/coul 0 0 0") + making, bench64.folder, ranks=ranks)


@pytest.mark.parametrize("special", ["lj/coul 1 1 1", "lj/coul 0.5 0.25 0.125", "lj 0 0 0 coul 1 1 1"])
def test_bonds_made_in_the_run_change_nothing(bench64: Bench, gan_cell: Atoms, special: str) -> None:
    atoms = structure("crystal", gan_cell)
    with lammps_instance() as instance:
        instance.commands_string(bonded_deck(bench64, atoms, special))
        instance.commands_string("fix make all bond/create 1 1 2 2.3 1\nfix 1 all nve\nrun 3\n")
        assert instance.extract_global("nbonds") > 0
        atoms.positions, found = by_tag(instance, "x"), by_tag(instance, "f")
    expected = python_evaluation(bench64.bundle, atoms).forces
    assert np.abs(expected).max() > SIGNAL
    assert np.abs(found - expected).max() < SAME


def test_bonds_of_atoms_that_others_treat_are_theirs(bench64: Bench, gan_cell: Atoms) -> None:
    """Bonded argon beside GaN loses neighbours of another style, which is right; bonded Ga and N lose some here."""
    gan = structure("cluster", gan_cell)
    argon = Atoms("Ar2", gan.positions.max(axis=0) + np.array([[-3, -3, 2.2], [-3, -3, 2.2 + DISTANCE]]))
    atoms = gan + argon
    pair = f'pair_style hybrid/overlay so3krates threads 1 cache "{bench64.cache}" lj/cut 6.0\n'
    pair += f'pair_coeff * * so3krates "{bench64.bundle}" Ga N NULL\npair_coeff * 3 lj/cut 0.01 3.0\n'
    attraction = 4 * 0.01 * ((3.0 / DISTANCE) ** 12 - (3.0 / DISTANCE) ** 6)
    with lammps_instance() as instance:
        instance.commands_string(bonded_deck(bench64, atoms, "lj/coul 0 0 0", ("Ga", "N", "Ar"), pair) + "run 0\n")
        before = instance.get_thermo("pe")
        instance.commands_string(f"create_bonds single/bond 1 {len(gan) + 1} {len(gan) + 2}\nrun 0\n")
        without = instance.get_thermo("pe")
        assert without - before == pytest.approx(-attraction, abs=SAME)
        with pytest.raises(Exception, match="special_bonds removes 1-2 neighbours"):
            instance.commands_string(f"create_bonds single/bond 1 {len(gan)} {len(gan) - 1}\nrun 0\n")
        # As the documentation has it for decks where another style wants the zeros.
        instance.commands_string("special_bonds lj/coul 0.5 0.5 0.5\npair_modify pair lj/cut special lj/coul 0 0 0\n")
        instance.commands_string("run 0\n")
        assert instance.get_thermo("pe") == pytest.approx(without, abs=SAME)


def test_molecules_that_come_in_the_run_are_refused(bench64: Bench, gan_cell: Atoms) -> None:
    """fix deposit brings bonds with it."""
    lines = "2 atoms\n1 bonds\n\nCoords\n\n1 0 0 0\n2 0 0 2\n\nTypes\n\n1 1\n2 2\n\nBonds\n\n1 1 1 2\n\n"
    (bench64.folder / "pair.mol").write_text("# GaN\n" + lines)
    deck = bonded_deck(bench64, structure("slab", gan_cell), "lj/coul 0 1 1")
    deck += "molecule pair pair.mol\nregion top block 1 3 1 3 14 18 units box\n"
    deck += "fix drop all deposit 1 0 2 77 region top mol pair near 1.5\nfix 1 all nve\nrun 4\n"
    with pytest.raises(LammpsError, match=r"step 1: special_bonds removes 1-2 neighbours"):
        run_deck(deck, bench64.folder)


# ---- atoms that lists do not have

HIDDEN = {
    "types": ("neigh_modify exclude type 1 2", "neigh_modify exclude hides atoms from each other"),
    "group": ("group some id 1 2\nneigh_modify exclude group some all", "neigh_modify exclude hides"),
    "empty group": ("group some empty\nneigh_modify exclude group some all", ""),
    "include": (
        "group some id 1 2\natom_modify first some\nneigh_modify include some",
        "neigh_modify include some hides 2 of 4 atoms",
    ),
}


def test_hidden_atoms_are_said_once(bench64: Bench, gan_cell: Atoms) -> None:
    deck = bench64.deck(structure("tiny", gan_cell))
    text = "".join(f'clear\n{deck}{lines}\nrun 0\nrun 0\nprint "next case"\n' for lines, _ in HIDDEN.values())
    parts = run_deck(text, bench64.folder).split('next case"')
    for (_, words), part in zip(HIDDEN.values(), parts[:-1], strict=True):
        assert part.count("WARNING: pair_style so3krates") == (1 if words else 0)
        assert words in part


def test_a_hybrid_without_the_potential_is_refused(bench64: Bench, gan_cell: Atoms) -> None:
    pair = f'pair_style hybrid so3krates threads 1 lj/cut 6.0\npair_coeff * * so3krates "{bench64.bundle}" NULL NULL\n'
    with (
        lammps_instance() as instance,
        pytest.raises(Exception, match="every atom type is NULL in pair_coeff") as caught,
    ):
        instance.commands_string(bench64.deck(structure("tiny", gan_cell), pair=pair))
    assert "Give at least one type an element (" in str(caught.value)
