"""The commands `so3krates sample METHOD`."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_values import Command, above_zero, at_least_one, lines_of, not_negative, numbers, words
from .terminal import console
from .wording import counted

if TYPE_CHECKING:
    from so3krates.sampling import Plan, Recipe

app = typer.Typer(no_args_is_help=True, help="Sample a structure and label it, ready to train on.")

Output = Annotated[Path, typer.Option("--output", "-o", help="Labelled frames, extxyz.")]
Structure = Annotated[
    Path | None, typer.Option(help="Primitive cell in any format of ASE; without it, wurtzite GaN.", show_default=False)
]
Repeats = Annotated[str, typer.Option(help="Supercell of the structure.")]
Strains = Annotated[str, typer.Option(help="Isotropic strains of the cell.")]
Temperatures = Annotated[str, typer.Option(help="Temperatures in K.")]
Frames = Annotated[int, typer.Option(callback=at_least_one, help="Frames of each state.")]
Seed = Annotated[int, typer.Option(callback=not_negative, help="Of the random numbers.")]
Relax = Annotated[bool, typer.Option(help="Start from the driver's own lattice and positions.")]
Calculator = Annotated[
    str,
    typer.Option(help="Who labels: lammps; a model folder; a bundle; or an ASE calculator, module:factory(key=value)."),
]
Driver = Annotated[
    str | None, typer.Option(help="Who relaxes, displaces and moves, likewise; without it, the one who labels.")
]
PairStyle = Annotated[str, typer.Option(help="The pair_style of lammps.")]
PairCoeff = Annotated[list[str], typer.Option(help="Its pair_coeff; may be repeated.")]
Deck = Annotated[Path | None, typer.Option(help="Instead of both: a file with the lines of a deck.")]
Elements = Annotated[str, typer.Option(help="Elements of the atom types in lammps.")]
Processes = Annotated[int, typer.Option(callback=at_least_one, help="Calculations at a time.")]
Engine = Annotated[str, typer.Option(help="Where they run: processes, dask or executorlib.")]

STRAINS = "-0.01,0,0.01,0.02,0.03"
TEMPERATURES = "100,200,300,400,500,600,700,800,900"
TERSOFF = ["* * GaN.tersoff Ga N"]


def _sample(
    *,
    output: Output = Path("data.extxyz"),
    structure: Structure = None,
    plan: "Plan",
    relax: Relax = True,
    calculator: Calculator = "lammps",
    driver: Driver = None,
    pair_style: PairStyle = "tersoff",
    pair_coeff: PairCoeff = TERSOFF,
    deck: Deck = None,
    elements: Elements = "Ga,N",
    processes: Processes = 1,
    engine: Engine = "processes",
) -> None:
    from so3krates import sampling
    from so3krates.data import last_frame
    from so3krates.progress import progress_display

    recipes = _recipes(calculator, driver, pair_style, pair_coeff, deck, elements)
    crystal = sampling.wurtzite() if structure is None else last_frame(structure)
    with progress_display(console()) as report:
        frames = sampling.sample(output, crystal, plan, *recipes, relax, processes, report, engine)
    console().print(
        f"Wrote {counted(len(frames), 'frame')} of {counted(len(frames[0]), 'atom')} to {output}",
        highlight=False,
        soft_wrap=True,
    )


def _recipes(
    calculator: str, driver: str | None, pair_style: str, pair_coeff: list[str], deck: Path | None, elements: str
) -> "tuple[Recipe, Recipe | None]":
    """Who labels, and who makes the structures where it is another one."""
    from so3krates.sampling import Recipe

    lines = [f"pair_style {pair_style}", *(f"pair_coeff {line}" for line in pair_coeff)]
    if deck is not None:
        lines = lines_of(deck)
    teacher = Recipe(calculator, tuple(lines), words(elements))
    return teacher, None if driver is None else Recipe(driver, tuple(lines), words(elements))


def _method(plan_of: Callable[..., "Plan"]) -> Callable[..., "Plan"]:
    """Makes `sample METHOD` of a method's plan: the options of `_sample`, the plan's own in place of the plan."""
    own = inspect.signature(plan_of).parameters

    def command(**options: Any) -> None:
        _sample(plan=plan_of(**{name: options.pop(name) for name in own}), **options)

    options = [
        option.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for shared in inspect.signature(_sample).parameters.values()
        for option in (own.values() if shared.name == "plan" else [shared])
    ]
    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # what typer reads
    command.__annotations__ = {option.name: option.annotation for option in options}
    app.command(plan_of.__name__, cls=Command, help=plan_of.__doc__)(command)
    return plan_of


@_method
def harmonic(
    repeats: Repeats = "2,2,2",
    strains: Strains = STRAINS,
    temperatures: Temperatures = TEMPERATURES,
    frames: Frames = 5,
    seed: Seed = 0,
) -> "Plan":
    """Thermal displacements of the harmonic crystal over strain and temperature."""
    from so3krates.sampling import SamplingPlan

    return SamplingPlan(
        numbers("repeats", repeats, int),
        frames,
        seed,
        numbers("strains", strains, float),
        numbers("temperatures", temperatures, float),
    )


@_method
def einstein(
    repeats: Repeats = "2,2,2",
    strains: Strains = STRAINS,
    temperatures: Temperatures = TEMPERATURES,
    springs: Annotated[
        str | None, typer.Option(help="eV/A^2 by element, as in Ga=8,N=10; without it, from the driver.")
    ] = None,
    frames: Frames = 5,
    seed: Seed = 0,
) -> "Plan":
    """Thermal displacements of atoms on springs of their own, over strain and temperature."""
    from so3krates.sampling import EinsteinPlan

    return EinsteinPlan(
        numbers("repeats", repeats, int),
        frames,
        seed,
        numbers("strains", strains, float),
        numbers("temperatures", temperatures, float),
        None if springs is None else _springs(springs),
    )


@_method
def md(
    repeats: Repeats = "2,2,2",
    temperatures: Temperatures = "300,600,900",
    strains: Strains = "0",
    pressures: Annotated[str, typer.Option(help="GPa, instead of strains: the cell is scaled.")] = "",
    timestep: Annotated[float, typer.Option(callback=above_zero, help="fs.")] = 1.0,
    equilibrate: Annotated[float, typer.Option(callback=not_negative, help="ps before the first frame.")] = 1.0,
    every: Annotated[float, typer.Option(callback=above_zero, help="ps between frames.")] = 0.1,
    frames: Frames = 20,
    seed: Seed = 0,
) -> "Plan":
    """Langevin dynamics over temperatures, and strains or pressures."""
    from so3krates.sampling import DynamicsPlan

    return DynamicsPlan(
        numbers("repeats", repeats, int),
        frames,
        seed,
        numbers("temperatures", temperatures, float),
        numbers("strains", strains, float),
        numbers("pressures", pressures, float),
        timestep,
        equilibrate,
        every,
    )


@_method
def rattle(
    repeats: Repeats = "2,2,2",
    strains: Strains = "0",
    amplitudes: Annotated[str, typer.Option(help="A, standard deviation of every component.")] = "0.01,0.03,0.1",
    shear: Annotated[
        float, typer.Option(callback=not_negative, help="Standard deviation of a random strain's components.")
    ] = 0.0,
    frames: Frames = 5,
    seed: Seed = 0,
) -> "Plan":
    """Random displacements of atoms, and of the cell."""
    from so3krates.sampling import RattlePlan

    return RattlePlan(
        numbers("repeats", repeats, int),
        frames,
        seed,
        numbers("strains", strains, float),
        numbers("amplitudes", amplitudes, float),
        shear,
    )


def _springs(text: str) -> dict[str, float]:
    pairs = [word.partition("=") for word in words(text)]
    try:
        return {symbol: float(spring) for symbol, _, spring in pairs}
    except ValueError:
        raise ValueError(f"--springs {text}: give eV/A^2 by element, as in Ga=8,N=10") from None
