"""Structures for the toy bundle, the lists that a host makes of them, and how results are compared."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import primitive_neighbor_list
from so3krates._harness import Evaluator
from toy_bundle import CUTOFF, ELEMENTS

SAME = 1e-12  # eV/A, between two ways to the same numbers
SIGNAL = 0.1  # eV/A and eV, smallest force and strain gradient that prove anything


class Lists(NamedTuple):
    """What a host gives to the evaluator; `order` is the original index of each row."""

    arguments: dict[str, Any]
    positions: np.ndarray
    order: np.ndarray


def lists(
    atoms: Atoms,
    owned: np.ndarray | None = None,
    others: np.ndarray | None = None,
    skin: float = 0.4,
    reach: float = CUTOFF,
    elements: Sequence[str] = ELEMENTS,
) -> Lists:
    """Rows are the owned atoms, then `others`, by default all; atoms are the rows, then the periodic images."""
    owned = np.arange(len(atoms)) if owned is None else owned
    others = np.setdiff1d(np.arange(len(atoms)), owned) if others is None else others
    order = np.concatenate([owned, others])
    atoms = atoms[order]
    i, j, shifts = primitive_neighbor_list("ijS", atoms.pbc, atoms.cell.array, atoms.positions, reach + skin)
    index = {(k, 0, 0, 0): k for k in range(len(atoms))}
    candidates: list[list[int]] = [[] for _ in owned]
    for centre, *other in zip(i, j, *shifts.T, strict=True):
        if centre < len(owned):
            candidates[centre].append(index.setdefault(tuple(map(int, other)), len(index)))
    images = np.array(list(index), dtype=int).reshape(-1, 4)
    arguments = {
        "owned": len(owned),
        "rows": len(atoms),
        "row_of_atom": images[:, 0],
        "atom_of_row": np.arange(len(atoms)),
        "species": np.array([list(elements).index(symbol) for symbol in atoms.get_chemical_symbols()]),
        "candidate_count": np.array([len(row) for row in candidates]),
        "candidates": np.array([k for row in candidates for k in row]),
        # What a rank alone may say of others.
        "peers": [(1, np.zeros(0, int), len(others), 0, 0)] if len(others) else [],
    }
    return Lists(arguments, atoms.positions[images[:, 0]] + images[:, 1:] @ atoms.cell.array, order)


def evaluate(evaluator: Evaluator, atoms: Atoms, skin: float = 0.4) -> dict[str, Any]:
    host = lists(atoms, skin=skin)
    evaluator.set_neighbourhood(**host.arguments)
    return evaluator.evaluate(host.positions)


def gan(repeat: tuple[int, int, int] = (1, 1, 1), seed: int = 1) -> Atoms:
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat(repeat)
    rng = np.random.default_rng(seed)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    return atoms


def compressed(factor: float = 0.85) -> Atoms:
    """By default 38 neighbours of every atom, where the first rung holds 32."""
    atoms = gan()
    atoms.set_cell(atoms.cell.array * factor, scale_atoms=True)
    return atoms


def assert_same(found: dict[str, Any], expected: dict[str, Any], rows: slice | np.ndarray = slice(None)) -> None:
    np.testing.assert_allclose(found["forces"], expected["forces"][rows], rtol=0, atol=SAME)
    np.testing.assert_allclose(found["atom_energies"], expected["atom_energies"][rows], rtol=SAME, atol=0)
    assert np.abs(found["forces"]).max() > SIGNAL
