"""Make a virtual environment with all that pyproject.toml asks for; standard library only."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import debian
import python_headers

PIP_PACKAGE = "python3-pip-whl"  # what Debian's and Ubuntu's ensurepip itself installs
NEWEST_PYTHON = (3, 14)  # that every package has wheels for; 3.11 is the oldest, which make looks at


def main(folder: Path, *extras: str) -> None:
    """Make `folder` when it is missing and install what is missing in it; ends with a line that says why it cannot."""
    python_headers.main(Path("build"))
    python = folder / "bin" / "python"
    if not (folder / "bin" / "pip").is_file():
        make(folder)
    # The build uses these wheels too, so that they are fetched once and are found again at run time. Python compiles
    # the tenth of the modules that is ever imported.
    pip = [python, "-m", "pip", "install", "--no-compile", "--constraint", "constraints.txt"]
    failed = subprocess.run([*pip, *requirements(Path("pyproject.toml"), *extras)]).returncode
    if failed and (reason := unserved()):
        sys.exit(
            "Not all packages could be installed: they are made for CPython 3.11 to 3.14 on x86_64 Linux with glibc, "
            f"and this is {reason}: make PYTHON=/path/to/python3.13 ..."
        )
    sys.exit(failed)


def unserved() -> str:
    """In what this Python differs from those that the packages are made for; empty where it does not."""
    if sys.implementation.name != "cpython":
        return f"{platform.python_implementation()} {platform.python_version()}"
    if sys.version_info[:2] > NEWEST_PYTHON:
        return f"Python {platform.python_version()}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return f"a free-threaded Python {platform.python_version()}"
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"{platform.system()} on {platform.machine()}"
    return "" if platform.libc_ver()[0] == "glibc" else "a system without glibc"


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


def requirements(project: Path, *extras: str) -> list[str]:
    """What the project needs to be built, to run, and for some extras."""
    import tomllib

    content = tomllib.loads(project.read_text())
    optional = content["project"]["optional-dependencies"]
    groups = [content["build-system"]["requires"], content["project"]["dependencies"], *(optional[e] for e in extras)]
    return [requirement for group in groups for requirement in group]


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
