"""Conductivities of the finished runs of a campaign: of all seeds together, seed by seed, and of shorter times."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from so3krates.analysis.conductivity import Conductivity, columns_of, conductivity, parse_average
from so3krates.analysis.flux import Columns, FluxError, Trajectory, read_flux
from so3krates.analysis.green_kubo import green_kubo, scale
from so3krates.analysis.lattice_dynamics import LatticeDynamics, read_lattice_dynamics
from so3krates.progress import Callback

from .settings import Campaign

SHARES = (0.25, 0.5, 1.0)  # of each run's time
END = 20_000  # bytes of a log in which LAMMPS sums up its last run


class OfSeeds(NamedTuple):
    """Of one set of directions, W/mK."""

    values: list[float]  # of each seed
    mean: float
    error: float  # standard error of the mean over the seeds; NaN of one


class Gathered(NamedTuple):
    """Of one crystal."""

    atoms: int
    temperature: float  # K
    duration: float  # ps, of all seeds together
    together: Conductivity
    seeds: dict[str, OfSeeds]  # by set of directions
    times: list[tuple[float, dict[str, tuple[float, float]]]]  # ps of all seeds; value and error by set of directions
    lattice: LatticeDynamics | None
    notes: list[str]


def gather(
    campaign: Campaign, logs: Mapping[str, Sequence[Sequence[Path]]], report: Callback | None = None
) -> tuple[dict[str, Gathered], dict[str, str]]:
    """What was found by crystal, and why there is nothing of others."""
    found: dict[str, Gathered] = {}
    absent: dict[str, str] = {}
    for name, seeds in logs.items():
        if not seeds:
            absent[name] = "no run came to its end"
            continue
        try:
            found[name] = _of_crystal(campaign, seeds, report)
        except FluxError as error:
            absent[name] = str(error)
    return found, absent


def _of_crystal(campaign: Campaign, logs: Sequence[Sequence[Path]], report: Callback | None) -> Gathered:
    sets = parse_average(campaign.average)
    notes: list[str] = []
    seeds: list[list[Trajectory]] = []
    for of_seed in logs:
        reading = read_flux([log for log in of_seed if _has_flux(log)] or of_seed, report=report)
        seeds.append([trajectory.discard(campaign.discard) for trajectory in reading.trajectories])
        notes += reading.notes
    trajectories = [trajectory for of_seed in seeds for trajectory in of_seed]
    together = conductivity(trajectories, sets, cutoff=campaign.cutoff_time, window=campaign.window)
    temperature = float(np.mean([trajectory.temperature.mean() for trajectory in trajectories]))
    lattice = None if campaign.phonons is None else read_lattice_dynamics(campaign.phonons, temperature)
    return Gathered(
        atoms=_atoms_in(logs[0][-1]),
        temperature=temperature,
        duration=sum(trajectory.duration for trajectory in trajectories),
        together=together,
        seeds={name: _of_seeds(together, name, seeds) for name in together.green_kubo},
        times=[_of_share(campaign, trajectories, share, sets) for share in SHARES[:-1]]
        + [
            (
                sum(trajectory.duration for trajectory in trajectories),
                {name: (one.value, one.error) for name, one in together.green_kubo.items()},
            )
        ],
        lattice=lattice,
        notes=list(dict.fromkeys(notes)),
    )


def _of_seeds(together: Conductivity, name: str, seeds: Sequence[Sequence[Trajectory]]) -> OfSeeds:
    """Each seed by the upper limit of all together."""
    values = []
    for of_seed in seeds:
        fluxes = [trajectory.flux[:, columns_of(name)] for trajectory in of_seed]
        scales = [scale(trajectory) for trajectory in of_seed]
        limit = together.green_kubo[name].cutoff
        values.append(green_kubo(fluxes, of_seed[0].interval, limit, scales=scales).value)
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return OfSeeds(values, float(np.mean(values)), error)


def _of_share(
    campaign: Campaign, trajectories: Sequence[Trajectory], share: float, sets: Sequence[str]
) -> tuple[float, dict[str, tuple[float, float]]]:
    """As if the runs had been shorter; empty where they are too short for a value."""
    shorter = [trajectory.first(share * trajectory.duration) for trajectory in trajectories]
    duration = sum(trajectory.duration for trajectory in shorter)
    try:
        found = conductivity(shorter, sets, cutoff=campaign.cutoff_time, window=campaign.window)
    except FluxError:
        return duration, {}
    return duration, {name: (one.value, one.error) for name, one in found.green_kubo.items()}


def _has_flux(log: Path) -> bool:
    """Whether a run came as far as the part with flux before it was stopped."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        return any(Columns().flux[0] in line.split() and line.split()[0] == "Step" for line in lines)


def _atoms_in(log: Path) -> int:
    """Of the last run of a log that came to its end."""
    with log.open("rb") as content:
        content.seek(0, 2)
        content.seek(max(0, content.tell() - END))
        found = re.findall(rb"^Loop time of .* with (\d+) atoms", content.read(), re.MULTILINE)
    if not found:
        raise FluxError(f"{log} does not say how many atoms it had: its end is missing")
    return int(found[-1])
