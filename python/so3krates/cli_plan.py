"""The command `so3krates plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import exporting
from .cli_values import above_zero, at_least_one, not_negative, variables
from .terminal import busy, console, said

if TYPE_CHECKING:
    from rich.table import Table

    from .planning import Estimate


def plan(
    run: Annotated[Path, typer.Argument(help="A deck, or a structure in any format of ASE.")],
    potential: Annotated[
        Path | None, typer.Option("--potential", help="The bundle; that of the deck if not given.")
    ] = None,
    var: Annotated[list[str] | None, typer.Option("--var", help="NAME=VALUE, a variable of the deck.")] = None,
    atoms: Annotated[
        int | None, typer.Option(callback=at_least_one, help="In place of the run's own, as dense.")
    ] = None,
    ranks: Annotated[int | None, typer.Option(callback=at_least_one, help="MPI ranks, of all nodes together.")] = None,
    threads: Annotated[int | None, typer.Option(callback=at_least_one, help="Of each rank.")] = None,
    nodes: Annotated[int, typer.Option(callback=at_least_one, help="Machines like the measured one.")] = 1,
    cores: Annotated[
        int | None, typer.Option(callback=at_least_one, help="Of each, if not those of the measured one.")
    ] = None,
    memory: Annotated[float | None, typer.Option(callback=above_zero, help="GiB of each, likewise.")] = None,
    skin: Annotated[
        float | None, typer.Option(callback=not_negative, help="Of neighbour lists, A; the deck's, else 2.")
    ] = None,
    timestep: Annotated[float | None, typer.Option(callback=above_zero, help="ps; the deck's, else 0.001.")] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            "--machine", help="A measurement to read; made and kept there if it is not. Of GPUs: a100, h100 or h200."
        ),
    ] = None,
    slurm: Annotated[Path | None, typer.Option("--slurm", help="A job script that is written.")] = None,
    hours: Annotated[int, typer.Option(callback=at_least_one, help="Of each job in it.")] = 24,
    launcher: Annotated[
        str, typer.Option("--launcher", help="mpiexec, or srun with its options: 'srun --mpi=pmi2'.")
    ] = "mpiexec",
) -> None:
    """Memory, time and ns/day of a run before it is made; ranks and threads; a job script."""
    from dataclasses import replace

    from .hints import program
    from .planning import (
        GPUS,
        estimate,
        job_script,
        largest_system,
        layouts,
        measure,
        read_machine,
        read_system,
        write_machine,
    )
    from .planning.estimate import Layout, limit_of, reach_of
    from .planning.gpus import said_of
    from .planning.slurm import lacking_gpus, launch_line
    from .planning.system import PlanError, is_deck, scaled
    from .shipped import located

    if ranks is not None and ranks % nodes:
        raise PlanError(f"--ranks {ranks} do not divide among --nodes {nodes}: give a multiple of it")
    screen = console()
    system = read_system(run, variables(var or ()))
    system = replace(
        system,
        skin=system.skin if skin is None else skin,
        timestep=system.timestep if timestep is None else timestep,
        potential=system.potential if potential is None else located(potential),
    )
    if system.potential is None:
        raise PlanError(f"{run} names no bundle that is there: --potential FILE.so3k")
    count = atoms or len(system.atoms)
    edges = scaled(system, count)
    manifest = exporting.read_bundle(system.potential).manifest
    reach = reach_of(manifest) + system.skin
    if measured is not None and measured.exists():
        machine = read_machine(measured)
    elif str(measured) in GPUS:
        machine = GPUS[str(measured)]
        said(screen, "Note:", said_of(str(measured)))
    else:
        if manifest["platform"] != "cpu":
            raise PlanError(
                f"{system.potential} is for {manifest['platform']}, and what is measured are processors: of GPUs give "
                f"--machine {', '.join(GPUS)}, whose speed is expected and not measured"
            )
        strange = sorted(set(system.atoms.get_chemical_symbols()) - set(manifest["elements"]))
        if strange:
            known = ", ".join(manifest["elements"])
            raise PlanError(
                f"{run} has {', '.join(strange)}, and {system.potential} knows {known}: a data file tells its elements "
                "by its section Masses"
            )
        with busy(console(stderr=True), "measuring") as status:
            machine = measure(system, system.potential, status.update)
        if measured is not None:
            write_machine(measured, machine)
    machine = replace(
        machine,
        cores=cores or machine.cores,
        memory=machine.memory if memory is None else memory * 2**30,
    )
    if ranks is None and threads is None:
        choice = layouts(machine.cores, nodes, machine.unit)
    else:
        each = 1 if machine.unit == "GPU" else max(1, (nodes * machine.cores) // (ranks or nodes))
        choice = [Layout(ranks or nodes * max(1, machine.cores // (threads or 1)), threads or each)]
    found = [estimate(machine, count, edges, reach, layout) for layout in choice]
    best = min(found, key=lambda one: one.step)
    box = " x ".join(f"{edge:.1f}" for edge in edges)
    screen.print(f"{count} atoms in {box} A, atoms to {reach:g} A, steps of {1e3 * system.timestep:g} fs", markup=False)
    screen.print(_table(found, best, system.timestep))
    used = best.layout.ranks * best.layout.threads / nodes
    if used > machine.cores:
        said(
            screen,
            "Warning:",
            f"{best.layout.ranks} ranks of {best.layout.threads} threads want {used:.0f} {machine.unit}s of each "
            f"machine, which has {machine.cores}: ranks would wait for each other; give fewer",
        )
    screen.print(f"What limits: {limit_of(best, machine, nodes)}.", soft_wrap=True, markup=False)
    most = largest_system(machine, count, edges, reach, best.layout, nodes)
    screen.print(f"Largest system of this kind that fits: {most} atoms.", soft_wrap=True, markup=False)
    deck = run if is_deck(run) else Path("in.deck")
    line = f"{launch_line(best.layout, launcher)} {program('lmp')} -in {deck}"
    screen.print("Start it by", soft_wrap=True)
    screen.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
    if slurm is not None:
        from .files import write_text

        gpus = best.layout.ranks // nodes if machine.unit == "GPU" else 0
        write_text(slurm, job_script(deck, best.layout, slurm, nodes, hours, launcher=launcher, gpus=gpus))
        screen.print(f"Job script: {slurm}", soft_wrap=True, markup=False)
        if (lacking := lacking_gpus(nodes, gpus)) is not None:
            said(screen, "Warning:", lacking)


def _table(found: list[Estimate], best: Estimate, timestep: float) -> Table:
    from rich.table import Table

    table = Table()
    for name in ("ranks x threads", "grid", "atoms a rank", "rows of others", "GiB a rank", "ms a step", "ns/day"):
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(
            f"{one.layout.ranks} x {one.layout.threads}",
            " ".join(map(str, one.grid)),
            f"{one.own:.0f}",
            f"{one.others:.0f}",
            f"{one.memory / 2**30:.2f}",
            f"{1e3 * one.step:.3g}",
            f"{one.ns_per_day(timestep):.3g}",
            style="bold" if one is best else None,
        )
    return table
