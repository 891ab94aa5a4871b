"""What a data set holds, and labels in it that look wrong (docs/training.md)."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from ase.units import GPa
from rich.table import Table

from .faults import SHOWN, LabelCheck
from .frames import LabelKeys, Labels, labels
from .neighbours import near_pairs
from .plain import finite
from .slopes import Slope

NEAR = 4.0  # A, pairs beyond are not looked for
SAME = 1e-4  # of the cell, or A without one; frames that differ by less are duplicates
NET_FORCE = (0.01, 1e-3)  # mean force on an atom that is suspicious: share of the rms force, and eV/A
LARGE_FORCE = 50.0  # eV/A
SHORT_DISTANCE = 0.6  # of the sum of covalent radii
OUTLIER = 20.0  # energies per atom so many median deviations from the median
REWEIGHTINGS = 20


class Range(NamedTuple):
    """Spread of a number over the data."""

    unit: str
    low: float
    high: float
    mean: float
    std: float


@dataclasses.dataclass
class DataReport:
    """What was found in a data set; frames are counted from 0."""

    frames: int
    atoms: tuple[int, int, int]  # in all, in the smallest and in the largest frame
    elements: dict[str, int]  # atoms of each
    compositions: int  # different ones
    periodic: int  # frames, in three directions
    labelled: dict[str, int]  # frames with an energy, with any force, with any stress
    ranges: dict[str, Range]
    shortest: dict[str, tuple[float, int]]  # pair of elements -> A and frame, for pairs closer than NEAR
    duplicates: list[tuple[int, int]]  # frame, earlier frame of the same structure
    slopes: dict[str, Slope]  # of forces and stress, where like frames tell them
    warnings: list[str]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        content = dataclasses.asdict(self)
        content["ranges"] = {name: r._asdict() for name, r in self.ranges.items()}
        content["slopes"] = {name: slope._asdict() for name, slope in self.slopes.items()}
        return finite(content)


def data_report(frames: Iterable[Atoms], check: LabelCheck | None = None) -> DataReport:
    """Looks at labelled frames one after the other; they need not be in memory together.

    `check` is told of them too, and knows the keys by which they were read.
    """
    seen = _Seen(check or LabelCheck(LabelKeys()))
    for index, atoms in enumerate(frames):
        seen.add(index, atoms, labels(atoms, where=f"frame {index}"))
    return seen.report()


def report_tables(report: DataReport) -> list[Table]:
    """A report as tables to print."""
    facts = Table(title="Data", show_header=False)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    total, least, most = report.atoms
    facts.add_row("frames", f"{report.frames}, {report.periodic} of them periodic in three directions")
    facts.add_row("atoms", f"{total}, {least} to {most} in a frame")
    facts.add_row("elements", ", ".join(f"{symbol} {count}" for symbol, count in report.elements.items()))
    facts.add_row("compositions", str(report.compositions))
    facts.add_row("labelled frames", ", ".join(f"{name} {count}" for name, count in report.labelled.items()))
    pairs = ", ".join(f"{pair} {d:.3f} (frame {frame})" for pair, (d, frame) in report.shortest.items())
    facts.add_row("shortest distances (A)", pairs or f"none below {NEAR}")
    facts.add_row("duplicate frames", str(len(report.duplicates)))
    for name, slope in report.slopes.items():
        found = f"{slope.ratio:.3g} +- {slope.error:.1g}, from {slope.differences} independent ones; 1 is right"
        facts.add_row(f"energy differences / work of {name}", found)
    ranges = Table(title="Ranges")
    for heading in ("label", "lowest", "highest", "mean", "std", "unit"):
        ranges.add_column(heading, no_wrap=True, justify="left" if heading in ("label", "unit") else "right")
    for name, r in report.ranges.items():
        ranges.add_row(name, f"{r.low:.6g}", f"{r.high:.6g}", f"{r.mean:.6g}", f"{r.std:.4g}", r.unit)
    return [facts, ranges]


class _Moments:
    """Range of numbers that come in parts."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, 0.0, 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, values: np.ndarray) -> None:
        self.count += values.size
        self.sum += float(values.sum())
        self.squares += float(np.square(values).sum())
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def range(self, unit: str) -> Range:
        mean = self.sum / self.count
        return Range(unit, self.low, self.high, mean, math.sqrt(max(self.squares / self.count - mean**2, 0.0)))


class _Seen:
    """What is kept of each frame: a few numbers."""

    def __init__(self, check: LabelCheck) -> None:
        self.check = check
        self.sizes: list[int] = []
        self.counts: list[Counter[str]] = []
        self.periodic = 0
        self.energies: list[float] = []
        self.force_frames = 0
        self.force_sizes, self.force_components = _Moments(), _Moments()
        self.pressures: list[float] = []
        self.components: list[np.ndarray] = []
        self.shortest: dict[str, tuple[float, int]] = {}
        self.structures: dict[bytes, int] = {}
        self.answers: dict[bytes, int] = {}
        self.hashes: list[tuple[bytes, bytes | None]] = []
        self.free: list[int] = []  # frames of one atom without neighbours
        self.duplicates: list[tuple[int, int]] = []
        self.suspects: dict[str, list[int]] = defaultdict(list)

    def add(self, index: int, atoms: Atoms, found: Labels) -> None:
        self.sizes.append(len(atoms))
        counts = Counter(atoms.get_chemical_symbols())
        self.counts.append(counts)
        self.periodic += bool(atoms.pbc.all() and atoms.cell.rank == 3)
        self.energies.append(found.energy)
        if self.check.add(atoms, found):
            # Its numbers would spoil those of the others.
            self.energies[-1] = np.nan
            self.hashes.append((b"", None))
            return
        self._add_forces(index, found.forces)
        if np.isfinite(found.stress).all():
            self.pressures.append(-found.stress.trace() / 3)
            self.components.append(found.stress)
            if len(atoms) > 1 and not found.stress.any():
                self.suspects["stress that is exactly zero"].append(index)
        self._add_distances(index, atoms)
        self._add_hashes(index, atoms, found)

    def _add_forces(self, index: int, forces: np.ndarray) -> None:
        known = np.isfinite(forces)
        if not known.any():
            return
        self.force_frames += 1
        self.force_components.add(forces[known])
        sizes = np.linalg.norm(np.where(known, forces, 0.0), axis=1)
        self.force_sizes.add(sizes)
        squares = float(np.square(sizes).sum())
        share, least = NET_FORCE
        net = np.linalg.norm(forces.mean(axis=0)) if known.all() else 0.0
        if len(forces) > 1 and net > max(least, share * math.sqrt(squares / len(forces))):
            self.suspects["forces that do not add up to zero"].append(index)
        if sizes.max() > LARGE_FORCE:
            self.suspects[f"forces above {LARGE_FORCE:g} eV/A"].append(index)
        if len(forces) > 1 and squares == 0:
            self.suspects["forces that are exactly zero, as only a perfect crystal has them"].append(index)

    def _add_distances(self, index: int, atoms: Atoms) -> None:
        i, j, d = near_pairs(atoms, NEAR)
        if len(atoms) == 1 and not len(d):
            self.free.append(index)
        first, second = np.minimum(atoms.numbers[i], atoms.numbers[j]), np.maximum(atoms.numbers[i], atoms.numbers[j])
        for z, other in np.unique(np.column_stack([first, second]), axis=0):
            pair = f"{chemical_symbols[z]}-{chemical_symbols[other]}"
            distance = float(d[(first == z) & (second == other)].min())
            if distance < self.shortest.get(pair, (math.inf, 0))[0]:
                self.shortest[pair] = (distance, index)
            if distance < SHORT_DISTANCE * (covalent_radii[z] + covalent_radii[other]):
                self.suspects[f"{pair} pairs closer than {SHORT_DISTANCE:g} of their covalent radii"].append(index)

    def _add_hashes(self, index: int, atoms: Atoms, found: Labels) -> None:
        structure = _structure_hash(atoms)
        answer = None
        if np.isfinite(found.energy) and np.isfinite(found.forces).all() and found.forces.any():
            answer = _hash(np.round(np.append(found.forces.ravel(), found.energy), 6))
        if structure in self.structures:
            earlier = self.structures[structure]
            self.duplicates.append((index, earlier))
            if answer != self.hashes[earlier][1]:
                self.suspects["the structure of an earlier frame with other labels"].append(index)
        elif answer is not None and answer in self.answers:
            self.suspects["the energy and forces of another structure"].append(index)
        self.structures.setdefault(structure, index)
        if answer is not None:
            self.answers.setdefault(answer, index)
        self.hashes.append((structure, answer))

    def report(self) -> DataReport:
        elements: Counter[str] = sum(self.counts, Counter())
        ordered = dict(sorted(elements.items(), key=lambda item: atomic_numbers[item[0]]))
        known = np.isfinite(self.energies)
        shifted = self._shifted_energies(known, list(ordered))
        self._suspect_energies(known, shifted)
        faults = self.check.faults
        warnings = [str(fault) for fault in faults[:SHOWN]]
        if len(faults) > SHOWN:
            warnings.append(f"{len(faults) - SHOWN} more faults of frames, the last in frame {faults[-1].frame}")
        warnings += [f"{_some(frames)}: {what}" for what, frames in self.suspects.items()]
        warnings += [finding.text for finding in self.check.findings()] + self.check.names.undefined_lines()
        return DataReport(
            frames=len(self.sizes),
            atoms=(sum(self.sizes), min(self.sizes, default=0), max(self.sizes, default=0)),
            elements=ordered,
            compositions=len({tuple(sorted(counts.items())) for counts in self.counts}),
            periodic=self.periodic,
            labelled={
                "energy": int(known.sum()),
                "forces": self.force_frames,
                "stress": len(self.pressures),
            },
            ranges=self._ranges(known, shifted),
            shortest=dict(sorted(self.shortest.items())),
            duplicates=self.duplicates,
            slopes=self.check.slopes.slopes(),
            warnings=warnings,
        )

    def _shifted_energies(self, known: np.ndarray, elements: Sequence[str]) -> np.ndarray:
        """Energies per atom (eV) of frames that have one, less what a sum over elements explains.

        Least absolute deviations, by reweighting: one wrong energy must not bend the sum.
        """
        energies, sizes = np.array(self.energies)[known], np.array(self.sizes)[known]
        if not len(energies):
            return energies
        shares = np.array([[self.counts[n][e] for e in elements] for n in np.flatnonzero(known)]) / sizes[:, None]
        per_atom = energies / sizes
        centred = per_atom - np.median(per_atom)
        residual, weights = centred, np.ones((len(centred), 1))
        for _ in range(REWEIGHTINGS):
            fit = np.linalg.lstsq(weights * shares, weights[:, 0] * centred, rcond=1e-8)[0]
            residual = centred - shares @ fit
            weights = 1 / np.sqrt(np.maximum(np.abs(residual), 1e-3))[:, None]
        return residual

    def _suspect_energies(self, known: np.ndarray, shifted: np.ndarray) -> None:
        # An isolated atom is far from all matter.
        numbers = np.flatnonzero(known)
        bound = ~np.isin(numbers, self.free)
        numbers, shifted = numbers[bound], shifted[bound]
        deviation = np.abs(shifted - np.median(shifted)) if len(shifted) else shifted
        scale = np.median(deviation) if len(shifted) else 0.0
        for index in numbers[deviation > OUTLIER * scale] if scale > 0 else ():
            self.suspects[f"energies more than {OUTLIER:g} median deviations from the median"].append(int(index))

    def _ranges(self, known: np.ndarray, shifted: np.ndarray) -> dict[str, Range]:
        ranges = {}
        if known.any():
            per_atom = np.array(self.energies)[known] / np.array(self.sizes)[known]
            ranges["energy"] = _range("eV/atom", per_atom)
            ranges["energy, elements removed"] = _range("eV/atom", shifted)
        if self.force_frames:
            ranges["force component"] = self.force_components.range("eV/A")
            ranges["force on an atom"] = self.force_sizes.range("eV/A")
        if self.pressures:
            ranges["stress component"] = _range("eV/A^3", np.array(self.components))
            ranges["pressure"] = _range("GPa", np.array(self.pressures) / GPa)
        return ranges


def _range(unit: str, values: np.ndarray) -> Range:
    return Range(unit, float(values.min()), float(values.max()), float(values.mean()), float(values.std()))


def _some(frames: Sequence[int]) -> str:
    named = ", ".join(map(str, frames[:SHOWN])) + (", ..." if len(frames) > SHOWN else "")
    return f"frame {named}" if len(frames) == 1 else f"{len(frames)} frames ({named})"


def _structure_hash(atoms: Atoms) -> bytes:
    """The same for structures that differ by a translation, by lattice vectors or in digits beyond SAME."""
    positions = atoms.positions - atoms.positions[:1]
    if atoms.pbc.all() and atoms.cell.rank == 3:
        ticks = round(1 / SAME)
        grid = np.round(np.linalg.solve(atoms.cell.array.T, positions.T).T * ticks).astype(np.int64) % ticks
    else:
        grid = np.round(positions / SAME).astype(np.int64)
    cell = np.round(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0) / SAME).astype(np.int64)
    return _hash(atoms.numbers.astype(np.int64), grid, cell, atoms.pbc)


def _hash(*arrays: np.ndarray) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
