"""Crystals of a campaign: a cell, repeated, with other elements and isotopes drawn at random, as a data file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols

from so3krates.data import last_frame
from so3krates.files import replacing
from so3krates.hints import pip_install

from .settings import CampaignError, Crystal

# Of the first element in the orthorhombic cell of wurtzite; the second stands above it.
WURTZITE = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 1 / 6, 0.5), (0.0, 2 / 3, 0.5))


class Made(NamedTuple):
    """A crystal for LAMMPS: its types stand for an element and a mass."""

    atoms: Atoms
    types: np.ndarray  # (N,) from 0
    elements: tuple[str, ...]  # of the types
    masses: tuple[float, ...]  # of the types, u


def make_crystal(crystal: Crystal, variables: Mapping[str, str], seed: int) -> Made:
    """The crystal of one run; `variables` of the deck say what wurtzite is, where no structure is named.

    Raises CampaignError for elements that are to be replaced and are not there, DataError for no structure.
    """
    rng = np.random.default_rng(seed)
    atoms = _cell(crystal, variables).repeat(crystal.repeats or (1, 1, 1))
    numbers = atoms.numbers.copy()
    for old in sorted({old for of in crystal.doping.values() for old in of}):
        places = rng.permutation(np.flatnonzero(atoms.numbers == chemical_symbols.index(old)))
        if len(places) == 0:
            raise CampaignError(f"crystals.{crystal.name}.doping replaces {old}, which the crystal does not have")
        start = 0.0
        for new, of in crystal.doping.items():
            end = start + of.get(old, 0.0) * len(places)
            numbers[places[round(start) : round(end)]] = chemical_symbols.index(new)
            start = end
    atoms.numbers = numbers
    masses = _isotopes(atoms, rng) if crystal.isotopes else atomic_masses[numbers]
    kinds, types = np.unique(np.stack([numbers, masses], axis=1), axis=0, return_inverse=True)
    elements = tuple(chemical_symbols[int(number)] for number, _ in kinds)
    return Made(atoms, types.reshape(-1), elements, tuple(float(mass) for _, mass in kinds))


def write_crystal(path: Path, made: Made) -> None:
    """The data file. Raises WriteError."""
    labels = made.atoms.copy()
    # ASE tells types apart by their symbols: one of its own for each.
    labels.numbers = 1 + made.types
    order = [chemical_symbols[1 + kind] for kind in range(len(made.elements))]
    with replacing(path) as part:
        ase.io.write(part, labels, format="lammps-data", specorder=order, units="metal", masses=False)
        head, body = part.read_text().split("\nAtoms", 1)
        masses = "\n".join(
            f"{kind} {mass:.9g}  # {element}"
            for kind, (element, mass) in enumerate(zip(made.elements, made.masses, strict=True), 1)
        )
        part.write_text(f"{head}\nMasses\n\n{masses}\n\nAtoms{body}")


def _cell(crystal: Crystal, variables: Mapping[str, str]) -> Atoms:
    if crystal.structure is not None:
        return last_frame(crystal.structure)
    a, c, u = (float(variables[name]) for name in ("a", "c", "u"))
    first, second = variables["elements"].split()[:2]
    return Atoms(
        [first] * 4 + [second] * 4,
        scaled_positions=[*WURTZITE, *((x, y, z + u) for x, y, z in WURTZITE)],
        cell=(a, math.sqrt(3) * a, c),
        pbc=True,
    )


def _isotopes(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    """Masses (N,), drawn from the natural shares of isotopes."""
    try:
        from phonopy.structure.atomic_data import get_atomic_data
    except ImportError:
        raise CampaignError(
            f"isotopes = true needs phonopy, which knows their shares: {pip_install('so3krates[phonons]')}"
        ) from None
    table = get_atomic_data().isotope_data
    masses = np.zeros(len(atoms))
    for number in np.unique(atoms.numbers):
        symbol = chemical_symbols[number]
        if symbol not in table:
            raise CampaignError(f"isotopes = true: {symbol} has no natural isotopes")
        _, known, shares = np.array(table[symbol], float).T
        chosen = atoms.numbers == number
        masses[chosen] = rng.choice(known, chosen.sum(), p=shares / shares.sum())
    return masses
