"""Unlabelled structures of a plan, state by state; `info` says where each comes from."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import singledispatch

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from .crystals import relax_positions, strained
from .dynamics import advance, start, temperature_of
from .harmonic import (
    EinsteinDisplacements,
    SamplingError,
    ThermalDisplacements,
    displacement_forces,
    force_constants_of,
    springs_of,
)
from .plan import DynamicsPlan, EinsteinPlan, Plan, RattlePlan, SamplingPlan
from .workers import DRIVER, Workers

# Digits of extxyz files: labels belong to the positions that are written.
DECIMALS = 8

Info = dict[str, str | float]  # of a frame


@singledispatch
def structures(plan: Plan, crystal: Atoms, workers: Workers) -> list[Atoms]:
    """Unlabelled supercells of `crystal`, a cell at zero strain, in an order that depends on the plan alone.

    The driver of the workers relaxes, displaces and moves them. The same seed gives the same structures. Raises
    SamplingError where a state cannot be sampled.
    """
    raise TypeError(f"no method for a {type(plan).__name__}")


@structures.register
def _harmonic(plan: SamplingPlan, crystal: Atoms, workers: Workers) -> list[Atoms]:
    """Thermal displacements by the force constants of each strain."""
    relaxed = _relaxed(plan, crystal, workers)
    thermal = [
        ThermalDisplacements(force_constants_of(forces, plan.repeats), supercell.get_masses())
        for supercell, forces in zip(relaxed, _displaced(plan, relaxed, len(crystal), workers), strict=True)
    ]
    return _thermal_frames(plan, relaxed, thermal, "harmonic")


@structures.register
def _einstein(plan: EinsteinPlan, crystal: Atoms, workers: Workers) -> list[Atoms]:
    """Thermal displacements on springs, of each strain where the driver tells them."""
    if plan.springs is None:
        relaxed = _relaxed(plan, crystal, workers)
        symbols = list(crystal.symbols)
        springs = [springs_of(forces, symbols) for forces in _displaced(plan, relaxed, len(crystal), workers)]
    else:
        relaxed = [strained(crystal, strain).repeat(plan.repeats) for strain in plan.strains]
        springs = [dict(plan.springs)] * len(relaxed)
    thermal = [EinsteinDisplacements(own, list(cell.symbols)) for own, cell in zip(springs, relaxed, strict=True)]
    return _thermal_frames(plan, relaxed, thermal, "einstein")


@structures.register
def _rattled(plan: RattlePlan, crystal: Atoms, workers: Workers) -> list[Atoms]:
    """Normal displacements of every atom, and of the cell where asked for."""
    random = np.random.default_rng(plan.seed)
    frames = []
    for strain, amplitude in itertools.product(plan.strains, plan.amplitudes):
        for _ in range(plan.frames):
            frame = strained(crystal, strain).repeat(plan.repeats)
            info: Info = {
                "method": "rattle",
                "strain": strain,
                "amplitude_A": amplitude,
                "seed": plan.seed,
            }
            if plan.shear > 0.0:
                random_strain = plan.shear * random.normal(size=(3, 3))
                deform = np.eye(3) + 0.5 * (random_strain + random_strain.T)
                frame.set_cell(frame.cell.array @ deform, scale_atoms=True)
                info["shear"] = plan.shear
            moved = frame.positions + amplitude * random.normal(size=frame.positions.shape)
            frames.append(_frame(frame, moved, info))
    return frames


@structures.register
def _dynamics(plan: DynamicsPlan, crystal: Atoms, workers: Workers) -> list[Atoms]:
    """Frames of one trajectory for each state, all advanced piece by piece."""
    states: list[tuple[Atoms, float, float | None, dict[str, float]]] = []
    for temperature in plan.temperatures:
        for pressure in plan.pressures:
            known = {"temperature_K": temperature, "pressure_GPa": pressure}
            states.append((crystal.repeat(plan.repeats), temperature, pressure, known))
        for strain in () if plan.pressures else plan.strains:
            known = {"temperature_K": temperature, "strain": strain}
            states.append((strained(crystal, strain).repeat(plan.repeats), temperature, None, known))
    # The last number tells start and pieces apart.
    now = [start(cell, t, [plan.seed, n, 0]) for n, (cell, t, _, _) in enumerate(states)]
    found: list[list[Atoms]] = [[] for _ in states]
    pieces = plan.idle + plan.frames
    for piece in range(pieces):
        jobs = {
            f"dynamics-{n}-{piece}": (cell, now[n], t, p, plan.timestep, plan.steps, [plan.seed, n, piece + 1])
            for n, (cell, t, p, _) in enumerate(states)
        }
        now = workers.run("dynamics", DRIVER, advance, jobs, (piece * len(states), pieces * len(states)))
        if piece < plan.idle:
            continue
        for frames, state, (cell, _, _, known) in zip(found, now, states, strict=True):
            info: Info = {
                "method": "md",
                **known,
                "time_ps": round((piece + 1) * plan.steps * plan.timestep / 1000.0, 6),
                "kinetic_temperature_K": round(temperature_of(cell, state), 3),
                "seed": plan.seed,
            }
            moved = cell.copy()
            moved.set_cell(state["cell"])
            moved.positions = state["positions"]
            moved.wrap()
            frames.append(_frame(moved, moved.positions, info))
    return [frame for frames in found for frame in frames]


def _thermal_frames(
    plan: SamplingPlan,
    supercells: list[Atoms],
    thermal: Sequence[ThermalDisplacements | EinsteinDisplacements],
    method: str,
) -> list[Atoms]:
    random = np.random.default_rng(plan.seed)
    frames = []
    for strain, supercell, displacements in zip(plan.strains, supercells, thermal, strict=True):
        for temperature in plan.temperatures:
            info: Info = {
                "method": method,
                "temperature_K": temperature,
                "strain": strain,
                "seed": plan.seed,
            }
            for _ in range(plan.frames):
                moved = supercell.positions + displacements.draw(temperature, random)
                frames.append(_frame(supercell, moved, info))
    return frames


def _frame(cell: Atoms, positions: np.ndarray, info: Info) -> Atoms:
    """A structure as it will be written."""
    frame = cell.copy()
    frame.positions = np.round(positions, DECIMALS)
    frame.info = dict(info)
    return frame


def _relaxed(plan: SamplingPlan, crystal: Atoms, workers: Workers) -> list[Atoms]:
    """The supercell of each strain, its positions relaxed in the fixed cell."""
    cells = [strained(crystal, strain) for strain in plan.strains]
    found = workers.run("relaxation", DRIVER, _relax, {f"relaxed-{n}": (cell,) for n, cell in enumerate(cells)})
    for cell, result in zip(cells, found, strict=True):
        cell.positions = result["positions"]
    return [cell.repeat(plan.repeats) for cell in cells]


def _relax(calculator: Calculator, cell: Atoms) -> dict[str, np.ndarray]:
    return {"positions": relax_positions(cell, calculator).positions}


def _displaced(plan: SamplingPlan, supercells: list[Atoms], own: int, workers: Workers) -> list[list[np.ndarray]]:
    """Forces of `displacement_forces` of each strain for the atoms of the first cell, which are the first `own`."""
    jobs = {f"displaced-{n}-{atom}": (supercell, atom) for n, supercell in enumerate(supercells) for atom in range(own)}
    found = [result["forces"] for result in workers.run("force constants", DRIVER, displacement_forces, jobs)]
    if not all(np.isfinite(forces).all() for forces in found):
        raise SamplingError(
            "forces on a displaced crystal are not finite: look at the driver, or start from another crystal"
        )
    return [found[n * own : (n + 1) * own] for n in range(len(supercells))]
