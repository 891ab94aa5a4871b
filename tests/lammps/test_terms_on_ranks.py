"""Terms in LAMMPS: equal to its own pair style zbl, in lists that reach beyond the network, on any number of ranks."""

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from cases import MD, Case, Outcome, kind, outcomes_of
from decks import Bench, lammps_instance, results_of
from so3krates.data import terms_of_atoms
from so3krates.model.terms import terms_from
from so3krates.storage import Model
from so3krates_export.export import export_model
from so3krates_export.ladder import Rung
from structures import structure

INNER, OUTER = 1.5, 6.5  # A; the network's cutoff is 4 A
CONSTANTS = 1e-6  # relative: LAMMPS' e^2 has eight digits
FORCE = 1e-10  # eV/A
TOTAL = 1e-12  # of the sizes of the atoms' energies
SIGNAL = 0.1  # eV/A
PAIRS = "pair_coeff 1 1 {0}31 31\npair_coeff 1 2 {0}31 7\npair_coeff 2 2 {0}7 7\n"
TABLES = 2e-2  # eV/A, coarse tables are made soon


def corner(cell: Atoms) -> Atoms:
    """A cluster at one end of a long box: ranks without atoms."""
    atoms = structure("cluster", cell)
    atoms.set_cell(atoms.cell.array + np.diag([60, 0, 0]))
    return atoms


CASES = {
    "long": Case(kind("crystal", (2, 1, 1))),
    "newton off": Case(kind("triclinic"), newton="off"),
    "smaller than the cutoff": Case(kind("tiny")),
    "empty ranks": Case(corner, before="processors * 1 1"),
    "hot": Case(kind("crystal"), run=MD + "run 5"),
}


@pytest.fixture(scope="module")
def bundles(small_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small potential with the term and without it."""
    folder, model = tmp_path_factory.mktemp("terms"), Model.load(small_model_folder)
    terms = terms_from({"repulsion": {"inner": INNER, "outer": OUTER}}, model.elements)
    ladder = [Rung(256, 4096, 384, 64)]
    for name, found in (("with", dataclasses.replace(model, terms=terms)), ("without", model)):
        export_model(found, folder / f"{name}.so3k", "float64", body="fused", tables=TABLES, ladder=ladder)
    return {name: folder / f"{name}.so3k" for name in ("with", "without")}


@pytest.fixture(scope="module")
def outcomes(bundles: dict[str, Path], program_cache: Path, tmp_path_factory: pytest.TempPathFactory):
    cell = bulk("GaN", "wurtzite", a=3.19, c=5.19)

    @cache
    def compute(name: str, ranks: int) -> dict[str, Outcome]:
        cases, words = CASES, f"terms       zbl, lists reach {OUTER:g} A\n"
        if name == "without":  # LAMMPS' own beside it
            others = f" zbl {INNER} {OUTER}\n" + PAIRS.format("zbl ")
            cases, words = {key: dataclasses.replace(case, others=others) for key, case in CASES.items()}, ""
        bench = Bench(bundles[name], program_cache, tmp_path_factory.mktemp(name))
        return outcomes_of(cases, bench, cell, ranks, words=words)

    return compute


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_agree(outcomes, ranks: int) -> None:
    for name, expected in outcomes("with", 1).items():
        found, size = outcomes("with", ranks)[name], np.abs(expected.atom_energies).sum()
        assert np.abs(expected.forces).max() > SIGNAL
        assert np.abs(found.forces - expected.forces).max() < FORCE * max(1.0, np.abs(expected.forces).max()), name
        assert abs(found.energy - expected.energy) < TOTAL * size, name
        assert np.abs(found.atom_energies - expected.atom_energies).max() < TOTAL * size, name
        assert np.abs(found.virial - expected.virial).max() < TOTAL * size, name


def test_it_is_what_lammps_own_style_adds(outcomes) -> None:
    """On several structures and after steps of molecular dynamics: energy, forces, virial and per-atom energies."""
    for name, expected in outcomes("without", 1).items():
        found = outcomes("with", 1)[name]
        (term,) = terms_from({"repulsion": {"inner": INNER, "outer": OUTER}}, ("Ga", "N"))
        alone = terms_of_atoms((term,), expected.atoms)
        size = np.abs(alone.forces).max() + np.abs(alone.atom_energies).max()
        assert size > SIGNAL
        assert np.abs(found.forces - expected.forces).max() < CONSTANTS * size, name
        assert np.abs(found.atom_energies - expected.atom_energies).max() < CONSTANTS * size, name
        assert np.abs(found.virial - expected.virial).max() < CONSTANTS * np.abs(alone.strain_gradient).max(), name


@pytest.mark.parametrize(("inner", "outer"), [(2.0, 2.5), (0.7, 1.8), (4.0, 9.0)])
def test_dimers_have_the_energies_of_lammps(program_cache: Path, tmp_path: Path, inner: float, outer: float) -> None:
    """From 0.1 A to beyond the outer radius, relative to each value."""
    (term,) = terms_from({"repulsion": {"inner": inner, "outer": outer}}, ("Ga", "N"))
    bench = Bench(Path(), program_cache, tmp_path)
    for symbols in ("GaN", "Ga2", "N2"):
        dimer = Atoms(symbols, [[1.0, 2.0, 3.0], [1.1, 2.0, 3.0]], cell=[40, 20, 20])
        style = f"pair_style zbl {inner} {outer}\n" + PAIRS.format("")
        with lammps_instance() as instance:
            instance.commands_string(bench.deck(dimer, pair=style) + "neigh_modify every 1 delay 0 check no\n")
            for d in np.linspace(0.1, 1.05 * outer, 12).tolist():
                instance.command(f"set atom 2 x {1.0 + d!r}")
                instance.command("run 0")
                expected = results_of(instance)
                dimer.positions[1, 0] = 1.0 + d
                found = terms_of_atoms((term,), dimer)
                assert found.energy == pytest.approx(expected.energy, rel=CONSTANTS, abs=1e-9)
                np.testing.assert_allclose(found.forces, expected.forces, rtol=CONSTANTS, atol=1e-9)
                assert (abs(expected.energy) > 0) == (d < outer)
