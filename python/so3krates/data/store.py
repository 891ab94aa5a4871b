"""Frames on disk as flat arrays, for data that do not fit in memory: neighbours are found when a frame is read."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from so3krates.files import make_folder, replacing, write_text
from so3krates.model.terms import Term

from .batches import FrameGraph, frame_graph, pairs_of
from .errors import DataError
from .frames import Labels, with_labels
from .neighbours import neighbour_table
from .pair_terms import distances_by_pair, shortest_squares, term_sums, without_terms

INDEX_FILE = "store.json"  # written last: a store without it is not whole
FRAME = np.dtype(
    [
        ("start", np.int64),  # first atom
        ("atoms", np.int32),
        ("width", np.int32),  # of the neighbour table
        ("energy", np.float64),  # eV, nothing removed
        ("cell", np.float64, (3, 3)),  # A, zeros in open directions
        ("virial", np.float64, (3, 3)),  # eV
        ("volume", np.float64),  # A^3
    ]
)
# Squares of the shortest distances of a frame: `pair_terms.shortest_squares`.
SHORTEST = np.dtype([("frame", np.int64), ("kind", np.int32), ("square", np.float64)])
ATOM_ARRAYS = {"species": (np.uint8, 1), "positions": (np.float64, 3), "forces": (np.float64, 3)}


class StoredFrames:
    """Some or all frames of a store, in an order; their labels and structures stay on disk."""

    def __init__(self, folder: str | Path, indices: np.ndarray | None = None) -> None:
        """Opens what `store_frames` wrote. Raises DataError where there is no whole store."""
        self.folder = Path(folder)
        try:
            self.record: dict[str, Any] = json.loads((self.folder / INDEX_FILE).read_text(encoding="utf-8"))
            # As plain arrays, whose slices are made much faster; they hold on to the files.
            self._frames = np.asarray(np.memmap(self.folder / "frames.bin", FRAME, "r"))
            self._atoms = {
                name: np.asarray(np.memmap(self.folder / f"{name}.bin", kind, "r").reshape(-1, columns))
                for name, (kind, columns) in ATOM_ARRAYS.items()
            }
            (self.folder / "shortest.bin").stat()  # stores of before lack it, and the pairs
            self._pairs = np.asarray(np.memmap(self.folder / "pairs.bin", np.int64, "r"))
            found = len(self._frames), len(self._pairs), *(len(array) for array in self._atoms.values())
            expected = *(self.record["frames"],) * 2, *(self.record["atoms"] for _ in ATOM_ARRAYS)
            if found != expected:
                raise ValueError(f"rows {found}, not {expected}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.folder} holds no whole stored frames ({error}): delete that folder") from error
        self.indices = np.arange(len(self._frames)) if indices is None else np.asarray(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, indices: np.ndarray) -> StoredFrames:
        """Frames of this selection by their place in it."""
        return StoredFrames(self.folder, self.indices[indices])

    def field(self, name: str) -> np.ndarray:
        """One column of FRAME."""
        return self._frames[name][self.indices]

    def pairs(self) -> np.ndarray:
        """Pairs of neighbours of each frame (M,)."""
        return self._pairs[self.indices]

    def composition(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Elements, atoms of each element in each frame (M, elements), and energies (M,) in eV."""
        species = self._atoms["species"][:, 0]
        starts = self._frames["start"]
        counts = {int(z): np.add.reduceat(species == z, starts, dtype=np.int32) for z in np.unique(species)}
        table = np.stack(list(counts.values()), axis=1)[self.indices]
        used = np.any(table != 0, axis=0)
        elements = [chemical_symbols[z] for z, is_used in zip(counts, used, strict=True) if is_used]
        return elements, table[:, used].astype(np.float64), self.field("energy")

    def frame(self, place: int) -> tuple[np.void, dict[str, np.ndarray]]:
        """Row of FRAME and the atoms' arrays of one frame."""
        row = self._frames[self.indices[place]]
        rows = slice(int(row["start"]), int(row["start"]) + int(row["atoms"]))
        return row, {name: np.array(array[rows]) for name, array in self._atoms.items()}

    def distances(self) -> dict[str, float]:
        """Shortest distances (A) of neighbours by pair of elements."""
        is_chosen = np.zeros(len(self._frames), bool)
        is_chosen[self.indices] = True
        known = np.fromfile(self.folder / "shortest.bin", SHORTEST)  # no map: it may be empty
        chosen = known[is_chosen[known["frame"]]]
        kinds, place = np.unique(chosen["kind"], return_inverse=True)
        squares = np.full(len(kinds), np.inf)
        np.minimum.at(squares, place, chosen["square"])
        return distances_by_pair(zip(kinds.tolist(), squares.tolist(), strict=True))

    def forces(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Virial (3, 3) and forces (n, 3) of each frame."""
        found, first, atoms = self._atoms["forces"], self.field("start").tolist(), self.field("atoms").tolist()
        for index, start, count in zip(self.indices, first, atoms, strict=True):
            yield self._frames["virial"][index], found[start : start + count]

    def to_atoms(self, places: Iterable[int]) -> list[Atoms]:
        """Frames as structures with their labels."""
        found = []
        for place in places:
            row, arrays = self.frame(place)
            atoms = Atoms(arrays["species"][:, 0], arrays["positions"], cell=row["cell"], pbc=row["cell"].any(axis=1))
            stress = row["virial"] / row["volume"]
            found.append(with_labels(atoms, Labels(float(row["energy"]), arrays["forces"], stress)))
        return found

    def graphs(self, cutoff: float, shifts: Mapping[str, float]) -> StoredGraphs:
        """The frames for training. Raises DataError for another cutoff than the store's or an element without shift."""
        if cutoff != self.record["cutoff"]:
            raise DataError(
                f"{self.folder} was made for a cutoff of {self.record['cutoff']} A, not {cutoff} A: delete it"
            )
        elements, counts, _ = self.composition()
        unknown = [element for element in elements if element not in shifts]
        if unknown:
            raise DataError(
                f"{self.folder}: element {', '.join(unknown)} is unknown to the model; it knows {', '.join(shifts)}"
            )
        totals = np.zeros(len(self))
        # One element after the other, as `total_shift` adds them: to the same bits.
        for element, count in zip(elements, counts.T, strict=True):
            totals += shifts[element] * count
        return StoredGraphs(self, totals)


class StoredGraphs(Sequence[FrameGraph]):
    """Graphs that are read and made when they are asked for; sizes and labels are known without that."""

    def __init__(self, frames: StoredFrames, shifts: np.ndarray, terms: Sequence[Term] = ()) -> None:
        """`shifts` (M,) in eV are taken off the energies, `terms` off all labels."""
        self._frames, self._shifts, self._terms = frames, shifts, tuple(terms)
        self.sizes = frames.field("atoms")
        self.widths = frames.field("width")
        self.pairs = frames.pairs()

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, place: int) -> FrameGraph:  # type: ignore[override]  # no slices of what is on disk
        row, arrays = self._frames.frame(place)
        species = arrays["species"][:, 0].astype(np.int32)
        cell = np.array(row["cell"])
        graph = FrameGraph(
            species=species,
            positions=arrays["positions"],
            cell=cell,
            table=neighbour_table(arrays["positions"], cell, np.any(cell != 0, axis=1), self._frames.record["cutoff"]),
            energy=float(row["energy"]) - float(self._shifts[place]),
            forces=arrays["forces"],
            virial=np.array(row["virial"]),
            volume=float(row["volume"]),
        )
        return without_terms(graph, self._terms)

    def without(self, terms: Sequence[Term]) -> StoredGraphs:
        """The same graphs, whose labels have what the terms give taken off."""
        return StoredGraphs(self._frames, self._shifts, terms)

    def moved(self, moves: Mapping[str, float]) -> StoredGraphs:
        """The same graphs with these energies (eV by element) taken off in addition."""
        elements, counts, _ = self._frames.composition()
        added = counts @ np.array([moves[element] for element in elements])
        return StoredGraphs(self._frames, self._shifts + added, self._terms)

    @property
    def distances(self) -> dict[str, float]:
        """Shortest distances (A) of neighbours by pair of elements."""
        return self._frames.distances()

    def labels(self) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
        """Energy without shifts, forces and virial of each frame, without terms."""
        energies = self._frames.field("energy") - self._shifts
        for place, (energy, (virial, forces)) in enumerate(zip(energies.tolist(), self._frames.forces(), strict=True)):
            if not self._terms:
                yield energy, forces, virial
                continue
            row, arrays = self._frames.frame(place)
            cell, species = row["cell"], arrays["species"][:, 0]
            sums = term_sums(self._terms, species, arrays["positions"], cell, np.any(cell != 0, axis=1))
            yield energy - sums.energy, forces - sums.forces, virial - sums.strain_gradient

    @property
    def digest(self) -> str:
        """Hash of the frames and of their order."""
        return hashlib.sha256(self._frames.record["digest"].encode() + self._frames.indices.tobytes()).hexdigest()


def store_frames(
    folder: str | Path, frames: Iterable[Atoms], cutoff: float, source: Mapping[str, Any] | None = None
) -> StoredFrames:
    """Writes labelled frames, one after the other; `source` says where they come from.

    A store of the same source and cutoff is opened instead. Raises DataError for frames that cannot be used,
    WriteError where the folder cannot be written.
    """
    folder = Path(folder)
    source = dict(source or {})
    index = folder / INDEX_FILE
    if source and index.is_file():
        with contextlib.suppress(DataError):  # a damaged store is written anew
            stored = StoredFrames(folder)
            if stored.record["source"] == source and stored.record["cutoff"] == cutoff:
                return stored
    make_folder(folder)
    digest = hashlib.sha256()
    start = count = 0
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(open(stack.enter_context(replacing(folder / f"{name}.bin")), "wb"))
            for name in ("frames", "shortest", "pairs", *ATOM_ARRAYS)
        }
        for count, atoms in enumerate(frames, start=1):
            graph = frame_graph(atoms, cutoff, dict.fromkeys(set(atoms.symbols), 0.0), f"frame {count - 1}")
            n, width = len(atoms), graph.table.neighbours.shape[1]
            row = np.array([(start, n, width, graph.energy, graph.cell, graph.virial, graph.volume)], FRAME)
            shortest = [(count - 1, kind, square) for kind, square in shortest_squares(graph).items()]
            files["shortest"].write(np.array(shortest, SHORTEST).tobytes())
            files["pairs"].write(np.int64(pairs_of(graph)).tobytes())
            written = {"frames": row, **{name: getattr(graph, name) for name in ATOM_ARRAYS}}
            for name, array in written.items():
                kind = FRAME if name == "frames" else ATOM_ARRAYS[name][0]
                content = np.ascontiguousarray(array, kind).tobytes()
                files[name].write(content)
                digest.update(content)
            start += n
        if count == 0:
            raise DataError("no frame to store")
        for file in files.values():
            file.flush()
        index.unlink(missing_ok=True)
    record = {"frames": count, "atoms": start, "cutoff": cutoff, "digest": digest.hexdigest(), "source": source}
    write_text(index, json.dumps(record, indent=1) + "\n")
    return StoredFrames(folder)
