"""Strain x temperature sampling: what to draw, the structures, their labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator

from so3krates.progress import Callback

from .crystals import relax_positions, strained
from .harmonic import SamplingError, ThermalDisplacements, force_constants

# Digits of extxyz files: labels belong to the positions that are written.
DECIMALS = 8


@dataclasses.dataclass(frozen=True)
class SamplingPlan:
    """The grid of states; every combination of strain and temperature gets the same number of frames."""

    repeats: tuple[int, int, int] = (2, 2, 2)  # supercell of the primitive cell
    strains: tuple[float, ...] = (-0.01, 0.0, 0.01, 0.02, 0.03)  # isotropic, of the relaxed lattice
    temperatures: tuple[float, ...] = tuple(float(t) for t in range(100, 1000, 100))  # K
    frames: int = 5  # of each state
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.repeats) != 3 or min(self.repeats) < 1:
            raise SamplingError(f"repeats = {self.repeats}: give three numbers of at least 1")
        if not self.strains or min(self.strains) <= -1.0:
            raise SamplingError(f"strains = {self.strains}: give at least one, all above -1")
        if not self.temperatures or min(self.temperatures) < 0.0:
            raise SamplingError(f"temperatures = {self.temperatures}: give at least one, none below 0 K")
        if self.frames < 1:
            raise SamplingError(f"frames = {self.frames}: give at least 1")

    @property
    def total(self) -> int:
        """Number of frames of the whole grid."""
        return len(self.strains) * len(self.temperatures) * self.frames


def harmonic_frames(
    crystal: Atoms, calculator: Calculator, plan: SamplingPlan, on_progress: Callback | None = None
) -> list[Atoms]:
    """Unlabelled supercells with thermal displacements, state by state; `info` tells strain and temperature.

    `crystal` is a primitive cell at zero strain. For each strain its positions are relaxed in the fixed cell, and the
    force constants of the supercell are those of that strain. The same seed gives the same frames.
    `on_progress` is called with (what is done, atoms displaced so far, of how many).
    """
    random = np.random.default_rng(plan.seed)
    frames = []
    for number, strain in enumerate(plan.strains):
        supercell = relax_positions(strained(crystal, strain), calculator).repeat(plan.repeats)

        def report(done: int, atoms: int, number: int = number) -> None:
            if on_progress is not None:
                on_progress("force constants", number * atoms + done, len(plan.strains) * atoms)

        thermal = ThermalDisplacements(
            force_constants(supercell, calculator, on_progress=report), supercell.get_masses()
        )
        for temperature in plan.temperatures:
            for _ in range(plan.frames):
                frame = supercell.copy()
                frame.positions = np.round(frame.positions + thermal.draw(temperature, random), DECIMALS)
                frame.info = {"strain": strain, "temperature": temperature}
                frames.append(frame)
    return frames


def label_frames(frames: Sequence[Atoms], calculator: Calculator, on_progress: Callback | None = None) -> list[Atoms]:
    """Copies with energy, forces and stress from `calculator`, ready to be written as extxyz."""
    labelled = []
    for number, frame in enumerate(frames):
        copy = frame.copy()
        copy.calc = calculator
        results = {name: copy.calc.get_property(name, copy) for name in ("energy", "forces", "stress")}
        copy.calc = SinglePointCalculator(copy, **results)
        labelled.append(copy)
        if on_progress is not None:
            on_progress("labels", number + 1, len(frames))
    return labelled
