"""The repulsion of nuclei that come close: Ziegler, Biersack and Littmark's universal screening (docs/model.md)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import atomic_numbers, covalent_radii

from .config import ConfigError

COULOMB = 14.3996454784255  # e^2 / (4 pi epsilon_0), eV A
SCREENING_LENGTH = 0.46850  # A, 0.8854 Bohr radii as Ziegler and LAMMPS' pair_style zbl round them
SCREENING_POWER = 0.23
COEFFICIENTS = (0.18175, 0.50986, 0.28022, 0.02817)
DECAYS = (3.19980, 0.94229, 0.40290, 0.20162)
# Radii that are not given: the term ends where the data begin, and at a bond's length where they begin later.
OUTER_SHARE = 0.9  # of the shortest distance of a pair of elements in the training data
INNER_SHARE = 0.7  # of the outer radius
LARGEST_OUTER = 15.0  # A, to which the 3072 candidates of the largest rung hold diamond

Radii = float | Mapping[str, float] | None  # of all pairs of elements, or by pair ("Ga-N"); None: by the data
Matrix = tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True)
class Zbl:
    """Screened Coulomb repulsion of two nuclei, switched off between two radii for each pair of elements.

    The energy of a pair is that of LAMMPS' `pair_style zbl`: up to a constant the unswitched one below `inner`, zero
    with two derivatives at `outer`.
    """

    name: ClassVar[str] = "zbl"
    section: ClassVar[str] = "repulsion"
    repels: ClassVar[bool] = True
    kernel: ClassVar[str] = "zbl"  # of csrc/kernels/terms.cpp
    keys: ClassVar[tuple[str, ...]] = ("inner", "outer")

    elements: tuple[str, ...]
    inner: Matrix  # A, by elements
    outer: Matrix

    def __post_init__(self) -> None:
        for a, first in enumerate(self.elements):
            for b, second in enumerate(self.elements[: a + 1]):
                inner, outer, pair = self.inner[a][b], self.outer[a][b], f"{second}-{first}"
                if not 0 < inner < outer:
                    raise ConfigError(
                        f"terms.{self.section}: the inner radius of {pair} is {inner:g} A, the outer one {outer:g} A: "
                        "give inner above 0 and below outer"
                    )
                if not outer <= LARGEST_OUTER:
                    raise ConfigError(
                        f"terms.{self.section}: the outer radius of {pair} is {outer:g} A, and lists of neighbours "
                        f"hold all atoms of any solid up to {LARGEST_OUTER:g} A: nuclei repel below a bond's length"
                    )

    @property
    def cutoff(self) -> float:
        """Largest outer radius, A."""
        return max(map(max, self.outer))

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], elements: Sequence[str], distances: Mapping[str, float]) -> Zbl:
        """The term by `inner` and `outer` (A), each a number or a table by pair of elements.

        distances: the shortest ones (A) in the training data by pair of elements; where the outer radius of a pair is
        not given it is OUTER_SHARE of that, at most the sum of the covalent radii. Raises ConfigError.
        """
        inner, outer = (_radii(cls.section, key, settings.get(key), elements) for key in ("inner", "outer"))

        seen = {frozenset(pair.split("-")): distance for pair, distance in distances.items()}

        def outer_of(pair: str) -> float:
            if pair in outer:
                return outer[pair]
            bond = float(sum(covalent_radii[atomic_numbers[element]] for element in pair.split("-")))
            return round(min(OUTER_SHARE * seen.get(frozenset(pair.split("-")), np.inf), bond), 4)

        def inner_of(pair: str) -> float:
            return inner[pair] if pair in inner else round(INNER_SHARE * outer_of(pair), 4)

        return cls(tuple(elements), _matrix(elements, inner_of), _matrix(elements, outer_of))

    def settings(self) -> dict[str, Any]:
        """What `from_settings` makes the same term of."""
        return {"form": self.name, "inner": _by_pair(self.elements, self.inner), "outer": self.outer_radii}

    @property
    def outer_radii(self) -> dict[str, float]:
        """Outer radii (A) by pair of elements."""
        return _by_pair(self.elements, self.outer)

    def describe(self) -> str:
        """One line to print."""
        inner = _by_pair(self.elements, self.inner)
        radii = ", ".join(f"{pair} {inner[pair]:.4g} to {outer:.4g}" for pair, outer in self.outer_radii.items())
        return f"ZBL repulsion below its outer radius, switched off from the inner one on (A): {radii}"

    def table(self) -> np.ndarray:
        """Numbers of each pair of elements, (elements, elements, 7) float64.

        Strength Z_i Z_j e^2 (eV A), 1/a (1/A), inner and outer radius (A), and A, B, C of the switch
        A (d - inner)^3 + B (d - inner)^4 + C, whose first two summands act beyond `inner`.
        """
        return _table(self)

    def pair_energy(self, first: jax.Array, second: jax.Array, distance: jax.Array) -> jax.Array:
        """Energies (eV) of pairs; first, second: indices of their elements, distance: A, above 0, same shape."""
        numbers = jnp.asarray(self.table(), distance.dtype)[first, second]
        strength, inverse, inner, outer, cubic, quartic, constant = (numbers[..., k] for k in range(7))
        is_inside = distance < outer
        d = jnp.where(is_inside, distance, outer)
        screening = sum(c * jnp.exp(-s * inverse * d) for c, s in zip(COEFFICIENTS, DECAYS, strict=True))
        beyond = jnp.maximum(d - inner, 0.0)
        switch = beyond**3 * (cubic + quartic * beyond) + constant
        return jnp.where(is_inside, strength / d * screening + switch, 0.0)


@functools.lru_cache
def _table(term: Zbl) -> np.ndarray:
    z = np.array([float(atomic_numbers[element]) for element in term.elements])
    inner, outer = np.array(term.inner), np.array(term.outer)
    strength = COULOMB * np.outer(z, z)
    inverse = (z[:, None] ** SCREENING_POWER + z**SCREENING_POWER) / SCREENING_LENGTH
    # The unswitched energy and its first two derivatives at the outer radius.
    weights, rates = np.array(COEFFICIENTS), np.array(DECAYS) * inverse[..., None]
    parts = weights * np.exp(-rates * outer[..., None])
    phi, slope, curvature = parts.sum(-1), -(rates * parts).sum(-1), (rates**2 * parts).sum(-1)
    energy = strength * phi / outer
    first = strength * (slope / outer - phi / outer**2)
    second = strength * (curvature / outer - 2 * slope / outer**2 + 2 * phi / outer**3)
    width = outer - inner
    cubic = (-3 * first + width * second) / width**2 / 3
    quartic = (2 * first - width * second) / width**3 / 4
    constant = -energy + width * first / 2 - width**2 * second / 12
    table = np.stack([strength, inverse, inner, outer, cubic, quartic, constant], axis=-1)
    table.flags.writeable = False
    return table


def pair_names(elements: Sequence[str]) -> list[str]:
    """Unordered pairs of elements, such as "Ga-N", in the order of the elements."""
    return [f"{first}-{second}" for k, first in enumerate(elements) for second in elements[k:]]


def _radii(section: str, key: str, value: Radii, elements: Sequence[str]) -> dict[str, float]:
    """Radii (A) by pair of elements as far as they are given. Raises ConfigError."""
    pairs = pair_names(elements)
    if value is None:
        return {}
    given = value if isinstance(value, Mapping) else dict.fromkeys(pairs, value)
    found: dict[str, float] = {}
    for name, radius in given.items():
        turned = "-".join(reversed(str(name).split("-")))
        pair = next((pair for pair in (name, turned) if pair in pairs), None)
        if pair is None:
            raise ConfigError(
                f"terms.{section}.{key}: {name!r} is no pair of elements here: known are {', '.join(pairs)}"
            )
        if isinstance(radius, bool) or not isinstance(radius, int | float) or not radius > 0:
            raise ConfigError(f"terms.{section}.{key}: {radius!r} for {pair}: give a length in A above 0")
        if found.get(pair, radius) != radius:
            raise ConfigError(f"terms.{section}.{key}: {pair} has {found[pair]:g} and {radius:g} A: give it once")
        found[pair] = float(radius)
    return found


def _matrix(elements: Sequence[str], radius: Any) -> Matrix:
    place = {element: k for k, element in enumerate(elements)}

    def of(a: str, b: str) -> float:
        first, second = sorted((a, b), key=place.__getitem__)
        return float(radius(f"{first}-{second}"))

    return tuple(tuple(of(a, b) for b in elements) for a in elements)


def _by_pair(elements: Sequence[str], matrix: Matrix) -> dict[str, float]:
    return {
        f"{first}-{second}": matrix[a][b]
        for a, first in enumerate(elements)
        for b, second in enumerate(elements)
        if a <= b
    }
