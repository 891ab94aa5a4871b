"""What a data set holds, and labels in it that look wrong (docs/training.md)."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.units import GPa
from rich.table import Table

from .faults import SHOWN, LabelCheck
from .frames import LabelKeys, Labels, labels
from .plain import finite
from .slopes import Slope
from .suspects import NEAR, shifted_energies


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
        seen.add(atoms, labels(atoms, where=f"frame {index}"))
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

    def add(self, atoms: Atoms, found: Labels) -> None:
        self.sizes.append(len(atoms))
        counts = Counter(atoms.get_chemical_symbols())
        self.counts.append(counts)
        self.periodic += bool(atoms.pbc.all() and atoms.cell.rank == 3)
        self.energies.append(found.energy)
        if self.check.add(atoms, found):
            # Its numbers would spoil those of the others.
            self.energies[-1] = np.nan
            return
        known = np.isfinite(found.forces)
        if known.any():
            self.force_frames += 1
            self.force_components.add(found.forces[known])
            self.force_sizes.add(np.linalg.norm(np.where(known, found.forces, 0.0), axis=1))
        if np.isfinite(found.stress).all():
            self.pressures.append(-found.stress.trace() / 3)
            self.components.append(found.stress)

    def report(self) -> DataReport:
        elements: Counter[str] = sum(self.counts, Counter())
        ordered = dict(sorted(elements.items(), key=lambda item: atomic_numbers[item[0]]))
        known = np.isfinite(self.energies)
        counts = np.array([[self.counts[n][e] for e in ordered] for n in np.flatnonzero(known)])
        shifted = shifted_energies(np.array(self.energies)[known], counts.reshape(-1, len(ordered)))
        faults = self.check.faults
        warnings = [str(fault) for fault in faults[:SHOWN]]
        if len(faults) > SHOWN:
            warnings.append(f"{len(faults) - SHOWN} more faults of frames, the last in frame {faults[-1].frame}")
        suspects = self.check.suspects
        warnings += suspects.lines()
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
            shortest=dict(sorted(suspects.shortest.items())),
            duplicates=suspects.duplicates,
            slopes=self.check.slopes.slopes(),
            warnings=warnings,
        )

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
