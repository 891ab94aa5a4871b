"""XLA's plugin for the CPU; every start of lmp imports this file, so it needs the standard library only."""

import importlib.util
import os
from pathlib import Path

DISTRIBUTION = "fastatomstruct-xla-cpu"
PACKAGE, LIBRARY = "fastatomstruct_xla_cpu", "libpjrt_cpu.so"
VARIABLE = "SO3KRATES_PJRT_CPU"


def point_to_library() -> None:
    """Name the plugin to the compiled part where pip put it into another folder than this package.

    So it is where the plugin's package was there before: `pip install --user` over the system's, or an environment with
    --system-site-packages. A plugin that the user names comes first.
    """
    package = importlib.util.find_spec(PACKAGE)
    if os.environ.get(VARIABLE) or package is None or package.origin is None:
        return
    folder = Path(package.origin).resolve().parent
    if folder.parent != Path(__file__).resolve().parents[1]:
        os.environ[VARIABLE] = str(folder / LIBRARY)
