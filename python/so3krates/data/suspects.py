"""What looks wrong in single frames of a set, or in some beside the others: asked by `data` and by `train` alike."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from so3krates.wording import counted

from .frames import Labels
from .neighbours import near_pairs

NEAR = 4.0  # A, pairs beyond are not looked for
SHOWN = 5  # frames named in a message
SAME = 1e-4  # of the cell, or A without one; frames that differ by less are duplicates
COMPARED = 200_000  # frames that are looked at for duplicates: their hashes are kept
NET_FORCE = (0.01, 1e-3)  # mean force on an atom that is suspicious: share of the rms force, and eV/A
LARGE_FORCE = 50.0  # eV/A
SHORT_DISTANCE = 0.6  # of the sum of covalent radii
# Of this sum, the shortest distance of a frame, median over frames, beyond which lengths are in another unit.
BONDS = (0.25, 1.5)
UNBONDED = [atomic_numbers[symbol] for symbol in ("He", "Ne", "Ar", "Kr", "Xe", "Rn")]
OUTLIER = 20.0  # energies per atom so many median deviations from the median
REWEIGHTINGS = 20
PERFECT = "forces that are exactly zero, as only a perfect crystal has them"
CHARGES = ("charge", "total_charge", "tot_charge", "net_charge")  # entries of a frame that say its total charge


class Suspects:
    """Frames without fault that look wrong, by what is wrong with them; frames are added in their order."""

    def __init__(self) -> None:
        self.frames: dict[str, list[int]] = defaultdict(list)
        self.shortest: dict[str, tuple[float, int]] = {}  # pair of elements -> A and frame, for pairs nearer than NEAR
        self.duplicates: list[tuple[int, int]] = []  # frame, earlier frame of the same structure
        self._numbers, self._energies, self._kinds = array("l"), array("d"), array("l")
        self._compositions: dict[tuple[tuple[str, int], ...], int] = {}
        self._free: list[int] = []  # frames of one atom without neighbours
        self._structures: dict[bytes, int] = {}
        self._answers: dict[bytes, int] = {}
        self._answer_of: dict[int, bytes | None] = {}
        self._bonds = array("d")  # shortest distances of frames by the sum of covalent radii
        self._charges: Counter[float] = Counter()

    def add(self, index: int, atoms: Atoms, found: Labels) -> None:
        """Looks at frame `index`, whose numbers are finite or missing."""
        if np.isfinite(found.stress).all() and len(atoms) > 1 and not found.stress.any():
            self.frames["stress that is exactly zero"].append(index)
        self._add_forces(index, found.forces)
        self._add_distances(index, atoms)
        if index < COMPARED:
            self._add_hashes(index, atoms, found)
        if np.isfinite(found.energy):
            composition = tuple(sorted(Counter(atoms.get_chemical_symbols()).items()))
            self._kinds.append(self._compositions.setdefault(composition, len(self._compositions)))
            self._numbers.append(index)
            self._energies.append(found.energy)
        given = (atoms.info[name] for name in CHARGES if isinstance(atoms.info.get(name), int | float | np.number))
        self._charges[float(next(given, 0.0))] += 1

    def lines(self, with_perfect: bool = True) -> list[str]:
        """A line for each kind, with the first of its frames, and what is odd about the lengths of all.

        `with_perfect`: also what perfect crystals have.
        """
        frames = {what: numbers for what, numbers in self.frames.items() if with_perfect or what != PERFECT}
        if outliers := self._outlying_energies():
            frames[f"energies more than {OUTLIER:g} median deviations from the median"] = outliers
        found = [f"{_some(numbers)}: {what}" for what, numbers in frames.items()]
        charged = {charge: count for charge, count in self._charges.items() if charge and np.isfinite(charge)}
        if charged:
            of = ", ".join(f"{charge:+g} e in {count}" for charge, count in sorted(charged.items()))
            found.append(
                f"{sum(charged.values())} of {counted(sum(self._charges.values()), 'frame')} have a total charge "
                f"({of}), which only networks that read or predict charges know of: to others these are like frames "
                "without"
            )
        bond = float(np.median(self._bonds)) if self._bonds else 1.0
        if self._free and len(self._free) == sum(self._charges.values()):
            found.append(
                f"no frame has two atoms within {NEAR:g} A of each other: there is nothing to learn but shifts"
            )
        if not BONDS[0] < bond < BONDS[1]:
            unit = "nm" if bond < 1 else "Bohr"
            size = f"{bond:.2g} times" if np.isfinite(bond) else f"above {NEAR:g} A and so far beyond"
            found.append(
                f"the shortest distance of a frame is {size} the sum of the covalent radii (median), as if lengths "
                f'were in {unit}: if they are, set length_unit = "{unit}", with the units of energies and forces'
            )
        return found

    def _add_forces(self, index: int, forces: np.ndarray) -> None:
        known = np.isfinite(forces)
        if not known.any():
            return
        sizes = np.linalg.norm(np.where(known, forces, 0.0), axis=1)
        squares = float(np.square(sizes).sum())
        share, least = NET_FORCE
        net = np.linalg.norm(forces.mean(axis=0)) if known.all() else 0.0
        if len(forces) > 1 and net > max(least, share * np.sqrt(squares / len(forces))):
            self.frames["forces that do not add up to zero"].append(index)
        if sizes.max() > LARGE_FORCE:
            self.frames[f"forces above {LARGE_FORCE:g} eV/A"].append(index)
        if len(forces) > 1 and squares == 0:
            self.frames[PERFECT].append(index)

    def _add_distances(self, index: int, atoms: Atoms) -> None:
        i, j, d = near_pairs(atoms, NEAR)
        if len(atoms) == 1 and not len(d):
            self._free.append(index)
        radii = covalent_radii[atoms.numbers]
        if len(atoms) > 1 and not np.isin(atoms.numbers, UNBONDED).any():
            self._bonds.append(float((d / (radii[i] + radii[j])).min(initial=np.inf)))
        first, second = np.minimum(atoms.numbers[i], atoms.numbers[j]), np.maximum(atoms.numbers[i], atoms.numbers[j])
        for z, other in np.unique(np.column_stack([first, second]), axis=0):
            pair = f"{chemical_symbols[z]}-{chemical_symbols[other]}"
            distance = float(d[(first == z) & (second == other)].min())
            if distance < self.shortest.get(pair, (np.inf, 0))[0]:
                self.shortest[pair] = (distance, index)
            if distance < SHORT_DISTANCE * (covalent_radii[z] + covalent_radii[other]):
                self.frames[f"{pair} pairs closer than {SHORT_DISTANCE:g} of their covalent radii"].append(index)

    def _add_hashes(self, index: int, atoms: Atoms, found: Labels) -> None:
        structure = structure_hash(atoms)
        answer = None
        if np.isfinite(found.energy) and np.isfinite(found.forces).all() and found.forces.any():
            answer = _hash(np.round(np.append(found.forces.ravel(), found.energy), 6))
        if structure in self._structures:
            earlier = self._structures[structure]
            self.duplicates.append((index, earlier))
            if answer != self._answer_of[earlier]:
                self.frames["the structure of an earlier frame with other labels"].append(index)
        elif answer is not None and answer in self._answers:
            self.frames["the energy and forces of another structure"].append(index)
        if structure not in self._structures:
            self._structures[structure] = index
            self._answer_of[index] = answer
        if answer is not None:
            self._answers.setdefault(answer, index)

    def _outlying_energies(self) -> list[int]:
        """Frames whose energy is far from those of the others; an isolated atom is far from all matter."""
        if not self._energies:
            return []
        numbers, kinds = np.array(self._numbers, np.int64), np.array(self._kinds, np.int64)
        elements = sorted({symbol for composition in self._compositions for symbol, _ in composition})
        counts = np.array([[dict(c).get(e, 0) for e in elements] for c in self._compositions])
        shifted = shifted_energies(np.array(self._energies), counts[kinds])
        bound = ~np.isin(numbers, self._free)
        numbers, shifted = numbers[bound], shifted[bound]
        if not len(shifted):
            return []
        deviation = np.abs(shifted - np.median(shifted))
        scale = np.median(deviation)
        return [int(number) for number in numbers[deviation > OUTLIER * scale]] if scale > 0 else []


def overlap(atoms: Atoms) -> str:
    """What pair of atoms is nearer than SHORT_DISTANCE of its covalent radii, the nearest by them; empty: none."""
    if not len(atoms):
        return ""
    i, j, d = near_pairs(atoms, 2 * SHORT_DISTANCE * float(covalent_radii[atoms.numbers].max()))
    shares = d / (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]])
    if not len(d) or shares.min() >= SHORT_DISTANCE:
        return ""
    k = int(shares.argmin())
    first, second = (chemical_symbols[z] for z in sorted((atoms.numbers[i[k]], atoms.numbers[j[k]])))
    return f"{first} and {second} are {d[k]:.3g} A apart, {shares[k]:.2g} of the sum of their covalent radii"


def shifted_energies(energies: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Energies per atom (M,), eV, of frames with `counts` (M, elements) atoms, less what a sum over elements explains.

    Least absolute deviations, by reweighting: one wrong energy must not bend the sum.
    """
    if not len(energies):
        return energies
    sizes = counts.sum(axis=1)
    shares, per_atom = counts / sizes[:, None], energies / sizes
    centred = per_atom - np.median(per_atom)
    residual, weights = centred, np.ones((len(centred), 1))
    for _ in range(REWEIGHTINGS):
        fit = np.linalg.lstsq(weights * shares, weights[:, 0] * centred, rcond=1e-8)[0]
        residual = centred - shares @ fit
        weights = 1 / np.sqrt(np.maximum(np.abs(residual), 1e-3))[:, None]
    return residual


def _some(frames: Sequence[int]) -> str:
    named = ", ".join(map(str, frames[:SHOWN])) + (", ..." if len(frames) > SHOWN else "")
    return f"frame {named}" if len(frames) == 1 else f"{len(frames)} frames ({named})"


def structure_hash(atoms: Atoms) -> bytes:
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
    for values in arrays:
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.digest()
