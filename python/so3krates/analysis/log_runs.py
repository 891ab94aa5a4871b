"""What LAMMPS' logs say of their runs: tables, units, timestep, normalisation, and what acts on the atoms."""

from __future__ import annotations

import itertools
import re
from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from so3krates.progress import Callback

STEP = ("Step", "TimeStep")
BLOCK = 2**21  # characters that are read at once
ROWS = 2**14  # that are kept as Python's numbers, of blocks with other lines between
TRUE = ("yes", "on", "true")
# Styles of fixes that exchange energy with a bath or a drive, or change the timestep: no such run has constant energy.
# The accelerated variants (nvt/omp) and those of special particles (nvt/asphere) begin likewise.
BATHS = re.compile(
    r"(nvt|npt|nph|nphug|nvk|msst|qbmsst|qtb|gle|gld|langevin|temp|press|tgnvt|tgnpt|pimd|ipi|ttm|bd|brownian|deform"
    r"|viscous|viscosity|heat|ehex|thermal/conductivity|lb|dt/reset|add/heat|accelerate|flow/gauss|electron/stopping"
    r"|bocs|drag|ffl|gjf|grem|hmc|mvv|shardlow|srd|tfmc|ti/spring|tmd|propel/self|wall/reflect/stochastic|move|adapt"
    r"|rigid/nvt|rigid/npt|rigid/nph|nve/limit|nve/dotc/langevin"
    r"|gcmc|sgcmc|charge/regulation|(atom|mol|neighbor|bond)/swap|deposit|pour|append/atoms|evaporate)(/|$)"
)
RUNS = ("run", "minimize", "rerun", "temper", "temper/grem", "temper/npt", "prd", "tad", "hyper", "neb")
MINIMISERS = ("minimize", "neb")


@dataclass(frozen=True, eq=False)
class LogRun:
    """One table of a log or of a file of fix ave/time, and what the log says of the run behind it."""

    number: int  # in the file, from 1
    names: tuple[str, ...]
    steps: np.ndarray  # (rows,)
    columns: Mapping[str, np.ndarray]  # name -> (rows,) as printed, of those that were kept
    together: np.ndarray | None  # (rows, columns) as printed, of those asked for as one array; None: not there
    is_minimisation: bool
    baths: tuple[str, ...]  # fixes that exchange energy, as in the deck
    units: str | None  # style; None where the log does not say
    normalised: bool | None  # whether thermo output is per atom; None where the log does not say
    atoms: int | None
    timestep: float | None  # in the time unit of `units`
    is_mute: bool  # output of a screen: without the deck's commands, and with them fixes and thermo_modify
    variables: Mapping[str, str] = field(default_factory=dict)  # equal-style: name -> formula
    fixes: Mapping[str, str] = field(default_factory=dict)  # ID -> the command

    def is_per_atom(self, name: str) -> bool | None:
        """Whether a column of the flux is divided by the number of atoms; None where the log does not tell.

        LAMMPS does so for what is extensive, and takes no variable for that, nor what `fix ave/time` makes of one.
        """
        if not self.normalised or not name.startswith(("c_", "f_")):
            return False
        if name.startswith("c_"):
            return True
        words = self.fixes.get(name.removeprefix("f_").split("[")[0], "").split()
        inputs = {word[:2] for word in words[7:]} & {"c_", "f_", "v_"}
        if words[3:4] != ["ave/time"] or inputs not in ({"c_"}, {"v_"}):
            return None
        return inputs == {"c_"}


def read_runs(
    path: Path,
    report: Callback | None = None,
    wanted: Collection[str] | None = None,
    together: Sequence[str] = (),
) -> list[LogRun]:
    """All tables with steps, of unfinished runs too. Of a long run its numbers are the most: of the columns those that
    are `wanted` are kept, None keeps all, and those that are to be one array, `together`.

    A last line without its end is dropped: it was being written when the run was killed. Raises OSError.
    """
    state, runs = _State(), list[_Table]()
    table: _Table | None = None
    done, total = 0, max(path.stat().st_size, 1)
    with open(path, encoding="utf-8", errors="replace") as handle:
        while lines := handle.readlines(BLOCK):
            done += sum(map(len, lines))
            if report is not None and done < total:
                report(f"reading {path.name} (kB)", done // 1000, total // 1000)
            if table is not None and table.takes(lines):
                continue
            for line in lines:
                words = line.split()
                if not words or not line.endswith("\n") or (table is not None and table.takes_row(words)):
                    continue
                names = words[1:] if words[0] == "#" else words
                if any(step in names for step in STEP):
                    table = _Table(tuple(names), state, wanted, together)
                    runs.append(table)
                elif line.startswith("Loop time of"):
                    if words[-1] == "atoms" and words[-2].isdigit():
                        state.atoms = int(words[-2])
                    if runs:
                        runs[-1].atoms = state.atoms
                    table = None
                elif line.startswith("Minimization stats") and runs:
                    runs[-1].is_minimisation = True
                else:
                    state.read(line)
    if report is not None:
        report(f"reading {path.name} (kB)", total // 1000, total // 1000)
    return [table.run(number) for number, table in enumerate(runs, 1)]


class _State:
    """What holds at a line of a log: of commands that it echoes, and of what LAMMPS prints when a run begins."""

    def __init__(self) -> None:
        self._begun = ""  # a command that goes on in the next line
        self.is_echoed = self.is_printed = False
        self.atoms: int | None = None
        self._reset()

    def _reset(self) -> None:
        self.units: str | None = None
        self.is_restarted = False
        self.normalised: bool | None = None
        self.timestep: float | None = None
        self.fixes: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        self.is_minimisation = False

    def read(self, line: str) -> None:
        """Takes note of a line that belongs to no table."""
        text = line.split("#", 1)[0].strip()
        if text.endswith("&"):
            self._begun += text[:-1] + " "
            return
        words, self._begun = (self._begun + text).split(), ""
        if not words:
            return
        name, rest = words[0], words[1:]
        if text.startswith(("Unit style", "Time step ", "Setting up", "Created ")) or text.endswith(" atoms"):
            self._print(text, words)
        elif name == "clear":
            self._reset()
        elif name == "units" and len(rest) == 1 and "$" not in rest[0]:
            self.units = rest[0]
        elif name == "timestep" and len(rest) == 1:
            self.timestep = _number(rest[0], self.timestep)
        elif name == "fix" and len(rest) >= 3:
            self.fixes[rest[0]] = " ".join(words)
        elif name == "unfix" and rest:
            self.fixes.pop(rest[0], None)
        elif name == "thermo_style":
            self.normalised = None  # it takes all of thermo_modify back
        elif name == "thermo_modify":
            for key, value in itertools.pairwise(rest):
                if key == "norm":
                    self.normalised = value in TRUE
        elif name == "variable" and len(rest) > 2 and rest[1] == "equal":
            self.variables[rest[0]] = "".join(rest[2:]).strip("\"'")
        elif name in RUNS:
            self.is_echoed = True
            self.is_minimisation = name in MINIMISERS
        elif name in ("read_data", "create_box") and self.units is None and not self.is_restarted:
            self.units = "lj"  # LAMMPS' own, of a deck that names none
        elif name == "read_restart":
            self.units, self.timestep, self.is_restarted = None, None, True

    def _print(self, text: str, words: list[str]) -> None:
        """Takes note of what LAMMPS itself says."""
        if text.startswith("Unit style"):
            self.units = words[-1]
        elif text.startswith("Time step "):
            self.timestep = _number(words[-1], self.timestep)
        elif text.startswith("Setting up"):
            self.is_printed = True
            self.is_minimisation = "minimization" in text
        elif words[-2].isdigit() and len(words) <= 3:
            self.atoms = int(words[-2])


def _number(word: str, otherwise: float | None) -> float | None:
    try:
        return float(word)
    except ValueError:
        return otherwise


class _Numbers:
    """Rows of numbers that come in blocks; of rows that are all the same, as of a constant volume, one is kept."""

    def __init__(self, places: list[int], code: Literal["d", "q"] = "d") -> None:
        self._places, self._rows = places, 0
        self._numbers = array(code)
        self._same: np.ndarray | None = None

    def add(self, block: np.ndarray) -> None:
        """Of a block (rows, all columns)."""
        rows = block[:, self._places].astype(self._numbers.typecode)
        if self._rows == 0:
            self._same = rows[0]
        if self._same is not None and not (rows == self._same).all():
            self._numbers.frombytes(np.tile(self._same, (self._rows, 1)).tobytes())
            self._same = None
        if self._same is None:
            self._numbers.frombytes(rows.tobytes())
        self._rows += len(rows)

    def values(self) -> np.ndarray:
        """(rows, columns); can be written to, unless all rows are the same."""
        if self._same is not None:
            return np.broadcast_to(self._same, (self._rows, len(self._places)))
        return np.frombuffer(self._numbers, self._numbers.typecode).reshape(self._rows, len(self._places))


class _Table:
    """A table that is being read, with the state at its head."""

    def __init__(
        self, names: tuple[str, ...], state: _State, wanted: Collection[str] | None, together: Sequence[str]
    ) -> None:
        self.names = names
        self.is_minimisation = state.is_minimisation
        self.atoms = state.atoms
        place = {name: k for k, name in enumerate(names)}
        step = next(name for name in names if name in STEP)
        self._steps = _Numbers([place[step]], "q")
        self._together = _Numbers([place[name] for name in together]) if {*together} <= {*names} else None
        kept = [name for name in place if name not in STEP and (wanted is None or name in wanted)]
        self._columns = {name: _Numbers([place[name]]) for name in kept}
        self._parts = [*self._columns.values(), self._steps, *([] if self._together is None else [self._together])]
        self._rows: list[list[float]] = []  # that are not in the parts yet
        self._is_mute = state.is_printed and not state.is_echoed
        self._baths = tuple(line for line in state.fixes.values() if BATHS.match(line.split()[3]))
        self._units, self._normalised, self._timestep = state.units, state.normalised, state.timestep
        self._variables, self._fixes = dict(state.variables), dict(state.fixes)

    def takes(self, lines: list[str]) -> bool:
        """Whether all lines are rows of it, which are then added."""
        if len(lines[0].split()) != len(self.names) or not lines[-1].endswith("\n"):
            return False
        try:
            block = np.loadtxt(lines, ndmin=2, comments=None)
        except ValueError:  # words, or rows of other lengths
            return False
        if block.shape[1] != len(self.names):
            return False
        self._add_rows()
        self._add(block)
        return True

    def takes_row(self, words: list[str]) -> bool:
        """Whether a line is a row of it, which is then added."""
        if len(words) != len(self.names):
            return False
        try:
            self._rows.append([float(word) for word in words])
        except ValueError:  # a warning between the rows, or the head of the next table
            return False
        if len(self._rows) == ROWS:
            self._add_rows()
        return True

    def _add(self, block: np.ndarray) -> None:
        for part in self._parts:
            part.add(block)

    def _add_rows(self) -> None:
        if self._rows:
            self._add(np.array(self._rows))
            self._rows = []

    def run(self, number: int) -> LogRun:
        """What was read, as run `number` of its file."""
        self._add_rows()
        normalised = self._normalised
        if normalised is None and self._units is not None:
            normalised = self._units == "lj"
        return LogRun(
            number=number,
            names=self.names,
            steps=self._steps.values()[:, 0],
            columns={name: numbers.values()[:, 0] for name, numbers in self._columns.items()},
            together=None if self._together is None else self._together.values(),
            is_minimisation=self.is_minimisation,
            baths=self._baths,
            units=self._units,
            normalised=normalised,
            atoms=self.atoms,
            timestep=self._timestep,
            is_mute=self._is_mute,
            variables=self._variables,
            fixes=self._fixes,
        )
