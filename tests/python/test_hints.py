"""Every command that a message, README or a page names is one that works from where the reader stands."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from so3krates import _harness, demo, hints

ROOT = Path(__file__).parents[2]
PLAIN_PATH = "/usr/bin:/bin"  # a shell in which nothing was activated
COMMANDS = "train|evaluate|data|export|check|info|import-mlff|import-so3lr|select|kappa|demo|doctor|sample"
TYPED = re.compile(rf"(?<![\w./-])(so3krates (?:{COMMANDS})\b|lmp -|mpiexec -|pip install)")


def shell(line: str, folder: Path, path: str) -> str:
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=folder, env={"PATH": path}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("path", ["plain", "activated", "another first"])
@pytest.mark.parametrize("stands", ["elsewhere", "above", "beside"])
def test_program_works_where_the_reader_stands(
    path: str, stands: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tmp_path / "my environment" / "bin"
    other = tmp_path / "other"
    for folder, words in ((scripts, "ours"), (other, "theirs")):
        folder.mkdir(parents=True)
        (folder / "lmp").write_text(f'#!/bin/sh\necho {words} "$@"\n')
        (folder / "lmp").chmod(0o755)
    monkeypatch.setattr(hints.sysconfig, "get_path", lambda name: str(scripts))
    folders = {"plain": "", "activated": f"{scripts}:", "another first": f"{other}:{scripts}:"}
    monkeypatch.setenv("PATH", folders[path] + PLAIN_PATH)
    here = {"elsewhere": other, "above": tmp_path, "beside": scripts}[stands]
    monkeypatch.chdir(here)
    line = hints.command("lmp", "-in", "a deck")
    assert shell(line, here, os.environ["PATH"]) == "ours -in a deck\n"
    assert line.startswith("lmp ") == (path == "activated")


def test_demo_ends_with_a_line_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my demo"
    folder.mkdir()
    (folder / "in.gan").write_text("print 'it ran'\npair_style so3krates\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", PLAIN_PATH)
    assert "it ran" in shell(demo.run_again(Path("my demo")), tmp_path, PLAIN_PATH)
    assert (folder / "log.lammps").is_file()
    help_text = shell(hints.command("so3krates", "train", "--help"), tmp_path, PLAIN_PATH)
    assert "--preset" in help_text


def test_pip_is_that_of_this_environment() -> None:
    line = hints.pip_install("numpy>=1")
    assert line.startswith(shlex.quote(sys.executable)) and line.endswith("'numpy>=1'")
    assert "already satisfied: numpy" in shell(f"{line} --dry-run --no-index", ROOT, PLAIN_PATH)


def test_the_runtime_names_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its messages reach readers in LAMMPS, where nothing of Python is at hand."""
    monkeypatch.delenv("SO3KRATES_PJRT_CUDA", raising=False)
    if (Path(_harness.__file__).parents[1] / "jax_plugins").is_dir():
        pytest.skip("the CUDA plugin is installed")
    with pytest.raises(_harness.Error) as raised:
        _harness.pjrt.find_plugin("cuda")
    (line,) = re.findall(r"\): (.* -m pip install '.*?')", str(raised.value))
    assert "already satisfied: so3krates" in shell(
        f"{line.replace('[cuda12]', '')} --dry-run --no-index", ROOT, PLAIN_PATH
    )


def literals(file: Path) -> list[tuple[int, str]]:
    """Strings of a program that are no docstrings; of f-strings the constant parts."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare
    ]


def test_messages_do_not_write_commands_by_hand() -> None:
    """They take them from `hints`, which knows whether the environment is active."""
    found, strings = [], 0
    for folder in ("python", "export"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for line, text in literals(file):
                strings += 1
                if file.name != "hints.py" and TYPED.search(text):
                    found.append(f"{file.relative_to(ROOT)}:{line}: {text}")
    assert strings > 500  # the files were read
    assert not found


PAGES = sorted(
    str(file.relative_to(ROOT)) for place in ("", "docs/", "examples/**/") for file in ROOT.glob(f"{place}*.md")
)


@pytest.mark.parametrize("page", PAGES)
def test_pages_say_how_their_commands_are_found(page: str) -> None:
    """Before the first block of commands stands how the environment is made active, or all blocks name paths."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [match for match in re.finditer(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    typed = [match.start() for match in blocks if re.search(rf"^(?:\$ )?{TYPED.pattern}", match[1], re.MULTILINE)]
    if typed:
        assert 0 <= text.find("source .venv/bin/activate") < typed[0]
