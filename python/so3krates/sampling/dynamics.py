"""Pieces of molecular dynamics at a temperature, and at a pressure where the volume may change."""

from __future__ import annotations

import warnings

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.md.langevinbaoab import LangevinBAOAB

from .harmonic import SamplingError

# Times in which atoms and volume forget their velocities, fs.
ATOM_TIME, CELL_TIME = 100.0, 1000.0


def start(crystal: Atoms, temperature: float, seed: list[int]) -> dict[str, np.ndarray]:
    """The state of a crystal with random velocities of a temperature (K)."""
    atoms = crystal.copy()
    spread = np.sqrt(units.kB * temperature / atoms.get_masses())[:, None]
    atoms.set_velocities(spread * np.random.default_rng(seed).normal(size=atoms.positions.shape))
    return {**_state(atoms), "cell_momentum": np.zeros(())}


def advance(
    calculator: Calculator,
    crystal: Atoms,
    state: dict[str, np.ndarray],
    temperature: float,
    pressure: float | None,
    timestep: float,
    steps: int,
    seed: list[int],
) -> dict[str, np.ndarray]:
    """The state `steps` of `timestep` (fs) later, by Langevin dynamics at `temperature` (K).

    `pressure` in GPa scales the cell; None keeps it. The dynamics has no memory but its state, so that it may be cut
    into pieces. Raises SamplingError where it explodes.
    """
    atoms = crystal.copy()
    atoms.set_cell(state["cell"])
    atoms.positions = state["positions"]
    atoms.set_velocities(state["velocities"])
    atoms.calc = calculator
    constant_pressure = {}
    if pressure is not None:
        constant_pressure = {
            "externalstress": -pressure * units.GPa,
            "hydrostatic": True,
            "P_tau": CELL_TIME * units.fs,
        }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using heuristic P_mass")
        dynamics = LangevinBAOAB(
            atoms,
            timestep * units.fs,
            temperature_K=temperature,
            T_tau=ATOM_TIME * units.fs,
            rng=np.random.default_rng(seed),
            **constant_pressure,
        )
    if pressure is not None:
        dynamics.p_eps = float(state["cell_momentum"])
    dynamics.run(steps)
    after = _state(atoms)
    if not all(np.isfinite(array).all() for array in after.values()):
        raise SamplingError(
            f"the dynamics at {temperature:g} K exploded: lower --timestep (now {timestep:g} fs), or start from a "
            "better structure"
        )
    return {**after, "cell_momentum": np.array(getattr(dynamics, "p_eps", 0.0))}


def temperature_of(crystal: Atoms, state: dict[str, np.ndarray]) -> float:
    """Kinetic temperature of a state in K, of all 3n degrees of freedom."""
    kinetic = 0.5 * (crystal.get_masses()[:, None] * state["velocities"] ** 2).sum()
    return float(2.0 * kinetic / (3 * len(crystal) * units.kB))


def _state(atoms: Atoms) -> dict[str, np.ndarray]:
    return {
        "positions": atoms.get_positions(),
        "velocities": atoms.get_velocities(),
        "cell": atoms.cell.array.copy(),
    }
