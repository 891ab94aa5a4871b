"""What is raised where data cannot be used."""

from __future__ import annotations


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the frame and the key."""
