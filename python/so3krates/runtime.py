"""A bundle's energies, forces and stress for ASE structures, computed by the C++ evaluator."""

import json
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from matscipy.neighbours import neighbour_list

from . import exporting
from ._harness import Evaluator, check_positions
from .baselines import Baseline, Baselines, baselines_from
from .files import require_text
from .lattice import collapsed, compact_cell
from .outputs import Output, bundle_outputs, results_of, sources_of, wanted
from .total_charge import Electrons, State

FARTHEST = 1e7  # A, of a position


class Turns:
    """A lock, taken with `with`, that copies do not share."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *failure: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type["Turns"], tuple[()]]:
        return Turns, ()


class _Lists(NamedTuple):
    """Candidate lists of one structure, and the structure that they hold for."""

    numbers: np.ndarray
    pbc: np.ndarray
    cell: np.ndarray
    positions: np.ndarray
    image_rows: np.ndarray  # (images,) row whose image it is
    image_shifts: np.ndarray  # (images, 3) in cell vectors

    def hold_for(self, atoms: Atoms, skin: float) -> bool:
        """Whether no pair can have come within reach without being listed."""
        if not (
            np.array_equal(self.numbers, atoms.numbers)
            and np.array_equal(self.pbc, atoms.pbc)
            and np.array_equal(self.cell, atoms.cell.array)
        ):
            return False
        moved = np.square(atoms.positions - self.positions).sum(axis=1)
        return moved.max(initial=0.0) < (0.5 * skin) ** 2


class Runtime:
    """A bundle on a device.

    Neighbour lists reach a skin beyond the largest cutoff and are kept until an atom has moved half of it. Threads that
    share it take turns.
    """

    def __init__(
        self,
        bundle: str | Path,
        device: str = "cpu",
        threads: int = 0,
        plugin: str = "",
        cache: str = "",
        skin: float = 0.5,
        shifts: bool = True,
        memory: float = 0.9,
        preallocate: bool = False,
        deterministic: bool = True,
        charge: int | None = None,
        multiplicity: int | None = None,
        small_virials: bool = False,
    ) -> None:
        """
        Args:
            bundle: path of a `.so3k` file.
            device: "cpu", "cuda", "rocm" or "oneapi", of GPUs also one by its index: "cuda:1".
            threads: host threads of the CPU device; 0: every core.
            plugin: path of the PJRT plugin; empty: the installed one.
            cache: folder of compiled programs; empty: the user's cache folder; "off": none.
            skin: reach of the neighbour lists beyond the largest cutoff, A.
            shifts: whether energies hold the bundle's energy shifts.
            memory: largest share of a GPU's memory that is taken.
            preallocate: take that share at once, not as it is needed.
            deterministic: on a GPU, results that are equal to the bit in every run; else XLA times kernels and chooses.
            charge, multiplicity: of every structure, total charge (e) and unpaired electrons + 1, for bundles that know
                them; None: what `atoms.info` says under these names, else those that the bundle was exported with.
            small_virials: per-atom virials in about half of the memory, and more slowly (CPU).

        Raises:
            ValueError: threads is no number of threads, the skin is negative, or the bundle knows no charge.
            so3krates._harness.Error: the bundle or the device cannot be used; the message says why.
        """
        if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or abs(threads) >= 2**31:
            raise ValueError(f"threads is {threads!r}: give a number of threads, or 0 for every core")
        if skin < 0:
            raise ValueError(f"skin is {skin} A, but must not be negative")
        self._options = {
            "device": device,
            "threads": threads,
            "plugin": plugin,
            "cache": cache,
            "shifts": shifts,
            "memory": memory,
            "preallocate": preallocate,
            "deterministic": deterministic,
            "small_virials": small_virials,
        }
        require_text(bundle)
        self._skin = skin
        self._turns = Turns()
        self._lists: _Lists | None = None
        self._has_run = False
        _require_own_process()
        self._made: Evaluator | None = Evaluator(str(bundle), **self._options)
        bundle_read = self._made.bundle
        self.path: str = bundle_read.path
        self.elements: list[str] = bundle_read.elements
        self.cutoff: float = bundle_read.cutoff
        self.reach: float = bundle_read.reach
        self.atoms_reach: float = bundle_read.atoms_reach
        self._checksum: str = bundle_read.sha256
        # That bundles for LAMMPS only ask for; added to energy, forces, virial and stress here.
        self.baselines = Baselines(baselines_of_bundle(json.loads(bundle_read.baselines or "[]")))
        self._electrons: Electrons | None = None
        if bundle_read.electrons is not None:
            self._electrons = Electrons(self.path, charge, multiplicity, State(*bundle_read.electrons))
        elif charge is not None or multiplicity is not None:
            raise ValueError(f"{self.path} knows no charge or multiplicity of a structure: leave it out")
        self.outputs: dict[str, Output]  # what `evaluate` can be asked for
        self.outputs, self._problems = bundle_outputs(bundle_read.outputs)

    @property
    def _evaluator(self) -> Evaluator:
        """The evaluator, which a copy makes for itself when it is first needed."""
        if self._made is None:
            _require_own_process()
            made = Evaluator(self.path, **self._options)
            if made.bundle.sha256 != self._checksum:
                raise ValueError(f"{self.path} is no longer the file that was copied: make the calculator anew")
            self._made = made
        _require_own_process()
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to this process, for copies and other processes; the path holds in other folders."""
        return {**self.__dict__, "path": os.path.abspath(self.path), "_made": None, "_lists": None}

    def forget_structure(self) -> None:
        """Drops the neighbour lists; the next evaluation makes new ones."""
        with self._turns:
            self._lists = None

    def report(self) -> dict[str, Any]:
        """Device, capacities, memory and compile times of the evaluator."""
        with self._turns:
            return self._evaluator.report()

    @property
    def knows_limits(self) -> bool:
        """Whether the bundle says how near atoms are in its training data, so that `extrapolations` can find any."""
        return "guard" in exporting.read_bundle(self.path).manifest

    def extrapolations(self) -> list[str]:
        """What of the last evaluation is beyond the training data, in words: the nearest pair, the largest force.

        Nothing where all is within the margins, and where the bundle does not know its training data.
        """
        with self._turns:
            return self._evaluator.extrapolations()

    def state_of(self, atoms: Atoms) -> State | None:
        """Charge and multiplicity that a structure is computed with; None where the bundle knows none.

        Raises ChargeError.
        """
        return None if self._electrons is None else self._electrons.of(atoms)

    def require(self, outputs: Sequence[str]) -> list[str]:
        """These outputs, or the standard ones. Raises ValueError where one is unknown or cannot be given."""
        for name in outputs:
            if name in self._problems:
                raise ValueError(f"{self.path}: output {name!r} {self._problems[name]}")
        return wanted(outputs, self.outputs, self.path)

    def evaluate(self, atoms: Atoms, outputs: Sequence[str] = ()) -> dict[str, Any]:
        """What is asked for by name; what only others need is not computed.

        Args:
            atoms: the structure.
            outputs: names in `self.outputs`; none: the standard ones.

        Returns:
            energy (eV), energies (atoms,) eV, forces (atoms, 3) eV/A, virial (3, 3) eV, which is -dE/d(strain), and,
            where the cell has a volume, stress (3, 3) eV/A^3 = dE/d(strain) / volume. Virial and stress are symmetric.
            On request, at about twice the cost, atom_virials W (atoms, 3, 3) eV, not symmetric:
            W_j[a, b] = sum_i (r_i - r_j)_a dU_i/dr_j,b over all atoms and images i. Their sum is the virial.
            Others as the bundle declares them. What its baselines give is in energy, forces, virial and stress,
            and in nothing else.

        Raises:
            BaselineError, a ValueError too: a baseline cannot be computed of the structure.
            ValueError: an output is unknown, the structure cannot have its charge or multiplicity (ChargeError), or it
                has an element that the bundle does not know, a cell that is not finite, or an atom beyond FARTHEST.
            so3krates._harness.StructureError, a ValueError too: a position or a result is not finite, or two atoms are
                at the same place; the message names the atoms.
            so3krates._harness.Error: the computation failed.

        Warns, once, where the compiled program is not kept for the next start, or a kept one could not be used, and of
        variables of the environment that are named as ours and that nothing reads.
        """
        names = self.require(outputs)
        with self._turns:
            if self._lists is None or not self._lists.hold_for(atoms, self._skin):
                self._lists = None
                self._lists = self._build_lists(atoms)
            if self._electrons is not None:
                state = self._electrons.of(atoms)
                self._electrons.warn(atoms, state)
                self._evaluator.set_electrons(*state)
            images = atoms.positions[self._lists.image_rows] + self._lists.image_shifts @ atoms.cell.array
            positions = np.concatenate([atoms.positions, images])
            found = self._evaluator.evaluate(positions, outputs=sources_of(names))
            if not self._has_run:
                self._has_run = True
                report = self._evaluator.report()
                for name in ("cache_warning", "unread_variables"):
                    if report[name]:
                        warnings.warn(f"{self.path}: {report[name]}", stacklevel=2)
            results = results_of(names, found, atoms)
            self.baselines.add_to(results, atoms)
        return results

    def _build_lists(self, atoms: Atoms) -> _Lists:
        species = self._species(atoms)
        rows = len(atoms)
        centres, others, shifts, distances = _pairs(atoms, self.atoms_reach + self._skin)
        is_image = shifts.any(axis=1)
        images, entry = np.unique(np.column_stack([others[is_image], shifts[is_image]]), axis=0, return_inverse=True)
        others[is_image] = rows + entry.ravel()
        if self.atoms_reach > self.reach:
            is_listed = distances < self.reach + self._skin
            centres, others = centres[is_listed], others[is_listed]
        self._evaluator.set_neighbourhood(
            owned=rows,
            rows=rows,
            row_of_atom=np.concatenate([np.arange(rows), images[:, 0]]),
            atom_of_row=np.arange(rows),
            species=species,
            candidate_count=np.bincount(centres, minlength=rows),
            candidates=others,
            skin=self._skin,
        )
        return _Lists(
            numbers=atoms.numbers.copy(),
            pbc=atoms.pbc.copy(),
            cell=atoms.cell.array.copy(),
            positions=atoms.positions.copy(),
            image_rows=images[:, 0],
            image_shifts=images[:, 1:],
        )

    def _species(self, atoms: Atoms) -> np.ndarray:
        index = {element: k for k, element in enumerate(self.elements)}
        symbols = atoms.get_chemical_symbols()
        unknown = sorted(set(symbols) - index.keys())
        if unknown:
            known = ", ".join(self.elements)
            raise ValueError(f"{self.path} knows the elements {known}, but the structure has {', '.join(unknown)}")
        return np.array([index[symbol] for symbol in symbols], dtype=np.int32)


def baselines_of_bundle(entries: Sequence[Mapping[str, Any]]) -> tuple[Baseline, ...]:
    """Those of the manifest's entry `baselines`."""
    settings = {entry["section"]: entry["settings"] for entry in entries}
    return baselines_from({"electrostatics": settings.get("terms.electrostatics")}, settings.get("baseline", {}))


_process: int | None = None  # that made the first evaluator


def _require_own_process() -> None:
    """Raises ValueError in a fork of a process with evaluators: it would wait for threads that are not there."""
    global _process
    if _process is None:
        _process = os.getpid()
    if _process != os.getpid():
        raise ValueError(
            "this process was forked from one with an evaluator, which cannot be used here: start processes with "
            'multiprocessing.get_context("spawn"), or make the first calculator after the fork'
        )


def require_structure(atoms: Atoms) -> None:
    """Raises ValueError for no atom, one that is not finite or beyond FARTHEST, and for a cell that cannot be."""
    if len(atoms) == 0:
        raise ValueError("the structure has no atoms")
    check_positions(atoms.positions, atoms.get_chemical_symbols())
    largest = np.abs(atoms.positions).max(axis=1)
    if largest.max() > FARTHEST:
        far = int(largest.argmax())
        raise ValueError(
            f"atom {far} ({atoms.symbols[far]}) is at {atoms.positions[far]} A, beyond {FARTHEST:g} A, where positions "
            "lose the digits that forces need: wrap the atoms into the cell, or look at what moved it"
        )
    for k, vector in enumerate(atoms.cell.array):
        if not np.isfinite(vector).all():
            raise ValueError(f"cell vector {k} is {vector} A, which is not finite. Look at what changed the cell")
    cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    if np.linalg.matrix_rank(cell) < atoms.pbc.sum():
        raise ValueError(f"the structure is periodic along {atoms.pbc}, but its cell vectors {cell} do not span that")
    if words := collapsed(atoms):
        raise ValueError(words)


def _pairs(atoms: Atoms, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Directed pairs within `reach`, ordered by centre: centres, others, cell shifts of the others, distances (A)."""
    if len(atoms) == 0:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 3), np.int32), np.zeros(0)
    require_structure(atoms)
    # Along the other directions a box of our own, 1 A wider than the atoms, takes the place of the cell.
    cell, made_by = compact_cell(atoms.cell.array, atoms.pbc)
    scaled = atoms.positions @ np.linalg.inv(cell)
    low = np.where(atoms.pbc, 0.0, scaled.min(axis=0) - 1.0)
    width = np.where(atoms.pbc, 1.0, scaled.max(axis=0) + 1.0 - low)
    centres, others, shifts, distances = neighbour_list(
        "ijSd",
        positions=atoms.positions,
        cell=cell * width[:, None],
        cell_origin=low @ cell,
        pbc=atoms.pbc,
        cutoff=reach,
    )
    return centres, others, shifts @ made_by, distances
