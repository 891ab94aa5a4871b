"""Commands in messages, written so that the reader can type them where the program was started."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit


def program_file(name: str) -> Path | None:
    """A program of this Python environment: `lmp`, `mpiexec`, `so3krates`, `python`; None where it has none."""
    # Last the folder that this very command lies in, for `pip install --user`.
    for folder in (sysconfig.get_path("scripts"), Path(sys.executable).parent, Path(sys.argv[0]).parent):
        file = Path(folder) / name
        if file.is_file():
            return file.absolute()
    return None


def is_first_in_path(name: str) -> bool:
    """Whether the bare word starts the program of this environment."""
    first, own = shutil.which(name), program_file(name)
    return first is not None and own is not None and Path(first).resolve() == own.resolve()


def program(name: str, folder: Path | None = None) -> str:
    """What starts a program of this environment from `folder`: its name where PATH leads to it, else its path.

    Args:
        folder: where the reader is to stand; the current folder if not given.
    """
    own = program_file(name)
    if own is None or is_first_in_path(name):
        return name
    here = (folder or Path.cwd()).absolute()
    below = own.is_relative_to(here) and own.parent != here  # a word without a slash is looked for in PATH
    return shlex.quote(str(own.relative_to(here) if below else own))


def command(name: str, *words: object) -> str:
    """A whole command line, with its words quoted where the shell needs it."""
    return " ".join([program(name), *(shlex.quote(str(word)) for word in words)])


def pip_install(*words: str) -> str:
    """The command that adds a requirement, with options of pip before it, to this environment."""
    return f"{_pip()} {shlex.join(words)}"


def reinstall() -> str:
    """The command that builds this package anew, from where it was installed."""
    folder = checkout()
    if folder is not None:
        return f"{_pip()} --force-reinstall --no-deps {shlex.quote(str(folder))}"
    return f"{_pip()} --force-reinstall --no-deps FOLDER, where FOLDER is the checkout of so3krates"


def checkout() -> Path | None:
    """The folder that `pip install` was given; None where it was another thing or is no more."""
    try:
        text = metadata.distribution("so3krates").read_text("direct_url.json")
        url = urlsplit(json.loads(text or "{}").get("url", ""))
    except (metadata.PackageNotFoundError, ValueError):
        return None
    folder = Path(unquote(url.path))
    return folder if url.scheme == "file" and (folder / "pyproject.toml").is_file() else None


def _pip() -> str:
    return f"{shlex.quote(sys.executable)} -m pip install"
