"""`bench/gpu --record FOLDER`: what came back goes into bench/results/gpu and docs/gpu.md."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from .page import compared, device_name, page

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "gpu"
DOCUMENT = ROOT / "docs" / "gpu.md"
BEGIN, END = "<!-- measured: written by bench/gpu --record -->", "<!-- measured: end -->"


def slug(name: str) -> str:
    """A device's name as a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def runs_in(folder: Path) -> list[dict[str, Any]]:
    """All runs that were recorded, by device."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def section(runs: list[dict[str, Any]]) -> str:
    """What stands between the marks: predictions and measurements in one table, then each run's page."""
    lines = [BEGIN, "", *compared(runs), ""]
    if not runs:
        lines += ["No GPU was at hand so far: the last column is empty.", ""]
    return "\n".join([*lines, *(page(known) for known in runs), END])


def rewrite(document: str, runs: list[dict[str, Any]]) -> str:
    """The document with that section renewed. Raises ValueError where it has no marks."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT} has no lines '{BEGIN}' and '{END}' for the measurements to go between")
    return before + section(runs) + after


def record(folder: Path, results: Path = RESULTS, document: Path = DOCUMENT) -> Path:
    """Keep the run of `folder` as that of its device; returns its file."""
    try:
        known = json.loads((folder / "gpu.json").read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"{folder / 'gpu.json'} is not what bench/gpu --kit writes ({error}): give the folder of its --out")
    if known.get("device") == "cpu" or "cell" not in known.get("phases", {}):
        sys.exit(f"{folder} is of a rehearsal or of a run that measured nothing: record a run on a GPU")
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{slug(device_name(known))}.json"
    path.write_text(json.dumps(known, indent=1) + "\n")
    document.write_text(rewrite(document.read_text(), runs_in(results)))
    print(f"{path} and {document}: {device_name(known)}, {known['date'][:10]}")
    return path
