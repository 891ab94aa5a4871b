"""What a loop has learnt: a page with its rounds, their errors, and what was labelled and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
from rich.table import Table

from so3krates.files import empty_figure, make_folder, write_figure, write_text
from so3krates.training.html_report import html_page

from .config import LearningSettings

REPORT = "report"
CURVE = "learning.png"


def write_learning_report(
    output: Path, settings: LearningSettings, rounds: Sequence[dict[str, Any]], reason: str = "not ended"
) -> None:
    """Writes report/report.html with learning.png. rounds: the summaries so far."""
    folder = make_folder(output / REPORT)
    learning_plot(folder / CURVE, settings, rounds)
    learn = settings.learn
    facts = {
        "ended": reason,
        "labels": str(sum(one["labels"] for one in rounds)),
        "labeller": settings.label.calculator or settings.label.command or "a batch system",
        "decks": ", ".join(Path(run.deck).name for run in settings.runs),
        "saved above, ended above": f"{learn.save:g}, {learn.stop:g} eV/A of {learn.output}, every {learn.every} steps",
        "targets": f"at most {100 * learn.max_uncertain:g} % of looks above the first"
        + ("" if learn.max_error is None else f", forces of checks within {1000 * learn.max_error:g} meV/A"),
    }
    tables = [_rounds_table(rounds), _chosen_table(output, rounds), *_failures(rounds)]
    write_text(folder / "report.html", html_page(f"Learning in {output.name}", facts, tables, folder))


def learning_plot(path: Path, settings: LearningSettings, rounds: Sequence[dict[str, Any]]) -> Path:
    """Errors of forces, and the share of uncertain looks, against the labels that the potential was trained on."""
    figure = empty_figure(8.4, 3.6)
    errors, shares = figure.subplots(1, 2)
    before = _labels_before(rounds)
    done = [(before[k], one) for k, one in enumerate(rounds) if "errors" in one]
    for name in ("checks", "fresh", "test"):
        known = [(x, one["errors"][name]["forces"]["rmse"]) for x, one in done if name in one["errors"]]
        if known:
            errors.plot(*zip(*known, strict=True), "o-", label=name)
    if settings.learn.max_error is not None:
        errors.axhline(1000 * settings.learn.max_error, color="0.5", lw=0.8)
    if errors.lines:
        errors.set_yscale("log")
        errors.legend(fontsize=8, frameon=False)
    errors.set(xlabel="frames", ylabel="RMSE of forces (meV/A)", title="before training on them")
    shares.plot([x for x, _ in done], [100 * one["uncertain_share"] for _, one in done], "o-")
    shares.axhline(100 * settings.learn.max_uncertain, color="0.5", lw=0.8)
    shares.set(xlabel="frames", ylabel="uncertain looks (%)", ylim=(0, None))
    return write_figure(path, figure)


def _labels_before(rounds: Sequence[dict[str, Any]]) -> list[int]:
    """Frames that each round's potential was trained and validated on."""
    found, total = [], 0
    for one in rounds:
        found.append(total)
        total += one["labels"] + one.get("given", 0)
    return found


def _rounds_table(rounds: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Rounds")
    headings = ("round", "frames", "looks", "uncertain (%)", "largest (eV/A)", "new labels", "left out", "ended early")
    for heading in (*headings, "checks: forces (meV/A)", "fresh: forces (meV/A)", "test: forces (meV/A)"):
        table.add_column(heading, justify="left" if heading == "ended early" else "right")
    for before, one in zip(_labels_before(rounds), rounds, strict=True):
        if "errors" not in one:
            table.add_row(
                "0", str(one["given"]), "", "", "", str(one["labels"]), str(len(one["failed"])), "", "", "", ""
            )
            continue
        errors = [one["errors"].get(name, {}).get("forces", {}).get("rmse") for name in ("checks", "fresh", "test")]
        table.add_row(
            *(str(one["round"]), str(before), str(one["looks"]), f"{100 * one['uncertain_share']:.3g}"),
            *(f"{one['largest']:.3g}", str(one["labels"]), str(len(one["failed"])), str(len(one["ended"]))),
            *("" if e is None or not math.isfinite(e) else f"{e:.4g}" for e in errors),
        )
    return table


def _chosen_table(output: Path, rounds: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="What was labelled, and why")
    for heading in ("round", "deck", "why", "frames", "uncertainty from (eV/A)", "to (eV/A)"):
        table.add_column(heading, justify="left" if heading in ("deck", "why") else "right")
    for one in rounds[1:]:
        path = output / f"round-{one['round']:02d}" / "labelled.extxyz"
        frames = list(ase.io.iread(path, index=":")) if path.is_file() and path.stat().st_size else []
        kinds: dict[tuple[str, str], list[float]] = {}
        for atoms in frames:
            kind = str(atoms.info["run"]), str(atoms.info["why"])
            kinds.setdefault(kind, []).append(float(atoms.info["largest"]))
        for (run, why), values in sorted(kinds.items()):
            table.add_row(str(one["round"]), run, why, str(len(values)), f"{min(values):.3g}", f"{max(values):.3g}")
    return table


def _failures(rounds: Sequence[dict[str, Any]]) -> list[Table]:
    lost = [(str(one["round"]), text) for one in rounds for text in one["failed"]]
    ended = [(str(one["round"]), text) for one in rounds for text in one.get("ended", [])]
    tables = []
    for title, rows in (("Left out by the labeller", lost), ("Runs that ended early", ended)):
        if rows:
            table = Table("round", "what happened", title=title)
            for row in rows:
                table.add_row(*row)
            tables.append(table)
    return tables
