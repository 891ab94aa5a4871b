"""Molecular dynamics of wurtzite GaN by the kit's own `lmp`; standard library only."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple

from .process import CommandError, run_command, tail
from .sizes import Context

EDGES = (3.189, 3.189 * 3**0.5, 5.185)  # A, of the orthorhombic cell of 8 atoms
WARM_UP = 3  # steps
FLUX = """
compute kinetic all ke/atom
compute potential all pe/atom
compute stress all centroid/stress/atom NULL virial
compute flux all heat/flux kinetic potential stress
thermo_style custom step atoms pe etotal press pxx pyy pzz c_strongest[1] c_strongest[2] c_strongest[3] &
             c_flux[1] c_flux[2] c_flux[3]
"""
PLAIN = "thermo_style custom step atoms pe etotal press\n"


@dataclasses.dataclass(frozen=True)
class Deck:
    """A run from LAMMPS' own lattice: a frame, WARM_UP steps, `steps`, and `flux_steps` with the flux in each."""

    name: str  # of its folder
    bundle: str
    atoms: int = 864
    steps: int = 0
    flux: bool = False  # of the first frame
    flux_steps: int = 0
    flux_every: int = 1  # steps
    thermo: int = 1000  # steps between lines of the run that is timed
    ranks: int = 1
    options: str = ""  # more words for pair_style

    def cells(self) -> tuple[int, int, int]:
        """Numbers of orthorhombic cells, as cubic a box as comes near the number of atoms."""
        edge = (self.atoms / 8 * EDGES[0] * EDGES[1] * EDGES[2]) ** (1 / 3)
        nx, ny, nz = (max(1, round(edge / length)) for length in EDGES)
        return nx, ny, nz

    def text(self, context: Context) -> str:
        """The input file."""
        base = (context.kit / "decks/in.million").read_text()
        head, separator, _ = base.partition("fix             ensemble")
        style = "pair_style      so3krates verbose yes"
        if not separator or style not in head:
            raise ValueError("decks/in.million has no line 'fix ensemble' or 'pair_style so3krates verbose yes'")
        memory = f" memory {context.memory}" if context.platform == "cuda" else ""
        words = f"{style} shifts no device {context.device}{memory} {self.options}".rstrip()
        lines = [head.replace(style, words), FLUX if self.flux or self.flux_steps else ""]
        lines += ["fix ensemble all nve", "run 0", PLAIN + "thermo 1000000", f"run {WARM_UP}"]
        if self.steps:
            lines += [f"thermo {self.thermo}", f"run {self.steps}"]
        if self.flux_steps:
            k = self.flux_every
            lines += [f"fix flux all ave/time {k} 1 {k} c_flux[1] c_flux[2] c_flux[3]", f"run {self.flux_steps}"]
        return "\n".join(lines) + "\n"


class Run(NamedTuple):
    """LAMMPS' log, and how long the program ran (s)."""

    log: str
    wall: float


def run_lammps(context: Context, deck: Deck, timeout: float) -> Run:
    """Raises CommandError where LAMMPS fails or takes more than `timeout` seconds."""
    folder = context.work / deck.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "in.deck").write_text(deck.text(context))
    # LAMMPS takes a space in a path for its end.
    potential = folder / "potential.so3k"
    potential.unlink(missing_ok=True)
    potential.symlink_to(context.bundle(deck.bundle).resolve())
    nx, ny, nz = deck.cells()
    variables = {"potential": potential.name, "nx": nx, "ny": ny, "nz": nz}
    command: list[str | Path] = [context.kit.resolve() / "site/lammps/lmp"]
    if deck.ranks > 1:
        mpiexec = context.kit.resolve() / "mpi/bin/mpiexec.hydra"
        command = [mpiexec, "-launcher", "fork", "-n", str(deck.ranks), *command]
    command += ["-in", "in.deck", "-log", "log.lammps", "-screen", "none"]
    command += [word for name, value in variables.items() for word in ("-var", name, str(value))]
    try:
        done = run_command(command, timeout, context.environment(), folder)
    except CommandError as error:
        log = folder / "log.lammps"
        said = [line for line in log.read_text().splitlines() if "ERROR" in line] if log.is_file() else []
        raise CommandError(" ".join([*said, str(error)])) from error
    return Run((folder / "log.lammps").read_text(), done.seconds)


def tables(log: str) -> list[dict[str, list[float]]]:
    """The tables of thermodynamic output, one for each run, by column."""
    found = []
    for match in re.finditer(r"^ *(Step .*)\n((?:^[ \d.eE+-]+\n)+)", log, re.MULTILINE):
        names = match[1].split()
        rows = [[float(word) for word in line.split()] for line in match[2].splitlines()]
        found.append({name: [row[k] for row in rows] for k, name in enumerate(names)})
    return found


def read_run(run: Run) -> dict[str, Any]:
    """The first frame: energy (eV), pressure (bar), strongest forces (eV/A), heat flux; the drift of the timed run."""
    found = tables(run.log)
    if not found:
        raise CommandError(f"LAMMPS wrote no table: {tail(run.log)}")
    first = {name: values[0] for name, values in found[0].items()}
    result: dict[str, Any] = {"atoms": int(first["Atoms"]), "first": first}
    if len(found) > 2:
        energies = found[2]["TotEng"]
        result["steps"] = int(found[2]["Step"][-1] - found[2]["Step"][0])
        result["drift"] = max(abs(energy - energies[0]) for energy in energies) / first["Atoms"]
    return result


def timings(run: Run, deck: Deck) -> dict[str, Any]:
    """Where the time of the timed run and of that with the heat flux went."""
    loops = [
        (float(seconds), int(steps))
        for seconds, steps in re.findall(r"Loop time of (\S+) on \d+ procs for (\d+) steps", run.log)
    ]
    atoms = int(tables(run.log)[0]["Atoms"][0])
    result: dict[str, Any] = {"atoms": atoms, "start_seconds": run.wall - sum(seconds for seconds, _ in loops)}
    if deck.steps:
        # The parts are those of one rank, averaged over evaluations; one comes before the first step.
        seconds, steps = loops[2]
        spent = re.findall(
            r"programs (\S+) s, exchange of rows (\S+) s \((\S+) MiB\), lists (\S+) s, results (\S+) s; "
            r"\d+ of (\d+) evaluations.*waited (\S+) s",
            run.log,
        )[2]
        programs, rows, lists, results, waited = (1e3 * float(spent[k]) / int(spent[5]) for k in (0, 1, 3, 4, 6))
        step = 1e3 * seconds / steps
        result |= {
            "steps": steps,
            "atom_steps_per_second": atoms * steps / seconds,
            "ms_per_step": step,
            "ms_device": waited,
            "ms_start_programs": programs - waited,
            "ms_rows": rows,
            "ms_lists": lists,
            "ms_results": results,
            "ms_lammps": step - programs - rows - lists - results,
            "builds": int(re.findall(r"Neighbor list builds = (\d+)", run.log)[2]),
        }
    if deck.flux_steps:
        seconds, steps = loops[-1]
        result["flux_steps"] = steps
        result["flux_ms_per_step"] = 1e3 * seconds / steps
    compiled = re.findall(r"programs compiled and \d+ loaded in (\S+) s", run.log)
    if compiled:
        result["compile_seconds"] = float(compiled[-1])
    memory = re.findall(r"(\S+) MiB of arrays, (\S+) MiB of scratch", run.log)
    if memory:
        arrays, scratch = map(float, memory[-1])
        result["bytes_per_atom"] = (arrays + scratch) * 1024**2 / atoms * deck.ranks
    return result


def notes(run: Run) -> list[str]:
    """Lines in which the pair style says how rows go between ranks, or why kernels do not run."""
    words = ("memory", "portable", "WARNING")
    return [line for line in run.log.splitlines() if line.startswith(("So3krates", "WARNING")) and any(
        word in line for word in words
    )]  # fmt: skip
