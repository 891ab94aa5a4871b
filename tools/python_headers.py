"""Where Python.h is; Debian and Ubuntu keep it in a package of its own, which is fetched without root."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path


def main(build: Path) -> Path:
    """Folder of the running Python's own Python.h, else of the copy under `build`, fetched when it is missing there.

    Ends with a line that says what to install where there is none.
    """
    own = Path(sysconfig.get_path("include"))
    if (own / "Python.h").is_file():
        return own
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    copy = build.resolve() / f"{name}-headers"
    if copy.is_dir():
        return copy
    try:
        fetch(name, copy)
    except (OSError, subprocess.CalledProcessError) as error:
        said = [line.strip() for line in (getattr(error, "stderr", "") or str(error)).splitlines() if line.strip()]
        sys.exit(
            f"There is no {own / 'Python.h'}, and fetching it failed ({said[-1] if said else error}): "
            f"apt install {name}-dev (Debian, Ubuntu) or dnf install python3-devel (Fedora)"
        )
    return copy


def fetch(name: str, folder: Path) -> None:
    """Put the headers of Debian's Python `name` into `folder`, by the system's lists of packages or by fresh ones.

    Raises:
        OSError: apt-get or dpkg-deb is missing.
        subprocess.CalledProcessError: there is no such package, or no network.
    """
    package = f"lib{name}-dev"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        place = Path(scratch)
        try:
            run(["apt-get", "download", package], place)
        except subprocess.CalledProcessError:  # a system without lists, as containers have it: fetch them, also here
            (place / "lists" / "partial").mkdir(parents=True)
            here = ["-o", f"Dir::State::lists={place / 'lists'}", "-o", f"Dir::Cache={place / 'cache'}"]
            run(["apt-get", *here, "update"], place)
            run(["apt-get", *here, "download", package], place)
        (archive,) = place.glob(f"{package}_*.deb")
        run(["dpkg-deb", "-x", str(archive), str(place)], place)
        headers = place / "usr" / "include" / name
        # Debian's pyconfig.h names the one of the processor by a path below /usr/include.
        (config,) = place.glob(f"usr/include/*/{name}/pyconfig.h")
        config.replace(headers / "pyconfig.h")
        headers.rename(folder)


def run(command: list[str], folder: Path) -> None:
    """A command whose output nobody reads; its errors are in the exception."""
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
