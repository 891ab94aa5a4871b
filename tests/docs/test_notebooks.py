"""The notebooks run, find what they say, and hold figures that are no burden."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from quick import quick_generator

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
NOTEBOOKS = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
LIMIT = 120  # seconds for a cell: a guard against hanging
MOST = 150_000  # bytes of a notebook with its figures
# What a reader wants and a test does not.
SMALLER = {'"steps": 800': '"steps": 400', '"layers": 1': '"layers": 1, "degrees": [1]'}
# What the text of each rests on, asked in its own words when it has run.
HOLDS = {
    "first_model": "assert table['forces'].rmse_over_std < 0.4 and forces.std() > 0.3",
    "gan": "assert abs(a - 3.189) < 0.01 and 170 < modulus / GPa < 210 and found.harmonic.imaginary is None",
    "uncertainty": "known, *others = found.values(); least, second, *_ = sorted(o[0] for o in others); "
    "assert second > 2 * known[0] > known[1] > 0 and least > 1.1 * known[0]",
}
SHELL = {"In", "Out", "get_ipython", "exit", "quit", "open"}  # names that IPython gives
# Those that make and train the same run in one process, one after the other, and what they share once.
TOGETHER = (("first_model", "uncertainty"), ("gan",))


def test_each_is_known() -> None:
    assert NOTEBOOKS.keys() == HOLDS.keys() == {name for names in TOGETHER for name in names}


def cells_of(name: str) -> list[nbformat.NotebookNode]:
    """The cells of code, in a test's size."""
    text = NOTEBOOKS[name].read_text(encoding="utf-8")
    for usual, small in SMALLER.items():
        text = text.replace(usual.replace('"', r"\""), small.replace('"', r"\""))
    return [cell for cell in nbformat.reads(text, as_version=4).cells if cell.cell_type == "code"]


def forgetting(*kept: str) -> nbformat.NotebookNode:
    """A cell after which there is what the cells `kept` have made, and nothing else."""
    names = {name for source in kept for name in compile(source, "cell", "exec").co_names}
    program = f"for _name in [n for n in globals() if n[0] != '_' and n not in {names | SHELL}]: del globals()[_name]"
    return nbformat.v4.new_code_cell(program)


@pytest.mark.parametrize("names", TOGETHER, ids="-".join)
def test_notebooks_run(names: tuple[str, ...], tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook()
    run: list[str] = []
    for name in names:
        cells = cells_of(name)
        again = [cell.source for cell in cells if cell.source in run]
        assert len(again) == (2 if run else 0)  # the data, and the training on them
        notebook.cells += [forgetting(*again), *(cell for cell in cells if cell.source not in run)]
        notebook.cells.append(nbformat.v4.new_code_cell(HOLDS[name]))
        run += [cell.source for cell in cells]
    resources = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=LIMIT, resources=resources)
    client.execute(env={**os.environ, "XLA_FLAGS": quick_generator(), "MPLBACKEND": "agg"})


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_a_notebook_holds(name: str) -> None:
    """It has run from its first cell to its last, without an error, and its figures are small."""
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and all(output.output_type != "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert NOTEBOOKS[name].stat().st_size < MOST
