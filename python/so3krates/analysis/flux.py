"""Heat-flux series out of LAMMPS' thermo output or `fix ave/time` files, joined over restarts."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from so3krates.progress import Callback

STEP = ("Step", "TimeStep")
TIME = ("Time", "v_time")
TEMPERATURE = ("Temp", "c_thermo_temp", "v_temp")
VOLUME = ("Volume", "v_vol", "v_volume")
LENGTHS = ("Lx", "Ly", "Lz")
SAME_FRAME = 1e-3  # of the flux' rms: frames of one step are the same state, written twice
LINES_PER_REPORT = 50_000


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

    def __post_init__(self) -> None:
        if len(self.flux) != 3 or len(self.subtract) not in (0, 3):
            raise FluxError(
                f"{len(self.flux)} columns of the flux and {len(self.subtract)} to subtract: give three of "
                "each, or none to subtract"
            )


@dataclass(frozen=True)
class Trajectory:
    """Frames of one simulation: steps (N,), ps between frames, flux (N, 3) in eV A/ps, temperature (N,) in K and
    volume (N,) in A^3."""

    files: tuple[str, ...]
    interval: float
    steps: np.ndarray
    flux: np.ndarray
    temperature: np.ndarray
    volume: np.ndarray

    @property
    def duration(self) -> float:
        """ps."""
        return len(self.steps) * self.interval

    def discard(self, time: float) -> Trajectory:
        """Without the first ps. Raises FluxError when nothing is left."""
        first = int(np.ceil(time / self.interval - 1e-9))
        if first >= len(self.steps):
            raise FluxError(f"{_names(self.files)} has {self.duration:.6g} ps: discarding {time:.6g} ps leaves nothing")
        parts = {name: getattr(self, name)[first:] for name in ("steps", "flux", "temperature", "volume")}
        return replace(self, **parts)


@dataclass(frozen=True)
class _Piece:
    """One run, or several joined ones: values are (N, 5), the flux, temperature and volume; `edges` are the steps at
    which runs begin and end, where LAMMPS prints a frame whatever the interval of the output."""

    files: tuple[str, ...]
    steps: np.ndarray
    values: np.ndarray
    edges: frozenset[int]
    timestep: float | None


def read_trajectories(
    paths: Sequence[Path], columns: Columns | None = None, report: Callback | None = None
) -> list[Trajectory]:
    """Every simulation in the files, restarts joined: a run goes on with another one where both print the same flux
    at the same step, or where it starts one interval after the only one that ends there.

    Raises:
        OSError: a file cannot be read.
        FluxError: columns are missing, values are not finite, the interval or the timestep changes.
    """
    columns = columns or Columns()
    chains: list[_Piece] = []
    for path in paths:
        for piece in _pieces(Path(path), columns, report):
            _add(chains, piece)
    long = [chain for chain in chains if len(chain.steps) > 1]
    if not long:
        raise FluxError(f"{_names(str(path) for path in paths)}: a single frame of the flux is no series")
    return [_trajectory(chain, columns) for chain in long]


def read_tables(path: Path, report: Callback | None = None) -> list[tuple[tuple[str, ...], np.ndarray]]:
    """Names and values (rows, columns) of each table with steps, of unfinished runs too.

    A last line without its end is dropped: it was being written when the run was killed.
    """
    tables: list[tuple[tuple[str, ...], array]] = []
    open_table = False
    done, total = 0, max(path.stat().st_size, 1)
    with open(path, encoding="utf-8", errors="replace") as handle:
        for number, line in enumerate(handle, 1):
            done += len(line)
            if report is not None and number % LINES_PER_REPORT == 0:
                report(f"reading {path.name} (kB)", min(done, total - 1) // 1000, total // 1000)
            words = line.split()
            if not words or not line.endswith("\n"):
                continue
            names = words[1:] if words[0] == "#" else words
            if any(step in names for step in STEP):
                tables.append((tuple(names), array("d")))
                open_table = True
            elif line.startswith("Loop time of"):
                open_table = False
            elif open_table and len(words) == len(tables[-1][0]):
                try:
                    row = [float(word) for word in words]
                except ValueError:
                    continue  # a warning between the rows
                tables[-1][1].extend(row)
    if report is not None:
        report(f"reading {path.name} (kB)", total // 1000, total // 1000)
    return [(names, np.array(values).reshape(-1, len(names))) for names, values in tables]


def _pieces(path: Path, columns: Columns, report: Callback | None) -> list[_Piece]:
    wanted = (*columns.flux, *columns.subtract)
    tables = read_tables(path, report)
    if not tables:
        raise FluxError(
            f"{path} has no table with a column Step or TimeStep: give a log of LAMMPS with thermo_modify line one, "
            "or a file of fix ave/time"
        )
    chosen = [table for table in tables if set(wanted) <= set(table[0])]
    if not chosen:
        missing = ", ".join(name for name in wanted if name not in tables[-1][0])
        raise FluxError(
            f"{path} has no column {missing}; its last table has {' '.join(tables[-1][0])}. Print the flux with "
            "thermo_style custom step time temp vol c_flux[1] c_flux[2] c_flux[3], or name its columns with --flux"
        )
    return [_piece(path, names, values, columns) for names, values in chosen if len(values)]


def _piece(path: Path, names: tuple[str, ...], values: np.ndarray, columns: Columns) -> _Piece:
    table = dict(zip(names, values.T, strict=True))
    steps = next(table[name] for name in STEP if name in table).astype(np.int64)
    flux = np.stack([table[name] for name in columns.flux], axis=1)
    if columns.subtract:
        flux = flux - np.stack([table[name] for name in columns.subtract], axis=1)
    temperature = _column(path, table, columns.temperature, TEMPERATURE, "temperature")
    if columns.volume is None and not any(name in table for name in VOLUME) and all(name in table for name in LENGTHS):
        volume = np.prod([table[name] for name in LENGTHS], axis=0)
    else:
        volume = _column(path, table, columns.volume, VOLUME, "volume")
    frames = np.column_stack([flux, np.broadcast_to(temperature, steps.shape), np.broadcast_to(volume, steps.shape)])
    bad = ~np.isfinite(frames).all(axis=1)
    if bad.any():
        raise FluxError(f"{path}: flux, temperature or volume at step {steps[bad][0]} is not a finite number")
    if (frames[:, 3:] <= 0).any():
        raise FluxError(
            f"{path}: temperature or volume at step {steps[(frames[:, 3:] <= 0).any(1)][0]} is not positive"
        )
    timestep = _timestep(path, table, steps, columns.timestep)
    return _Piece((str(path),), steps, frames, frozenset((int(steps[0]), int(steps[-1]))), timestep)


def _column(
    path: Path, table: dict[str, np.ndarray], given: str | float | None, usual: tuple[str, ...], quantity: str
) -> np.ndarray | float:
    if isinstance(given, float):
        return given
    candidates = usual if given is None else (given,)
    for name in candidates:
        if name in table:
            return table[name]
    raise FluxError(
        f"{path} has no column {' or '.join(candidates)} beside the flux: print it, or give --{quantity} a name of "
        f"a column or a number; there are {' '.join(table)}"
    )


def _timestep(path: Path, table: dict[str, np.ndarray], steps: np.ndarray, given: float | None) -> float | None:
    """ps a step, by the column with the time, or as given; None for a single frame."""
    times = next((table[name] for name in TIME if name in table), None)
    if times is None:
        if given is None:
            raise FluxError(
                f"{path} has no column Time: add time to thermo_style custom, or give --timestep in ps a step"
            )
        return given
    if len(steps) == 1 or steps[-1] == steps[0]:
        return given
    timestep = float(times[-1] - times[0]) / int(steps[-1] - steps[0])
    # Times are printed with a few digits only.
    slack = 0.05 * timestep * np.median(np.diff(steps)) + 1e-6 * np.abs(times).max()
    off = np.abs(times - times[0] - timestep * (steps - steps[0])) > slack
    if off.any() or timestep <= 0:
        raise FluxError(
            f"{path}: the timestep is not constant, as the column with the time shows at step {steps[off][:1]}"
        )
    if given is not None and abs(given - timestep) > 1e-3 * timestep:
        raise FluxError(
            f"{path}: --timestep {given:.6g} ps, but its column with the time says {timestep:.6g} ps a step"
        )
    return timestep


def _add(chains: list[_Piece], piece: _Piece) -> None:
    """Join a run with the chain that it goes on with, or start a new chain."""
    for index, chain in enumerate(chains):
        first, second = (chain, piece) if chain.steps[0] <= piece.steps[0] else (piece, chain)
        common, here, there = np.intersect1d(first.steps, second.steps, return_indices=True)
        if not len(common):
            continue
        flux, other = first.values[here[0], :3], second.values[there[0], :3]
        scale = np.sqrt(np.mean(np.concatenate([first.values, second.values])[:, :3] ** 2))
        if np.abs(flux - other).max() <= SAME_FRAME * scale:
            if second.steps[-1] > first.steps[-1] or len(first.steps) == 1:
                chains[index] = _joined(first, second, common[0])
            return
    before = [index for index, chain in enumerate(chains) if _is_next(chain, piece)]
    if len(before) == 1:
        chains[before[0]] = _joined(chains[before[0]], piece, piece.steps[0])
    else:
        chains.append(piece)


def _is_next(chain: _Piece, piece: _Piece) -> bool:
    return len(chain.steps) > 1 and piece.steps[0] - chain.steps[-1] == np.median(np.diff(chain.steps))


def _joined(first: _Piece, second: _Piece, step: int) -> _Piece:
    """The first before a step and the second from there."""
    if first.timestep and second.timestep and abs(first.timestep - second.timestep) > 1e-3 * first.timestep:
        raise FluxError(
            f"the timestep changes from {first.timestep:.6g} to {second.timestep:.6g} ps at step {step}, between "
            f"{first.files[-1]} and {second.files[0]}: analyse runs of one timestep"
        )
    early, late = first.steps < step, second.steps >= step
    return _Piece(
        files=tuple(dict.fromkeys((*first.files, *second.files))),
        steps=np.concatenate([first.steps[early], second.steps[late]]),
        values=np.concatenate([first.values[early], second.values[late]]),
        edges=first.edges | second.edges,
        timestep=first.timestep or second.timestep,
    )


def _trajectory(chain: _Piece, columns: Columns) -> Trajectory:
    spacings, counts = np.unique(np.diff(chain.steps), return_counts=True)
    spacing = int(spacings[np.argmax(counts)])
    if spacing <= 0:
        raise FluxError(f"{_names(chain.files)}: steps do not increase")
    phases, counts = np.unique(chain.steps % spacing, return_counts=True)
    on_grid = chain.steps % spacing == phases[np.argmax(counts)]
    kept = on_grid | ~np.isin(chain.steps, list(chain.edges))
    steps, values = chain.steps[kept], chain.values[kept]
    changes = np.flatnonzero(np.diff(steps) != spacing)
    if len(changes):
        step = steps[changes[0]]
        raise FluxError(
            f"{_names(chain.files)}: frames are {spacing} steps apart, but {np.diff(steps)[changes[0]]} after step "
            f"{step}: print the flux with one interval of thermo throughout, without gaps"
        )
    timestep = chain.timestep or columns.timestep
    assert timestep is not None  # known for every series of two frames
    return Trajectory(chain.files, spacing * timestep, steps, values[:, :3], values[:, 3], values[:, 4])


def _names(files: Iterable[str]) -> str:
    files = list(files)
    return ", ".join(files) if len(files) < 4 else f"{files[0]} and {len(files) - 1} others"
