"""Frames whose electrons had not converged when a program computed their labels."""

from __future__ import annotations

import math
import re
from pathlib import Path

from ase.io.formats import open_with_compression

# What lines say: `most` electronic steps are allowed, a `step` begins, the criterion is `met` or has `failed`, and a
# `frame` has its forces.
SAID = {
    "OUTCAR": re.compile(
        r"^\s*NELM\s*=\s*(?P<most>\d+)|(?P<step>Iteration\s+\d+\(\s*\d+\))|(?P<met>EDIFF is reached)"
        r"|(?P<failed>EDIFF was not reached)|(?P<frame>TOTAL-FORCE)"
    ),
    "vasprun.xml": re.compile(r'name="NELM">\s*(?P<most>\d+)|(?P<step><scstep>)|(?P<frame></calculation>)'),
    "espresso": re.compile(r"(?P<failed>convergence NOT achieved)|(?P<frame>Forces acting on atoms)"),
}


def unconverged(path: Path, format_name: str) -> set[int]:
    """Numbers of the frames, from 0, whose labels are those of electrons that had not converged."""
    said = SAID.get(format_name)
    found: set[int] = set()
    if said is None:
        return found
    most, steps, frame, met, failed = math.inf, 0, 0, False, False
    with open_with_compression(str(path), "rt") as file:
        for line in file:
            for match in said.finditer(line):
                kind = match.lastgroup
                if kind == "most":
                    most = int(match["most"])
                elif kind == "step":
                    steps += 1
                elif kind == "met":
                    met = True
                elif kind == "failed":
                    failed = True
                else:
                    if failed or (steps >= most and not met):
                        found.add(frame)
                    frame, steps, met, failed = frame + 1, 0, False, False
    return found
