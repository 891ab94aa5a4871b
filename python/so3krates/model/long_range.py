"""Interactions: energies of pairs of atoms that depend on what the network says of both (docs/so3lr.md)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from jax.scipy.special import erf

from .config import ConfigError
from .properties import AtomProperties
from .switch import smooth_switch

COULOMB = 14.399645351950548  # e^2 / (4 pi epsilon_0), eV A (CODATA 2014, as the published model was trained with)
BOHR = 0.5291772105638411  # A, the same
HARTREE = 27.211386024367243  # eV, the same
FINE_STRUCTURE = 0.0072973525664
LARGEST_CUTOFF = 1e4  # A
ONSET = 0.45  # of the cutoff, where the Coulomb interaction begins to go over to its shifted-force form
DAMPING = 2.54  # of the dispersion's radii, times twice the seventh root of the polarisability
# s of 1 / gamma = 2 s^2 by powers of the van der Waals radius, the polarisability's seventh root times RADIUS (bohr).
SPREAD = (-0.00433008, 0.24428889, 0.04125273, -0.00078893)
RADIUS = FINE_STRUCTURE ** (-4.0 / 21.0)
# Polarisabilities (bohr^3) and C6 (Hartree bohr^6) of free atoms (Tkatchenko and Scheffler 2009, and its sources).
FREE_ATOMS = {
    "H": (4.5, 6.5),
    "C": (12.0, 46.6),
    "N": (7.4, 24.2),
    "O": (5.4, 15.6),
    "F": (3.8, 9.52),
    "P": (25.0, 185.0),
    "S": (19.6, 134.0),
    "Cl": (15.0, 94.6),
}

Values = tuple[jax.Array, ...]  # of an atom, all of the same shape


class Interaction(Protocol):
    """What an interaction is; instances are immutable and hashable.

    E = 1/2 sum over directed pairs with all periodic images within the cutoff, each atom has half of a pair's energy.
    """

    name: ClassVar[str]  # the value of `form` in settings
    section: ClassVar[str]  # of its settings: [terms.SECTION]

    @property
    def elements(self) -> tuple[str, ...]:
        """Of the model, in its order; none where it tells no elements apart."""
        ...

    @property
    def cutoff(self) -> float:
        """From there on (A) the energy is zero."""
        ...

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], elements: Sequence[str]) -> Self:
        """From the section of settings. Raises ConfigError."""
        ...

    def settings(self) -> dict[str, Any]:
        """What `from_settings` makes the same of."""
        ...

    def describe(self) -> str:
        """One line to print."""
        ...

    def of_atoms(self, species: jax.Array, properties: AtomProperties) -> Values:
        """What the pairs read of each atom; species: (N,) indices of elements."""
        ...

    def pair_energy(self, first: Values, second: Values, distance: jax.Array) -> jax.Array:
        """Energies (eV) of pairs of atoms of these values; distance: A, above 0, same shape."""
        ...


@dataclasses.dataclass(frozen=True)
class Electrostatics:
    """Coulomb interaction of the predicted charges, spread over `width`, and ending at the cutoff."""

    name: ClassVar[str] = "predicted_charges"
    section: ClassVar[str] = "electrostatics"
    elements: ClassVar[tuple[str, ...]] = ()

    cutoff: float = 12.0  # L, A
    width: float = 4.0  # sigma, A

    def __post_init__(self) -> None:
        _require_length(self.section, "cutoff", self.cutoff, LARGEST_CUTOFF)
        _require_length(self.section, "width", self.width, LARGEST_CUTOFF)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], elements: Sequence[str]) -> Self:
        """The interaction by `cutoff` and `width` (A)."""
        return cls(**_known(cls, settings))

    def settings(self) -> dict[str, Any]:
        """What `from_settings` makes the same of."""
        return {"form": self.name} | dataclasses.asdict(self)

    def describe(self) -> str:
        """One line to print."""
        return f"Coulomb interaction of the predicted charges, spread over {self.width:g} A, up to {self.cutoff:g} A"

    def of_atoms(self, species: jax.Array, properties: AtomProperties) -> Values:
        """Charges (e)."""
        return (properties.charges,)

    def pair_energy(self, first: Values, second: Values, distance: jax.Array) -> jax.Array:
        """ke q q' U(d), U = V - V(L) - (1 - s(d; 0.45 L, L)) V'(L) (d - L) with V = erf(d/sigma)/d."""
        length, width = self.cutoff, self.width
        is_inside = distance < length
        d = jnp.where(is_inside, distance, length)
        edge = math.erf(length / width) / length
        gaussian = 2.0 * math.exp(-((length / width) ** 2)) / (math.sqrt(math.pi) * width * length)
        slope = gaussian - edge / length
        ramp = (1.0 - smooth_switch(d, ONSET * length, length)) * slope * (d - length)
        return COULOMB * first[0] * second[0] * jnp.where(is_inside, erf(d / width) / d - edge - ramp, 0.0)


@dataclasses.dataclass(frozen=True)
class Dispersion:
    """C6, C8 and C10 of quantum Drude oscillators with the predicted Hirshfeld ratios, damped at short range."""

    name: ClassVar[str] = "drude_oscillators"
    section: ClassVar[str] = "dispersion"

    polarisabilities: tuple[float, ...]  # of free atoms, bohr^3, by elements
    coefficients: tuple[float, ...]  # C6 of free atoms, Hartree bohr^6, by elements
    elements: tuple[str, ...]
    cutoff: float = 12.0  # L, A
    switched_over: float = 2.0  # b, A: the energy is switched off from L - b on
    radius_scale: float = 1.2  # of the damping radii

    def __post_init__(self) -> None:
        _require_length(self.section, "cutoff", self.cutoff, LARGEST_CUTOFF)
        _require_length(self.section, "switched_over", self.switched_over, self.cutoff)
        _require_length(self.section, "radius_scale", self.radius_scale, LARGEST_CUTOFF)
        for values in (self.polarisabilities, self.coefficients):
            if not all(0 < value < math.inf for value in values):
                raise ConfigError(f"terms.{self.section}: free atoms have values above 0, got {values}")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], elements: Sequence[str]) -> Self:
        """The interaction by `cutoff`, `switched_over` (A) and `radius_scale`; the elements must be in FREE_ATOMS."""
        unknown = [element for element in elements if element not in FREE_ATOMS]
        if unknown:
            raise ConfigError(
                f"terms.{cls.section}: no polarisability of the free atom of {unknown[0]} is known, only those of "
                f"{', '.join(FREE_ATOMS)}: leave the section or the element out"
            )
        polarisabilities, coefficients = (tuple(FREE_ATOMS[element][k] for element in elements) for k in range(2))
        given = _known(cls, settings, ("polarisabilities", "coefficients", "elements"))
        return cls(polarisabilities, coefficients, tuple(elements), **given)

    def settings(self) -> dict[str, Any]:
        """What `from_settings` makes the same of."""
        names = ("cutoff", "switched_over", "radius_scale")
        return {"form": self.name} | {name: getattr(self, name) for name in names}

    def describe(self) -> str:
        """One line to print."""
        return f"Dispersion (C6, C8, C10) by the predicted Hirshfeld ratios, up to {self.cutoff:g} A"

    def of_atoms(self, species: jax.Array, properties: AtomProperties) -> Values:
        """Polarisabilities and C6 of atoms in the molecule."""
        ratios = properties.hirshfeld_ratios
        polarisabilities = jnp.asarray(np.array(self.polarisabilities), ratios.dtype)[species]
        coefficients = jnp.asarray(np.array(self.coefficients), ratios.dtype)[species]
        return polarisabilities * ratios, coefficients * ratios**2

    def pair_energy(self, first: Values, second: Values, distance: jax.Array) -> jax.Array:
        """-s(d; L - b, L) sum over n = 6, 8, 10 of C_n / (R^n + p^n), R = d/Bohr (docs/so3lr.md)."""
        (alpha_1, c6_1), (alpha_2, c6_2) = first, second
        is_inside = distance < self.cutoff
        d = jnp.where(is_inside, distance, self.cutoff)
        root = (0.5 * (alpha_1 + alpha_2)) ** (1.0 / 7.0)
        c6 = 2.0 * c6_1 * c6_2 * alpha_1 * alpha_2 / (alpha_1**2 * c6_2 + alpha_2**2 * c6_1)
        radius = RADIUS * root
        spread = SPREAD[0] + radius * (SPREAD[1] + radius * (SPREAD[2] + radius * SPREAD[3]))
        squares = 2.0 * spread**2  # one over gamma
        c8, c10 = 5.0 * c6 * squares, 245.0 / 8.0 * c6 * squares**2
        r2 = (d / BOHR) ** 2
        p2 = (self.damping * root) ** 2
        r4, p4 = r2 * r2, p2 * p2
        energy = c6 / (r4 * r2 + p4 * p2) + c8 / (r4 * r4 + p4 * p4) + c10 / (r4 * r4 * r2 + p4 * p4 * p2)
        return jnp.where(is_inside, -HARTREE * self.switch(d) * energy, 0.0)

    def switch(self, distance: jax.Array) -> jax.Array:
        """From 1 to 0 over the last `switched_over` of the cutoff; distance: A."""
        return smooth_switch(distance, self.cutoff - self.switched_over, self.cutoff)

    @property
    def damping(self) -> float:
        """Damping radius (bohr) over the seventh root of a pair's polarisability (bohr^3)."""
        return 2.0 * DAMPING * self.radius_scale


# By section and form of the settings.
INTERACTIONS: dict[str, dict[str, type[Interaction]]] = {
    Electrostatics.section: {Electrostatics.name: Electrostatics},
    Dispersion.section: {Dispersion.name: Dispersion},
}


def interactions_from(settings: Mapping[str, Any], elements: Sequence[str]) -> tuple[Interaction, ...]:
    """Interactions of those sections of [terms] that are of one. Raises ConfigError."""
    found = []
    for section, values in settings.items():
        if section not in INTERACTIONS:
            continue
        form = values.get("form") if isinstance(values, Mapping) else None
        if form not in INTERACTIONS[section]:
            raise ConfigError(f"terms.{section}.form = {form!r}: known are {', '.join(INTERACTIONS[section])}")
        found.append(INTERACTIONS[section][form].from_settings(values, elements))
    return tuple(found)


def predicted_sections(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those sections of [terms] that are of interactions: of the same name may be baselines."""
    return {
        section: values
        for section, values in settings.items()
        if isinstance(values, Mapping) and str(values.get("form")) in INTERACTIONS.get(section, {})
    }


def longest(interactions: Sequence[Interaction]) -> float:
    """Where the last of them ends, A; 0 where there are none."""
    return max((interaction.cutoff for interaction in interactions), default=0.0)


def indices_of(elements: Sequence[str], numbers: jax.Array) -> jax.Array:
    """Indices into `elements` of atomic numbers (N,), 0 for all others."""
    table = np.zeros(len(chemical_symbols), np.int32)
    table[[atomic_numbers[element] for element in elements]] = np.arange(len(elements))
    return jnp.asarray(table)[numbers]


def _known(kind: type[Any], settings: Mapping[str, Any], own: Sequence[str] = ()) -> dict[str, Any]:
    """Settings as arguments of a dataclass, but for those that are its own affair. Raises ConfigError."""
    names = [field.name for field in dataclasses.fields(kind) if field.name not in own]
    for key in settings:
        if key not in ("form", *names):
            raise ConfigError(f"unknown key terms.{kind.section}.{key}: known are form, {', '.join(names)}")
    return {key: value for key, value in settings.items() if key != "form"}


def _require_length(section: str, key: str, value: Any, largest: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= largest:
        raise ConfigError(f"terms.{section}.{key} = {value!r}: give a number above 0 and up to {largest:g}")
