"""What is raised where data cannot be used."""

from __future__ import annotations

import lzma
import zlib


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the frame and the key."""


DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)  # what a file raises that is not packed as its name says
