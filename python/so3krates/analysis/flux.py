"""Heat-flux series out of LAMMPS' thermo output or `fix ave/time` files, joined over restarts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from so3krates.progress import Callback

from .log_runs import LogRun, read_runs

TIME = ("Time", "v_time")
TEMPERATURE = ("Temp", "c_thermo_temp", "v_temp")
VOLUME = ("Volume", "v_vol", "v_volume")
LENGTHS = ("Lx", "Ly", "Lz")
SAME_FRAME = 1e-3  # of the flux' rms: frames of one step are the same state, written twice
SAME_STATE = 1e-4  # likewise, where the steps were counted anew
ARRAYS = ("steps", "flux", "temperature", "volume")  # of a trajectory, by frame
PART = 2**18  # frames that are looked at together


class _Units(NamedTuple):
    """What the numbers of a unit style are multiplied by."""

    flux: float  # to eV A/ps: energy times velocity
    time: float  # to ps
    volume: float  # to A^3


KCAL_PER_MOL = 4184 / 6.02214076e23 / 1.602176634e-19  # eV
UNITS = {
    "metal": _Units(1.0, 1.0, 1.0),
    "real": _Units(KCAL_PER_MOL * 1e3, 1e-3, 1.0),  # kcal/mol A/fs
    "si": _Units(1e-2 / 1.602176634e-19, 1e12, 1e30),  # J m/s
}


class FluxError(ValueError):
    """Files from which no heat-flux series can be had; the message says what to do."""


@dataclass(frozen=True)
class Columns:
    """Where the quantities are: names of columns; a number stands for itself. None: the usual names."""

    flux: tuple[str, ...] = ("c_flux[1]", "c_flux[2]", "c_flux[3]")  # extensive, eV A/ps
    subtract: tuple[str, ...] = ()  # taken off the flux component by component
    temperature: str | float | None = None  # K
    volume: str | float | None = None  # A^3
    timestep: float | None = None  # ps, if there is no column with the time
    units: str | None = None  # of LAMMPS, where the files do not say: of the columns, not of numbers given here

    def __post_init__(self) -> None:
        if len(self.flux) != 3 or len(self.subtract) not in (0, 3):
            raise FluxError(
                f"{len(self.flux)} columns of the flux and {len(self.subtract)} to subtract: give three of "
                "each, or none to subtract"
            )
        if self.units is not None and self.units not in UNITS:
            raise FluxError(f"--units {self.units}: give {', '.join(UNITS)}")


@dataclass(frozen=True)
class Trajectory:
    """Frames of one simulation: ps between frames, N steps, flux (N, 3) in eV A/ps, temperature (N,) in K and volume
    (N,) in A^3."""

    files: tuple[str, ...]
    interval: float
    steps: range | np.ndarray
    flux: np.ndarray
    temperature: np.ndarray
    volume: np.ndarray
    runs: tuple[int, ...] = ()  # their numbers in the files, in the order of time

    @property
    def duration(self) -> float:
        """ps."""
        return len(self.steps) * self.interval

    def discard(self, time: float) -> Trajectory:
        """Without the first ps. Raises FluxError when nothing is left."""
        first = int(np.ceil(time / self.interval - 1e-9))
        if first >= len(self.steps):
            raise FluxError(f"{_names(self.files)} has {self.duration:.6g} ps: discarding {time:.6g} ps leaves nothing")
        parts = {name: getattr(self, name)[first:] for name in ARRAYS}
        return replace(self, **parts)

    def first(self, time: float) -> Trajectory:
        """The first ps alone."""
        end = max(1, int(time / self.interval + 1e-9))
        parts = {name: getattr(self, name)[:end] for name in ARRAYS}
        return replace(self, **parts)


@dataclass(frozen=True)
class _Piece:
    """One run, or several joined ones, with the arrays of a Trajectory; `edges` are the steps at which runs begin and
    end, where LAMMPS prints a frame whatever the interval of the output."""

    files: tuple[str, ...]
    runs: tuple[int, ...]
    steps: np.ndarray
    flux: np.ndarray
    temperature: np.ndarray
    volume: np.ndarray
    edges: frozenset[int]
    timestep: float | None


class Reading(NamedTuple):
    """Every simulation in some files, and what the user should know of them."""

    trajectories: list[Trajectory]
    notes: list[str]  # runs that were left out, numbers that were converted


def read_flux(
    paths: Sequence[Path],
    columns: Columns | None = None,
    runs: Sequence[int] = (),
    report: Callback | None = None,
) -> Reading:
    """Every simulation in the files, restarts joined.

    A run goes on with another one where both print the same flux at the same step, where it starts one interval after
    the only one that ends there, or where it follows in one log with the same flux though its steps are counted anew.
    Minimisations and runs with a thermostat or barostat are left out, unless `runs` names the numbers of those in
    each file that are to be used. Units and normalisation are those that the log tells, else `columns.units`.
    Of long runs there is one copy: 24 bytes a frame for the flux, eight for each of step, time and temperature.

    Raises:
        OSError: a file cannot be read.
        FluxError: columns are missing, values are not finite, the interval or the timestep changes, the units cannot
            be converted.
    """
    columns = columns or Columns()
    notes: list[str] = []
    chains: list[_Piece] = []
    for path in paths:
        for piece in _pieces(Path(path), columns, runs, report, notes):
            _add(chains, piece)
    pieces: list[_Piece] = []
    while len(pieces) != len(chains):  # a run may have joined what came before it with what comes after
        pieces, chains = chains, []
        for piece in pieces:
            _add(chains, piece)
    long = [chain for chain in chains if len(chain.steps) > 1]
    if not long:
        raise FluxError(f"{_names(str(path) for path in paths)}: a single frame of the flux is no series")
    return Reading([_trajectory(chain, columns) for chain in long], list(dict.fromkeys(notes)))


def read_trajectories(
    paths: Sequence[Path], columns: Columns | None = None, report: Callback | None = None
) -> list[Trajectory]:
    """The simulations of `read_flux`."""
    return read_flux(paths, columns, report=report).trajectories


def _pieces(
    path: Path, columns: Columns, chosen: Sequence[int], report: Callback | None, notes: list[str]
) -> list[_Piece]:
    """The runs of a file with constant energy, or those that were chosen; what is left out is noted."""
    wanted = (*columns.flux, *columns.subtract)
    named = [name for name in (columns.temperature, columns.volume) if isinstance(name, str)]
    runs = read_runs(path, report, {*columns.subtract, *named, *TIME, *TEMPERATURE, *VOLUME, *LENGTHS}, columns.flux)
    if not runs:
        raise FluxError(
            f"{path} has no table with a column Step or TimeStep: give a log of LAMMPS with thermo_modify line one, "
            "or a file of fix ave/time"
        )
    absent = [number for number in chosen if not 1 <= number <= len(runs)]
    if absent:
        raise FluxError(f"{path} has runs 1 to {len(runs)}, and --runs asks for {absent[0]}")
    runs = [run for run in runs if not chosen or run.number in chosen]
    with_flux = [run for run in runs if set(wanted) <= set(run.names)]
    if not with_flux or (chosen and len(with_flux) < len(runs)):
        run = next(run for run in reversed(runs) if run not in with_flux)
        missing = ", ".join(name for name in wanted if name not in run.names)
        which = f"run {run.number} of {path}" if chosen else f"{path}"
        its = "it" if chosen else "its last table"
        raise FluxError(
            f"{which} has no column {missing}; {its} has {' '.join(run.names)}. Print the flux with "
            "thermo_style custom step time temp vol c_flux[1] c_flux[2] c_flux[3], or name its columns with --flux"
        )
    if with_flux[0].is_mute:
        unseen = "no commands, so that neither a thermostat nor thermo_modify norm yes can be seen"
        if not chosen:
            raise FluxError(
                f"{path} has {unseen}: give the log file that LAMMPS writes beside this output of the screen, or say "
                "with --runs which runs have constant energy and print the whole flux"
            )
        notes.append(f"{path} has {unseen}: the runs of --runs are taken as they are")
    used, left_out = [], []
    for run in with_flux:
        if not len(run.steps):
            continue
        why = _objection(run)
        if why and not (chosen and not run.is_minimisation):
            left_out.append(f"run {run.number} (steps {run.steps[0]} to {run.steps[-1]}): {why}")
            continue
        if why:
            notes.append(f"{path}: run {run.number} is used because --runs asks for it, but {why}")
        used.append(run)
    if left_out:
        notes.append(f"{path}: left out {'; '.join(left_out)}")
    if with_flux and left_out and not used:
        raise FluxError(
            f"{path} has no run at constant energy that prints the flux: {'; '.join(left_out)}: run with fix nve "
            "alone, or choose runs with --runs"
        )
    pieces: list[_Piece] = []
    for run in used:
        piece = _piece(path, run, columns, notes)
        pieces.append(_renumbered(pieces[-1], piece) if pieces else piece)
    return pieces


def _objection(run: LogRun) -> str | None:
    """Why a run's fluxes are not those of the system left to itself."""
    if run.is_minimisation:
        return "a minimisation"
    return f"{', '.join(run.baths)} acts on the atoms" if run.baths else None


def _piece(path: Path, run: LogRun, columns: Columns, notes: list[str]) -> _Piece:
    """A run in eV A/ps, K and A^3; its flux is converted where it lies."""
    assert run.together is not None  # runs without the flux were left out
    scale = _units(path, run, columns, notes)
    steps, table = run.steps, run.columns
    printed: np.ndarray | float
    if columns.volume is None and not any(name in table for name in VOLUME) and all(name in table for name in LENGTHS):
        printed = table["Lx"] * table["Ly"] * table["Lz"]
    else:
        printed = _column(path, run, columns.volume, VOLUME, "volume")
        if isinstance(columns.volume, float):
            printed = columns.volume / scale.volume
    flux = run.together if run.together.flags.writeable else run.together.copy()
    for k, name in enumerate(columns.flux):
        flux[:, k] *= _factor(path, run, name, printed, notes)
    for k, name in enumerate(columns.subtract):
        flux[:, k] -= table[name] * _factor(path, run, name, printed, notes)
    flux *= scale.flux
    temperature = _once(_column(path, run, columns.temperature, TEMPERATURE, "temperature"), steps)
    volume = _once(scale.volume * printed, steps)
    bad = ~(np.isfinite(flux).all(axis=1) & np.isfinite(temperature) & np.isfinite(volume))
    if bad.any():
        raise FluxError(f"{path}: flux, temperature or volume at step {steps[bad][0]} is not a finite number")
    bad = (temperature <= 0) | (volume <= 0)
    if bad.any():
        raise FluxError(f"{path}: temperature or volume at step {steps[bad][0]} is not positive")
    timestep = _timestep(path, run, columns.timestep, scale.time)
    edges = frozenset((int(steps[0]), int(steps[-1])))
    return _Piece((str(path),), (run.number,), steps, flux, temperature, volume, edges, timestep)


def _once(values: np.ndarray | float, steps: np.ndarray) -> np.ndarray:
    """As many values as steps; of those that are all the same, one is kept."""
    first = values if isinstance(values, float) else values[0]
    if isinstance(values, np.ndarray) and not (values == first).all():
        return values
    return np.broadcast_to(first, steps.shape)


def _units(path: Path, run: LogRun, columns: Columns, notes: list[str]) -> _Units:
    """What turns the numbers of a run into eV A/ps, ps and A^3."""
    style = run.units or columns.units
    if style is None:
        note = f"{path} does not say its units: read as metal, unless --units says otherwise"
        if note not in notes:
            notes.append(note)
        return UNITS["metal"]
    if columns.units is not None and columns.units != style:
        raise FluxError(f"{path}: run {run.number} has units {style}, as the log says, and not {columns.units}")
    if style not in UNITS:
        raise FluxError(
            f"{path}: run {run.number} has units {style}, which give no W/mK here: {', '.join(UNITS)} can be converted"
        )
    return UNITS[style]


def _factor(path: Path, run: LogRun, name: str, volume: np.ndarray | float, notes: list[str]) -> np.ndarray | float:
    """What makes a column of the flux extensive: neither per atom, as thermo_modify norm makes it, nor per volume."""
    is_per_atom = run.is_per_atom(name)
    if is_per_atom is None:
        raise FluxError(
            f"{path}: run {run.number} prints {name} with thermo_modify norm yes, and the log does not say whether it "
            "is per atom: print it with thermo_modify norm no"
        )
    if is_per_atom:
        if run.atoms is None:
            raise FluxError(
                f"{path}: run {run.number} prints {name} per atom (thermo_modify norm yes), and the log does not say "
                "of how many: print it with thermo_modify norm no"
            )
        notes.append(f"{path} prints the flux per atom (thermo_modify norm yes): taken times {run.atoms} atoms")
        return float(run.atoms)
    formula = run.variables.get(name.removeprefix("v_"), "") if name.startswith("v_") else ""
    # A variable that is the volume is the volume.
    formula = re.sub(r"v_(\w+)", lambda match: _volume_or(run.variables, match), formula)
    if re.search(r"/\(?vol\b", formula):
        if not re.fullmatch(r"\(?[^/*]*\)?/vol", formula):
            raise FluxError(f"{path}: {name} is {formula}: print the flux itself, without the volume")
        notes.append(f"{path}: {name} is {formula}: taken times the volume")
        return volume
    return 1.0


def _column(
    path: Path, run: LogRun, given: str | float | None, usual: tuple[str, ...], quantity: str
) -> np.ndarray | float:
    if isinstance(given, float):
        return given
    candidates = usual if given is None else (given,)
    for name in candidates:
        if name in run.columns:
            return run.columns[name]
    raise FluxError(
        f"{path} has no column {' or '.join(candidates)} beside the flux: print it, or give --{quantity} a name of "
        f"a column or a number; there are {' '.join(run.names)}"
    )


def _volume_or(variables: Mapping[str, str], match: re.Match[str]) -> str:
    return "vol" if variables.get(match[1]) == "vol" else match[0]


def _timestep(path: Path, run: LogRun, given: float | None, unit: float) -> float | None:
    """ps a step, by the column with the time, the log, or as given; None for a single frame without these."""
    steps = run.steps
    times = next((run.columns[name] for name in TIME if name in run.columns), None)
    if times is None:
        timestep = given if run.timestep is None else unit * run.timestep
        if timestep is None:
            raise FluxError(
                f"{path} has no column Time: add time to thermo_style custom, or give --timestep in ps a step"
            )
        where = "the log"
    elif len(steps) == 1 or steps[-1] == steps[0]:
        return given
    else:
        printed = float(times[-1] - times[0]) / int(steps[-1] - steps[0])
        # Times are printed with a few digits only.
        slack = 0.05 * printed * _spacing(steps) + 1e-6 * max(times.max(), -times.min())
        for part in _parts(steps):
            off = np.abs(times[part] - times[0] - printed * (steps[part] - steps[0])) > slack
            if off.any() or printed <= 0:
                raise FluxError(
                    f"{path}: the timestep is not constant, as the column with the time shows at step "
                    f"{steps[part][off][:1]}"
                )
        timestep = unit * printed
        where = "its column with the time"
    if given is not None and abs(given - timestep) > 1e-3 * timestep:
        raise FluxError(f"{path}: --timestep {given:.6g} ps, but {where} says {timestep:.6g} ps a step")
    return timestep


def _parts(steps: np.ndarray) -> Iterator[slice]:
    return (slice(start, start + PART) for start in range(0, len(steps), PART))


def _commonest(parts: Iterable[np.ndarray]) -> int:
    counts = Counter[int]()
    for part in parts:
        values, number = np.unique(part, return_counts=True)
        counts.update(dict(zip(values.tolist(), number.tolist(), strict=True)))
    return counts.most_common(1)[0][0]


def _spacing(steps: np.ndarray) -> int:
    """Of most of two or more steps."""
    return _commonest(np.diff(steps[part.start : part.stop + 1]) for part in _parts(steps[:-1]))


def _add(chains: list[_Piece], piece: _Piece) -> None:
    """Join a run with the chain that it goes on with, or start a new chain."""
    for index, chain in enumerate(chains):
        first, second = (chain, piece) if chain.steps[0] <= piece.steps[0] else (piece, chain)
        common = _common(first.steps, second.steps)
        if common and _same_state(first, common[0], second, common[1], SAME_FRAME):
            if second.steps[-1] > first.steps[-1] or len(first.steps) == 1:
                chains[index] = _joined(first, second, first.steps[common[0]])
            return
    before = [index for index, chain in enumerate(chains) if _is_next(chain, piece)]
    if len(before) == 1:
        chains[before[0]] = _joined(chains[before[0]], piece, piece.steps[0])
    else:
        chains.append(piece)


def _common(first: np.ndarray, second: np.ndarray) -> tuple[int, int] | None:
    """Where the first step that both have lies in each."""
    here, there = np.flatnonzero(first >= second.min()), np.flatnonzero(second <= first.max())
    steps, these, those = np.intersect1d(first[here], second[there], return_indices=True)
    return (int(here[these[0]]), int(there[those[0]])) if len(steps) else None


def _same_state(first: _Piece, here: int, second: _Piece, there: int, tolerance: float) -> bool:
    size = np.sqrt(sum(np.einsum("nk,nk", one.flux, one.flux) for one in (first, second)))
    size /= np.sqrt(first.flux.size + second.flux.size)
    return bool(np.abs(first.flux[here] - second.flux[there]).max() <= tolerance * size)


def _renumbered(first: _Piece, second: _Piece) -> _Piece:
    """The second with the steps of the first, where it goes on with it and they were counted anew (reset_timestep)."""
    shift = int(first.steps[-1] - second.steps[0])
    follows = second.runs[0] == first.runs[-1] + 1 and shift != 0
    if not follows or not _same_state(first, -1, second, 0, SAME_STATE):
        return second
    edges = frozenset(edge + shift for edge in second.edges)
    return replace(second, steps=second.steps + shift, edges=edges)


def _is_next(chain: _Piece, piece: _Piece) -> bool:
    return len(chain.steps) > 1 and piece.steps[0] - chain.steps[-1] == _spacing(chain.steps)


def _joined(first: _Piece, second: _Piece, step: int) -> _Piece:
    """The first before a step and the second from there."""
    if first.timestep and second.timestep and abs(first.timestep - second.timestep) > 1e-3 * first.timestep:
        raise FluxError(
            f"the timestep changes from {first.timestep:.6g} to {second.timestep:.6g} ps at step {step}, between "
            f"{first.files[-1]} and {second.files[0]}: analyse runs of one timestep"
        )
    early, late = _side_by_side(first.steps < step), _side_by_side(second.steps >= step)
    return _Piece(
        files=tuple(dict.fromkeys((*first.files, *second.files))),
        runs=(*first.runs, *second.runs),
        edges=first.edges | second.edges,
        timestep=first.timestep or second.timestep,
        **{name: np.concatenate([getattr(first, name)[early], getattr(second, name)[late]]) for name in ARRAYS},
    )


def _side_by_side(kept: np.ndarray) -> slice | np.ndarray:
    """Which rows are kept: as a slice, which copies nothing, where they lie side by side."""
    first, end = int(kept.argmax()), len(kept) - int(kept[::-1].argmax())
    return slice(first, end) if kept[first:end].all() else kept


def _trajectory(chain: _Piece, columns: Columns) -> Trajectory:
    spacing = _spacing(chain.steps)
    if spacing <= 0:
        raise FluxError(f"{_names(chain.files)}: steps do not increase")
    phase = _commonest(chain.steps[part] % spacing for part in _parts(chain.steps))
    parts = (chain.steps[part] for part in _parts(chain.steps))
    kept = np.concatenate([(part % spacing == phase) | ~np.isin(part, list(chain.edges)) for part in parts])
    rows = _side_by_side(kept)
    steps = chain.steps[rows]
    changes = np.flatnonzero(np.diff(steps) != spacing)
    if len(changes):
        step = steps[changes[0]]
        raise FluxError(
            f"{_names(chain.files)}: frames are {spacing} steps apart, but {np.diff(steps)[changes[0]]} after step "
            f"{step}: print the flux with one interval of thermo throughout, without gaps"
        )
    timestep = chain.timestep or columns.timestep
    assert timestep is not None  # known for every series of two frames
    return Trajectory(
        chain.files,
        spacing * timestep,
        range(int(steps[0]), int(steps[-1]) + 1, spacing),
        chain.flux[rows],
        chain.temperature[rows],
        chain.volume[rows],
        chain.runs,
    )


def _names(files: Iterable[str]) -> str:
    files = list(files)
    return ", ".join(files) if len(files) < 4 else f"{files[0]} and {len(files) - 1} others"
