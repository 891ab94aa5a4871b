"""Files of Debian's and Ubuntu's packages without root: downloaded by apt-get, unpacked, not installed."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FetchError(Exception):
    """A package that could not be fetched; the message is the last line that the command said."""


@contextmanager
def unpacked(package: str, beside: Path) -> Iterator[Path]:
    """A folder with the package's files, as they would lie in /, until the block ends; it is made within `beside`.

    Raises:
        FetchError: there is no apt-get, no such package or no network.
    """
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside) as scratch:
        place = Path(scratch).resolve()  # commands run there
        try:
            _run(["apt-get", "download", package], place)
        except FetchError:  # a system without lists of packages, as containers have it: fetch them, also here
            (place / "lists" / "partial").mkdir(parents=True)
            here = ["-o", f"Dir::State::lists={place / 'lists'}", "-o", f"Dir::Cache={place / 'cache'}"]
            _run(["apt-get", *here, "update"], place)
            _run(["apt-get", *here, "download", package], place)
        (archive,) = place.glob(f"{package}_*.deb")
        _run(["dpkg-deb", "-x", str(archive), str(place)], place)
        yield place


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = [line.strip() for line in (getattr(error, "stderr", "") or str(error)).splitlines() if line.strip()]
        raise FetchError(said[-1] if said else str(error)) from error
