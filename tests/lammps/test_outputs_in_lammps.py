"""Further outputs in decks: those of atoms by `fix pair`, those of the system by `compute pair`."""

import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from decks import BAR_PER_EV_A3, Bench, lammps_instance
from extra_outputs import NEWER, write_extra_bundle
from so3krates.lammps import run_deck
from so3krates.lammps.thermo import read_log
from so3krates.runtime import Runtime
from structures import structure

SAME = 1e-10  # of a value
FRAME = 1e-8  # eV, and of a norm: positions are written with their digits, but wrapped
SIGNAL = 0.05
MD = "velocity all create 1000 7 loop geom\nfix 1 all nve\n"
FIELDS = ("feature_norm", "forces[2]", "atom_energies", "uncertainty")


def on_ranks(*ranks: int) -> pytest.MarkDecorator:
    """Portable programs on one rank in every run: rows of others go the same ways with both bodies."""
    later = [pytest.param("xla", number, marks=pytest.mark.torture) for number in ranks[1:]]
    cases = [*(("fused", number) for number in ranks), ("xla", 1), *later]
    return pytest.mark.parametrize(("gan_bundle64", "ranks"), cases, indirect=["gan_bundle64"])


@pytest.fixture(scope="module")
def extra_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_extra_bundle(tmp_path_factory.mktemp("extra") / "extra.so3k")


def of_atoms(bench: Bench, fields: tuple[str, ...], run: str, every: int = 1, pair: str | None = None) -> str:
    """Lines that write these outputs of the last step, by tag."""
    asked = " ".join(f"{name} 1" for name in fields)
    return (
        f"fix u all pair {every} so3krates {asked}\n"
        f'{run}\nwrite_dump all custom "{bench.folder}/dump" id f_u[*] fy modify sort id format float %.17g\n'
    )


def dumped(bench: Bench) -> np.ndarray:
    """Columns after the tag, by tag."""
    return np.loadtxt(bench.folder / "dump", skiprows=9, ndmin=2)[:, 1:]


@on_ranks(1, 2, 4)
def test_outputs_of_atoms_are_those_of_python(bench64: Bench, gan_cell: Atoms, ranks: int) -> None:
    """And on several ranks those of one, also where one of them has no atoms."""
    name = "crystal" if ranks < 4 else "cluster"
    atoms = structure(name, gan_cell)
    if ranks == 4:
        atoms.set_cell(atoms.cell.array + np.diag([60, 0, 0]))
    deck = bench64.deck(atoms).replace("box tilt large", "box tilt large\nprocessors * 1 1")
    run_deck(deck + of_atoms(bench64, FIELDS, "run 0"), bench64.folder, ranks=ranks)
    found = dumped(bench64)
    expected = Runtime(bench64.bundle, threads=1).evaluate(atoms, ["feature_norm", "forces", "energies", "uncertainty"])
    named = [expected["feature_norm"], expected["forces"][:, 1], expected["energies"], expected["uncertainty"]]
    columns = np.stack(named, axis=1)
    assert np.ptp(columns, axis=0).min() > SIGNAL
    assert np.all(np.abs(found[:, : len(FIELDS)] - columns).max(axis=0) < SAME * np.abs(columns).max(axis=0))
    assert np.array_equal(found[:, 1], found[:, -1])  # fy


@on_ranks(1, 2)
def test_further_outputs_and_per_atom_virials_on_one_step(bench64: Bench, gan_cell: Atoms, ranks: int) -> None:
    """After a run in which atoms change their rank: of the last frame what Python has, and what LAMMPS' own compute."""
    atoms = structure("crystal", gan_cell)
    run = "compute w all centroid/stress/atom NULL virial\nneighbor 0.5 bin\nneigh_modify every 1 delay 0 check yes\n"
    run += "velocity all create 3000 7 loop geom\nfix 1 all nve\nrun 12"
    deck = bench64.deck(atoms) + of_atoms(bench64, ("feature_norm", "atom_virials[2]"), run)
    run_deck(deck.replace("id f_u[*] fy", "id f_u[*] c_w[4] x y z"), bench64.folder, ranks=ranks)
    found = dumped(bench64)
    atoms.positions = found[:, 3:]
    expected = Runtime(bench64.bundle, threads=1).evaluate(atoms, ["feature_norm", "atom_virials"])
    assert np.ptp(expected["feature_norm"]) > SIGNAL and np.ptp(expected["atom_virials"][:, 0, 1]) > SIGNAL
    assert np.abs(found[:, 0] - expected["feature_norm"]).max() < FRAME
    assert np.abs(found[:, 1] - expected["atom_virials"][:, 0, 1]).max() < FRAME
    assert np.abs(found[:, 2] / BAR_PER_EV_A3 + found[:, 1]).max() < FRAME  # tension is positive there


def test_outputs_of_the_second_of_two(bench64: Bench, gan_cell: Atoms) -> None:
    """Of a style that `hybrid` has twice: the first sees gallium alone."""
    atoms = structure("crystal", gan_cell)
    pair = (
        f'pair_style hybrid/overlay so3krates threads 1 cache "{bench64.cache}" '
        f'so3krates threads 1 cache "{bench64.cache}"\n'
        f'pair_coeff * * so3krates 1 "{bench64.bundle}" Ga NULL\n'
        f'pair_coeff * * so3krates 2 "{bench64.bundle}" Ga N\n'
    )
    norms = []
    for name in ("so3krates:1", "so3krates:2"):
        run = of_atoms(bench64, ("feature_norm",), "run 0").replace("so3krates", name).replace("f_u[*]", "f_u")
        with lammps_instance() as instance:
            instance.commands_string(bench64.deck(atoms, pair=pair) + run)
        norms.append(dumped(bench64)[:, 0])
    expected = Runtime(bench64.bundle, threads=1).evaluate(atoms, ["feature_norm"])["feature_norm"]
    assert np.abs(norms[1] - expected).max() < FRAME
    assert np.all(norms[0][atoms.numbers == 7] == 0.0) and np.abs(norms[0] - expected)[::2].max() > SIGNAL


def test_an_output_is_computed_on_the_steps_of_its_fix(bench64: Bench, gan_cell: Atoms) -> None:
    """And nothing else changes: the trajectory is the same to the bit."""
    atoms = structure("crystal", gan_cell)
    energies = []
    for lines in ("", "fix u all pair 3 so3krates feature_norm 1\n"):
        deck = bench64.deck(atoms) + MD + lines + "run 7\n"
        run_deck(deck, bench64.folder)
        energies.append(np.asarray(read_log(bench64.folder / "log.lammps")[-1]["PotEng"]))
    assert np.ptp(energies[0]) > SIGNAL and np.array_equal(*energies)
    deck = bench64.deck(atoms) + MD + of_atoms(bench64, ("feature_norm",), "run 7", every=3).replace("f_u[*]", "f_u")
    with lammps_instance() as instance:
        instance.commands_string(deck)
        norms = dumped(bench64)[:, 0]
        instance.commands_string("unfix u\n" + of_atoms(bench64, ("feature_norm",), "run 0").replace("f_u[*]", "f_u"))
        last = dumped(bench64)[:, 0]
    assert 1e-3 < np.abs(norms - last).max() < 0.5  # of step 6, and of step 7


def test_atoms_of_other_styles_have_zero(bench64: Bench, gan_cell: Atoms) -> None:
    atoms = structure("cluster", gan_cell) + Atoms("Ar", [[1.0, 1.0, 1.0]])
    pair = (
        f'pair_style hybrid/overlay so3krates threads 1 cache "{bench64.cache}" lj/cut 6.0\n'
        f'pair_coeff * * so3krates "{bench64.bundle}" Ga N NULL\npair_coeff * 3 lj/cut 0.01 3.0\n'
    )
    deck = bench64.deck(atoms, ("Ga", "N", "Ar"), pair=pair)
    with lammps_instance() as instance:
        instance.commands_string(deck + of_atoms(bench64, ("feature_norm", "atom_energies"), "run 0"))
    found = dumped(bench64)
    assert np.all(found[-1, :2] == 0.0) and np.abs(found[:-1, :2]).min() > 0.0


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_outputs_of_the_system_are_reduced_over_ranks(
    extra_bundle: Path, program_cache: Path, tmp_path: Path, gan_cell: Atoms, ranks: int
) -> None:
    """Their order is that of the names: extent, most, pairs."""
    atoms = structure("slab", gan_cell)
    atoms = atoms[:-1]  # so that ranks differ
    bench = Bench(extra_bundle, program_cache, tmp_path)
    deck = bench.deck(atoms).replace("box tilt large", "box tilt large\nprocessors 1 1 *")
    deck += "compute p all pair so3krates\nthermo_style custom step pe c_p[1] c_p[2] c_p[3] c_p[4]\n"
    deck += "thermo_modify format float %.17g norm no\n" + MD + "thermo 2\nrun 4\n"
    log = run_deck(deck, tmp_path, ranks=ranks)
    columns = read_log(tmp_path / "log.lammps")[-1]
    expected = Runtime(extra_bundle, threads=1).evaluate(atoms, ["pairs", "most", "extent"])
    first = [columns[f"c_p[{k}]"][0] for k in range(1, 5)]
    assert first == [*expected["extent"], expected["most"], expected["pairs"]] and first[3] > 10 * first[2] > 0
    assert np.all(np.isfinite([columns[f"c_p[{k}]"] for k in range(1, 5)])) and len(columns["Step"]) == 3
    assert "compute pair [1] extent[1] (1), [2] extent[2] (1), [3] most (1), [4] pairs (1)" in log


RUNS = {
    "minimize": "minimize 0 1e-4 5 20\n",
    "rerun": 'dump 1 all custom 1 "frames" id type x y z\nfix 1 all nve\nrun 3\nundump 1\nrerun "frames" dump x y z\n',
}


@pytest.mark.parametrize("kind", RUNS)
def test_other_kinds_of_runs(
    extra_bundle: Path, program_cache: Path, tmp_path: Path, gan_cell: Atoms, kind: str
) -> None:
    """The sum of an output of atoms is that of the system; `fix pair` has that of a line search's first trial."""
    deck = Bench(extra_bundle, program_cache, tmp_path).deck(structure("crystal", gan_cell))
    deck += "fix u all pair 1 so3krates coordination 1\ncompute m all reduce sum f_u\ncompute p all pair so3krates\n"
    deck += "thermo_style custom step pe c_m c_p[4]\n" + RUNS[kind].replace('"frames"', f'"{tmp_path}/frames"')
    run_deck(deck, tmp_path)
    columns = read_log(tmp_path / "log.lammps")[-1]
    assert len(columns["Step"]) > 1 and min(columns["c_m"]) > 100
    differences = np.abs(np.subtract(columns["c_m"], columns["c_p[4]"]))
    assert differences[0] == 0 and differences.max() <= (10 if kind == "minimize" else 0)


@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.torture)])
@pytest.mark.parametrize("gan_bundle64", ["fused"], indirect=True)
def test_a_committee_in_a_deck(
    committee: Path, gan_bundle64: Path, program_cache: Path, tmp_path: Path, gan_cell: Atoms, ranks: int
) -> None:
    """Deviations of atoms and energies of members, as Python has them; the other members do not move the atoms."""
    atoms = structure("slab", gan_cell)[:-1]
    energies = {}
    for name, bundle in (("alone", gan_bundle64), ("committee", committee)):
        bench = Bench(bundle, program_cache, tmp_path)
        deck = bench.deck(atoms).replace("box tilt large", "box tilt large\nprocessors 1 1 *") + MD + "thermo 1\n"
        if name == "committee":
            deck += "compute p all pair so3krates\nthermo_style custom step pe c_p[1] c_p[2] c_p[3]\n"
            deck += "thermo_modify format float %.17g norm no\n"
            deck += of_atoms(bench, ("committee_forces",), "run 0").replace("f_u[*]", "f_u") + "run 2\n"
        else:
            deck += "thermo_modify format float %.17g norm no\nrun 0\nrun 2\n"
        run_deck(deck, tmp_path, ranks=ranks)
        energies[name] = read_log(tmp_path / "log.lammps")[-1]
    assert np.array_equal(energies["alone"]["PotEng"], energies["committee"]["PotEng"])
    assert np.ptp(energies["alone"]["PotEng"]) > 1e-3
    names = ["committee_forces", "member_energies"]
    expected = Runtime(committee, threads=1).evaluate(atoms, names)
    assert expected["committee_forces"].max() > 1e-3 and np.ptp(expected["member_energies"]) > SIGNAL
    largest = expected["committee_forces"].max()
    np.testing.assert_allclose(dumped(bench)[:, 0], expected["committee_forces"], rtol=0, atol=1e-8 * largest)
    first = [energies["committee"][f"c_p[{k}]"][0] for k in (1, 2, 3)]
    np.testing.assert_allclose(first, expected["member_energies"], rtol=1e-10)


REFUSALS = {
    "unknown": ("fix u all pair 1 so3krates hardness2 1", "asks for hardness2, but .* Write one of: atom_energies, "),
    "several entries": ("fix u all pair 1 so3krates moments 1", r"asks for moments, but .* moments\[1\] to \[2\]"),
    "entry too large": ("fix u all pair 1 so3krates moments[3] 1", r"asks for moments\[3\], but .* forces\[1\] to"),
    "entry zero": ("fix u all pair 1 so3krates moments[0] 1", r"asks for moments\[0\], but"),
    "of the system": ("fix u all pair 1 so3krates pairs 1", "asks for pairs, but .* has no such output of atoms"),
    "of a newer version": (f"fix u all pair 1 so3krates {NEWER} 1", f"output {NEWER} is of type uint8, .* update"),
    "not asked for": ("fix u all pair 1 so3krates coordination 0\nrun 0", "Write: fix .* so3krates coordination 1"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(extra_bundle: Path, program_cache: Path, tmp_path: Path, gan_cell: Atoms, case: str) -> None:
    lines, words = REFUSALS[case]
    deck = Bench(extra_bundle, program_cache, tmp_path).deck(structure("tiny", gan_cell))
    with lammps_instance() as instance, pytest.raises(Exception, match="so3krates") as caught:
        instance.commands_string(deck + lines + "\n")
    assert re.search(f"pair_style so3krates: .*{words}", str(caught.value))


def test_a_fix_before_the_potential(bench32: Bench, gan_cell: Atoms) -> None:
    deck = bench32.deck(structure("tiny", gan_cell)).replace(
        "pair_coeff", "fix u all pair 1 so3krates feature_norm 1\npair_coeff"
    )
    with lammps_instance() as instance, pytest.raises(Exception, match="Write the fix after pair_coeff"):
        instance.commands_string(deck)


def test_another_potential_of_the_same_style(extra_bundle: Path, bench64: Bench, gan_cell: Atoms) -> None:
    """What LAMMPS has taken of the first stays valid; what the second lacks is refused."""
    atoms = structure("tiny", gan_cell)
    deck = bench64.deck(atoms) + "fix u all pair 1 so3krates feature_norm 1\nrun 0\n"
    with lammps_instance() as instance:
        instance.commands_string(deck + f'pair_coeff * * "{bench64.bundle}" Ga N\nrun 1\n')
        with pytest.raises(Exception, match='has no output "feature_norm": it has atom_energies, coordination'):
            instance.commands_string(f'pair_coeff * * "{extra_bundle}" Ga N\nrun 1\n')


def test_uncertain_frames_are_written_and_stop_the_run(bench64: Bench, gan_cell: Atoms) -> None:
    """The deck of docs/uncertainty.md: a crystal that is heated until it leaves the training data."""
    deck = bench64.deck(structure("crystal", gan_cell)) + UNCERTAIN.format(folder=bench64.folder)
    log = run_deck(deck, bench64.folder, ranks=2)
    assert re.search(r"Fix halt condition for fix-id stop met on step \d+", log)
    largest = [float(line.split()[1]) for line in (bench64.folder / "largest").read_text().splitlines()[2:]]
    assert largest[0] < LOW < HIGH < largest[-1]
    frames = (bench64.folder / "uncertain").read_text().count("ITEM: TIMESTEP")
    assert frames == sum(value > LOW for value in largest) > 0


LOW, HIGH = 2.0, 20.0  # eV/A: frames above the first are kept, the second ends the run
UNCERTAIN = f"""
velocity all create 100 1
fix move all nve
fix heat all langevin 6000 6000 0.02 1
fix u all pair 5 so3krates uncertainty 1
compute largest all reduce max f_u
variable skip equal "c_largest < {LOW}"
dump uncertain all custom 5 "{{folder}}/uncertain" id type x y z f_u
dump_modify uncertain skip v_skip sort id
fix print all ave/time 5 1 5 c_largest file "{{folder}}/largest"
variable largest equal c_largest
fix stop all halt 5 v_largest > {HIGH} error soft
run 2000
"""
