"""Run the notebooks of docs/notebooks and keep what they found in them: `make notebooks`, with ARGS=gan one of them."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "notebooks"
LIMIT = 600  # s for a cell


def main() -> None:
    paths = [FOLDER / f"{name}.ipynb" for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            client = NotebookClient(
                notebook, timeout=LIMIT, resources={"metadata": {"path": folder}}, record_timing=False
            )
            client.execute()
        # What differs from machine to machine, or from run to run, is not kept.
        notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
        for cell in notebook.cells:
            cell["outputs"] = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
            if cell.cell_type != "code":
                del cell["outputs"]
        nbformat.validate(notebook)
        path.write_text(nbformat.writes(notebook), encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
