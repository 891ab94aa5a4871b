"""A model with long-range interactions on structures, in float64."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from so3krates.data.batches import FrameGraph
from so3krates.data.long_pairs import unordered_pairs
from so3krates.data.neighbours import round_up
from so3krates.model.config import So3lrConfig
from so3krates.model.long_range import Dispersion, longest
from so3krates.model.potential import LongPairs
from so3krates.model.system_potential import Structure, SystemPrediction, predict_system
from so3krates.outputs import Output
from so3krates.storage import Model
from so3krates.total_charge import State

LEAST_ATOMS, LEAST_PAIRS = 16, 1024  # doubled until a structure fits
WIDTH_STEP = 32


class SystemEvaluator:
    """Compiles for sizes that only grow, so that few programs are made."""

    def __init__(self, model: Model) -> None:
        assert isinstance(model.config, So3lrConfig)
        self._config, self._interactions = model.config, model.interactions
        self._params = jax.tree.map(lambda p: np.asarray(p, np.float64), model.params)
        self._reach = longest(model.interactions)
        self._index = np.zeros(len(chemical_symbols), np.int32)
        for k, element in enumerate(model.elements):
            self._index[chemical_symbols.index(element)] = k
        self._atoms = self._width = self._pairs = 0

    def __call__(self, atoms: Atoms, graph: FrameGraph, state: State) -> SystemPrediction:
        """What the model says of a structure, arrays of its atoms; graph: of the network's cutoff."""
        n, own = graph.table.neighbours.shape
        ends, shifts = unordered_pairs(graph.positions, graph.cell, atoms.pbc, self._reach)
        pairs = ends.shape[1]
        self._atoms = max(self._atoms, _doubled(LEAST_ATOMS, n))
        self._width = max(self._width, round_up(own, WIDTH_STEP))
        self._pairs = max(self._pairs, _doubled(LEAST_PAIRS, pairs))
        more = self._atoms - n
        slots = ((0, more), (0, self._width - own))
        pairs_in_use: dict[str, Any] = {
            "ends": np.pad(ends, ((0, 0), (0, self._pairs - pairs))).astype(np.int32),
            "shifts": np.pad(shifts, ((0, self._pairs - pairs), (0, 0))).astype(np.float64),
            "used": np.int32(pairs),
        }
        arrays: dict[str, Any] = {  # of the host, which JAX takes as they are
            "numbers": np.pad(graph.species, (0, more)),
            "species": np.pad(self._index[graph.species], (0, more)),
            "positions": np.pad(graph.positions, ((0, more), (0, 0))),
            "cell": graph.cell,
            "neighbours": np.pad(graph.table.neighbours, slots),
            "shifts": np.pad(graph.table.shifts, (*slots, (0, 0))).astype(np.float64),
            "mask": np.pad(graph.table.used, slots),
            "atom_mask": np.arange(self._atoms) < n,
            "charge": np.float64(state.charge),
            "unpaired": np.float64(state.multiplicity - 1),
        }
        structure = Structure(long_pairs=LongPairs(**pairs_in_use), **arrays)
        with jax.enable_x64(True):
            found = predict_system(self._config, self._interactions, self._params, structure)
            found = jax.tree.map(np.asarray, found)
        per_atom = jax.tree.map(lambda a: a[:n], (found.atom_energies, found.forces, found.properties))
        return found._replace(atom_energies=per_atom[0], forces=per_atom[1], properties=per_atom[2])


def _doubled(least: int, size: int) -> int:
    """`least` times the power of two that is enough."""
    return least << (-(-max(size, 1) // least) - 1).bit_length()


def system_outputs(model: Model) -> dict[str, Output]:
    """Outputs of such a model beside those of every potential."""
    parts = ["network", *(part.section for part in model.interactions), *(term.section for term in model.terms)]
    outputs = {
        "charges": Output("e", True, (), True, "of each atom; they add up to the total charge"),
        "dipole": Output("e A", False, (3,), True, "sum of charge times position, as the positions are given"),
    }
    if any(isinstance(part, Dispersion) for part in model.interactions):  # else they were never trained
        outputs["hirshfeld_ratios"] = Output("1", True, (), True, "volume of each atom over that of the free one")
    return outputs | {f"energy_{part}": Output("eV", False, (), True, f"of the part {part}") for part in parts}
