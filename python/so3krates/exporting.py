"""The one door to `so3krates_export`: all that this package takes from the exporter, which itself is built on it.

Each name brings its module only when it is asked for, so that reading a bundle does not take JAX's half a second.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from so3krates_export.bundle import read_bundle
    from so3krates_export.export import export_model
    from so3krates_export.mlff import import_mlff
    from so3krates_export.so3lr import import_so3lr
    from so3krates_export.tables import TOLERANCE

_MODULES = {
    "TOLERANCE": "tables",
    "export_model": "export",
    "import_mlff": "mlff",
    "import_so3lr": "so3lr",
    "read_bundle": "bundle",
}

__all__ = ["TOLERANCE", "export_model", "import_mlff", "import_so3lr", "read_bundle"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"so3krates_export.{_MODULES[name]}"), name)
