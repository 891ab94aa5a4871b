"""Whether energies change as forces and stresses say they do: a wrong unit or sign of a label shows in the ratio."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell

from .frames import AXES, LabelKeys, Labels, canonical
from .units import ENERGY_UNITS, PRESSURE_UNITS, energy_factor, force_factor, stress_factor

KEPT = 32  # frames of one kind that are compared
KINDS = 300
PARTNERS = 8  # frames that each frame is compared with
LEAST = 4  # frames of a kind
FREE = 2  # independent differences of energies beyond those that ratios take: one may fit by chance
LARGEST_STRAIN = 0.1  # between compared frames
LARGEST_MOVE = 0.6  # A, of an atom between compared frames
SOUND = {"forces": 0.4, "stress": 0.5}  # ratio's distance from 1 that energies without noise may have
SURE = 4.0  # standard errors, of many frames; few tell less (Student's t)
SCATTERED = 0.4  # of what energies do beside a ratio by what they do with it: above it, molecules may have turned
# Of labels whose ratio is that of gradients, or larger than turning molecules have any.
MOST_SCATTERED = 1.0
FAR = 5.0
NOTHING = 1e-6  # a ratio of energies that do not change
MATCH = 0.2  # of the logarithm, from the ratio of a known mistake
SHEARS = ("yz", "xz", "xy")
SHEAR_AXES = tuple(np.array([AXES[name] for name in SHEARS]).T)
LEAST_SHEAR = 1e-3  # strain between two frames that tell the order of shear stresses
LEAST_MOVE = 0.1  # A, of an atom between such frames beyond the strain, at most
FOLLOWED = 0.8  # correlation of shear stresses with strains from which on their order is told
EXCLUDED = 0.7  # of the best order's correlation: an order below is excluded
# eV/atom, between like frames and so many times the work of their labels: two references of the energy, or units.
GAIN, LARGEST_GAIN, BEYOND_WORK = 0.5, 20.0, 20.0
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
    differences: int  # of energies, independent ones

    @property
    def wrong(self) -> float:
        """How sure it is that the ratio is not 1, in standard errors."""
        return abs(self.ratio - 1.0) / self.error

    @property
    def scatter(self) -> float:
        """What energies do beside the ratio by what they do with it: rms over independent frames, whatever the unit."""
        return self.error * math.sqrt(self.differences) / max(abs(self.ratio), 1e-300)


class Finding(NamedTuple):
    """What is wrong with the labels of a whole set."""

    text: str
    stops: bool  # whether training must not start: a known mistake explains the labels


class _Frame(NamedTuple):
    cell: np.ndarray
    positions: np.ndarray
    values: Labels
    number: int = -1  # in its file


class _Sample:
    """A random sample of KEPT out of frames that come one after the other."""

    def __init__(self, random: np.random.Generator) -> None:
        self.frames: list[_Frame] = []
        self._random, self._seen = random, 0

    def add(self, frame: _Frame) -> None:
        self._seen += 1
        if len(self.frames) < KEPT:
            self.frames.append(frame)
        elif (place := int(self._random.integers(self._seen))) < KEPT:
            self.frames[place] = frame


class _Kind:
    """Frames of the same atoms in the same order: some of all, and some of those whose cells differ."""

    def __init__(self, random: np.random.Generator) -> None:
        self.any, self.cells = _Sample(random), _Sample(random)

    def add(self, frame: _Frame) -> None:
        self.any.add(frame)
        if not any(np.array_equal(frame.cell, kept.cell) for kept in self.cells.frames):
            self.cells.add(frame)


class _Pair(NamedTuple):
    """What two like frames say of each other."""

    forces: float  # their work from one to the other, eV/atom
    stress: float  # likewise
    energy: float  # gained, eV/atom
    moved: float  # A, of the atom that moved most beyond the strain
    strain: np.ndarray  # (3,) in the order of SHEARS
    change: np.ndarray  # (3,) of the stresses with these labels, eV/A^3
    strained: bool  # whether their cells differ
    frames: tuple[int, int] = (0, 1)  # which of a kind


class LabelSlopes:
    """Some frames of each kind (the same atoms in the same order), and what their labels say of each other."""

    def __init__(self, keys: LabelKeys | None = None) -> None:
        """`keys` are those by which the labels were read: units are proposed in place of theirs."""
        self.keys = keys or LabelKeys()
        self._random = np.random.default_rng(0)
        self._kinds: dict[tuple[bytes, bytes], _Kind] = {}
        self._works: list[float] = []

    def add(self, atoms: Atoms, values: Labels, number: int = -1) -> None:
        """Keeps a frame whose numbers are finite, or not: of each kind a random sample of KEPT.

        `number`: of the frame in its file.
        """
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
        cell = complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))
        self._kinds.setdefault(kind, _Kind(self._random)).add(_Frame(cell, atoms.positions.copy(), values, number))

    def slopes(self) -> dict[str, Slope]:
        """Ratios of energy differences to the work of the forces and of the stresses, where labels tell them.

        ΔE = -½ a Σ (F + F')·Δr + ½ b (V S + V' S'):ε between two frames with forces F and stresses S, Δr being the
        displacement beyond the strain ε. With a = b = 1 exact for harmonic energies.
        """
        sums: dict[str, list[tuple[float, float, int]]] = {"forces": [], "stress": []}
        generator = np.random.default_rng(0)
        for (_, pbc), kind in self._kinds.items():
            for name, found in _fit(kind.any.frames, np.frombuffer(pbc, bool), generator).items():
                sums[name].append(found)
        result = {}
        for name, parts in sums.items():
            if parts:
                weights = np.array([error**-2 for _, error, _ in parts])
                ratio = float(np.average([ratio for ratio, _, _ in parts], weights=weights))
                result[name] = Slope(ratio, float(weights.sum() ** -0.5), sum(count for *_, count in parts))
        return result

    def shear_orders(self) -> list[tuple[int, int, int]]:
        """Orders of the shear components that frames of other shape do not exclude, the best first.

        In an order the stress that goes with the strains yz, xz, xy is labelled as its three numbers say. Crystals
        resist shear: between strained ones, changes of stresses and strains correlate most in the right order, because
        elastic constants are positive definite.
        """
        generator = np.random.default_rng(0)
        pairs = [
            pair
            for (_, pbc), kind in self._kinds.items()
            for pair in _pairs(kind.cells.frames, np.frombuffer(pbc, bool), generator)
            if pair.moved < LEAST_MOVE and np.abs(pair.strain).max() > LEAST_SHEAR and np.isfinite(pair.change).all()
        ]
        orders = [(a, b, c) for a, b, c in itertools.permutations(range(3))]
        strain = np.array([pair.strain for pair in pairs]).reshape(-1, 3)
        change = np.array([pair.change for pair in pairs]).reshape(-1, 3)
        size = float(np.linalg.norm(strain) * np.linalg.norm(change))
        if len(pairs) < LEAST or size == 0:
            return orders
        # Whatever the sign of the stresses, which is told by energies.
        follows = {order: abs(float((change[:, order] * strain).sum())) / size for order in orders}
        best = max(follows.values())
        if best < FOLLOWED:
            return orders
        return sorted((o for o in orders if follows[o] >= EXCLUDED * best), key=lambda order: -follows[order])

    def findings(self) -> list[Finding]:
        """What the ratios, cells of other shape and the size of the stresses say of units, signs and order."""
        if (zeros := self._zero_forces()) is not None:
            return [zeros]
        slopes, told = self.slopes(), []
        if "forces" in slopes and _is_wrong(slopes["forces"], "forces"):
            # Stresses are held against energies: those first.
            told = [self._forces_finding(slopes["forces"])]
        if not any(finding.stops for finding in told) and (mixed := self._mixed_energies()) is not None:
            return [mixed]
        if told:
            return told
        orders = self.shear_orders()
        if (0, 1, 2) not in orders:
            return [self._order_finding(orders)]
        if "stress" in slopes and _is_wrong(slopes["stress"], "stress"):
            return [self._stress_finding(slopes["stress"])]
        work = float(np.median(self._works)) if self._works else 0.0
        if work <= LARGEST_WORK:
            return []
        advice = 'look at stress_unit (VASP writes kbar: stress_unit = "kbar", stress_sign = -1)'
        if self.keys.virial:
            advice = "look at energy_unit, or name a stress by stress_key"
        return [Finding(f"stress times volume is {work:.3g} eV/atom (median), more than matter bears: {advice}", True)]

    def _zero_forces(self) -> Finding | None:
        """Zeros in place of forces that were never computed; they are right in perfect crystals, which do not move."""
        generator, zero, known, farthest = np.random.default_rng(0), set(), 0, 0.0
        for (_, pbc), kind in self._kinds.items():
            frames = [frame for frame in kind.any.frames if np.isfinite(frame.values.forces).all()]
            known += len(frames)
            still = [frame for frame in frames if not frame.values.forces.any()]
            for pair in _pairs(still, np.frombuffer(pbc, bool), generator):
                if pair.moved > LEAST_MOVE:
                    zero |= {id(still[k]) for k in pair.frames}
                    farthest = max(farthest, pair.moved)
        if not zero:
            return None
        which = "all forces are zero" if len(zero) == known else f"in {len(zero)} of {known} frames all forces are zero"
        return Finding(
            f"{which}, though atoms are moved by up to {farthest:.2g} A between them: they are none; leave them out "
            'with forces_key = "", or mend them',
            stops=len(zero) == known,
        )

    def _mixed_energies(self) -> Finding | None:
        """Energies of like frames that differ by far more than what their labels say, or than matter bears."""
        generator = np.random.default_rng(0)
        found: list[tuple[float, set[int]]] = []  # of pairs: eV/atom, and the two frames
        for (_, pbc), kind in self._kinds.items():
            frames = kind.any.frames
            for pair in _pairs(frames, np.frombuffer(pbc, bool), generator):
                work = abs(pair.forces) + (abs(pair.stress) if pair.strained else 0.0)
                if math.isfinite(work) and abs(pair.energy) > max(GAIN, BEYOND_WORK * work):
                    found.append((abs(pair.energy), {frames[k].number for k in pair.frames}))
        if not found:
            return None
        largest, numbers = max(found, key=lambda pair: pair[0])
        named = " and ".join(map(str, sorted(numbers)))
        is_one_frame = bool(set.intersection(*(pair for _, pair in found)))  # one energy is wrong, not half of them
        return Finding(
            f"energies of frames that are alike differ by {largest:.3g} eV/atom (frames {named}), and forces and "
            f"stresses say less than {1 / BEYOND_WORK:g} of it: two units, or two settings of the program that made "
            "them, are mixed, or some energies are wrong",
            stops=largest > LARGEST_GAIN and not is_one_frame,
        )

    def _forces_finding(self, slope: Slope) -> Finding:
        said = f"energies change {slope.ratio:.3g} +- {slope.error:.1g} times as much as the forces say"
        if abs(slope.ratio) < NOTHING:
            return Finding(
                f"{said}: energies of frames whose forces differ are the same, so they are none; leave them out with "
                'energy_key = "", or mend them',
                stops=True,
            )
        is_plain = slope.ratio > FAR or (slope.ratio < 0 and _is_near(-slope.ratio, 1.0, slope))
        if slope.scatter > (MOST_SCATTERED if is_plain else SCATTERED):
            unless = "unless molecules turn or atoms come close"
            return Finding(f"{said}: look at their units and signs, {unless}", stops=False)
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
        sizes = [len(frame.positions) for kind in self._kinds.values() for frame in kind.any.frames]
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
        volumes = [abs(np.linalg.det(frame.cell)) for kind in self._kinds.values() for frame in kind.any.frames]
        # A virial has the opposite sign of a stress.
        kept = "" if sign else f" and stress_sign = {-self.keys.stress_sign}"
        virial = f'virial_key = "{self.keys.stress}"{kept} (a virial in eV)'
        fitting[virial] = 1 / float(np.median(volumes)) / own
        return _explained(said, fitting, slope)

    def _order_finding(self, orders: Sequence[tuple[int, int, int]]) -> Finding:
        names = [canonical(name) for name in self.keys.voigt_order.split()]
        own = " ".join(names)

        def renamed(order: tuple[int, int, int]) -> str:
            right = {SHEARS[label]: SHEARS[k] for k, label in enumerate(order)}
            return " ".join(right.get(name, name) for name in names)

        choices = ", or ".join(f'voigt_order = "{renamed(order)}"' for order in orders[:2])
        return Finding(
            f"shear stresses are in another order than {own}, as sheared crystals say: set {choices} where "
            "the file has six components, and put them in order in the file where it has nine",
            stops=len(orders) == 1,
        )


def _is_wrong(slope: Slope, name: str) -> bool:
    low, high = 1 - SOUND[name], 1 / (1 - SOUND[name])
    from scipy.stats import norm  # which takes a second to import
    from scipy.stats import t as student

    sure = student.isf(norm.sf(SURE), max(slope.differences - len(SOUND), 1))
    return not low < slope.ratio < high and slope.wrong > sure


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
    pairs = list(_pairs(frames, pbc, generator))
    if not all(math.isfinite(pair.stress) for pair in pairs):
        # A strain does work of which no label tells.
        pairs = [pair for pair in pairs if not pair.strained]
    table = np.array([pair[:3] for pair in pairs]).reshape(-1, 3)
    names = ("forces", "stress")
    known = [k for k in range(2) if len(table) and np.isfinite(table[:, k]).all() and table[:, k].std() > 1e-6]
    independent = _independent(pairs)
    if not known or independent < len(known) + FREE:
        return {}
    # What energies do beside such sums goes with the third power of the displacement.
    moved = np.array([max(pair.moved, LEAST_MOVE) for pair in pairs])
    weights = (moved.min() / moved) ** 3
    x, y = table[:, known] * weights[:, None], table[:, 2] * weights
    scales = np.linalg.norm(x, axis=0)
    gram = (x / scales).T @ (x / scales)
    if np.linalg.cond(gram) > 1e6:
        return {}
    inverse = np.linalg.inv(gram)
    ratios = inverse @ (x / scales).T @ y / scales
    residual = y - x @ ratios
    errors = np.sqrt(residual @ residual / (independent - len(known)) * np.diag(inverse)) / scales
    return {
        names[k]: (float(r), max(float(e), 1e-6 * abs(float(r)), 1e-12), independent)
        for k, r, e in zip(known, ratios, errors, strict=True)
    }


def _independent(pairs: Sequence[_Pair]) -> int:
    """How many differences of energies the pairs, which share frames, hold: the frames less one of each cluster."""
    frames = sorted({frame for pair in pairs for frame in pair.frames})
    links = np.zeros((len(pairs), len(frames)))
    for link, pair in zip(links, pairs, strict=True):
        link[[frames.index(frame) for frame in pair.frames]] = 1, -1
    return int(np.linalg.matrix_rank(links)) if pairs else 0


def _pairs(frames: Sequence[_Frame], pbc: np.ndarray, generator: np.random.Generator) -> Iterator[_Pair]:
    """Each frame with some others that are like it."""
    for n, a in enumerate(frames):
        for m in generator.choice(len(frames), min(len(frames), PARTNERS), replace=False):
            if m != n and (pair := _compare(a, frames[m], pbc)) is not None:
                yield pair._replace(frames=(n, int(m)))


def _compare(a: _Frame, b: _Frame, pbc: np.ndarray) -> _Pair | None:
    """What changes from b to a; None of frames too unlike."""
    strain = np.zeros((3, 3))
    strained = not np.array_equal(a.cell, b.cell)
    if strained:
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
    farthest = float(np.linalg.norm(moved, axis=1).max())
    if farthest > LARGEST_MOVE:
        return None
    atoms = len(moved)
    forces = -0.5 * float(((a.values.forces + b.values.forces) * moved).sum()) / atoms
    volumes = abs(np.linalg.det(a.cell)), abs(np.linalg.det(b.cell))
    stresses = volumes[0] * a.values.stress + volumes[1] * b.values.stress
    return _Pair(
        forces,
        0.5 * float(np.tensordot(stresses, strain)) / atoms,
        (a.values.energy - b.values.energy) / atoms,
        farthest,
        strain[SHEAR_AXES],
        (a.values.stress - b.values.stress)[SHEAR_AXES],
        strained,
    )
