"""Monte Carlo fixes see the energies of the systems that they compare."""

from dataclasses import replace

import pytest
from ase import Atoms
from ase.io import read
from decks import Bench, python_evaluation
from so3krates.lammps import LammpsError, run_deck
from so3krates.lammps.thermo import read_log
from so3krates_export import read_bundle, write_bundle
from structures import structure

SHARP = 1e-6  # eV, how well the fix must know a difference of energies
COLD = 1e-4  # K; kT is 1e-8 eV
SIGNAL = 1.0  # eV
pytestmark = pytest.mark.parametrize("gan_bundle64", ["fused"], indirect=True)  # the rest is not about bodies
COUNTS = "thermo_style custom step atoms pe f_mc[3] f_mc[4] f_mc[5] f_mc[6]\n"  # insertions tried, done; deletions


def with_shift(bench: Bench, element: str, shift: float) -> Bench:
    """The same potential with another energy of an atom of `element` alone."""
    bundle = read_bundle(bench.bundle)
    shifts = list(bundle.manifest["energy_shifts"])
    shifts[bundle.manifest["elements"].index(element)] = shift
    path = bench.folder / f"shifted {shift}.so3k"
    write_bundle(path, bundle.manifest | {"energy_shifts": shifts}, bundle.tensors)
    return replace(bench, bundle=path)


def energy(bench: Bench, atoms: Atoms) -> float:
    return python_evaluation(bench.bundle, atoms).energy


@pytest.mark.parametrize(
    ("ranks", "pair"), [(1, "so3krates"), (2, "so3krates"), (2, "hybrid/overlay zero 3.0 so3krates")]
)
def test_gcmc_deletes_at_the_difference_of_energies(bench64: Bench, gan_cell: Atoms, ranks: int, pair: str) -> None:
    """At almost no temperature an atom goes if its chemical potential is below E(N) - E(N - 1), and stays if above."""
    atoms = structure("crystal", gan_cell)
    gas = list(atoms.symbols).index("N")
    without = atoms.copy()
    del without[gas]
    bench = with_shift(bench64, "N", 0.0)
    bound = energy(bench, atoms) - energy(bench, without)
    assert abs(bound) > SIGNAL
    bench = with_shift(bench, "N", -bound)  # for a chemical potential near 0, whose exponential is a number
    lines = bench.pair().replace("pair_style so3krates", f"pair_style {pair}")
    if "hybrid" in pair:
        lines = lines.replace("pair_coeff * *", "pair_coeff * * zero\npair_coeff * * so3krates")
    gone = []
    for potential in (-SHARP, SHARP):
        deck = bench.deck(atoms, pair=lines) + f"group gas id {1 + gas}\n"
        deck += (
            f"fix mc gas gcmc 1 20 0 2 77 {COLD} {potential} 0.0 full_energy max 1 overlap_cutoff 1.2\n{COUNTS}run 1\n"
        )
        log = run_deck(deck + "run 0\n", bench.folder, ranks=ranks)
        assert "WARNING: pair_style" not in log
        run, _ = read_log(bench.folder / "log.lammps")
        assert run["f_mc[5]"][-1] > 0
        gone.append(run["Atoms"][0] - run["Atoms"][-1])
    assert gone == [1, 0]


def test_gcmc_on_two_ranks_leaves_a_sound_system(bench64: Bench, gan_cell: Atoms) -> None:
    """The energy afterwards is that of the atoms that are there."""
    deck = bench64.deck(structure("crystal", gan_cell)) + "group gas type 2\n"
    deck += f"fix mc gas gcmc 1 30 0 2 77 300 -9.0 0.0 full_energy overlap_cutoff 1.2\n{COUNTS}"
    deck += "thermo_modify format float %.12g\nrun 3\nwrite_data end.data nocoeff\n"
    run_deck(deck, bench64.folder, ranks=2)
    (run,) = read_log(bench64.folder / "log.lammps")
    assert run["f_mc[4]"][-1] + run["f_mc[6]"][-1] > 0
    left = read(bench64.folder / "end.data", format="lammps-data", atom_style="atomic")
    left.symbols = [("Ga", "N")[kind - 1] for kind in left.arrays["type"]]
    assert run["PotEng"][-1] == pytest.approx(energy(bench64, left), abs=SHARP)


def test_gcmc_moves_and_exchanges_on_two_ranks_are_refused(bench64: Bench, gan_cell: Atoms) -> None:
    """LAMMPS itself then takes out wrong atoms."""
    deck = bench64.deck(structure("crystal", gan_cell)) + "group gas type 2\n"
    deck += "fix mc gas gcmc 1 10 10 2 77 300 -4.0 0.5 full_energy overlap_cutoff 1.2\nrun 3\n"
    run_deck(deck, bench64.folder)
    with pytest.raises(LammpsError, match=r"fix mc gcmc has tried \d+ moves and \d+ exchanges on 2 ranks.*M = 0"):
        run_deck(deck, bench64.folder, ranks=2)
