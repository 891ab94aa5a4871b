"""What a bundle gives, by name: one line here, and for what is no part of every schedule the stage that computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .plan import Addition, Body


class Output(NamedTuple):
    """As in the manifest (docs/bundle.md); shape and precision are those of the array of the same name."""

    unit: str
    meaning: str
    ranks: str = "none"  # how the values of several ranks make one: "sum", "min", "max"; "none" for values of atoms
    standard: bool = False  # computed where nobody names outputs


DECLARED = {
    "energy": Output("eV", "energy of all atoms, without energy shifts", "sum", standard=True),
    "atom_energies": Output("eV", "energies of atoms, without energy shifts", standard=True),
    "forces": Output("eV/A", "forces on atoms", standard=True),
    "strain_gradient": Output("eV", "dE/d(strain) [position, force component]", "sum", standard=True),
    "atom_virials": Output("eV", "W [position, force component] of atoms; their sum is -strain_gradient"),
}


# Outputs with a stage of their own, which runs where they are asked for.
_EXTRA: list[Callable[[Body, int], Addition]] = []


def extra_outputs(body: Body, layers: int) -> list[Addition]:
    """Stages of the outputs that no other stage computes."""
    return [extra(body, layers) for extra in _EXTRA]
