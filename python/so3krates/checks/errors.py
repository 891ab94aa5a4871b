"""Whether a potential is as good on frames that it has not seen as on those that trained it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from so3krates.data import LabelKeys, read_frames
from so3krates.storage import ModelError

from .findings import Check, not_made

TEST_RATIO = 2.0  # test error over training error


def check_errors(errors: Mapping[str, Mapping[str, Mapping[str, Any]]], test: str, train: str = "train") -> list[Check]:
    """Whether the errors on frames that trained nothing keep to TEST_RATIO times those on the training frames.

    `errors` are those of a report's errors.json: set -> property -> {"rmse": ...}.
    """
    found = []
    for row in ("energy, means removed", "forces", "stress"):
        pair = [errors[name][row]["rmse"] for name in (test, train)]
        name = f"{test} / {train} error, {row.partition(',')[0]}"
        if None in pair:
            found.append(not_made(name, "no labels"))
        elif pair[1] == 0:
            found.append(not_made(name, f"the error of {train} is zero"))
        else:
            found.append(Check(name, pair[0] / pair[1], TEST_RATIO, "of RMSEs"))
    return found


def error_checks(
    path: str | Path, train_data: Path | None = None, test_data: Path | None = None, keys: LabelKeys | None = None
) -> list[Check]:
    """`check_errors` on two files of frames, or of the report that training left in a model folder."""
    from so3krates.predictions import predictions_of
    from so3krates.training import as_json as plain
    from so3krates.training import error_table, reference

    name = "test / training error"
    if train_data and test_data:
        sets = {"train": read_frames(train_data, keys), "test": read_frames(test_data, keys)}
        errors = {
            part: plain(error_table(predictions_of(path, frames, float64=True), reference(frames)))
            for part, frames in sets.items()
        }
        return check_errors(errors, "test")
    if train_data or test_data:
        raise ModelError("give both --train-data and --test-data, or neither")
    file = Path(path) / "report" / "errors.json"
    if not file.is_file():
        return [not_made(name, "no report beside the model: give --train-data and --test-data")]
    errors = json.loads(file.read_text())
    test = next((part for part in ("test", "valid") if part in errors), None)
    if test is None or "train" not in errors:
        return [not_made(name, "the report has no test or validation set: give --train-data and --test-data")]
    return check_errors(errors, test)
