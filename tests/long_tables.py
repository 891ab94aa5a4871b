"""Long tables: how many cases they have, and what became of them."""

from collections.abc import Callable

import pytest

Many = Callable[[int], int]  # cases of a table that has so many by default


def many(config: pytest.Config, number: int) -> int:
    """Cases of a table that has `number` of them where nothing else is asked for (`--scale`)."""
    return max(1, round(number * config.getoption("--scale")))


def summary(reports: list[pytest.TestReport]) -> list[str]:
    """A line for each table: its cases, how they ended, and seconds. A test may stand for several (`cases`)."""
    tables: dict[str, list[pytest.TestReport]] = {}
    for report in reports:
        tables.setdefault(report.nodeid.split("[")[0], []).append(report)
    lines = []
    for name, own in sorted(tables.items()):
        cases: dict[str, int] = {}
        for r in own:  # of a test's reports those after its setup know how many
            cases[r.nodeid] = max(cases.get(r.nodeid, 0), dict(r.user_properties).get("cases", 1 - r.skipped))
        failed = sum(cases[node] for node in {r.nodeid for r in own if r.failed})
        total, seconds = sum(cases.values()), sum(r.duration for r in own)
        lines.append(f"{name}: {total} cases, {total - failed} passed, {failed} failed, {seconds:.0f} s")
    return lines
