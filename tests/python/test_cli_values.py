"""Numbers and names that make no sense are refused by every option of every command, in one line that names it."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from so3krates import cli
from so3krates.cli_values import MAY_BE_EMPTY, Command, numbers
from typer.main import get_command

ROOT = get_command(cli.app)
ANY_NUMBER = ("--charge", "--max")
ZERO_TOO = (*ANY_NUMBER, "--discard", "--equilibrate", "--retries", "--seed", "--shear", "--skin", "--steps")


def functions(app: typer.Typer, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Callable[..., Any]]]:
    """Every command as it is called, and its function."""
    for info in app.registered_commands:
        assert info.callback is not None
        yield (*words, info.name or info.callback.__name__.replace("_", "-")), info.callback
    for group in app.registered_groups:
        assert group.typer_instance is not None and group.name
        yield from functions(group.typer_instance, (*words, group.name))


COMMANDS = dict(functions(cli.app))


def command_of(words: tuple[str, ...]) -> Any:
    found: Any = ROOT
    for word in words:
        found = found.commands[word]
    return found


def parameters(words: tuple[str, ...]) -> Iterator[tuple[Any, set[type]]]:
    """Parameters of a command with the types that they take."""
    function = COMMANDS[words]
    hints = typing.get_type_hints(function)
    by_name = {param.name: param for param in command_of(words).params}
    for name in inspect.signature(function).parameters:
        hint = hints[name]
        parts = typing.get_args(hint) if isinstance(hint, types.UnionType | typing._UnionGenericAlias) else (hint,)  # type: ignore[attr-defined]
        yield by_name[name], {(typing.get_args(part) or (part,))[0] for part in parts}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as end:
        ROOT.main(list(arguments))
    error = capsys.readouterr().err
    assert (end.value.code, len(error.splitlines())) == (1, 1), (arguments, error)
    return error


def test_all_commands_are_looked_at() -> None:
    assert len(COMMANDS) > 20 and ("sample", "md") in COMMANDS and ("check",) in COMMANDS


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_numbers(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for param, kinds in parameters(words):
        if not kinds & {int, float}:
            continue
        option = max(param.opts, key=len)
        bad = ["nan", "inf", "-inf", "1e400"] if float in kinds else []
        bad += [value for value, fine in (("-5", ANY_NUMBER), ("0", ZERO_TOO)) if option not in fine]
        assert bad or option in ANY_NUMBER
        for value in bad:
            shown = {int: int, float: float}[(kinds & {int, float}).pop()](value)
            assert f"Error: {option} {shown}: give a number that is finite" in refusal(capsys, *words, option, value)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_empty_names(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """An empty path would be the folder in which the command runs."""
    assert isinstance(command_of(words), Command)
    before = set(Path.cwd().iterdir())
    for param, kinds in parameters(words):
        if bool in kinds or param.name in MAY_BE_EMPTY or param.default == "":
            continue
        if param.param_type_name == "argument":
            others = [one.name for one, _ in parameters(words) if one.param_type_name == "argument"]
            given = ["" if name == param.name else "x" for name in others]
            assert f"Error: {param.name.upper()} is empty: give a value" in refusal(capsys, *words, *given)
            continue
        for option in param.opts:
            for empty in ([option, ""], [option, " "], [f"{option}="] if option.startswith("--") else [option, "\t"]):
                found = refusal(capsys, *words, *empty)
                assert f"Error: {max(param.opts, key=len)} is empty: give a value" in found
                assert found.strip().endswith(", or leave it out") != param.required
    assert set(Path.cwd().iterdir()) == before


@pytest.mark.parametrize("text", ["nan", "1,inf", "-inf 2"])
def test_lists_of_numbers_are_finite(text: str) -> None:
    with pytest.raises(ValueError, match=f"^--strains {text}: give finite numbers$"):
        numbers("strains", text, float)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "einstein", "--springs", "Ga=N"), "--springs Ga=N: give eV/A^2 by element"),
        (("sample", "md", "--temperatures", "inf"), "--temperatures inf: give finite numbers"),
        (("phonons", "model", "--temperatures", "0"), "--temperatures 0: give numbers above 0, in K"),
        (("phonons", "model", "--meshes", "nan"), "--meshes nan: give a length in A"),
        (("phonons", "model", "--supercell", "2,2,0"), "--supercell 2,2,0: give three numbers from 1 on"),
        (("export", "tests/models/gan-small", "--tables", "inf"), "tables = inf: give auto, off or"),
        (("export", "tests/models/gan-small", "--tables", "nan"), "tables = nan: give auto, off or"),
    ],
)
def test_numbers_in_words(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    assert message in refusal(capsys, *arguments)
