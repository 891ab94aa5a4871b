"""The pages say what the code does: every key of settings with its default, and the bounds of the checks."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from so3krates import checks
from so3krates.data import suspects, units
from so3krates.learning import LabelConfig, LearnConfig, RunSettings
from so3krates.model.config import ModelConfig
from so3krates.training import DataConfig, FineTuningConfig, RunConfig, TrainingConfig
from so3krates.training.config import changeable

PAGES = Path(__file__).parents[2] / "docs"
PAGE = (PAGES / "training.md").read_text(encoding="utf-8")
LEARNING = (PAGES / "learning.md").read_text(encoding="utf-8")


def rows(heading: str, page: str = PAGE) -> list[list[str]]:
    """Cells of the first table after a heading."""
    lines = page.split(f"{heading}\n", 1)[1].splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("|"))
    end = next(n for n in range(start, len(lines)) if not lines[n].startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 : end]]


TRAINING = changeable(RunConfig.from_dict({}))
SECTIONS = [
    (PAGE, "[data]", DataConfig, TRAINING["data"]),
    (PAGE, "[training]", TrainingConfig, TRAINING["training"]),
    (PAGE, "[model]", ModelConfig, TRAINING["model"]),
    (PAGE, "[finetuning]", FineTuningConfig, dataclasses.asdict(FineTuningConfig())),
    (LEARNING, "[learn]", LearnConfig, {}),
    (LEARNING, "[label]", LabelConfig, {}),
    (LEARNING, "[[run]]", RunSettings, {}),
]


@pytest.mark.parametrize(
    ("page", "section", "settings", "defaults"), SECTIONS, ids=[section for _, section, *_ in SECTIONS]
)
def test_every_key_is_there_with_its_default(page: str, section: str, settings: type, defaults: dict[str, Any]) -> None:
    documented = {cells[0]: cells[1] for cells in rows(f"### {section}", page)}
    expected = {}
    for field in dataclasses.fields(settings):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        default = defaults.get(field.name) if defaults else list(default) if isinstance(default, tuple) else default
        text = "={}" if default == {} else tomli_w.dumps({"key": default}) if default is not None else "="
        value = " ".join(text.split("=", 1)[1].split()) or None
        value = value.replace("[ ", "[").replace(", ]", "]") if value else value
        expected[f"`{field.name}`"] = "absent" if value is None else f"`{value}`"
    assert documented == expected


def test_units_are_those_of_the_code() -> None:
    cells = {row[0]: row[2] for row in rows("### [data]")}
    named = [re.findall(r"[\w/]+", cells[f"`{key}`"].split(":")[-1]) for key in ("energy_unit", "length_unit")]
    assert named == [list(units.ENERGY_UNITS), list(units.LENGTH_UNITS)]
    assert cells["`stress_unit`"].startswith(", ".join(units.PRESSURE_UNITS))


def test_bounds_are_those_of_the_code() -> None:
    table = {row[0]: row[1:3] for row in rows("## Trust")}

    def bounds(words: str) -> list[float]:
        (found,) = (numbers for name, numbers in table.items() if words in name)
        return [float(number) for number in found]

    both = [checks.BOUNDS["float64"], checks.BOUNDS["float32"]]
    for words, field in (
        ("energy under rotation", "energy"),
        ("forces under", "forces"),
        ("forces in perfect", "forces"),
        ("stress under", "stress"),
        ("shear", "stress"),
        ("finite differences", "derivative"),
        ("around the cutoff", "cutoff"),
    ):
        assert bounds(words) == [getattr(b, field) for b in both]
    assert bounds("squeezed") == [checks.LARGE_FORCE] * 2
    assert bounds("drift") == [checks.DRIFT] * 2
    assert bounds("test error") == [checks.TEST_RATIO] * 2
    assert f"{checks.STEPS} steps" in PAGE
    assert f"above {suspects.LARGE_FORCE:g} eV" in PAGE
    assert f"further than {suspects.OUTLIER:g} median" in PAGE
    assert f"below {suspects.SHORT_DISTANCE:g} of" in PAGE
    assert f"above {100 * suspects.NET_FORCE[0]:g} % of the rms force and {1000 * suspects.NET_FORCE[1]:g} meV" in PAGE
