"""Units that labels may come in, as factors to eV, A and their combinations."""

from __future__ import annotations

from ase import units

ENERGY_UNITS: dict[str, float] = {
    "eV": 1.0,
    "meV": 1e-3,
    "Hartree": units.Hartree,
    "Ry": units.Rydberg,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
}
LENGTH_UNITS: dict[str, float] = {"A": 1.0, "Bohr": units.Bohr, "nm": 10.0}
PRESSURE_UNITS: dict[str, float] = {
    "GPa": units.GPa,
    "MPa": 1e-3 * units.GPa,
    "kbar": 0.1 * units.GPa,
    "bar": 1e-4 * units.GPa,
    "Pa": 1e-9 * units.GPa,
}


DIPOLE_UNITS: dict[str, float] = {"e A": 1.0, "Debye": units.Debye, "e Bohr": units.Bohr}


def energy_factor(unit: str) -> float:
    """eV in one `unit`. Raises ValueError for an unknown one, as all functions here do."""
    return _find(unit, ENERGY_UNITS)


def length_factor(unit: str) -> float:
    """A in one `unit`."""
    return _find(unit, LENGTH_UNITS)


def force_factor(unit: str) -> float:
    """eV/A in one `unit`, which is ENERGY/LENGTH."""
    energy, _, length = unit.rpartition("/")
    if energy not in ENERGY_UNITS or length not in LENGTH_UNITS:
        raise ValueError(f"give ENERGY/LENGTH with {_names(ENERGY_UNITS)} and {_names(LENGTH_UNITS)}")
    return ENERGY_UNITS[energy] / LENGTH_UNITS[length]


def stress_factor(unit: str) -> float:
    """eV/A^3 in one `unit`, which is ENERGY/LENGTH^3 or a pressure."""
    energy, _, volume = unit.rpartition("/")
    length = volume.removesuffix("^3")
    if energy in ENERGY_UNITS and length in LENGTH_UNITS and length != volume:
        return ENERGY_UNITS[energy] / LENGTH_UNITS[length] ** 3
    if unit not in PRESSURE_UNITS:
        raise ValueError(f"give {_names(PRESSURE_UNITS)}, or ENERGY/LENGTH^3 as in eV/A^3")
    return PRESSURE_UNITS[unit]


def dipole_factor(unit: str) -> float:
    """e A in one `unit`."""
    return _find(unit, DIPOLE_UNITS)


def _find(unit: str, known: dict[str, float]) -> float:
    if unit not in known:
        raise ValueError(f"give one of {_names(known)}")
    return known[unit]


def _names(known: dict[str, float]) -> str:
    return ", ".join(known)
