"""Build the documentation site: `make site`, into build/site.

Pages are the repository's own, in their folders, so that links between them hold; what they link to comes along.
References of commands and settings are made from the program itself, that of Python from its docstrings.
"""

from __future__ import annotations

import ast
import importlib
import io
import re
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGE = ROOT / "build" / "site-src"
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "docs/notebooks/*.ipynb", "examples/**/README.md")
# Sections of settings files: their heading, the file and the class that reads them.
SETTINGS = (
    ("`[model]`", "model/config.py", "ModelConfig"),
    ("`[data]`", "training/config.py", "DataConfig"),
    ("`[training]`", "training/config.py", "TrainingConfig"),
    ("`[finetuning]`", "training/finetuning.py", "FineTuningConfig"),
    ("`[learn]`", "learning/config.py", "LearnConfig"),
    ("`[label]`", "learning/config.py", "LabelConfig"),
    ("`[[run]]`", "learning/config.py", "RunSettings"),
    ("`[compare]`", "comparison/config.py", "CompareConfig"),
)
# Groups of pages at the side.
NAVIGATION = {
    "Notebooks": ("docs/notebooks/first_model", "docs/notebooks/gan", "docs/notebooks/uncertainty", "docs/gallery"),
    "Train a potential": (
        "docs/sampling",
        "docs/training",
        "docs/training_study",
        "docs/training_processes",
        "docs/baselines",
        "docs/charges",
        "docs/finetuning",
        "docs/selection",
        "docs/learning",
        "docs/uncertainty",
        "docs/physics",
        "docs/phonons",
        "docs/so3lr",
    ),
    "Run it": (
        "docs/install",
        "docs/deck",
        "docs/heat_flux",
        "docs/kappa",
        "docs/cluster",
        "docs/gpu",
        "docs/gpu_kit",
    ),
    "Examples": (
        "examples/gan/README",
        "examples/lammps/README",
        "examples/lammps/so3lr/README",
        "examples/lammps/gan_kappa/README",
        "examples/lammps/argon_kappa/README",
        "examples/charges/README",
        "examples/learning/README",
        "examples/nacl/README",
        "examples/models/gan-pbesol/README",
        "examples/models/so3lr/README",
    ),
    "Reference": ("reference/commands", "reference/settings", "reference/python", "docs/bundle"),
    "How it works": ("docs/model", "docs/architecture", "docs/kernels", "docs/validation", "docs/compare"),
    "The project": ("CONTRIBUTING", "CHANGELOG"),
}
MODULES = (
    "so3krates.calculator",
    "so3krates.runtime",
    "so3krates.storage",
    "so3krates.exporting",
    "so3krates.sampling",
    "so3krates.training",
    "so3krates.learning",
    "so3krates.physics",
    "so3krates.analysis",
    "so3krates.uncertainty",
    "so3krates.conversion",
    "so3krates.lammps",
)


def stage(folder: Path) -> list[Path]:
    """Copy pages, and files and pictures that they link to; the pages, relative to the repository."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = [path.relative_to(ROOT) for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    for page in pages:
        copy(page, folder)
        for target in links((ROOT / page).read_text(encoding="utf-8")):
            linked = (ROOT / page.parent / target).resolve()
            if linked.is_file() and linked.is_relative_to(ROOT):
                copy(linked.relative_to(ROOT), folder)
    return pages


def copy(path: Path, folder: Path) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / path, folder / path)


def links(text: str) -> Iterator[str]:
    """Relative links of a page, without the place in the other page."""
    for target in re.findall(r"\]\(([^)\s#]+)", text):
        if "://" not in target:
            yield target


def settings_table(source: str, name: str) -> str:
    """The keys of a settings class: name, type, default and the comment beside it."""
    (found,) = (n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == name)
    comments = {
        token.start[0]: re.sub(r"^type: ignore\S*\s*", "", token.string.lstrip("# ")).lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    rows = [f"{ast.get_docstring(found)}\n", "| key | type | default | |", "|---|---|---|---|"]
    for field in found.body:
        kind = ast.unparse(field.annotation) if isinstance(field, ast.AnnAssign) else "ClassVar"
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and "ClassVar" not in kind:
            kind = kind.replace("|", "\\|")
            default = "" if field.value is None else f"`{ast.unparse(field.value)}`"
            lines = range(field.lineno, (field.end_lineno or field.lineno) + 1)
            said = " ".join(comments[line] for line in lines if line in comments).replace("|", "\\|")
            rows.append(f"| `{field.target.id}` | `{kind}` | {default} | {said} |")
    return "\n".join(rows) + "\n"


def write_reference(folder: Path) -> None:
    """Pages that are made: of commands, of settings and of Python."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "typer", "so3krates.cli", "utils", "docs", "--name", "so3krates"]
    commands = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (folder / "commands.md").write_text(commands.replace("# `so3krates`", "# Commands", 1), encoding="utf-8")
    parts = ["# Settings\n", "Keys of `settings.toml`, section by section, with their defaults.\n"]
    for heading, file, name in SETTINGS:
        source = (ROOT / "python" / "so3krates" / file).resolve().read_text(encoding="utf-8")
        parts += [f"## {heading}\n", settings_table(source, name)]
    (folder / "settings.md").write_text("\n".join(parts), encoding="utf-8")
    modules = [f"## `{name}`\n\n```{{eval-rst}}\n{directive(name)}\n```\n" for name in MODULES]
    (folder / "python.md").write_text("\n".join(["# Python\n", *modules]), encoding="utf-8")


def directive(module: str) -> str:
    """What is written of a module: its own, or of a package what it says to be its contents."""
    lines = [f".. automodule:: {module}", "   :members:"]
    if hasattr(importlib.import_module(module), "__all__"):
        lines.append("   :imported-members:")
    return "\n".join(lines)


def write_navigation(folder: Path) -> None:
    """Below the first page, unseen there."""
    with (folder / "README.md").open("a", encoding="utf-8") as file:
        for caption, pages in NAVIGATION.items():
            file.write("\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""]))


def main() -> None:
    stage(STAGE)
    write_reference(STAGE / "reference")
    write_navigation(STAGE)
    options = [
        "-b",
        "html",
        "-c",
        ROOT / "tools" / "site",
        "--fail-on-warning",
        "--keep-going",
        "--quiet",
        "--fresh-env",
    ]
    command = [sys.executable, "-m", "sphinx", *options, STAGE, ROOT / "build" / "site"]
    sys.exit(subprocess.run([str(word) for word in command], cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
