"""What to sample: the grids of states of each method."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from .harmonic import SamplingError


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all methods share."""

    repeats: tuple[int, int, int] = (2, 2, 2)  # supercell of the crystal
    frames: int = 5  # of each state
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.repeats) != 3 or min(self.repeats) < 1:
            raise SamplingError(f"repeats = {self.repeats}: give three numbers of at least 1")
        if self.frames < 1:
            raise SamplingError(f"frames = {self.frames}: give at least 1")
        if self.seed < 0:
            raise SamplingError(f"seed = {self.seed}: give at least 0")
        for name, value in vars(self).items():
            entries = value if isinstance(value, tuple) else (value,)
            if any(isinstance(entry, float) and not math.isfinite(entry) for entry in entries):
                raise SamplingError(f"{name} = {value}: give finite numbers")

    @property
    def states(self) -> int:
        """Number of states."""
        raise NotImplementedError

    @property
    def total(self) -> int:
        """Number of frames of the whole grid."""
        return self.states * self.frames


@dataclasses.dataclass(frozen=True)
class SamplingPlan(Plan):
    """Harmonic crystals: every combination of strain and temperature gets the same number of frames."""

    strains: tuple[float, ...] = (-0.01, 0.0, 0.01, 0.02, 0.03)  # isotropic, of the relaxed lattice
    temperatures: tuple[float, ...] = tuple(float(t) for t in range(100, 1000, 100))  # K

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_strains(self.strains)
        _check_temperatures(self.temperatures)

    @property
    def states(self) -> int:
        return len(self.strains) * len(self.temperatures)


@dataclasses.dataclass(frozen=True)
class EinsteinPlan(SamplingPlan):
    """Einstein's crystals: the same grid, every atom on a spring of its own."""

    springs: Mapping[str, float] | None = None  # eV/A^2 by element; None: from the driver


@dataclasses.dataclass(frozen=True)
class DynamicsPlan(Plan):
    """Molecular dynamics: a trajectory for every combination of temperature and strain, or pressure where given."""

    temperatures: tuple[float, ...] = (300.0, 600.0, 900.0)  # K
    strains: tuple[float, ...] = (0.0,)  # isotropic, of cells that stay
    pressures: tuple[float, ...] = ()  # GPa; where given, of cells that are scaled
    timestep: float = 1.0  # fs
    equilibration: float = 1.0  # ps before the first frame
    interval: float = 0.1  # ps between frames

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_strains(self.strains)
        _check_temperatures(self.temperatures)
        if self.pressures and self.strains != (0.0,):
            raise SamplingError(
                f"strains = {self.strains} with pressures: a pressure chooses the volume, leave one out"
            )
        if not self.timestep > 0 or self.equilibration < 0:
            raise SamplingError(
                f"timestep = {self.timestep} fs, equilibration = {self.equilibration} ps: give more than 0, at least 0"
            )
        if self.steps < 1:
            raise SamplingError(f"interval = {self.interval} ps is shorter than a step of {self.timestep} fs")

    @property
    def states(self) -> int:
        return len(self.temperatures) * len(self.pressures or self.strains)

    @property
    def steps(self) -> int:
        """Steps between frames."""
        return round(1000.0 * self.interval / self.timestep)

    @property
    def idle(self) -> int:
        """Pieces of that many steps before the first frame, which ends one more."""
        return round(1000.0 * self.equilibration / self.timestep / self.steps)


@dataclasses.dataclass(frozen=True)
class RattlePlan(Plan):
    """Random displacements, without a driver; every combination of strain and amplitude gets the same number."""

    strains: tuple[float, ...] = (0.0,)  # isotropic
    amplitudes: tuple[float, ...] = (0.01, 0.03, 0.1)  # A, standard deviation of every component
    shear: float = 0.0  # standard deviation of the components of a random strain of the cell

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_strains(self.strains)
        if not self.amplitudes or min(self.amplitudes) < 0.0 or self.shear < 0.0:
            raise SamplingError(
                f"amplitudes = {self.amplitudes}, shear = {self.shear}: give at least one amplitude, none below 0"
            )

    @property
    def states(self) -> int:
        return len(self.strains) * len(self.amplitudes)


def _check_strains(strains: tuple[float, ...]) -> None:
    if not strains or min(strains) <= -1.0:
        raise SamplingError(f"strains = {strains}: give at least one, all above -1")


def _check_temperatures(temperatures: tuple[float, ...]) -> None:
    if not temperatures or min(temperatures) < 0.0:
        raise SamplingError(f"temperatures = {temperatures}: give at least one, none below 0 K")
