"""What a campaign would run and what that costs, by the means of `so3krates plan`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from so3krates import exporting
from so3krates.lammps.long_run import variables_of
from so3krates.planning import Layout, System, estimate, measure, read_machine, read_system, write_machine
from so3krates.planning.estimate import reach_of

from .crystals import make_crystal
from .runs import Planned, plan_runs
from .settings import Campaign

FLUX = 1.0  # what a step with flux costs beside one without, of the latter
STEPS = ("equilibrate", "produce")  # variables of the deck


def costs_table(campaign: Campaign, folder: Path, say: Callable[[str], None]) -> tuple[Table, list[str]]:
    """A line for each crystal, and what to say beside it. Raises PlanError and CampaignError."""
    runs = plan_runs(campaign, folder)
    known = variables_of(campaign.deck)
    firsts = [next(run for run in runs if run.crystal.name == crystal.name) for crystal in campaign.crystals]
    systems = [_system(campaign, run) for run in firsts]
    machine = None
    if campaign.potential is not None:
        if campaign.machine is not None and campaign.machine.exists():
            machine = read_machine(campaign.machine)
        else:
            machine = measure(systems[0], campaign.potential, say)
            if campaign.machine is not None:
                write_machine(campaign.machine, machine)
    table = Table(title=f"{len(runs)} runs in {folder}")
    for heading in ("crystal", "atoms", "seeds", "steps", "GiB of a rank", "hours of a run", "hours of all"):
        table.add_column(heading, justify="right" if heading != "crystal" else "left")
    whole = 0.0
    for run, system in zip(firsts, systems, strict=True):
        values = {**known, **run.variables}
        steps = sum(float(values.get(name, 0)) for name in STEPS)
        cells = ["-", "-", "-"]
        if machine is not None and campaign.potential is not None:
            reach = reach_of(exporting.read_bundle(campaign.potential).manifest) + system.skin
            layout = Layout(campaign.ranks, campaign.threads_of_rank)
            one = estimate(machine, len(system.atoms), system.atoms.cell.lengths(), reach, layout)
            extra = FLUX * float(values.get("produce", 0)) / float(values.get("every", 1))
            hours = (steps + extra) * one.step / 3600
            whole += campaign.seeds * hours
            cells = [f"{one.memory / 2**30:.2f}", f"{hours:.3g}", f"{campaign.seeds * hours:.3g}"]
        table.add_row(run.crystal.name, str(len(system.atoms)), str(campaign.seeds), f"{steps:g}", *cells)
    notes = [
        f"{campaign.processes} at a time by {campaign.engine}, each of {campaign.ranks} ranks with "
        f"{campaign.threads_of_rank} threads"
    ]
    if machine is None:
        notes.append("costs are known for potentials of this package only")
    else:
        notes[0] += f": {whole / campaign.processes:.3g} hours altogether, where each has cores of its own"
    return table, notes


def _system(campaign: Campaign, run: Planned) -> System:
    """What the run begins with."""
    if not run.crystal.is_made:
        return read_system(campaign.deck, run.variables)
    made = make_crystal(run.crystal, variables_of(campaign.deck) | run.variables, run.seed)
    bare = read_system(campaign.deck, run.variables)  # for its skin and timestep
    return replace(bare, atoms=made.atoms)
