"""Labelled structures of other programs as extended XYZ, in eV, A and ASE's sign of the stress."""

from .formats import FORMATS, Source, convert, find_sources, is_cut

__all__ = ["FORMATS", "Source", "convert", "find_sources", "is_cut"]
