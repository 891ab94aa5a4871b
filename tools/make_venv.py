"""Make a virtual environment with pip, also where Debian's python3 comes without ensurepip; standard library only."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path

LEAST_PYTHON = (3, 11)
INDEX = "https://pypi.org/simple/pip/"


def main(folder: str) -> None:
    """Make `folder` anew; ends the program with a line that says why when that is not possible."""
    if sys.version_info < LEAST_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"{sys.executable} is Python {found}, 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...")
    has_pip = importlib.util.find_spec("ensurepip") is not None
    venv.create(folder, with_pip=has_pip, clear=True, symlinks=True)
    if not has_pip:
        with tempfile.TemporaryDirectory() as scratch:
            wheel = _newest_pip(Path(scratch))
            python = Path(folder) / "bin" / "python"
            subprocess.run([python, wheel / "pip", "install", "--quiet", wheel], check=True)


def _newest_pip(folder: Path) -> Path:
    """Download pip's newest release, a wheel that runs without being installed."""
    page = urllib.request.urlopen(INDEX).read().decode()
    links = re.findall(r'href="([^"#]+/pip-([0-9]+(?:\.[0-9]+)*)-py3-none-any\.whl)#sha256=([0-9a-f]{64})"', page)
    if not links:
        sys.exit(f"no pip found at {INDEX}: install pip and venv for {sys.executable}")
    url, _, digest = max(links, key=lambda link: tuple(map(int, link[1].split("."))))
    data = urllib.request.urlopen(url).read()
    if hashlib.sha256(data).hexdigest() != digest:
        sys.exit(f"{url} arrived damaged: try again")
    path = folder / url.rsplit("/", 1)[1]
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    main(sys.argv[1])
