"""What a check found, as a table and as plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text


class Check(NamedTuple):
    """One finding; a check that could not be made has no number and says why in `note`."""

    name: str
    value: float
    bound: float
    unit: str
    note: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether the number keeps its bound; None where there is none."""
        return None if self.note else bool(self.value <= self.bound)


def not_made(name: str, why: str) -> Check:
    return Check(name, math.nan, math.nan, "", why)


def check_table(checks: Sequence[Check]) -> Table:
    """Findings as a table to print."""
    table = Table(title="Checks")
    for heading in ("check", "found", "bound", "unit", ""):
        table.add_column(
            heading, no_wrap=heading != "unit", justify="right" if heading in ("found", "bound") else "left"
        )
    marks = {True: Text("pass", "green"), False: Text("FAIL", "bold red"), None: Text("not made", "yellow")}
    for check in checks:
        numbers = ("-", "-") if check.passed is None else (f"{check.value:.3g}", f"{check.bound:.3g}")
        table.add_row(check.name, *numbers, check.note or check.unit, marks[check.passed])
    return table


def as_json(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Findings as plain values; numbers that are not finite are null."""
    return [
        {**c._asdict(), "value": c.value if math.isfinite(c.value) else None, "passed": c.passed}
        | ({"bound": None} if c.passed is None else {})
        for c in checks
    ]
