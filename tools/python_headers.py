"""Where Python.h is; Debian and Ubuntu keep it in a package of its own, which is fetched without root."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import debian


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
    except debian.FetchError as error:
        sys.exit(
            f"There is no {own / 'Python.h'}, and fetching it failed ({error}): "
            f"apt install {name}-dev (Debian, Ubuntu) or dnf install python3-devel (Fedora)"
        )
    return copy


def fetch(name: str, folder: Path) -> None:
    """Put the headers of Debian's Python `name` into `folder`. Raises debian.FetchError."""
    with debian.unpacked(f"lib{name}-dev", folder.parent) as files:
        headers = files / "usr" / "include" / name
        # Debian's pyconfig.h names the one of the processor by a path below /usr/include.
        (config,) = files.glob(f"usr/include/*/{name}/pyconfig.h")
        config.replace(headers / "pyconfig.h")
        headers.rename(folder)


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
