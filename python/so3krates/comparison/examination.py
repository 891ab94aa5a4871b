"""What is examined of a trained family: laws, a crystal, pairs, speed; each within one limit of time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase import Atoms

from so3krates.checks import as_json as checks_json
from so3krates.checks import check_potential
from so3krates.physics import (
    PairCurve,
    PhysicsError,
    elastic_constants,
    equation_of_state,
    pair_curve,
    relaxed_crystal,
    require_crystal,
)

from .config import CompareConfig
from .families import FamilyError
from .potential import FamilyPotential

SPEED_FRAMES = 5  # of which the first warms up
MOST_QUESTIONS = 1500  # of one part: poor potentials relax without end
SHAKE = 0.05  # A, between them


def examine(potential: FamilyPotential, crystal: Atoms, config: CompareConfig) -> dict[str, Any]:
    """Findings by name; what could not be found is under `problems`, by name, with the reason."""
    found: dict[str, Any] = {"problems": {}}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "speed": lambda: _speed(potential, crystal, config),
        "checks": lambda: {
            "laws": checks_json(check_potential(potential, _wide(crystal, 32), steps=config.drift_steps))
        },
        "pairs": lambda: _pairs(potential),
        "crystal": lambda: _crystal(potential, crystal),
    }
    for name, part in parts.items():
        potential.most_questions = potential.questions + MOST_QUESTIONS
        try:
            found |= part()
        except (FamilyError, PhysicsError) as problem:
            found["problems"][name] = str(problem)
            if potential.server.process.poll() is not None:
                break
    return found


def _wide(crystal: Atoms, atoms: int) -> Atoms:
    """The crystal, repeated along its shortest edges until it has so many atoms."""
    wide = crystal.copy()
    while len(wide) < atoms:
        axes = [1, 1, 1]
        axes[int(np.argmin(wide.cell.lengths()))] = 2
        wide = wide.repeat(axes)
    return wide


def _speed(potential: FamilyPotential, crystal: Atoms, config: CompareConfig) -> dict[str, Any]:
    """Atom-steps per second of energies and forces through ASE, of structures that are a step apart.

    Of one thread by its CPU time, which a busy machine does not change; of several by the clock.
    """
    if config.speed_atoms == 0:
        return {}
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(SPEED_FRAMES):
        atoms = _wide(crystal, config.speed_atoms)
        atoms.positions += rng.normal(0, SHAKE, atoms.positions.shape)
        frames.append(atoms)
    _, times = potential.predict(frames, ("energy", "forces"))
    seconds = times.cpu_seconds if config.threads == 1 else times.seconds
    if len(seconds) != len(frames) or min(seconds) <= 0:
        raise FamilyError(f"it gave {len(seconds)} times of {len(frames)} frames")
    size = len(frames[0])
    memory = potential.server.look().memory
    return {"speed": {"atoms": size, "atom_steps_per_s": size / float(np.median(seconds[1:])), "memory_GB": memory}}


def _pairs(potential: FamilyPotential) -> dict[str, Any]:
    curves = {f"{a}-{b}": pair_curve(potential, a, b) for a, b in combinations_with_replacement(potential.elements, 2)}
    return {"pairs": {name: _pair_json(curve) for name, curve in curves.items()}}


def _pair_json(curve: PairCurve) -> dict[str, Any]:
    return {
        "distances_A": curve.distances.tolist(),
        "energies_eV": curve.energies.tolist(),
        "hole": curve.hole,
        "roughness_eV": roughness(curve),
    }


def roughness(curve: PairCurve) -> float:
    """Largest change of slope between neighbouring points beyond 80 % of the well's distance, as an energy (eV).

    A smooth curve has changes in proportion to the square of the spacing; a jump shows as itself.
    """
    energies = curve.energies[curve.distances > 0.8 * curve.well[0]]
    return float(np.abs(np.diff(energies, 2)).max()) if len(energies) > 2 else 0.0


def _crystal(potential: FamilyPotential, crystal: Atoms) -> dict[str, Any]:
    """Lattice constants, equation of state and elastic constants of the relaxed crystal."""
    require_crystal(potential, crystal)
    relaxed = relaxed_crystal(potential, crystal)
    state = equation_of_state(potential, relaxed)
    elastic, warnings = elastic_constants(potential, relaxed)
    return {
        "crystal": {
            "lengths_A": relaxed.cell.lengths().tolist(),
            **{key: v.tolist() if isinstance(v, np.ndarray) else v for key, v in dataclasses.asdict(state).items()},
            "elastic_GPa": None if elastic is None else elastic.tolist(),
            "warnings": [*state.warnings, *warnings],
        }
    }
