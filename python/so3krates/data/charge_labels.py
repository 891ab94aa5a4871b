"""Labels of charges, dipoles and Hirshfeld ratios: read, checked, kept among a calculator's results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from ase import Atoms

from so3krates.total_charge import ChargeError, state_of
from so3krates.wording import counted

from .errors import DataError

CHARGES, DIPOLE = "charges", "dipole"  # ASE's names
RATIOS = "hirshfeld_ratios"
# e, between the sum of labelled charges and the total charge: far above rounding, far below a charge that was forgotten
MOST_MISSING = 0.05
LARGEST_CHARGE = 100.0  # e
LARGEST_RATIO = 10.0


class ChargeLabels(NamedTuple):
    """Of one frame in float64; NaN where there is none."""

    charges: np.ndarray  # (n,) e
    dipole: np.ndarray  # (3,) e A
    hirshfeld_ratios: np.ndarray  # (n,) volume of the atom over that of the free one


def charge_labels(atoms: Atoms) -> ChargeLabels:
    """Labels of a frame that was read (`so3krates.data.read_frames`)."""
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    # ASE's calculators know no ratios: they are an array of the atoms.
    return known_labels(results.get(CHARGES), results.get(DIPOLE), atoms.arrays.get(RATIOS), len(atoms))


def known_labels(
    charges: np.ndarray | None, dipole: np.ndarray | None, ratios: np.ndarray | None, n: int
) -> ChargeLabels:
    """Labels of n atoms, of which some may be missing."""
    given = ((charges, n), (dipole, 3), (ratios, n))
    return ChargeLabels(*(np.full(m, np.nan) if own is None else np.asarray(own, np.float64) for own, m in given))


def shaped(values: np.ndarray | None, name: str, what: str, n: int, where: str) -> np.ndarray | None:
    """Labels as they are, which must be one of n atoms each. Raises DataError."""
    if values is not None and values.shape != (n,):
        raise DataError(
            f"{where}: {name!r} has shape {values.shape}, expected one {what} for each of {counted(n, 'atom')}"
        )
    return values


def shaped_dipole(values: np.ndarray | None, name: str, factor: float, where: str) -> np.ndarray | None:
    """A dipole times a factor. Raises DataError where it has another shape than (3,)."""
    if values is None:
        return None
    if values.shape != (3,):
        raise DataError(f"{where}: {name!r} has shape {values.shape}, a dipole has three components")
    return factor * values


def charge_faults(atoms: Atoms) -> Iterator[str]:
    """What makes the labels of charges, dipoles and Hirshfeld ratios of a frame useless."""
    charges, dipole, ratios = charge_labels(atoms)
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
    if not np.isnan(ratios).all():
        wrong = np.flatnonzero(~((ratios > 0) & (ratios <= LARGEST_RATIO)))
        if len(wrong):
            yield (
                f"the Hirshfeld ratio of atom {wrong[0]} is {ratios[wrong[0]]:.6g} ({counted(len(wrong), 'atom')} in "
                f"all): volumes over those of free atoms are above 0 and up to {LARGEST_RATIO:g}"
            )


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
