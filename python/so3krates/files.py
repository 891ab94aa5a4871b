"""Writing of files: each is whole or the old one is still there, and a failure says which in one line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.figure import Figure

# Of a name in bytes, so that a temporary name of a long one fits as well (most file systems: 255).
LONGEST_KEPT = 200
# Why a disc takes no more, and what to do.
ADVICE = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some space, or write elsewhere",
    errno.EFBIG: "raise the limit on the size of files: ulimit -f",
    errno.EROFS: "write elsewhere",
}


class WriteError(OSError):
    """A file that could not be written; the message names it, the reason and what is there now."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to; it takes the place of `path` when all is well.

    The temporary name is the process' own and keeps the suffix. A link stays a link, a file keeps its permissions, a
    new one has those of the umask; devices and pipes are written to directly. Raises WriteError.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    try:
        require_place(path)
        special = target.exists() and not target.is_file()
        part = target if special else _part_of(target)
    except OSError as error:
        raise _failure(path, error) from error
    try:
        yield part
        if not special:
            _finish(part, target)
    except OSError as error:
        is_other = error.filename is not None and Path(os.fsdecode(error.filename)) not in (part, target)
        if is_other or error.errno == errno.EPIPE:
            raise  # of another file, which was read meanwhile, or a reader that has gone away
        raise _failure(path, error) from error
    finally:
        if not special:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a whole file or leaves the old one. Raises WriteError."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """The same for text, as UTF-8; bytes of names that are none come back as they were."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_frames(path: str | Path, frames: Sequence[Atoms]) -> None:
    """Writes structures as extended XYZ. Raises WriteError."""
    import ase.io

    with replacing(path) as part:
        ase.io.write(part, frames, format="extxyz")


def empty_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, whose axes keep clear of each other."""
    from matplotlib.figure import Figure  # half a second of each start, and most commands draw nothing

    return Figure(figsize=(width, height), layout="constrained")


def write_figure(path: str | Path, figure: Figure) -> Path:
    """Writes a figure in the format that the suffix names. Raises WriteError, ValueError for an unknown suffix."""
    require_figure_name(path)
    with replacing(path) as part:
        figure.savefig(part, dpi=150)
    return Path(path)


def require_figure_name(path: str | Path) -> None:
    """Raises ValueError for a suffix of no kind of figures, and WriteError as `require_place`."""
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if Path(path).suffix.lstrip(".").lower() not in kinds:
        raise ValueError(f"{path}: figures are written as {', '.join(sorted(kinds))}: give one of these suffixes")
    require_place(path)


def append_line(path: str | Path, line: str) -> None:
    """Adds a line to a file, which is made when missing: wholly or not at all. Raises WriteError."""
    path = Path(path)
    try:
        with open(path, "ab", buffering=0) as handle:
            before = handle.tell()
            content = line.encode("utf-8") + b"\n"
            try:
                if handle.write(content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(handle.fileno())
            except OSError:
                handle.truncate(before)
                raise
    except OSError as error:
        raise _failure(path, error) from error


def make_folder(path: str | Path) -> Path:
    """Makes a folder and those above it where they are missing. Raises WriteError."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise WriteError(f"{path}: a file of that name is there already: choose another folder") from error
    except OSError as error:
        raise WriteError(f"{path}: the folder cannot be made ({_reason(error)})") from error
    return path


def require_place(path: str | Path, *inputs: str | Path) -> None:
    """Raises WriteError where no file could be written, or one of `inputs` would be lost, before long work."""
    path = Path(path)
    for file in inputs:
        if path.exists() and Path(file).exists() and path.samefile(file):
            raise WriteError(f"{path} is read by this command and would be overwritten: choose another name")
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise WriteError(f"{path} is a folder: give the name of a file")
    if not target.parent.is_dir():
        if target.parent.exists():
            raise WriteError(f"{path} cannot be written: {path.parent} is a file, not a folder")
        raise WriteError(
            f"{path}: there is no folder {target.parent if path.is_symlink() else path.parent}, make it first"
        )
    if target.exists() and not os.access(target, os.W_OK):
        raise WriteError(f"{path} is write-protected: it is as it was; allow writing, or choose another name")
    if not target.exists() and not os.access(target.parent, os.W_OK):
        raise WriteError(f"{path} cannot be written: no permission to write in {path.parent}")


def require_folder(path: str | Path) -> None:
    """Raises WriteError where `make_folder` could not make a folder, or nothing could be written in it."""
    path = Path(path)
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise WriteError(f"{path}: {there} is a file, not a folder: choose another folder")
    if not os.access(there, os.W_OK):
        raise WriteError(f"{path} cannot be written: no permission to write in {there}")


def plain_text(name: str) -> str:
    """The name of a file without bytes that are no text, for figures and tables."""
    return os.fsencode(name).decode("utf-8", "replace")


@contextlib.contextmanager
def only_user(folder: str | Path) -> Iterator[None]:
    """Takes a folder for this process, until the block or the process ends. Raises WriteError where another has it.

    Nothing is left in the folder. File systems that know no such locks are taken as they are.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise WriteError(
            f"{folder}: another command is at work in it: wait for it, or end it, or give another folder"
        ) from None
    except OSError:
        pass
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # which a forked process would hold
        os.close(handle)


def looked_for(path: str | Path) -> str:
    """Where a file that is not there was looked for, to end a message with; empty where the path says it itself."""
    path = Path(path)
    if os.path.lexists(path):
        return "" if path.exists() else f": a link to {os.path.realpath(path)}, which is not there"
    place = Path(os.path.normpath(path.absolute())).parent
    if not place.is_dir():
        return f"; there is no folder {place}"
    return "" if path.is_absolute() else f"; looked for in {place}"


def require_text(path: str | Path) -> None:
    """Raises ValueError for a name with bytes that are no text: libraries written in C++ cannot open it."""
    try:
        str(Path(path).absolute()).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{path}: its name has bytes that are no text in UTF-8: choose another name") from error


def _part_of(target: Path) -> Path:
    """An empty temporary file of a new name, made with the umask's permissions or those of the file it replaces."""
    name = target.name.encode("utf-8", "surrogateescape")[-LONGEST_KEPT:].decode("utf-8", "ignore")
    part = target.with_name(f".{secrets.token_hex(6)}.{name}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    if target.exists():
        with contextlib.suppress(OSError):
            shutil.copymode(target, part)
    return part


def _finish(part: Path, target: Path) -> None:
    """Onto the disc, and under its name."""
    with open(part, "rb+") as handle:
        os.fsync(handle.fileno())
    os.replace(part, target)
    # The new name too; some file systems know no fsync of folders.
    with contextlib.suppress(OSError):
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _failure(path: Path, error: OSError) -> WriteError:
    if isinstance(error, WriteError):
        return error
    kept = "; what was there is unchanged" if os.path.lexists(path) else "; nothing of it is left"
    if os.path.exists(path) and not os.path.isfile(path):
        kept = ""  # a device or a pipe
    return WriteError(f"{path} could not be written: {_reason(error)}{kept}")


def _reason(error: OSError) -> str:
    """In words, with what to do where that is known."""
    reason = error.strerror or str(error) or type(error).__name__
    advice = ADVICE.get(error.errno or 0)
    return reason if advice is None else f"{reason} ({advice})"
