"""A report as one page that needs nothing else: tables and figures with the images in it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from rich.table import Table

from so3krates.files import write_text

FIGURES = {
    "parity.png": "Prediction against label",
    "uncertainty.png": "Errors against uncertainties, and shares within confidences",
    "breakdown.png": "Force errors by size, element and temperature",
    "learning_curve.png": "Learning curves",
    "physics.png": "Equation of state, and pairs of atoms",
    "phonons.png": "Phonons, their states, group velocities, and thermal functions",
    "conductivity.png": "Thermal conductivity: meshes, temperatures, mean free paths",
    "expansion.png": "Thermal expansion",
    "campaign.png": "Thermal conductivity with size and time",
    "learning.png": "Errors and uncertain looks against frames",
    "compare.png": "Errors of forces against training time, frames, and speed",
    "curves.png": "Equations of state, and pairs of atoms",
}
STYLE = """
body { font-family: sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 0.5em 0 1.5em; }
th, td { padding: 0.2em 0.8em; border-bottom: 1px solid #ddd; text-align: left; }
th.right, td.right { text-align: right; font-variant-numeric: tabular-nums; }
tr.end td { border-bottom: 2px solid #999; }
img { max-width: 100%; }
"""


def html_page(title: str, facts: Mapping[str, str], tables: Sequence[Table], folder: Path) -> str:
    """The page: a list of facts, the tables, and those of FIGURES that lie in `folder`."""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>\n" for name, value in facts.items())
    parts = [f"<h1>{escape(title)}</h1>", f"<table>\n{rows}</table>" if facts else ""]
    parts += [_table(table) for table in tables]
    for name, caption in FIGURES.items():
        if (folder / name).is_file():
            content = base64.b64encode((folder / name).read_bytes()).decode()
            image = f'<img alt="{caption}" src="data:image/png;base64,{content}">'
            parts.append(f"<h2>{caption}</h2>\n{image}")
    head = f'<meta charset="utf-8">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>'
    return f"<!DOCTYPE html>\n<html>\n<head>\n{head}\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"


def add_to_page(path: Path, tables: Sequence[Table]) -> None:
    """Puts tables at the end of a page that is there."""
    head, end = path.read_text(encoding="utf-8").rsplit("</body>", 1)
    write_text(path, "\n".join([head, *map(_table, tables), f"</body>{end}"]))


def _table(table: Table) -> str:
    """A table that is made for the terminal."""

    def cell(kind: str, text: object, justify: str) -> str:
        css = ' class="right"' if justify == "right" else ""
        return f"<{kind}{css}>{escape(str(text))}</{kind}>"

    head = "".join(cell("th", column.header, column.justify) for column in table.columns)
    columns = [list(column.cells) for column in table.columns]
    rows = []
    for number, row in enumerate(table.rows):
        cells = "".join(cell("td", own[number], c.justify) for own, c in zip(columns, table.columns, strict=True))
        rows.append(f'<tr class="end">{cells}</tr>' if row.end_section else f"<tr>{cells}</tr>")
    lines = "\n".join((f"<tr>{head}</tr>", *rows))
    return f"<h2>{escape(str(table.title))}</h2>\n<table>\n{lines}\n</table>"
