"""One phase, as a process of its own: prints each piece of its results as a line; a failure is the last piece."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from typing import Any

from .run import RESULT
from .sizes import Context


def emit(piece: dict[str, Any]) -> None:
    """A piece of the results."""
    print(RESULT + json.dumps(piece), flush=True)


def main() -> int:
    module, name, context = sys.argv[1:]
    failures: list[str] = []
    try:
        for piece in getattr(importlib.import_module(module), name)(Context.from_json(context)):
            failures += piece.get("failures", [])
            emit(piece)
    except Exception as error:
        traceback.print_exc()
        failures.append(" ".join(str(error).split()) or type(error).__name__)
    if failures:
        emit({"problem": "; ".join(failures)})
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
