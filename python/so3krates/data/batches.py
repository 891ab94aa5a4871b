"""Frames to padded batches: graphs are built once, held compactly in numpy, and put together step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from ase import Atoms

from so3krates.model.potential import Batch, BatchSystem, LongPairs, Pairs
from so3krates.total_charge import ChargeError, State, state_of

from .charge_labels import charge_labels, known_labels, usable_dipole
from .errors import DataError
from .frames import labels
from .long_pairs import unordered_pairs
from .neighbours import NeighbourTable, neighbour_table
from .shifts import total_shift


class FrameSystem(NamedTuple):
    """What a network that predicts charges reads of a frame beside its graph, and its labels of them."""

    state: State
    ends: np.ndarray  # (2, P) pairs within the reach of the charges, each once, images included
    shifts: np.ndarray  # (P, 3) of the second, in lattice vectors
    charges: np.ndarray  # (n,) e, NaN where there is no label
    dipole: np.ndarray  # (3,) e A, the same; also of periodic and of charged frames, where it is not defined
    ratios: np.ndarray  # (n,) Hirshfeld's, NaN where there is no label

    def without_labels(self) -> FrameSystem:
        """The same, of a frame without labels."""
        unknown = np.full_like(self.charges, np.nan)
        return self._replace(charges=unknown, dipole=np.full(3, np.nan), ratios=unknown)


class FrameGraph(NamedTuple):
    """One frame with its neighbour table and labels, in numpy; float64 where not said otherwise."""

    species: np.ndarray  # (n,) int32
    positions: np.ndarray  # (n, 3) A, wrapped and centred
    cell: np.ndarray  # (3, 3) rows are lattice vectors; zeros in open directions
    table: NeighbourTable
    energy: float  # eV, shifts removed
    forces: np.ndarray  # (n, 3) eV/A
    virial: np.ndarray  # (3, 3) dE/d(strain) = volume * stress, eV
    volume: float  # A^3, 1 where there is no cell
    system: FrameSystem | None = None


class Targets(NamedTuple):
    """Labels of a batch of S structures and N atoms; NaN where there is no label and on padding."""

    energies: np.ndarray  # (S,) eV, shifts removed
    forces: np.ndarray  # (N, 3) eV/A
    virials: np.ndarray  # (S, 3, 3) dE/d(strain) = volume * stress, eV
    atoms: np.ndarray  # (S,) atoms of each structure as floats, 1 for padding
    volumes: np.ndarray  # (S,) A^3, 1 for padding
    charges: np.ndarray | None = None  # (N,) e; where the network predicts charges
    dipoles: np.ndarray | None = None  # (S, 3) e A
    ratios: np.ndarray | None = None  # (N,) Hirshfeld's


class BatchShape(NamedTuple):
    """Padded size of a batch; one program is compiled for each."""

    structures: int
    atoms: int
    neighbours: int
    pairs: int | None = None  # None: as many as the slots hold
    long_pairs: int = 0  # for charges

    @property
    def most_pairs(self) -> int:
        """Pairs for which there is room."""
        return -(-self.atoms * self.neighbours // 2) if self.pairs is None else self.pairs

    def holds(self, other: BatchShape) -> bool:
        """Whether a batch of the other shape, of as many structures, fits."""
        own, needed = ((s.atoms, s.neighbours, s.most_pairs, s.long_pairs) for s in (self, other))
        return all(room >= size for room, size in zip(own, needed, strict=True))


def frame_graph(
    atoms: Atoms,
    cutoff: float,
    shifts: Mapping[str, float],
    where: str = "frame",
    read_labels: bool = True,
    reach: float | None = None,
) -> FrameGraph:
    """Graph of one frame within `cutoff` (A); `shifts` (eV per element) are taken off its energy in float64.

    With `read_labels` false all labels are NaN. `reach` (A): of charges that the network predicts, None: of none.
    Raises DataError, beginning with `where`, for a frame without atoms, with an element that has no shift, with numbers
    that are not finite, or with a total charge and multiplicity that it cannot have.
    """
    if len(atoms) == 0:
        raise DataError(f"{where}: has no atoms")
    cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    if not (np.isfinite(atoms.positions).all() and np.isfinite(cell).all()):
        raise DataError(f"{where}: positions or cell are not finite")
    try:
        shift = total_shift(atoms.numbers, shifts)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    # Small coordinates keep their digits in float32; the origin has no meaning.
    positions = atoms.get_positions(wrap=True) if atoms.pbc.any() else atoms.get_positions()
    positions -= positions.mean(axis=0)
    volume = float(atoms.cell.volume) if atoms.pbc.all() else 1.0
    if read_labels:
        energy, forces, stress = labels(atoms, where=where)
    else:
        energy, forces, stress = np.nan, np.full((len(atoms), 3), np.nan), np.full((3, 3), np.nan)
    return FrameGraph(
        species=atoms.numbers.astype(np.int32),
        positions=positions,
        cell=cell,
        table=neighbour_table(positions, cell, atoms.pbc, cutoff),
        energy=energy - shift,
        forces=forces,
        virial=volume * stress,
        volume=volume,
        system=None if reach is None else _frame_system(atoms, positions, cell, reach, where, read_labels),
    )


def _frame_system(
    atoms: Atoms, positions: np.ndarray, cell: np.ndarray, reach: float, where: str, read_labels: bool
) -> FrameSystem:
    try:
        state = state_of(atoms)
    except ChargeError as error:
        raise DataError(f"{where}: {error}") from error
    own = charge_labels(atoms) if read_labels else known_labels(None, None, None, len(atoms))
    if not usable_dipole(atoms, state.charge):
        own = own._replace(dipole=np.full(3, np.nan))
    return FrameSystem(state, *unordered_pairs(positions, cell, atoms.pbc, reach), *own)


def frame_graphs(
    frames: Sequence[Atoms],
    cutoff: float,
    shifts: Mapping[str, float],
    name: str = "data",
    read_labels: bool = True,
    reach: float | None = None,
) -> list[FrameGraph]:
    """Graphs of all frames; `name` of the set appears in errors."""
    return [
        frame_graph(atoms, cutoff, shifts, f"{name}, frame {n}", read_labels, reach) for n, atoms in enumerate(frames)
    ]


@runtime_checkable
class KnownSizes(Protocol):
    """Graphs that know their sizes without being read."""

    sizes: np.ndarray  # (M,) atoms
    widths: np.ndarray  # (M,) neighbour slots
    pairs: np.ndarray  # (M,) pairs of neighbours


def sizes_of(graphs: Sequence[FrameGraph]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms, neighbour slots and pairs of each graph, (M,) each; stored graphs know them without being read."""
    if isinstance(graphs, KnownSizes):
        return graphs.sizes, graphs.widths, graphs.pairs
    atoms = np.array([len(g.species) for g in graphs])
    return atoms, np.array([g.table.neighbours.shape[1] for g in graphs]), np.array([pairs_of(g) for g in graphs])


def pairs_of(graph: FrameGraph) -> int:
    """Pairs of neighbours, each counted once."""
    return int(graph.table.counts.sum()) // 2


def long_pairs_of(graph: FrameGraph) -> int:
    """Pairs within the reach of charges, each counted once."""
    return 0 if graph.system is None else graph.system.ends.shape[1]


def collate(graphs: Sequence[FrameGraph], shape: BatchShape, dtype: type = np.float32) -> tuple[Batch, Targets]:
    """One padded batch and its labels as numpy arrays of `dtype`.

    Padding atoms have species 0, no neighbours and belong to the last structure; padding structures have no
    atoms. Raises ValueError where the graphs do not fit the shape.
    """
    s, n, k = shape[:3]
    p = shape.most_pairs
    total = sum(len(g.species) for g in graphs)
    width = max(g.table.neighbours.shape[1] for g in graphs)
    pairs, long_pairs = sum(pairs_of(g) for g in graphs), sum(long_pairs_of(g) for g in graphs)
    if len(graphs) > s or total > n or width > k or pairs > p or long_pairs > shape.long_pairs:
        raise ValueError(
            f"{len(graphs)} structures of {total} atoms, {width} neighbours, {pairs} pairs, {long_pairs} of long range "
            f"do not fit {shape}"
        )
    real: np.dtype[Any] = np.dtype(dtype)
    species = np.zeros(n, np.int32)
    positions = np.zeros((n, 3), real)
    cells = np.zeros((s, 3, 3), real)
    structure = np.full(n, s - 1, np.int32)
    neighbours = np.repeat(np.arange(n, dtype=np.int32)[:, None], k, axis=1)
    shifts = np.zeros((n, k, 3), real)
    mask = np.zeros((n, k), bool)
    forces = np.full((n, 3), np.nan, real)
    energies = np.full(s, np.nan, real)
    virials = np.full((s, 3, 3), np.nan, real)
    atoms = np.ones(s, real)
    volumes = np.ones(s, real)
    ends = np.zeros((2, p), np.int32)
    slots = np.full((n, k), 2 * p, np.int32)
    pair_shifts = np.zeros((p, 3), real)
    start = pair = 0
    for index, graph in enumerate(graphs):
        rows = slice(start, start + len(graph.species))
        table = graph.table
        own = table.neighbours.shape[1]
        species[rows] = graph.species
        positions[rows] = graph.positions
        cells[index] = graph.cell
        structure[rows] = index
        neighbours[rows, :own] = table.neighbours + start
        shifts[rows, :own] = table.shifts
        used = table.used
        mask[rows, :own] = used
        slots[rows, :own][used] = (np.where(table.pairs < 0, p + ~table.pairs, table.pairs) + pair)[used]
        centre, slot = np.nonzero(used & (table.pairs >= 0))
        own_pairs = slice(pair, pair + len(centre))
        ends[:, own_pairs] = start + np.stack([centre, table.neighbours[centre, slot]])
        pair_shifts[own_pairs] = table.shifts[centre, slot]
        pair = own_pairs.stop
        forces[rows] = graph.forces
        energies[index] = graph.energy
        virials[index] = graph.virial
        atoms[index] = len(graph.species)
        volumes[index] = graph.volume
        start = rows.stop
    # Arrays of the host, which JAX takes as they are.
    listed = Pairs._make((np.int32(pair), ends, slots, pair_shifts))
    in_use = np.arange(n) < total
    system, more = _collated_systems(graphs, shape, real)
    batch = Batch._make((species, positions, cells, structure, neighbours, shifts, mask, in_use, listed, system))
    return batch, Targets(energies, forces, virials, atoms, volumes, *more)


def _collated_systems(
    graphs: Sequence[FrameGraph], shape: BatchShape, real: np.dtype[Any]
) -> tuple[BatchSystem | None, tuple[np.ndarray, ...]]:
    """What `collate` makes of the systems of graphs, which all have one or none: labels of what they predict too."""
    if graphs[0].system is None:
        return None, ()
    (charges, ratios), dipoles = np.full((2, shape.atoms), np.nan, real), np.full((shape.structures, 3), np.nan, real)
    states = np.zeros((2, shape.structures), real)
    ends, shifts = np.zeros((2, shape.long_pairs), np.int32), np.zeros((shape.long_pairs, 3), real)
    start = pair = 0
    for index, graph in enumerate(graphs):
        own = graph.system
        assert own is not None  # as the first is not
        charges[start : start + len(own.charges)] = own.charges
        ratios[start : start + len(own.ratios)] = own.ratios
        dipoles[index] = own.dipole
        states[:, index] = own.state.charge, own.state.multiplicity - 1
        pairs = slice(pair, pair + own.ends.shape[1])
        ends[:, pairs], shifts[pairs] = own.ends + start, own.shifts
        start, pair = start + len(own.charges), pairs.stop
    listed = LongPairs._make((ends, shifts, np.int32(pair)))
    return BatchSystem._make((*states, listed)), (charges, dipoles, ratios)
