"""The command `so3krates kappa`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_values import above_zero, at_least_one, not_negative, number_or_word, numbers, words
from .files import make_folder, require_folder, write_text
from .terminal import busy, console, said


def kappa(
    logs: Annotated[
        list[Path] | None, typer.Argument(help="Logs of LAMMPS or files of fix ave/time with the flux.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for what is written.")] = Path("kappa"),
    campaign: Annotated[
        Path | None, typer.Option("--run", help="A TOML file of crystals and seeds that are run first, and its report.")
    ] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="With --run: what it would run, and what that costs.")] = False,
    average: Annotated[str, typer.Option(help="Equivalent directions: xyz, xy,z or none.")] = "xyz",
    discard: Annotated[
        float, typer.Option(callback=not_negative, help="ps left out at the start of each trajectory.")
    ] = 0.0,
    cutoff_time: Annotated[
        float | None, typer.Option(callback=above_zero, help="Upper limit of the integral in ps; else chosen.")
    ] = None,
    window: Annotated[
        float, typer.Option(callback=above_zero, help="ps over which that choice averages the autocorrelation.")
    ] = 1.0,
    blocks: Annotated[
        int | None, typer.Option(callback=at_least_one, help="Blocks of the shortest trajectory, for error bars.")
    ] = None,
    max_frequency: Annotated[
        float | None, typer.Option(callback=above_zero, help="THz, of the cepstral estimate; else chosen.")
    ] = None,
    coefficients: Annotated[
        int | None, typer.Option(callback=at_least_one, help="Cepstral coefficients; else by Akaike.")
    ] = None,
    flux: Annotated[str, typer.Option(help="Columns, extensive, eV A/ps.")] = "c_flux[1],c_flux[2],c_flux[3]",
    subtract: Annotated[str, typer.Option(help="Columns taken off the flux, as the convective part.")] = "",
    temperature: Annotated[str | None, typer.Option(help="Another column than Temp, or a number in K.")] = None,
    volume: Annotated[str | None, typer.Option(help="Another column than Volume, or a number in A^3.")] = None,
    timestep: Annotated[
        float | None, typer.Option(callback=above_zero, help="ps a step, if neither a column Time nor the log says.")
    ] = None,
    units: Annotated[str | None, typer.Option(help="Of LAMMPS, if the log does not say: metal, real or si.")] = None,
    runs: Annotated[
        str, typer.Option(help="Numbers of the runs in each log to be used, as in 2,3; else all at constant energy.")
    ] = "",
    phonons: Annotated[
        Path | None, typer.Option(help="phonons.json of so3krates phonons --kappa, to be shown beside.")
    ] = None,
) -> None:
    """Thermal conductivity from the heat flux of Green-Kubo runs."""
    import json

    if campaign is not None:
        if logs:
            raise ValueError(f"{logs[0]} and --run {campaign}: a campaign makes its logs itself")
        _run_campaign(campaign, output, dry)
        return
    if not logs or dry:
        raise ValueError("give logs with the flux, or --run SETTINGS.toml, which makes them (--dry-run: its plan)")
    from so3krates.analysis.conductivity import as_json, conductivity, parse_average
    from so3krates.analysis.conductivity_report import conductivity_figure, kappa_table, runs_table
    from so3krates.analysis.flux import Columns, read_flux
    from so3krates.analysis.lattice_dynamics import beside_table, read_lattice_dynamics
    from so3krates.progress import progress_display

    settings = dict(
        average=average,
        discard=discard,
        cutoff_time=cutoff_time,
        window=window,
        blocks=blocks,
        max_frequency=max_frequency,
        coefficients=coefficients,
        flux=flux,
        subtract=subtract,
        temperature=temperature,
        volume=volume,
        timestep=timestep,
        units=units,
        runs=runs,
    )
    require_folder(output)
    sets = parse_average(average)
    kelvin, size = (None if given is None else number_or_word(given) for given in (temperature, volume))
    columns = Columns(words(flux), words(subtract), kelvin, size, timestep, units)
    chosen = numbers("runs", runs, int)
    screen = console()
    with progress_display(screen) as report:
        found, notes = read_flux(logs, columns, chosen, report)
        trajectories = [trajectory.discard(discard) for trajectory in found]
        result = conductivity(
            trajectories,
            sets,
            cutoff=cutoff_time,
            window=window,
            blocks=blocks,
            max_frequency=max_frequency,
            coefficients=coefficients,
            report=report,
        )
    kelvin_of_runs = sum(float(one.temperature.mean()) for one in trajectories) / len(trajectories)
    lattice = None if phonons is None else read_lattice_dynamics(phonons, kelvin_of_runs)
    beside = {} if lattice is None else {"lattice_dynamics": {**lattice._asdict(), "values": lattice.values.tolist()}}
    make_folder(output)
    write_text(
        output / "kappa.json",
        json.dumps({**as_json(result, settings), "notes": notes, **beside}, indent=1, allow_nan=False) + "\n",
    )
    conductivity_figure(output / "kappa.png", result, len(sets))
    screen.print(runs_table(result), kappa_table(result))
    if lattice is not None:
        screen.print(beside_table(result, lattice))
    for warning in (*notes, *result.warnings):
        said(screen, "Note:", warning, "yellow")
    wrote = f"Wrote {output / 'kappa.json'} and {output / 'kappa.png'}"
    screen.print(wrote, highlight=False, markup=False, soft_wrap=True)


def _run_campaign(settings: Path, output: Path, dry: bool) -> None:
    """Runs what is missing of a campaign, and reports; or says what it would run."""
    from so3krates.campaign import gather, read_campaign, run_campaign, write_report
    from so3krates.engines import ATTEMPTS
    from so3krates.progress import progress_display

    found = read_campaign(settings)
    screen = console()
    if dry:
        from so3krates.campaign.costs import costs_table

        with busy(console(stderr=True), "looking at the crystals") as status:
            table, notes = costs_table(found, output, status.update)
        screen.print(table)
        for text in notes:
            said(screen, "Note:", text)
        return
    with progress_display(screen) as report:
        outcome = run_campaign(found, output, report)
    for text in outcome.said:
        said(screen, "Note:", text)
    values, absent = gather(found, outcome.logs)
    for table in write_report(found, output, values, absent, outcome):
        screen.print(table)
    for name, one in values.items():
        for warning in (*one.notes, *one.together.warnings):
            said(screen, "Note:", f"{name}: {warning}", "yellow")
    wrote = f"Wrote {output / 'report.html'}, {output / 'campaign.json'} and {output / 'campaign.png'}"
    screen.print(wrote, highlight=False, markup=False, soft_wrap=True)
    if outcome.failed:
        raise ValueError(
            f"{len(outcome.failed)} of {found.seeds * len(found.crystals)} runs failed, each {ATTEMPTS} times (the "
            "table Failed): the same command tries them again, and runs that came to their end are not repeated"
        )
