"""The command `so3krates convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_values import words
from .files import replacing, require_place
from .hints import command
from .terminal import console


def convert(
    paths: Annotated[list[Path], typer.Argument(help="Files of other programs, or folders to search through.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Extended XYZ to write.")] = Path("frames.extxyz"),
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="vasprun.xml, OUTCAR, ML_AB, espresso, mtp, deepmd, mlearn, runner, nep or dpdata:NAME; "
            "else found by the names of files.",
        ),
    ] = None,
    elements: Annotated[str, typer.Option(help="Elements of numbered types, as in Ga,N.")] = "",
) -> None:
    """Labelled structures of other programs as extended XYZ in eV and A, with ASE's sign of the stress."""
    import warnings

    import ase.io

    from so3krates.conversion import convert as frames_of
    from so3krates.conversion import find_sources, is_cut
    from so3krates.progress import progress_display
    from so3krates.wording import counted

    require_place(output, *paths)
    screen = console()
    sources = find_sources(paths, source)
    counts = dict.fromkeys((s.format for s in sources), 0)
    cut: list[tuple[Path, int]] = []
    labels = {"energy": 0, "forces": 0, "stress": 0}
    with (
        warnings.catch_warnings(record=True) as doubts,
        progress_display(screen) as report,
        replacing(output) as part,
        part.open("w") as file,
    ):
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        for done, found in enumerate(sources, 1):
            number = counts[found.format]
            for atoms in frames_of(found, words(elements)):
                ase.io.write(file, atoms, format="extxyz")
                counts[found.format] += 1
                for name in labels:
                    labels[name] += name in atoms.calc.results
            if is_cut(found):
                cut.append((found.path, counts[found.format] - number))
            report("files", done, len(sources))
    said = [
        f"{path}: was cut, or its program still runs: what it has whole is taken, {counted(number, 'frame')}. "
        "Convert again if there is more to come"
        for path, number in cut
    ]
    for warning in (*dict.fromkeys(str(doubt.message) for doubt in doubts), *said):
        screen.print(warning, style="yellow", highlight=False, markup=False, soft_wrap=True)
    total = sum(counts.values())
    parts = ", ".join(f"{count} from {name}" for name, count in counts.items())
    have = ", ".join(f"{count} with {name}" for name, count in labels.items())
    said_so = (
        f"Wrote {total} frames to {output} ({parts}; {have}). Units and signs are worth a look: "
        f"{command('so3krates', 'data', output)}"
    )
    screen.print(said_so, highlight=False, markup=False, soft_wrap=True)
