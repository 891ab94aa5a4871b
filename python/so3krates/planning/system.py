"""The system that a run is planned for, out of a structure or a deck."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from so3krates import exporting
from so3krates.files import looked_for, write_text
from so3krates.lammps import run_deck
from so3krates.overlay import overlay_lines
from so3krates.runtime import baselines_of_bundle
from so3krates.shipped import BUNDLE, shipped

RUNS = re.compile(r"^\s*(run|minimize|rerun)\b")
STRUCTURE, POTENTIAL = "planned.data", "potential.so3k"
MUCH = 1.5  # a structure of so many times the atoms that are wanted is cut
OVERLAP = 1.0  # A


class PlanError(ValueError):
    """A run that cannot be planned; the message says why, and what to give."""


@dataclass(frozen=True)
class System:
    """Atoms as they are when the run begins, and what the deck says of it."""

    atoms: Atoms
    skin: float = 2.0  # A, of LAMMPS' neighbour lists
    timestep: float = 0.001  # ps
    potential: Path | None = None  # as the deck names it


def is_deck(path: Path) -> bool:
    """By its name, as decks are named: in.NAME, NAME.in, NAME.lmp, NAME.lammps."""
    return path.name.startswith("in.") or path.suffix in (".in", ".lmp", ".lammps")


def read_system(path: Path, variables: dict[str, str] | None = None) -> System:
    """A deck, or any file that ASE reads.

    A deck is run up to its first `run`, which is left out. Raises PlanError, OSError, LammpsError.
    """
    if not path.is_file():
        raise PlanError(f"{path}: no such file{looked_for(path)}. Give a deck, or a structure in any format of ASE")
    if is_deck(path):
        return _of_deck(path, variables or {})
    try:
        atoms = ase.io.read(path, format="lammps-data" if path.suffix == ".data" else None)
    except Exception as error:  # ASE raises what it likes
        raise PlanError(
            f"{path} is no structure that ASE reads ({error}), and no deck by its name: in.NAME, NAME.in, NAME.lmp or "
            "NAME.lammps"
        ) from error
    assert isinstance(atoms, Atoms)
    return System(atoms)


def _of_deck(path: Path, variables: dict[str, str]) -> System:
    lines = path.read_text().splitlines()
    end = next((number for number, line in enumerate(lines) if RUNS.match(line)), None)
    if end is None:
        raise PlanError(f"{path}: has no run or minimize of its own, so there is nothing to plan")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for file in path.parent.iterdir():  # which it reads by relative names; what it writes stays in the scratch
            if file.is_file() and file.name != path.name:
                (folder / file.name).symlink_to(file.resolve())
        text = "\n".join([*lines[:end], f"write_data {STRUCTURE} nocoeff nofix", ""])
        log = run_deck(text, folder, variables)
        style = re.findall(r"^atom_style\s+(\S+)", log, re.MULTILINE)
        atoms = ase.io.read(folder / STRUCTURE, format="lammps-data", atom_style=style[-1] if style else "atomic")
    assert isinstance(atoms, Atoms)
    named = re.findall(r"^pair_coeff\s+\*\s+\*\s+(?:so3krates\s+)?(\S+)(.*)$", log, re.MULTILINE)
    pairs = [pair for pair in named if pair[0].endswith(BUNDLE) or pair[0] in shipped()]
    unit = 0.001 if re.search(r"^units\s+real", log, re.MULTILINE) else 1.0
    skin = re.findall(r"^neighbor\s+([\d.eE+-]+)", log, re.MULTILINE)
    step = re.findall(r"^timestep\s+([\d.eE+-]+)\s*$", log, re.MULTILINE)
    if pairs:
        types = dict(enumerate(pairs[-1][1].split(), 1))
        numbers = atoms.arrays.get("type")
        if numbers is not None and all(symbol != "NULL" for symbol in types.values()):
            atoms.set_chemical_symbols([types[int(number)] for number in numbers])
    potential = path.parent / pairs[-1][0] if pairs else None
    if potential is not None and not potential.is_file():
        potential = shipped().get(pairs[-1][0].removesuffix(BUNDLE))
    return System(
        atoms,
        float(skin[-1]) if skin else 2.0,
        unit * float(step[-1]) if step else 0.001,
        potential if potential is not None and potential.is_file() else None,
    )


def scaled(system: System, atoms: int) -> np.ndarray:
    """Edges (A) of a box with this number of atoms, of the same density and shape, [3]. Raises PlanError."""
    lengths = system.atoms.cell.lengths()
    if np.any(lengths <= 0):
        raise PlanError("the structure has no box in all three directions: give it one, of the size of the run")
    return lengths * (atoms / len(system.atoms)) ** (1 / 3)


def write_tile(system: System, atoms: int, folder: Path) -> tuple[Path, tuple[str, ...], bool]:
    """A data file of about `atoms`: the structure repeated, or a part of one that is much larger.

    Returns its path, the elements of its types, and whether it is a part, whose faces do not fit together.
    """
    is_part = len(system.atoms) > MUCH * atoms
    tile = _part(system.atoms, atoms) if is_part else system.atoms.repeat(_repeats(system.atoms, atoms))
    elements = tuple(sorted(set(tile.get_chemical_symbols())))
    path = folder / "tile.data"
    ase.io.write(path, tile, format="lammps-data", specorder=list(elements), masses=True, units="metal")
    return path, elements, is_part


def _repeats(structure: Atoms, atoms: int) -> list[int]:
    repeats = [1, 1, 1]
    while len(structure) * np.prod(repeats) < atoms:
        repeats[int(np.argmin(structure.cell.lengths() * repeats))] += 1
    return repeats


def _part(structure: Atoms, atoms: int) -> Atoms:
    """The corner of the box that has this share of its volume."""
    share = (atoms / len(structure)) ** (1 / 3)
    corner = structure[np.all(structure.get_scaled_positions() < share, axis=1)]
    assert isinstance(corner, Atoms)
    corner.set_cell(share * structure.cell.array)
    return corner


def copy_potential(potential: Path, folder: Path) -> None:
    shutil.copyfile(potential, folder / POTENTIAL)


def write_deck(
    system: System, elements: tuple[str, ...], is_part: bool, threads: int, steps: int, folder: Path
) -> Path:
    """A deck of two steps with new lists, and some as they come, with the time of each in its log.

    Atoms of a part of a structure stay where they are, without those that meet others at its faces.
    """
    moves = "velocity all create 300 2024 mom yes rot no\nfix ensemble all nve\n"
    if is_part:
        moves = f"delete_atoms overlap {OVERLAP} all all\n"
    parts = baselines_of_bundle(exporting.read_bundle(folder / POTENTIAL).manifest.get("baselines", []))
    pair = "\n".join(overlay_lines(parts, POTENTIAL, elements, f"threads {threads} verbose yes guard off"))
    write_text(
        folder / "in.measure",
        f"""units metal
atom_style atomic
read_data tile.data
{pair}
neighbor {system.skin} bin
timestep {system.timestep}
{moves}thermo_style custom step cpu
thermo_modify format float %.9g
thermo 1
neigh_modify every 1 delay 0 check no
run 2
neigh_modify every 1 delay 0 check yes
run {steps}
""",
    )
    return folder / "in.measure"
