"""A committee: errors of its members and of their mean, and how well their disagreement tells the error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from so3krates.storage import CONFIG_FILE

from .evaluate import Properties
from .metrics import MILLI, ROWS, error_table


class CommitteeError(ValueError):
    """Models that form no committee."""


@dataclasses.dataclass(frozen=True)
class Committee:
    """Predictions of several models for the same labelled frames."""

    members: Sequence[Properties]
    labels: Properties

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise CommitteeError(f"{len(self.members)} model: a committee has at least 2")

    @property
    def mean(self) -> Properties:
        """The mean of the members' predictions."""
        return Properties(
            self.labels.atoms,
            np.mean([member.energies for member in self.members], axis=0),
            [np.mean(forces, axis=0) for forces in zip(*(member.forces for member in self.members), strict=True)],
            np.mean([member.stresses for member in self.members], axis=0),
        )

    def disagreement(self) -> np.ndarray:
        """Of each frame (M,): `disagreement` of the members' forces, meV/A."""
        return MILLI * disagreement([member.forces for member in self.members])

    def force_errors(self) -> np.ndarray:
        """Of each frame (M,): rms force error of the mean, meV/A; NaN without labels."""
        both = zip(self.mean.forces, self.labels.forces, strict=True)
        return np.array([MILLI * math.sqrt(np.mean(np.square(mean - label))) for mean, label in both])

    def as_json(self) -> dict[str, Any]:
        """Plain values; undefined numbers are null."""
        disagreement, errors = self.disagreement(), self.force_errors()
        known = np.isfinite(errors)
        linear = ranks = math.nan
        # A correlation of fewer frames, or of numbers that are all equal, means nothing.
        if known.sum() > 2 and min(np.ptp(disagreement[known]), np.ptp(errors[known])) > 0:
            from scipy.stats import spearmanr  # half a second of each start

            linear = float(np.corrcoef(disagreement[known], errors[known])[0, 1])
            ranks = float(spearmanr(disagreement[known], errors[known]).statistic)
        tables = [error_table(member, self.labels) for member in self.members]
        mean = error_table(self.mean, self.labels)
        content = {
            "members": len(self.members),
            "rmse": {
                row: {"members": [_or_none(t[row].rmse) for t in tables], "mean": _or_none(mean[row].rmse)}
                for row in ROWS
            },
            "disagreement": {
                "rms": float(np.sqrt(np.mean(disagreement**2))),
                "largest": float(disagreement.max()),
                "unit": ROWS["forces"],
            },
            "correlation": {"pearson": _or_none(linear), "spearman": _or_none(ranks), "frames": int(known.sum())},
        }
        return content


def require_different(members: Sequence[Properties], names: Sequence[str]) -> None:
    """Refuses a model that is named twice, which agrees with itself. Raises CommitteeError with both names."""
    for k, own in enumerate(members):
        for n, other in enumerate(members[:k]):
            if np.array_equal(own.energies, other.energies) and all(map(np.array_equal, own.forces, other.forces)):
                raise CommitteeError(
                    f"{names[n]} and {names[k]} say the same of every frame, so that they never differ: name models of "
                    "different seeds, each once"
                )


def disagreement(forces: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Disagreement of a committee about each frame (M,), eV/A; `forces[k][m]` (n, 3) in eV/A are member k's of frame m.

    ``d = sqrt(sum_k |f_k - f|^2 / ((K - 1) 3 n))`` with the mean f of K members over the 3 n components of a frame: the
    sample standard deviation of a component of a force, rms over the frame. Members whose errors are independent have
    a root-mean-square error of this size, whatever their number.
    """
    found = []
    for of_frame in zip(*forces, strict=True):
        members = np.stack(of_frame)
        found.append(math.sqrt(members.var(axis=0, ddof=1).mean()))
    return np.array(found)


def committee_table(sets: Mapping[str, Committee]) -> Table:
    """Errors of the members and of their mean, the disagreement and its correlation with the error, to print."""
    size = len(next(iter(sets.values())).members)
    table = Table(title=f"Committee of {size}")
    for heading in ("set", "", "value", "unit"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "value" else "left")
    for name, committee in sets.items():
        found = committee.as_json()
        for row, unit in ROWS.items():
            members, mean = found["rmse"][row]["members"], found["rmse"][row]["mean"]
            if mean is not None:
                table.add_row(name, f"RMSE {row}: mean of the members", f"{np.mean(members):.4g}", unit)
                table.add_row(name, f"RMSE {row}: of the committee's mean", f"{mean:.4g}", unit)
        disagreement = found["disagreement"]
        table.add_row(name, "disagreement: rms of the frames", f"{disagreement['rms']:.4g}", disagreement["unit"])
        table.add_row(name, "disagreement: largest of a frame", f"{disagreement['largest']:.4g}", disagreement["unit"])
        for kind, words in (("pearson", "linear"), ("spearman", "of ranks")):
            value = found["correlation"][kind]
            shown = "-" if value is None else f"{value:.3f}"
            table.add_row(name, f"correlation with the force error of a frame, {words}", shown, "")
        table.add_section()
    return table


def member_folders(path: str | Path) -> list[Path]:
    """The models of a folder that `train --committee` made, or the path itself."""
    path = Path(path)
    if not path.is_dir() or (path / CONFIG_FILE).is_file():
        return [path]
    found = sorted(path.glob(f"seed-*/{CONFIG_FILE}"), key=lambda file: int(file.parent.name.removeprefix("seed-")))
    return [file.parent for file in found] or [path]


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
