"""What the site shows: every page has its place, links lead somewhere, references are whole. `make site` builds it."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from so3krates.cli import app
from so3krates.training import RunConfig
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_site", ROOT / "tools" / "make_site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_has_its_place_and_its_links(site: ModuleType, tmp_path: Path) -> None:
    pages = site.stage(tmp_path)
    shown = {page for group in site.NAVIGATION.values() for page in group if not page.startswith("reference/")}
    assert {page.with_suffix("").as_posix() for page in pages} == shown | {"README"}
    absent = [
        f"{page}: {target}"
        for page in pages
        for target in site.links((tmp_path / page).read_text())
        if not (tmp_path / page.parent / target).exists()
    ]
    assert absent == []


def test_links_to_headings_hold(site: ModuleType, tmp_path: Path) -> None:
    """As they are made of headings: small letters, no marks, words joined."""

    def places(page: Path) -> set[str]:
        headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}

    site.stage(tmp_path)
    wrong, number = [], 0
    for page in tmp_path.rglob("*.md"):
        for target, place in re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
            number += 1
            if place not in places((page.parent / target) if target else page):
                wrong.append(f"{page.relative_to(tmp_path)}: {target}#{place}")
    assert wrong == [] and number > 20


def test_commands_of_the_gallery_are_there() -> None:
    """Each picture has one, ours with options that exist."""
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    commands = re.findall(r"`((?:so3krates|make|python) [^`]+)`", page)
    assert len(commands) >= len(re.findall(r"^!\[", page, re.MULTILINE)) > 5
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for command in commands:
        program, *words = command.split()
        if program == "so3krates":
            assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0, command
        elif words[0] != "-C" and program == "make":
            assert words[0] in targets


def test_settings_are_shown_with_what_is_said_of_them(site: ModuleType) -> None:
    """All keys of the sections that a training reads, each with a default or none."""
    for heading, file, name in site.SETTINGS:
        source = (ROOT / "python" / "so3krates" / file).read_text()
        table = site.settings_table(source, name)
        rows = [row for row in table.splitlines() if row.startswith("| `")]
        section = heading.strip("`[]")
        known = {field.name: field.type for field in dataclasses.fields(RunConfig)}
        if section in known:
            (shown,) = (f.default_factory for f in dataclasses.fields(RunConfig) if f.name == section)
            names = [field.name for field in dataclasses.fields(shown)]  # type: ignore[arg-type]
            assert [row.split("`")[1] for row in rows] == names
        assert len(rows) > 3 and "" not in (row.split("|")[2].strip() for row in rows)
