"""Terms of structures: what they add to labels and predictions, and the distances that their radii come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from so3krates.model.terms import PairSums, Term, pair_sums

from .batches import FrameGraph
from .neighbours import directed_pairs

KINDS = len(chemical_symbols)  # of elements


def term_sums(
    terms: Sequence[Term], numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> PairSums:
    """The sum of all terms of one structure; numbers: (n,) atomic numbers of the terms' elements, lengths in A."""
    n = len(numbers)
    total = PairSums(0.0, np.zeros(n), np.zeros((n, 3)), np.zeros((3, 3)))
    for term in terms:
        centres, others, shifts = directed_pairs(positions, cell, pbc, term.cutoff)
        if len(centres) == 0:
            continue
        species = np.zeros(KINDS, np.int32)
        species[[atomic_numbers[element] for element in term.elements]] = np.arange(len(term.elements))
        vectors = positions[others] - positions[centres] + shifts @ np.where(pbc[:, None], cell, 0.0)
        sums = pair_sums(term, species[numbers], centres, others, vectors)
        total = PairSums(
            total.energy + sums.energy,
            total.atom_energies + sums.atom_energies,
            total.forces + sums.forces,
            total.strain_gradient + sums.strain_gradient,
        )
    return total


def terms_of_atoms(terms: Sequence[Term], atoms: Atoms) -> PairSums:
    """The sum of all terms of one structure."""
    return term_sums(terms, atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


def without_terms(graph: FrameGraph, terms: Sequence[Term]) -> FrameGraph:
    """A graph whose labels have what the terms give taken off, for the network to learn the rest."""
    if not terms:
        return graph
    sums = term_sums(terms, graph.species, graph.positions, graph.cell, np.any(graph.cell != 0, axis=1))
    return graph._replace(
        energy=graph.energy - sums.energy,
        forces=graph.forces - sums.forces,
        virial=graph.virial - sums.strain_gradient,
    )


def shortest_squares(graph: FrameGraph) -> dict[int, float]:
    """Squares (A^2) of the shortest distances of a graph's neighbours, by KINDS * smaller + larger atomic number."""
    row, slot = np.nonzero(graph.table.used & (graph.table.pairs >= 0))
    other = graph.table.neighbours[row, slot]
    vectors = graph.positions[other] - graph.positions[row] + graph.table.shifts[row, slot] @ graph.cell
    squares = np.square(vectors).sum(axis=1)
    first, second = graph.species[row], graph.species[other]
    kinds = KINDS * np.minimum(first, second) + np.maximum(first, second)
    return {kind: float(squares[kinds == kind].min()) for kind in np.unique(kinds).tolist()}


def distances_by_pair(squares: Iterable[tuple[int, float]]) -> dict[str, float]:
    """Shortest distances (A) of entries of `shortest_squares` by pair of elements, such as "Ga-N" (A to Z).

    Pairs that are never neighbours are not there.
    """
    shortest: dict[int, float] = {}
    for kind, square in squares:
        shortest[kind] = min(square, shortest.get(kind, np.inf))
    found = {}
    for kind, square in shortest.items():
        names = sorted(chemical_symbols[number] for number in divmod(kind, KINDS))
        found["-".join(names)] = float(np.sqrt(square))
    return dict(sorted(found.items()))


def shortest_distances(graphs: Iterable[FrameGraph]) -> dict[str, float]:
    """`distances_by_pair` of some graphs."""
    return distances_by_pair(entry for graph in graphs for entry in shortest_squares(graph).items())
