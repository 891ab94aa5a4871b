"""Whether energies change as forces and stresses say they do: a wrong unit or sign of a label shows in the ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell

from .frames import LabelKeys, Labels
from .units import ENERGY_UNITS, PRESSURE_UNITS, energy_factor, force_factor, stress_factor

KEPT = 32  # frames of one kind that are compared
KINDS = 300
PARTNERS = 8  # frames that each frame is compared with
LEAST = 4  # frames of a kind
LARGEST_STRAIN = 0.1  # between compared frames
LARGEST_MOVE = 0.6  # A, of an atom between compared frames
SOUND = {"forces": 0.4, "stress": 0.5}  # ratio's distance from 1 that energies without noise may have
SURE = 5.0  # standard errors
MATCH = 0.2  # of the logarithm, from the ratio of a known mistake
LARGEST_WORK = 50.0  # eV/atom, stress times volume: ten times what bonds hold
# Units that go together in files, energy and forces.
COMMON_UNITS = (
    ("Hartree", "Hartree/Bohr"),
    ("Ry", "Ry/Bohr"),
    ("Hartree", "eV/A"),
    ("eV", "Hartree/Bohr"),
    ("eV", "Ry/Bohr"),
    ("eV", "kcal/mol/A"),
    ("eV", "kJ/mol/A"),
    ("eV", "meV/A"),
)
STRESS_UNITS = ("eV/A^3", *PRESSURE_UNITS, "Hartree/Bohr^3", "Ry/Bohr^3", "kcal/mol/A^3")


class Slope(NamedTuple):
    """Energy differences between like frames over the work that a label predicts: 1 for sound labels."""

    ratio: float
    error: float  # standard error
    frames: int

    @property
    def wrong(self) -> float:
        """How sure it is that the ratio is not 1, in standard errors."""
        return abs(self.ratio - 1.0) / self.error


class Finding(NamedTuple):
    """What is wrong with the labels of a whole set."""

    text: str
    stops: bool  # whether training must not start: a known mistake explains the labels


class _Frame(NamedTuple):
    cell: np.ndarray
    positions: np.ndarray
    values: Labels


class LabelSlopes:
    """Some frames of each kind (the same atoms in the same order), and what their labels say of each other."""

    def __init__(self, keys: LabelKeys | None = None) -> None:
        """`keys` are those by which the labels were read: units are proposed in place of theirs."""
        self.keys = keys or LabelKeys()
        self._random = np.random.default_rng(0)
        self._kinds: dict[tuple[bytes, bytes], list[_Frame]] = {}
        self._seen: dict[tuple[bytes, bytes], int] = {}
        self._works: list[float] = []

    def add(self, atoms: Atoms, values: Labels) -> None:
        """Keeps a frame whose numbers are finite, or not: of each kind a random sample of KEPT."""
        if not (np.isfinite(values.energy) and np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell).all()):
            return
        has_stress = bool(np.isfinite(values.stress).all())
        if not has_stress and not np.isfinite(values.forces).all():
            return
        if has_stress:
            self._works.append(float(np.abs(values.stress).max() * atoms.cell.volume / len(atoms)))
        kind = atoms.numbers.tobytes(), atoms.pbc.tobytes()
        if kind not in self._kinds and len(self._kinds) == KINDS:
            return
        kept = self._kinds.setdefault(kind, [])
        seen = self._seen[kind] = self._seen.get(kind, 0) + 1
        frame = _Frame(
            complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)), atoms.positions.copy(), values
        )
        if len(kept) < KEPT:
            kept.append(frame)
        elif (place := int(self._random.integers(seen))) < KEPT:
            kept[place] = frame

    def slopes(self) -> dict[str, Slope]:
        """Ratios of energy differences to the work of the forces and of the stresses, where labels tell them.

        ΔE = -½ a Σ (F + F')·Δr + ½ b (V S + V' S'):ε between two frames with forces F and stresses S, Δr being the
        displacement beyond the strain ε. With a = b = 1 exact for harmonic energies.
        """
        sums: dict[str, list[tuple[float, float, int]]] = {"forces": [], "stress": []}
        generator = np.random.default_rng(0)
        for (_, pbc), frames in self._kinds.items():
            for name, found in _fit(frames, np.frombuffer(pbc, bool), generator).items():
                sums[name].append(found)
        result = {}
        for name, parts in sums.items():
            if parts:
                weights = np.array([error**-2 for _, error, _ in parts])
                ratio = float(np.average([ratio for ratio, _, _ in parts], weights=weights))
                result[name] = Slope(ratio, float(weights.sum() ** -0.5), sum(count for *_, count in parts))
        return result

    def findings(self) -> list[Finding]:
        """What the ratios, and the size of the stresses, say of units and signs."""
        slopes = self.slopes()
        if "forces" in slopes and _is_wrong(slopes["forces"], "forces"):
            # Stresses are held against energies: those first.
            return [self._forces_finding(slopes["forces"])]
        if "stress" in slopes and _is_wrong(slopes["stress"], "stress"):
            return [self._stress_finding(slopes["stress"])]
        work = float(np.median(self._works)) if self._works else 0.0
        if work <= LARGEST_WORK:
            return []
        advice = 'look at stress_unit (VASP writes kbar: stress_unit = "kbar", stress_sign = -1)'
        if self.keys.virial:
            advice = "look at energy_unit, or name a stress by stress_key"
        return [Finding(f"stress times volume is {work:.3g} eV/atom (median), more than matter bears: {advice}", True)]

    def _forces_finding(self, slope: Slope) -> Finding:
        said = f"energies change {slope.ratio:.3g} +- {slope.error:.1g} times as much as the forces say"
        if slope.ratio < 0:
            is_sign = _is_near(-slope.ratio, 1.0, slope)
            advice = (
                "they have the sign of gradients, turn them round in the file"
                if is_sign
                else "look at their signs and units"
            )
            return Finding(f"{said}: {advice}", is_sign)
        energy, forces, _ = self.keys.factors
        own = self.keys.energy_unit, self.keys.own_forces_unit
        units = [*COMMON_UNITS, *((e, own[1]) for e in ENERGY_UNITS), *((own[0], f) for _, f in COMMON_UNITS)]
        # What the ratio would be if these were the units of the data.
        expected = {pair: energy_factor(pair[0]) / energy * forces / force_factor(pair[1]) for pair in units}
        fitting = {pair: 1 / value for pair, value in expected.items() if pair != own}
        remedies = {f'energy_unit = "{e}" and forces_unit = "{f}"': v for (e, f), v in fitting.items()}
        sizes = [len(frame.positions) for frames in self._kinds.values() for frame in frames]
        # Energies per atom in place of the frame's.
        remedies["whole energies in place of energies per atom in the file"] = 1 / float(np.median(sizes))
        return _explained(said, remedies, slope)

    def _stress_finding(self, slope: Slope) -> Finding:
        said = f"energies change {slope.ratio:.3g} +- {slope.error:.1g} times as much as the stresses say"
        size = abs(slope.ratio)
        sign = f"stress_sign = {-self.keys.stress_sign}" if slope.ratio < -2 * slope.error else ""
        if sign and _is_near(size, 1.0, slope):
            return Finding(f"{said}: they have the opposite sign, set {sign}", True)
        if self.keys.virial:
            return Finding(f"{said}: look at energy_unit, or name a stress by stress_key", False)
        own = self.keys.factors[2]
        turned = f" and {sign}" if sign else ""
        fitting = {f'stress_unit = "{unit}"{turned}': stress_factor(unit) / own for unit in STRESS_UNITS}
        volumes = [abs(np.linalg.det(frame.cell)) for frames in self._kinds.values() for frame in frames]
        # A virial has the opposite sign of a stress.
        kept = "" if sign else f" and stress_sign = {-self.keys.stress_sign}"
        virial = f'virial_key = "{self.keys.stress}"{kept} (a virial in eV)'
        fitting[virial] = 1 / float(np.median(volumes)) / own
        return _explained(said, fitting, slope)


def _is_wrong(slope: Slope, name: str) -> bool:
    low, high = 1 - SOUND[name], 1 / (1 - SOUND[name])
    return not low < slope.ratio < high and slope.wrong > SURE


def _is_near(size: float, expected: float, slope: Slope) -> bool:
    """Whether the size of a ratio is the expected one within its error and the anharmonic part of energies."""
    return abs(math.log(size / expected)) < MATCH + 2 * slope.error / size


def _explained(said: str, ratios: Mapping[str, float], slope: Slope) -> Finding:
    """A finding that proposes the settings for which the ratio would be 1, the nearest first."""
    size = abs(slope.ratio)
    fitting = [text for text, ratio in ratios.items() if slope.error < size / 2 and _is_near(size, ratio, slope)]
    fitting.sort(key=lambda text: abs(math.log(size / ratios[text])))
    if not fitting:
        return Finding(f"{said}: look at the units and signs of the labels", stops=False)
    return Finding(f"{said}: set {', or '.join(fitting[:2])}", stops=True)


def _fit(
    frames: Sequence[_Frame], pbc: np.ndarray, generator: np.random.Generator
) -> dict[str, tuple[float, float, int]]:
    """Ratio, standard error and frames for forces and stress from frames of one kind."""
    with_forces = [frame for frame in frames if np.isfinite(frame.values.forces).all()]
    if len(with_forces) >= LEAST:
        frames = with_forces
    if len(frames) < LEAST:
        return {}
    rows = []
    for n, a in enumerate(frames):
        for m in generator.choice(len(frames), min(len(frames), PARTNERS), replace=False):
            if m != n and (row := _compare(a, frames[m], pbc)) is not None:
                rows.append(row)
    table = np.array(rows).reshape(-1, 3)
    names = ("forces", "stress")
    known = [k for k in range(2) if len(table) and np.isfinite(table[:, k]).all() and table[:, k].std() > 1e-6]
    if not known or len(table) < 2 * len(known):
        return {}
    x, y = table[:, known], table[:, 2]
    scales = np.linalg.norm(x, axis=0)
    gram = (x / scales).T @ (x / scales)
    if np.linalg.cond(gram) > 1e6:
        return {}
    inverse = np.linalg.inv(gram)
    ratios = inverse @ (x / scales).T @ y / scales
    residual = y - x @ ratios
    # Pairs share frames: there are as many independent ones as frames.
    errors = np.sqrt(residual @ residual / len(frames) * np.diag(inverse)) / scales
    return {
        names[k]: (float(r), max(float(e), 1e-6 * abs(float(r)), 1e-12), len(frames))
        for k, r, e in zip(known, ratios, errors, strict=True)
    }


def _compare(a: _Frame, b: _Frame, pbc: np.ndarray) -> tuple[float, float, float] | None:
    """Work of the forces and of the stresses from b to a and the energy gained, eV/atom; None of frames too unlike."""
    strain = np.zeros((3, 3))
    if not np.array_equal(a.cell, b.cell):
        if not pbc.all():
            return None
        deformation = np.linalg.solve(b.cell, a.cell)
        strain = 0.5 * (deformation + deformation.T) - np.eye(3)
        if np.abs(strain).max() > LARGEST_STRAIN:
            return None
    scaled = np.linalg.solve(a.cell.T, a.positions.T) - np.linalg.solve(b.cell.T, b.positions.T)
    scaled -= np.round(scaled) * pbc[:, None]
    moved = scaled.T @ (0.5 * (a.cell + b.cell))
    moved -= np.median(moved, axis=0)
    if np.linalg.norm(moved, axis=1).max() > LARGEST_MOVE:
        return None
    atoms = len(moved)
    forces = -0.5 * float(((a.values.forces + b.values.forces) * moved).sum()) / atoms
    volumes = abs(np.linalg.det(a.cell)), abs(np.linalg.det(b.cell))
    stresses = volumes[0] * a.values.stress + volumes[1] * b.values.stress
    stress = 0.5 * float(np.tensordot(stresses, strain)) / atoms
    return forces, stress, (a.values.energy - b.values.energy) / atoms
