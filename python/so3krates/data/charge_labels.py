"""Labels of charges and dipoles: read, checked against the total charge, kept among a calculator's results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from ase import Atoms

from so3krates.total_charge import ChargeError, state_of
from so3krates.wording import counted

from .errors import DataError

CHARGES, DIPOLE = "charges", "dipole"  # ASE's names
# e, between the sum of labelled charges and the total charge: far above rounding, far below a charge that was forgotten
MOST_MISSING = 0.05
LARGEST_CHARGE = 100.0  # e


class ChargeLabels(NamedTuple):
    """Of one frame in float64; NaN where there is none."""

    charges: np.ndarray  # (n,) e
    dipole: np.ndarray  # (3,) e A


def charge_labels(atoms: Atoms) -> ChargeLabels:
    """Labels of a frame that was read (`so3krates.data.read_frames`)."""
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    charges, dipole = results.get(CHARGES), results.get(DIPOLE)
    return ChargeLabels(
        np.full(len(atoms), np.nan) if charges is None else np.asarray(charges, np.float64),
        np.full(3, np.nan) if dipole is None else np.asarray(dipole, np.float64),
    )


def shaped(charges: np.ndarray | None, dipole: np.ndarray | None, names: tuple[str, str], n: int, where: str) -> None:
    """Raises DataError for labels of n atoms that have another shape than (n,) and (3,)."""
    if charges is not None and charges.shape != (n,):
        raise DataError(
            f"{where}: {names[0]!r} has shape {charges.shape}, expected one charge for each of {counted(n, 'atom')}"
        )
    if dipole is not None and dipole.shape != (3,):
        raise DataError(f"{where}: {names[1]!r} has shape {dipole.shape}, a dipole has three components")


def charge_faults(atoms: Atoms) -> Iterator[str]:
    """What makes the labels of charges and dipoles of a frame useless."""
    charges, dipole = charge_labels(atoms)
    if not np.isnan(charges).all():
        lost = np.flatnonzero(~np.isfinite(charges))
        large = np.flatnonzero(np.abs(charges) > LARGEST_CHARGE)
        if len(lost):
            yield f"the charge of atom {lost[0]} is {charges[lost[0]]} ({counted(len(lost), 'atom')} in all)"
        elif len(large):
            yield f"the charge of atom {large[0]} is {charges[large[0]]:.6g} e, above {LARGEST_CHARGE:g} in size"
        else:
            yield from _sum_fault(atoms, float(charges.sum()))
    if not np.isnan(dipole).all() and not np.isfinite(dipole).all():
        yield f"the dipole is ({', '.join(f'{x:.6g}' for x in dipole)})"


def _sum_fault(atoms: Atoms, total: float) -> Iterator[str]:
    try:
        charge = state_of(atoms).charge
    except ChargeError as error:
        yield str(error)
        return
    if abs(total - charge) > MOST_MISSING:
        said = "by its info" if "charge" in atoms.info else "as nothing says otherwise"
        own = f"{charge:+d}" if charge else "0"
        yield (
            f"its charges add up to {total:+.4g} e, and its total charge is {own} e, {said}: "
            f"{total - charge:+.4g} e beside it, and {MOST_MISSING:g} are allowed; write charge=... into its comment "
            'line, or leave the charges out with data.charges_key = ""'
        )


def usable_dipole(atoms: Atoms, charge: int) -> bool:
    """Whether the dipole of a structure is defined: in a periodic cell it depends on the choice of atoms' images, and
    of a charged structure on the origin."""
    return charge == 0 and not bool(atoms.pbc.any())
