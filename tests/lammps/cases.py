"""Decks as data, and the state in which each leaves its atoms. Cases go together in one deck: a start costs seconds."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms
from ase.io import read
from decks import BAR_PER_EV_A3, Bench
from so3krates.lammps import run_deck
from structures import structure

GAN = ("Ga", "N")
MD = "neighbor 0.5 bin\nneigh_modify every 1 delay 0 check yes\nvelocity all create 3000 7 loop geom\nfix 1 all nve\n"


@dataclass(frozen=True)
class Case:
    """A deck: a structure, lines before the box is read, and what makes the steps."""

    atoms: Callable[[Atoms], Atoms]
    before: str = ""
    run: str = "run 0"
    elements: tuple[str, ...] = GAN
    newton: str = "on"
    others: str = ""  # further styles of hybrid/overlay


@dataclass(frozen=True)
class Outcome:
    """The last step: energy (eV), virial (eV); by tag: atoms, forces (eV/A), energies (eV)."""

    energy: float
    virial: np.ndarray
    atoms: Atoms
    forces: np.ndarray
    atom_energies: np.ndarray
    owned: tuple[int, int]  # fewest and most atoms of a rank


def kind(name: str, repeat: tuple[int, int, int] = (1, 1, 1)) -> Callable[[Atoms], Atoms]:
    return lambda cell: structure(name, cell).repeat(repeat)


def deck_of(name: str, case: Case, bench: Bench, cell: Atoms, options: str) -> str:
    """`case` between `clear` and files of its results in bench.folder."""
    bench = replace(bench, folder=bench.folder / name.replace(" ", "_").replace(",", ""))
    bench.folder.mkdir()
    pair = None
    if case.others:
        styles, coefficients = case.others.split("\n", 1)
        elements = " ".join("NULL" if element == "Ar" else element for element in case.elements)
        pair = (
            f'pair_style hybrid/overlay so3krates threads 1 cache "{bench.cache}"{styles}\n'
            f'pair_coeff * * so3krates "{bench.bundle}" {elements}\n{coefficients}'
        )
    deck = bench.deck(case.atoms(cell), case.elements, newton=case.newton, pair=pair)
    deck = deck.replace("box tilt large", f"box tilt large\n{case.before}")
    virial = " ".join(f"$(c_virial[{k}]*vol/{BAR_PER_EV_A3}:%.17g)" for k in range(1, 7))
    columns = "id type x y z fx fy fz c_energies modify sort id format float %.17g"
    deck = deck.replace("threads 1", f"threads 1 {options}")
    return (
        f'clear\nprint "case {name}"\n{deck}{case.run}\n'
        f'print "$(pe:%.17g) {virial}" file "{bench.folder}/totals"\n'
        f'write_dump all custom "{bench.folder}/dump" {columns}\n'
        f'write_data "{bench.folder}/final.data" nocoeff\n'
    )


def outcomes_of(
    cases: dict[str, Case], bench: Bench, gan_cell: Atoms, ranks: int, options: str = "", words: str = ""
) -> dict[str, Outcome]:
    """All cases on so many ranks, with options of the pair style, after which the log of each has some words."""
    bench = replace(bench, folder=bench.folder / str(ranks))
    bench.folder.mkdir(parents=True)
    log = run_deck(
        "".join(deck_of(name, case, bench, gan_cell, options) for name, case in cases.items()),
        bench.folder,
        ranks=ranks,
    )
    if words:
        assert log.count(words) == len(cases)
    outcomes = {}
    for (name, case), text in zip(cases.items(), log.split("\ncase ")[1:], strict=True):
        folder = bench.folder / name.replace(" ", "_").replace(",", "")
        energy, *virial = np.loadtxt(folder / "totals")
        dump = (folder / "dump").read_text().splitlines()
        rows = np.array([line.split() for line in dump[9:]], dtype=float)
        cell = read(folder / "final.data", format="lammps-data", atom_style="atomic").cell
        symbols = [case.elements[int(number) - 1] for number in rows[:, 1]]
        atoms = Atoms(symbols, rows[:, 2:5], cell=cell, pbc=case.atoms(gan_cell).pbc)
        owned = re.findall(r"^Nlocal: +[\d.e+]+ ave +(\d+) max +(\d+) min", text, re.MULTILINE)[-1]
        fewest_and_most = (int(owned[1]), int(owned[0]))
        outcomes[name] = Outcome(energy, np.array(virial), atoms, rows[:, 5:8], rows[:, 8], fewest_and_most)
    return outcomes
