"""What can be asked of a potential by name, in Python's names, units and signs."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms


class Output(NamedTuple):
    """A result that has a name."""

    unit: str
    per_atom: bool  # an array (atoms, ...); else of the whole structure
    shape: tuple[int, ...]  # of the structure, or of an atom
    standard: bool  # computed where nobody names outputs
    meaning: str


# Of every potential, model folders included.
COMMON: dict[str, Output] = {
    "energy": Output("eV", False, (), True, "of the structure"),
    "energies": Output("eV", True, (), True, "of each atom"),
    "forces": Output("eV/A", True, (3,), True, "on each atom"),
    "virial": Output("eV", False, (3, 3), True, "-dE/d(strain), symmetric"),
    "stress": Output("eV/A^3", False, (3, 3), True, "dE/d(strain) / volume, symmetric, where the cell has a volume"),
}
STANDARD = tuple(COMMON)

# The bundle's outputs (docs/bundle.md) that they are made of, where these are called otherwise.
SOURCES = {"energies": "atom_energies", "virial": "strain_gradient", "stress": "strain_gradient"}


def bundle_outputs(declared: dict[str, dict[str, Any]]) -> tuple[dict[str, Output], dict[str, str]]:
    """Outputs of a bundle, as C++ reads them, and what is wrong with those that cannot be asked for."""
    outputs, problems = dict(COMMON), {}
    for name, found in declared.items():
        if found["problem"]:
            problems[name] = found["problem"]
        elif name not in COMMON and name not in SOURCES.values():
            outputs[name] = Output(
                found["unit"], found["per_atom"], found["shape"], found["standard"], found["meaning"]
            )
    return outputs, problems


def wanted(asked: Sequence[str], known: dict[str, Output], path: str, advice: str = "") -> list[str]:
    """The names that are asked for, or those of the standard outputs.

    Raises ValueError, with the names that are known, where one is none of them.
    """
    if isinstance(asked, str):
        raise ValueError(f"outputs is the text {asked!r}: give a list of names")
    for name in asked:
        if name not in known:
            raise ValueError(f"{path} has no output {name!r}: it has {', '.join(known)}{advice}")
    return list(dict.fromkeys(asked)) or [name for name, output in known.items() if output.standard]


def sources_of(names: Iterable[str]) -> list[str]:
    """The bundle's outputs that these are made of."""
    return list(dict.fromkeys(SOURCES.get(name, name) for name in names))


def results_of(names: Iterable[str], found: dict[str, Any], atoms: Atoms) -> dict[str, Any]:
    """Outputs by their names, from the bundle's; the stress is left out where the cell has no volume."""
    results: dict[str, Any] = {}
    for name in names:
        value = found[SOURCES.get(name, name)]
        if name == "virial":
            results[name] = -_symmetric(value)
        elif name != "stress":
            results[name] = value
        elif atoms.cell.rank == 3:
            results[name] = _symmetric(value) / atoms.get_volume()
    return results


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return 0.5 * (matrix + matrix.T)
