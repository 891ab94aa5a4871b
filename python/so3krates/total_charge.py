"""Total charge and multiplicity of structures: where they are said, and what no structure can have."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

CHARGE, MULTIPLICITY = "charge", "multiplicity"
HALF_AN_ELECTRON = 0.5  # by which sums of charges of atoms may be off
# Other names that files have for them, without case, underscores and blanks.
OTHER_NAMES = {
    CHARGE: ("charge", "totalcharge", "netcharge", "molecularcharge", "systemcharge", "chargetotal"),
    MULTIPLICITY: ("multiplicity", "spin", "spinmultiplicity", "totalspin", "mult"),
}


class ChargeError(ValueError):
    """A total charge or multiplicity that the structure cannot have; the message says what to give."""


class State(NamedTuple):
    """Of the electrons of a structure."""

    charge: int  # e, of all atoms together
    multiplicity: int  # unpaired electrons + 1


NEUTRAL = State(charge=0, multiplicity=1)


def state_said(charge: int | None, multiplicity: int | None) -> State:
    """Charge and multiplicity as they are given, else 0 and 1. Raises ChargeError."""
    state = State(
        NEUTRAL.charge if charge is None else charge, NEUTRAL.multiplicity if multiplicity is None else multiplicity
    )
    if state.multiplicity < 1:
        raise ChargeError(f"the multiplicity is {state.multiplicity}: it is the number of unpaired electrons plus 1")
    return state


def state_of(atoms: Atoms, charge: Any = None, multiplicity: Any = None, usual: State = NEUTRAL) -> State:
    """By the arguments or by `atoms.info`, which must not contradict them; else `usual`.

    Raises ChargeError for what is no whole number, for what is said under another name alone (`total_charge`, `spin`),
    and where the electrons cannot be paired so.
    """
    total, multiplicity = state_said(
        _said(atoms, CHARGE, charge, usual.charge), _said(atoms, MULTIPLICITY, multiplicity, usual.multiplicity)
    )
    unpaired = multiplicity - 1
    protons = int(atoms.numbers.sum())
    electrons = protons - total
    if electrons < unpaired:
        raise ChargeError(
            f"the structure has {protons} protons, and with the charge {total:+d} e and multiplicity {unpaired + 1} "
            f"it would have {electrons} electrons, {unpaired} of them unpaired: give another charge or multiplicity"
        )
    if (electrons - unpaired) % 2:
        fitting = [str(m) for m in (unpaired, unpaired + 2) if 0 < m <= electrons + 1]
        raise ChargeError(
            f"the structure has {electrons} electrons ({protons} protons, charge {total:+d} e), of which {unpaired} "
            f"cannot be unpaired: give the multiplicity {' or '.join(fitting)} instead of {unpaired + 1}, "
            f"as in atoms.info['{MULTIPLICITY}'] = {fitting[-1]}, or another charge"
        )
    return State(total, unpaired + 1)


class Electrons:
    """Which charge and multiplicity structures are computed with, for a potential that knows them."""

    def __init__(self, name: str, charge: int | None, multiplicity: int | None, usual: State = NEUTRAL) -> None:
        """name: of the potential, for messages. None: what `atoms.info` says, else `usual`."""
        self._name, self._charge, self._multiplicity, self._usual = name, charge, multiplicity, usual
        self._warned: set[str] = set()

    def of(self, atoms: Atoms) -> State:
        """Of a structure. Raises ChargeError as `state_of` does."""
        return state_of(atoms, self._charge, self._multiplicity, self._usual)

    def warn(self, atoms: Atoms, state: State) -> None:
        """Says, each once, that there is a charge in a periodic cell, and that atoms have charges of another one."""
        if state.charge and atoms.pbc.any():
            self._warn(
                "cell",
                f"the total charge is {state.charge:+d} e in a periodic cell. Charges act on each other up to the "
                "cutoff alone, with no background: energies of cells of other sizes or charges cannot be compared. "
                "Said once; if no charge is meant, set atoms.info['charge'] = 0",
            )
        charges = atoms.get_initial_charges()
        if charges.any() and abs(charges.sum() - state.charge) >= HALF_AN_ELECTRON:
            self._warn(
                "atoms",
                f"the initial charges of the atoms add up to {charges.sum():.4g} e, and the structure is computed with "
                f"{state.charge} e. Set atoms.info['charge'], with the multiplicity, or the charges of the atoms to "
                "those of its system. Said once",
            )

    def _warn(self, what: str, text: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(f"{self._name}: {text}", stacklevel=5)


def with_lowest_multiplicity(atoms: Atoms) -> Atoms:
    """The same structure, which says that no electrons, or one where their number is odd, are unpaired."""
    atoms.info[MULTIPLICITY] = 1 + int(atoms.numbers.sum()) % 2
    return atoms


def summary(states: Iterable[State]) -> str:
    """How many structures have which charge and multiplicity, in words."""
    counts: dict[State, int] = {}
    for state in states:
        counts[state] = counts.get(state, 0) + 1
    parts = [
        f"{state.charge:+d} e, multiplicity {state.multiplicity} ({count})"
        if state.charge
        else f"0 e, multiplicity {state.multiplicity} ({count})"
        for state, count in sorted(counts.items())
    ]
    return "; ".join(parts)


def _said(atoms: Atoms, name: str, given: Any, default: int) -> int:
    found = atoms.info.get(name)
    if given is None and found is None:
        _require_unsaid(atoms, name, default)
    values = [_whole(name, value) for value in (given, found) if value is not None]
    if len(set(values)) > 1:
        raise ChargeError(
            f"atoms.info['{name}'] is {values[1]}, and the calculator was given {name} = {values[0]}: "
            "say it in one place"
        )
    return values[0] if values else default


def _require_unsaid(atoms: Atoms, name: str, default: int) -> None:
    """Raises ChargeError where something else than the default stands under another name."""
    for key, value in atoms.info.items():
        plain = str(key).lower().replace("_", "").replace(" ", "").replace("-", "")
        if plain not in OTHER_NAMES[name] or value is None:
            continue
        try:
            is_default = bool(float(value) == default)
        except (TypeError, ValueError):
            is_default = False
        if not is_default:
            raise ChargeError(
                f"atoms.info['{key}'] is {value}, and the {name} is read under '{name}' alone (now {default}): "
                f"rename it, or say atoms.info['{name}'], whole numbers of e for a charge, of unpaired electrons + 1 "
                "for a multiplicity"
            )


def _whole(name: str, value: Any) -> int:
    value = value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or value != value or abs(value) > 1e6 or int(value) != value:
        raise ChargeError(f"the {name} is {value!r}: give a whole number")
    return int(value)
