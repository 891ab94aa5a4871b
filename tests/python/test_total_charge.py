"""Total charges and multiplicities: where they are said, and which no structure can have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from so3krates.total_charge import ChargeError, State, state_of, summary

METHYL = Atoms("CH3")  # 9 protons
WATER = Atoms("OH2")  # 10 protons


def with_info(atoms: Atoms, **info: Any) -> Atoms:
    atoms = atoms.copy()
    atoms.info.update(info)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "given", "expected"),
    [
        (WATER, {}, (0, 1)),
        (with_info(WATER, charge=1, multiplicity=2), {}, (1, 2)),
        (WATER, {"charge": -1, "multiplicity": 2}, (-1, 2)),
        (with_info(WATER, multiplicity=3), {"charge": 0}, (0, 3)),
        (with_info(WATER, charge=2), {"charge": 2}, (2, 1)),
        (with_info(METHYL, multiplicity=np.int64(2), charge=np.float64(0.0)), {}, (0, 2)),
        (with_info(METHYL, charge=np.array([1.0])), {}, (1, 1)),
        (with_info(METHYL, charge=-1.0, multiplicity=1.0), {}, (-1, 1)),
        (with_info(Atoms("H"), charge=1), {}, (1, 1)),
        (with_info(Atoms("H"), multiplicity=2), {}, (0, 2)),
        (with_info(WATER, total_charge=0, spin=1), {}, (0, 1)),
        (with_info(WATER, total_charge=2, spin=5, charge=0, multiplicity=1), {}, (0, 1)),
        (with_info(WATER, total_charge=2), {"charge": 0}, (0, 1)),
    ],
)
def test_state(atoms: Atoms, given: dict[str, Any], expected: tuple[int, int]) -> None:
    assert state_of(atoms, **given) == expected


@pytest.mark.parametrize(
    ("atoms", "given", "message"),
    [
        (METHYL, {}, r"9 electrons \(9 protons, charge \+0 e\), of which 0 .*give the multiplicity 2 instead of 1"),
        (METHYL, {"multiplicity": 3}, "give the multiplicity 2 or 4 instead of 3"),
        (WATER, {"charge": 1}, r"9 electrons \(10 protons, charge \+1 e\)"),
        (WATER, {"charge": -1}, "11 electrons"),
        (WATER, {"multiplicity": 0}, "multiplicity is 0"),
        (WATER, {"multiplicity": 13}, "10 electrons, 12 of them unpaired"),
        (WATER, {"charge": 11}, "-1 electrons"),
        (Atoms("H"), {"multiplicity": 1}, "give the multiplicity 2 instead"),
        (WATER, {"charge": 0.5}, "charge is 0.5: give a whole number"),
        (WATER, {"charge": "none"}, "charge is 'none'"),
        (WATER, {"charge": True}, "charge is True"),
        (WATER, {"charge": float("nan")}, "charge is nan"),
        (WATER, {"charge": float("inf")}, "charge is inf"),
        (WATER, {"multiplicity": [1]}, r"multiplicity is \[1\]"),
        (with_info(WATER, charge=np.zeros(3)), {}, "charge is array"),
        (with_info(WATER, total_charge=2), {}, r"info\['total_charge'\] is 2, and the charge is read under 'charge'"),
        (with_info(WATER, Charge=2.0), {}, "'Charge'"),
        (with_info(WATER, spin=3), {}, r"info\['spin'\] is 3, .* multiplicity .* \(now 1\)"),
        (with_info(WATER, charge=1, spin_multiplicity=2), {}, "'spin_multiplicity'"),
        (with_info(WATER, charge=1, multiplicity=2), {"charge": 0}, r"info\['charge'\] is 1, .* charge = 0"),
        (with_info(WATER, multiplicity=3), {"multiplicity": 1}, r"info\['multiplicity'\] is 3"),
    ],
)
def test_refused(atoms: Atoms, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ChargeError, match=message):
        state_of(atoms, **given)


def test_summary() -> None:
    states = [State(0, 1), State(1, 1), State(0, 1), State(-1, 2)]
    assert summary(states) == "-1 e, multiplicity 2 (1); 0 e, multiplicity 1 (2); +1 e, multiplicity 1 (1)"
