"""What LAMMPS' logs say of their runs: tables, units, timestep, normalisation, and what acts on the atoms."""

from __future__ import annotations

import itertools
import re
from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from so3krates.progress import Callback

STEP = ("Step", "TimeStep")
LINES_PER_REPORT = 50_000
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
    columns: tuple[str, ...]  # those of the names that were kept
    values: np.ndarray  # (rows, columns), as printed
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

    @property
    def steps(self) -> np.ndarray:
        """(rows,) the steps."""
        place = next(index for index, name in enumerate(self.columns) if name in STEP)
        return self.values[:, place].astype(np.int64)


def read_runs(path: Path, report: Callback | None = None, wanted: Collection[str] | None = None) -> list[LogRun]:
    """All tables with steps, of unfinished runs too. Of a long run its numbers are the most: `wanted` columns are kept.

    A last line without its end is dropped: it was being written when the run was killed. Raises OSError.
    """
    state, runs = _State(), list[_Table]()
    table: _Table | None = None
    done, total = 0, max(path.stat().st_size, 1)
    with open(path, encoding="utf-8", errors="replace") as handle:
        for number, line in enumerate(handle, 1):
            done += len(line)
            if report is not None and number % LINES_PER_REPORT == 0:
                report(f"reading {path.name} (kB)", min(done, total - 1) // 1000, total // 1000)
            words = line.split()
            if not words or not line.endswith("\n"):
                continue
            if table is not None and len(words) == len(table.names):
                try:
                    table.numbers.extend([float(words[index]) for index in table.kept])
                    continue
                except ValueError:
                    pass  # a warning between the rows, or the head of the next table
            names = words[1:] if words[0] == "#" else words
            if any(step in names for step in STEP):
                table = _Table(tuple(names), state, wanted)
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


class _Table:
    """A table that is being read, with the state at its head."""

    def __init__(self, names: tuple[str, ...], state: _State, wanted: Collection[str] | None) -> None:
        self.names = names
        self.kept = [k for k, name in enumerate(names) if wanted is None or name in wanted or name in STEP]
        self.numbers = array("d")
        self.is_minimisation = state.is_minimisation
        self.atoms = state.atoms
        self._is_mute = state.is_printed and not state.is_echoed
        self._baths = tuple(line for line in state.fixes.values() if BATHS.match(line.split()[3]))
        self._units, self._normalised, self._timestep = state.units, state.normalised, state.timestep
        self._variables, self._fixes = dict(state.variables), dict(state.fixes)

    def run(self, number: int) -> LogRun:
        normalised = self._normalised
        if normalised is None and self._units is not None:
            normalised = self._units == "lj"
        return LogRun(
            number=number,
            names=self.names,
            columns=tuple(self.names[k] for k in self.kept),
            values=np.frombuffer(self.numbers).reshape(-1, len(self.kept)),
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
