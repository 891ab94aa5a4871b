"""Make a virtual environment with all that pyproject.toml asks for; standard library only."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import venv
from pathlib import Path

import debian

PIP_PACKAGE = "python3-pip-whl"  # what Debian's and Ubuntu's ensurepip itself installs
LEAST_PYTHON = (3, 11)
EXTRAS = ("test", "lint")


def main(folder: Path) -> None:
    """Make `folder` when it is missing and install what is missing in it; ends with a line that says why it cannot."""
    if sys.version_info < LEAST_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"{sys.executable} is Python {found}, 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...")
    python = folder / "bin" / "python"
    if not (folder / "bin" / "pip").is_file():
        make(folder)
    # The build uses these wheels too, so that they are fetched once and are found again at run time.
    sys.exit(subprocess.run([python, "-m", "pip", "install", *requirements(Path("pyproject.toml"))]).returncode)


def make(folder: Path) -> None:
    """Make an environment that has pip: Python's own, where Debian left it out the system's, else one fetched."""
    if importlib.util.find_spec("ensurepip"):
        venv.create(folder, with_pip=True, clear=True, symlinks=True)
        return
    venv.create(folder, clear=True, symlinks=True)
    python = folder / "bin" / "python"
    if importlib.util.find_spec("pip"):
        subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "pip"], check=True)
        return
    try:
        with debian.unpacked(PIP_PACKAGE, folder) as files:
            (wheel,) = files.glob("usr/share/python-wheels/pip-*.whl")
            subprocess.run([python, wheel / "pip", "install", "--quiet", "--no-index", wheel], check=True)
    except debian.FetchError as error:
        sys.exit(
            f"{sys.executable} has neither ensurepip nor pip, and fetching {PIP_PACKAGE} failed ({error}): "
            "apt install python3-venv, or make PYTHON=/path/to/another/python3.11 ..."
        )


def requirements(project: Path) -> list[str]:
    """What the project needs to be built, to run, and for the extras."""
    import tomllib

    content = tomllib.loads(project.read_text())
    optional = content["project"]["optional-dependencies"]
    groups = [content["build-system"]["requires"], content["project"]["dependencies"], *(optional[e] for e in EXTRAS)]
    return [requirement for group in groups for requirement in group]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
