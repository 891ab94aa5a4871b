"""The command `so3krates`: each sub-command is a thin front of one module, imported when it is used."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import (
    cli_build,
    cli_compare,
    cli_convert,
    cli_import,
    cli_kappa,
    cli_learn,
    cli_phonons,
    cli_physics,
    cli_plan,
    cli_run,
    cli_sample,
    cli_train,
    exporting,
)
from .cli_errors import Commands, debug_option
from .cli_values import (
    Command,
    above_zero,
    any_number,
    at_least_one,
    not_negative,
    number_or_word,
    set_value,
    use_float64,
)
from .compiled import keep_compiled
from .files import plain_text, require_figure_name, require_folder, require_place, write_text
from .terminal import busy, said
from .terminal import console as _console
from .wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from so3krates.training.config import DataConfig

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.add_typer(cli_sample.app, name="sample")


def _print_versions(wanted: bool) -> None:
    if wanted:
        from .versions import versions

        print(*versions(), sep="\n")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", callback=debug_option, is_eager=True, help="Show where an error comes from.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_versions, is_eager=True, help="Versions of all parts.")
    ] = False,
) -> None:
    """Train So3krates machine-learned potentials and run them in LAMMPS."""
    # Names of files may hold what the terminal's encoding does not: they are shown, never a reason to stop.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    keep_compiled()


def _quoted(path: Path) -> str:
    return f'"{path}"' if " " in str(path) else str(path)


EnergyKey = Annotated[str | None, typer.Option(help="Short for --set data.energy_key=NAME; '' for none.")]
ForcesKey = Annotated[str | None, typer.Option(help="Short for --set data.forces_key=NAME; '' for none.")]
StressKey = Annotated[str | None, typer.Option(help="Short for --set data.stress_key=NAME; '' for none.")]
DataSettings = Annotated[
    list[str] | None, typer.Option("--set", help="How the data are to be read, as in --set data.energy_unit=Hartree.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="What is written.")]


app.command(cls=Command)(cli_train.train)


@app.command(cls=Command)
def evaluate(
    models: Annotated[
        list[Path],
        typer.Argument(help="A model folder or a bundle; of a committee all, or the folder of its training."),
    ],
    data: Annotated[Path, typer.Argument(help="Labelled frames.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for tables and figures.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="The tables in one JSON file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Parity plots in one file.")] = None,
    float64: Annotated[bool, typer.Option("--float64", help="A model folder in float64.")] = False,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    setting: DataSettings = None,
) -> None:
    """Errors of a model folder or a bundle on labelled frames, or of a committee and its disagreement."""
    if float64:
        use_float64()
    if json_file is not None:
        require_place(json_file, data, *models)
    if output is not None:
        require_folder(output)
    if plot is not None:
        require_figure_name(plot)
    from so3krates.data import DataError
    from so3krates.predictions import charges_said, predictions_of, require_finite
    from so3krates.shipped import is_potential
    from so3krates.training import (
        Committee,
        Results,
        all_tables,
        evaluated_frames,
        member_folders,
        parity_plot,
        reference,
        require_different,
        write_json,
        write_results,
    )

    if is_potential(data):
        raise DataError(f"{data} is a potential: give potentials first, and a file of labelled frames as the last")
    console = _console()
    members = [member for model in models for member in member_folders(model)]
    settings = _data_config(setting, energy_key, forces_key, stress_key, members, console)
    frames = evaluated_frames(data, settings, lambda text: said(console, "Note:", text))
    for text in dict.fromkeys(charges_said(member, frames) for member in members):
        if text:
            said(console, "Note:", text)
    labels, name = reference(frames), plain_text(data.stem)
    with busy(console, f"evaluating {counted(len(frames), 'frame')}"):
        predicted = [predictions_of(member, frames, float64) for member in members]
    for member, found in zip(members, predicted, strict=True):
        require_finite(member, data, found)
    require_different(predicted, [str(member) for member in members])
    committees = {name: Committee(predicted, labels)} if len(predicted) > 1 else {}
    both = committees[name].mean if committees else predicted[0], labels
    sets = {name: Results(frames, *both, settings.tag_key)}
    for table in all_tables(sets, committees):
        console.print(table)
    if output is not None:
        title = f"{', '.join(str(member) for member in members)} on {data.name}"
        write_results(output, sets, committees=committees, title=title)
    if json_file is not None:
        write_json(json_file, sets, committees)
    if plot is not None:
        parity_plot(plot, {name: both})


@app.command("data", cls=Command)
def inspect_data(
    data: Annotated[Path, typer.Argument(help="Labelled frames.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="The report as JSON.")] = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    setting: DataSettings = None,
) -> None:
    """What a data set holds, and labels in it that look wrong."""
    import json

    from so3krates.data import LabelCheck, data_report, iter_frames, report_tables
    from so3krates.model.config import ModelConfig

    if json_file is not None:
        require_place(json_file, data)
    keys = _data_config(setting, energy_key, forces_key, stress_key).keys
    check = LabelCheck(keys, ModelConfig().embeddings - 1)
    console = _console()
    with busy(console, f"reading {data}"):
        report = data_report(iter_frames(data, keys, check.names), check)
    for table in report_tables(report):
        console.print(table)
    for warning in report.warnings:
        said(console, "Suspicious:", warning)
    if not report.warnings:
        console.print("Nothing suspicious was found.")
    if json_file is not None:
        write_text(json_file, json.dumps(report.as_json(), indent=1, allow_nan=False) + "\n")


@app.command(cls=Command)
def export(
    models: Annotated[list[Path], typer.Argument(help="A model folder, or those of a committee, or its folder.")],
    output: Output = Path("potential.so3k"),
    precision: Annotated[
        str, typer.Option(help="Arithmetic of the network: float32, float64, or tf32 (cuda).")
    ] = "float32",
    platform: Annotated[str, typer.Option(help="Where it will run: cpu, cuda, rocm or oneapi.")] = "cpu",
    body: Annotated[
        str, typer.Option(help="fused: the device's kernels, faster; xla: any network; auto: fused where it can.")
    ] = "auto",
    tables: Annotated[
        str,
        typer.Option(
            metavar="auto|off|TOLERANCE",
            help="Radial filters as tables: largest change of a force in eV/A; auto: 2e-5 for fused, off for xla.",
        ),
    ] = "auto",
    repulsion: Annotated[
        str | None, typer.Option(help="zbl: add short-range repulsion to a model that was trained without.")
    ] = None,
    repulsion_outer: Annotated[
        float | None,
        typer.Option(
            callback=above_zero,
            help="Where it ends (A), below the shortest distance of the training data; by default 0.9 of it.",
        ),
    ] = None,
    uncertainty: Annotated[
        bool,
        typer.Option("--uncertainty/--no-uncertainty", help="With the output uncertainty, where the model has it."),
    ] = True,
    committee: Annotated[
        str | None,
        typer.Option(help="Whose forces move the atoms: first (default), the others tell how far they differ; mean."),
    ] = None,
    cutoff_long: Annotated[
        float | None,
        typer.Option(
            callback=above_zero, help="SO3LR: where electrostatics and dispersion end, A, instead of the model's 12."
        ),
    ] = None,
    charge: Annotated[
        int | None, typer.Option(callback=any_number, help="SO3LR: total charge of the system, e; 0 if not given.")
    ] = None,
    multiplicity: Annotated[
        int | None,
        typer.Option(callback=at_least_one, help="SO3LR: unpaired electrons of the system + 1; 1 if not given."),
    ] = None,
) -> None:
    """Write a model, or a committee, as the one file that LAMMPS runs."""

    from so3krates.overlay import overlay_lines
    from so3krates.storage import Model, with_term
    from so3krates.total_charge import state_said
    from so3krates.training import member_folders

    loaded, *others = (Model.load(member) for model in models for member in member_folders(model))
    if committee is not None and not others:
        raise ValueError(
            f"--committee {committee} says whose forces move the atoms, and {models[0]} is a single model: name all"
        )
    mover = committee or "first"
    if not uncertainty:
        loaded = dataclasses.replace(loaded, uncertainty=None)
    if repulsion_outer is not None and repulsion is None:
        raise ValueError("--repulsion-outer says where a repulsion ends, and none is added: give --repulsion zbl too")
    if repulsion is not None:
        radii = {} if repulsion_outer is None else {"outer": repulsion_outer}
        loaded, *others = (with_term(m, "repulsion", {"form": repulsion} | radii) for m in (loaded, *others))
    device = "" if platform == "cpu" else f"device {platform}"
    of_system = None if charge is None and multiplicity is None else state_said(charge, multiplicity)
    console = _console()
    with busy(console, "making tables and programs"):
        choice = exporting.export_model(
            loaded,
            output,
            precision,
            platform,
            body=body,
            tables=number_or_word(tables),
            others=others,
            mover=mover,
            cutoff_long=cutoff_long,
            electrons=of_system,
        )
    console.print(
        f"Wrote {output} ({output.stat().st_size / 1e6:.1f} MB, {precision}).\n{choice.describe()}.\n"
        + "".join(f"{line}.\n" for line in choice.terms)
        + (f"A committee of {1 + len(others)}: the {mover} moves the atoms.\n" if others else "")
        + "In a deck:"
        + "".join(f"\n  {line}" for line in overlay_lines(loaded.baselines, _quoted(output), loaded.elements, device)),
        highlight=False,
        soft_wrap=True,
    )


@app.command(cls=Command)
def check(
    model: Annotated[Path, typer.Argument(help="A model folder or a bundle.")],
    structure: Annotated[
        Path | None, typer.Argument(help="A crystal or molecule in any format of ASE; without it, a simple crystal.")
    ] = None,
    train_data: Annotated[Path | None, typer.Option(help="Frames that trained the model.")] = None,
    test_data: Annotated[Path | None, typer.Option(help="Frames that did not.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            callback=not_negative, help="Steps of the run at constant energy instead of the usual number; 0 for none."
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="The findings as JSON.")] = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    setting: DataSettings = None,
) -> None:
    """Symmetries, derivatives, dynamics and errors of a potential; exit code 1 where one fails."""
    use_float64()
    import json

    from so3krates import checks
    from so3krates.data import last_frame
    from so3krates.progress import progress_display

    if json_file is not None:
        require_place(json_file, *(path for path in (structure, train_data, test_data) if path is not None))
    console = _console()
    settings = _data_config(setting, energy_key, forces_key, stress_key, [model], console)
    atoms = None if structure is None else last_frame(structure)
    potential = checks.open_potential(model)
    # Before the other checks, which take longer: a wrong key is seen here.
    errors = checks.error_checks(model, train_data, test_data, settings.keys)
    steps = checks.STEPS if steps is None else steps
    with progress_display(_console(stderr=True)) as report:
        found = checks.check_potential(potential, atoms, steps, progress=report) + errors
    console.print(checks.check_table(found))
    if json_file is not None:
        write_text(json_file, json.dumps(checks.as_json(found), indent=1, allow_nan=False) + "\n")
    if any(one.passed is False for one in found):
        raise typer.Exit(1)


@app.command(cls=Command)
def info(path: Annotated[Path, typer.Argument(help="A bundle or a model folder.")]) -> None:
    """What a bundle or a model folder holds."""
    from so3krates.describe import describe

    _console().print(describe(path))


@app.command("select", cls=Command)
def select_command(
    pool: Annotated[Path, typer.Argument(help="Frames to choose from.")],
    number: Annotated[int, typer.Option("--number", "-n", callback=at_least_one, help="Frames to choose.")],
    by: Annotated[str, typer.Option(help="random, energy, force, atomic-energy, uncertainty or committee.")],
    output: Output = Path("selected.extxyz"),
    model: Annotated[
        list[Path] | None,
        typer.Option(help="Model folder or bundle that predicts instead of labels; repeat it for a committee."),
    ] = None,
    key: Annotated[str, typer.Option(help="The array of the atoms' energies, without a model.")] = "atomic_energies",
    limit: Annotated[
        float | None, typer.Option("--max", callback=any_number, help="Leave out frames with a larger value.")
    ] = None,
    bins: Annotated[
        int, typer.Option(callback=at_least_one, help="Of equal width, over the range of the values.")
    ] = 50,
    seed: Annotated[int, typer.Option(callback=not_negative, help="Of the random choice.")] = 0,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    setting: DataSettings = None,
) -> None:
    """Choose frames of a pool: at random, uniformly in energies or forces, or where potentials are unsure."""
    from so3krates.sampling.selection import LARGEST, select_frames, selection_table, write_selection

    require_place(output, pool)

    keys = _data_config(setting, energy_key, forces_key, None).keys
    console = _console()
    with busy(console, f"choosing out of {pool}"):
        selection = select_frames(pool, number, by, model or (), keys, key, seed, bins, limit)
    write_selection(output, selection, pool, by if by in LARGEST else f"{by}, seed {seed}")
    console.print(selection_table(selection))
    console.print(f"Wrote {counted(len(selection.chosen), 'frame')} to {output}", highlight=False, soft_wrap=True)


app.command("build-plugin", cls=Command)(cli_build.build_plugin)
app.command(cls=Command)(cli_convert.convert)
app.command(cls=Command)(cli_kappa.kappa)
app.command(cls=Command)(cli_phonons.phonons)
app.command(cls=Command)(cli_physics.physics)
app.command(cls=Command)(cli_plan.plan)
app.command(cls=Command)(cli_run.run)
app.command("import-mlff", cls=Command)(cli_import.import_mlff)
app.command("import-so3lr", cls=Command)(cli_import.import_so3lr)
app.command(cls=Command)(cli_learn.learn)
app.command(cls=Command)(cli_compare.compare)


@app.command(cls=Command)
def models() -> None:
    """The potentials that come with this package; decks and commands take them by name."""
    from .describe import shipped_table

    _console().print(shipped_table())


@app.command(cls=Command)
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything is written; emptied of an earlier demo.")] = Path(
        "demo"
    ),
) -> None:
    """The whole way in a few minutes: sample GaN, train, export, run LAMMPS, compare."""
    from so3krates.demo import run_demo

    run_demo(folder, _console())


@app.command(cls=Command)
def doctor() -> None:
    """What is installed, what is missing, and how to get it; exit code 1 where something needed is."""
    from so3krates.lammps import doctor as checks

    console = _console()
    report = checks.report()
    for check in report:
        bad = ("bad ", "bold red") if check.needed else ("note", "yellow")
        mark, style = ("ok  ", "green") if check.ok else bad
        said(console, mark, f"{check.name}: {check.found}", style)
        if check.fix:
            console.print(f"     {check.fix}", highlight=False, soft_wrap=True)
    if any(check.needed and not check.ok for check in report):
        raise typer.Exit(1)


def _data_config(
    settings: list[str] | None,
    energy_key: str | None,
    forces_key: str | None,
    stress_key: str | None,
    models: Sequence[Path] = (),
    console: Console | None = None,
) -> DataConfig:
    """Section [data] from `--set` and the short options; what they leave open is as the models were trained."""
    from so3krates.training.charges import ALL_KEYS
    from so3krates.training.config import DataConfig, section_of

    content: dict[str, Any] = {"data": {}}
    for name, key in (("energy_key", energy_key), ("forces_key", forces_key), ("stress_key", stress_key)):
        if key is not None:
            content["data"][name] = key
    for setting in settings or []:
        set_value(content, setting)
    if models:
        from so3krates.predictions import common_data_settings

        own = common_data_settings(models, content["data"])
        content["data"] = own | content["data"]
        usual = dataclasses.asdict(DataConfig())
        used = [f"{key} = {value!r}" for key, value in own.items() if value not in (usual[key], ALL_KEYS.get(key))]
        if used and console is not None:
            text = f"labels are read as in the training: {', '.join(used)}; change it by --set data.KEY=VALUE"
            said(console, "Note:", text)
    return section_of(DataConfig, "data", content["data"])


if __name__ == "__main__":
    sys.exit(app())
