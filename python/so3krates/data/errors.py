"""What is raised where data cannot be used."""

from __future__ import annotations

import lzma
import zlib


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the frame and the key."""


DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)  # what a file raises that is not packed as its name says


def unreadable(where: str, error: Exception) -> DataError:
    """What is said of a file or frame that its reader gives up on, with what to do where that is known."""
    if isinstance(error, UnicodeDecodeError):
        byte = hex(error.object[error.start])
        return DataError(
            f"{where}: is no text in UTF-8 (byte {byte}): save it as UTF-8, and give a packed file its suffix"
        )
    advice = ": the file was cut, is damaged or is not packed as its name says; get it anew"
    is_damaged = isinstance(error, DAMAGED) and not isinstance(error, FileNotFoundError | PermissionError)
    return DataError(f"{where}: cannot be read ({type(error).__name__}: {error}){advice if is_damaged else ''}")
