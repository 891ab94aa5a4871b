"""A repulsion of nuclei of ZBL's form, whose numbers were fitted together with a network (docs/so3lr.md)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import atomic_numbers

from .config import LARGEST_CUTOFF, ConfigError
from .cutoff import phys_cutoff
from .long_range import COULOMB
from .switch import smooth_switch
from .zbl import LARGEST_OUTER, pair_names

Numbers = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class FittedZbl:
    """e(d) = ke Z Z' / d phi(d) s(d; 0, outer) sum_k c_k exp(-a_k d (Z^p + Z'^p) D), zero from `outer` on."""

    name: ClassVar[str] = "fitted_zbl"
    section: ClassVar[str] = "repulsion"
    repels: ClassVar[bool] = True
    kernel: ClassVar[str] = "fitted_zbl"  # of csrc/kernels/terms.cpp
    keys: ClassVar[tuple[str, ...]] = ("weights", "decays", "power", "rate", "outer", "envelope")

    elements: tuple[str, ...]
    weights: Numbers  # c_k, which add up to 1
    decays: Numbers  # a_k
    power: float  # p
    rate: float  # D, 1/A
    outer: float  # A
    envelope: float  # A, cutoff of the cutoff function phi

    def __post_init__(self) -> None:
        numbers = (*self.weights, *self.decays, self.power, self.rate, self.outer, self.envelope)
        if not all(_is_number(value) and 0 < value < math.inf for value in numbers):
            raise ConfigError(f"terms.{self.section}: fitted numbers must be above 0, got {numbers}")
        if len(self.weights) != len(self.decays) or not self.weights:
            raise ConfigError(
                f"terms.{self.section}: {len(self.weights)} weights and {len(self.decays)} decays: give one of each "
                "for every exponential"
            )
        if self.outer > LARGEST_OUTER or self.envelope > LARGEST_CUTOFF:
            raise ConfigError(
                f"terms.{self.section}: outer {self.outer:g} A and envelope {self.envelope:g} A: give at most "
                f"{LARGEST_OUTER:g} and {LARGEST_CUTOFF:g} A"
            )

    @property
    def cutoff(self) -> float:
        """A."""
        return self.outer

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], elements: Sequence[str], distances: Mapping[str, float]
    ) -> FittedZbl:
        """The term by all of its numbers, whatever the data. Raises ConfigError."""
        missing = [key for key in cls.keys if key not in settings]
        if missing:
            raise ConfigError(
                f"terms.{cls.section}.{missing[0]} is missing: the form {cls.name} has numbers that were fitted "
                f"before, all of {', '.join(cls.keys)}; without them give form = 'zbl'"
            )
        values = {key: settings[key] for key in cls.keys}
        for key in ("weights", "decays"):
            if not isinstance(values[key], list | tuple):
                raise ConfigError(f"terms.{cls.section}.{key} = {values[key]!r}: give a list of numbers")
            values[key] = tuple(values[key])
        return cls(tuple(elements), **values)

    def settings(self) -> dict[str, Any]:
        """What `from_settings` makes the same term of."""
        values = {key: getattr(self, key) for key in self.keys}
        return {"form": self.name} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @property
    def outer_radii(self) -> dict[str, float]:
        """The outer radius (A) by pair of elements."""
        return dict.fromkeys(pair_names(self.elements), self.outer)

    def describe(self) -> str:
        """One line to print."""
        return f"ZBL repulsion with fitted numbers, switched off up to {self.outer:g} A"

    def table(self) -> np.ndarray:
        """Strength ke Z Z' (eV A) and (Z^p + Z'^p) D (1/A) of each pair of elements, `outer` and `envelope` (A), then
        weight and decay of each exponential: (elements, elements, 4 + 2 exponentials)."""
        return _table(self)

    def pair_energy(self, first: jax.Array, second: jax.Array, distance: jax.Array) -> jax.Array:
        """Energies (eV) of pairs; first, second: indices of their elements, distance: A, above 0, same shape."""
        numbers = jnp.asarray(self.table(), distance.dtype)[first, second]
        is_inside = distance < self.outer
        d = jnp.where(is_inside, distance, self.outer)
        reduced = numbers[..., 1] * d
        screening = sum(c * jnp.exp(-a * reduced) for c, a in zip(self.weights, self.decays, strict=True))
        switch = smooth_switch(d, 0.0, self.outer) * phys_cutoff(d, self.envelope)
        return jnp.where(is_inside, numbers[..., 0] / d * switch * screening, 0.0)


@functools.lru_cache
def _table(term: FittedZbl) -> np.ndarray:
    z = np.array([float(atomic_numbers[element]) for element in term.elements])
    powers = z**term.power
    exponentials = [number for pair in zip(term.weights, term.decays, strict=True) for number in pair]
    same = [np.full((len(z), len(z)), number) for number in (term.outer, term.envelope, *exponentials)]
    table = np.stack([COULOMB * np.outer(z, z), (powers[:, None] + powers) * term.rate, *same], axis=-1)
    table.flags.writeable = False
    return table


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
