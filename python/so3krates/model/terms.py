"""Terms: energies of pairs of atoms, within a cutoff of their own, that are added to the network's (docs/model.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

from .config import ConfigError, ModelConfig
from .fitted_zbl import FittedZbl
from .long_range import Interaction
from .zbl import Zbl


class Term(Protocol):
    """What a term is; instances are immutable and hashable.

    E = 1/2 sum over directed pairs, each atom has half of a pair's energy. All else (forces, virials, training on the
    difference, bundles for every body, lists that reach far enough) follows from `pair_energy` and `cutoff`.
    """

    name: ClassVar[str]  # in bundles, and the value of `form` in settings
    section: ClassVar[str]  # of its settings: [terms.SECTION]
    keys: ClassVar[tuple[str, ...]]  # of its settings, beside `form`
    repels: ClassVar[bool]  # whether it keeps atoms apart: see `beside_terms`
    kernel: ClassVar[str]  # its name in csrc/kernels/terms.cpp; "": the fused body on a CPU takes the portable stage

    @property
    def elements(self) -> tuple[str, ...]:
        """Of the model, in its order."""
        ...

    @property
    def cutoff(self) -> float:
        """From there on (A) the energy is zero, and so are its first two derivatives there."""
        ...

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], elements: Sequence[str], distances: Mapping[str, float]
    ) -> Self:
        """From the section of settings; distances: shortest ones (A) in the training data by pair ("Ga-N").

        Raises ConfigError.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """What `from_settings` makes the same term of, whatever the data: plain values for TOML and JSON."""
        ...

    @property
    def outer_radii(self) -> dict[str, float]:
        """Where (A) the energy of each pair of elements ("Ga-N") becomes zero."""
        ...

    def describe(self) -> str:
        """One line to print."""
        ...

    def table(self) -> np.ndarray:
        """Numbers of each pair of elements that the kernel takes, (elements, elements, any) float64."""
        ...

    def pair_energy(self, first: jax.Array, second: jax.Array, distance: jax.Array) -> jax.Array:
        """Energies (eV) of pairs; first, second: indices of their elements, distance: A, above 0, same shape."""
        ...


# By section and form of the settings; a new term is one class and one entry here.
KNOWN: dict[str, dict[str, type[Term]]] = {Zbl.section: {Zbl.name: Zbl, FittedZbl.name: FittedZbl}}
BESIDE = ("electrostatics",)  # sections of [terms] that are no terms of pairs: `so3krates.baselines`


def check_terms(settings: Any) -> None:
    """Raises ConfigError for sections, forms and keys of [terms] that are not known; values wait for the elements."""
    if not isinstance(settings, Mapping):
        raise ConfigError(f"[terms] must be a section of sections, got {settings!r}")
    for section, values in settings.items():
        if section not in KNOWN:
            known = ", ".join(f"[terms.{name}]" for name in (*KNOWN, *BESIDE))
            raise ConfigError(f"unknown term {section!r}: known are {known}")
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"[terms.{section}] must be a section of keys, got {values!r}: for the defaults write {{}}"
            )
        form = values.get("form", next(iter(KNOWN[section])))
        if form not in KNOWN[section]:
            raise ConfigError(f"terms.{section}.form = {form!r}: known are {', '.join(KNOWN[section])}")
        for key in values:
            if key not in ("form", *KNOWN[section][form].keys):
                known = ", ".join(("form", *KNOWN[section][form].keys))
                raise ConfigError(f"unknown key terms.{section}.{key}: known are {known}")


def terms_from(
    settings: Mapping[str, Any], elements: Sequence[str], distances: Mapping[str, float] | None = None
) -> tuple[Term, ...]:
    """Terms of the sections of [terms]; distances: see `Term.from_settings`. Raises ConfigError."""
    check_terms(settings)
    return tuple(
        KNOWN[section][values.get("form", next(iter(KNOWN[section])))].from_settings(values, elements, distances or {})
        for section, values in settings.items()
    )


def settings_of(terms: Sequence[Term | Interaction]) -> dict[str, Any]:
    """The inverse of `terms_from`."""
    return {term.section: term.settings() for term in terms}


# Of the shortest distance in the training data: where the radial filters of a network beside a repulsion end.
FLOOR_SHARE = 0.97


def beside_terms(config: ModelConfig, terms: Sequence[Term], shortest: float) -> ModelConfig:
    """The network beside its terms; shortest: distance (A) in the training data.

    Where a term keeps atoms apart, the radial filters go over to constants below the data: what networks make of
    distances that they have not seen may outgrow any repulsion. A floor that is set already is kept.
    """
    if config.radial_floor > 0 or not any(term.repels for term in terms):
        return config
    floor = FLOOR_SHARE * shortest
    return dataclasses.replace(config, radial_floor=min(round(floor, 4), floor))


class PairSums(NamedTuple):
    """What terms add to one structure of n atoms."""

    energy: float  # eV
    atom_energies: np.ndarray  # (n,) eV
    forces: np.ndarray  # (n, 3) eV/A
    strain_gradient: np.ndarray  # (3, 3) dE/d(strain), eV, symmetric


def pair_sums(
    term: Term, species: np.ndarray, centres: np.ndarray, others: np.ndarray, vectors: np.ndarray
) -> PairSums:
    """A term's energy and derivatives in float64.

    species: (n,) indices of elements. centres, others: (E,) atoms of all pairs within the cutoff, in both directions.
    vectors: (E, 3) from the centre to the other, A.
    """
    n = len(species)
    distances = np.sqrt(np.square(vectors).sum(axis=1))
    # Padded to few lengths, for which programs are compiled.
    padding = (0, (1 << max(5, (len(centres) - 1).bit_length())) - len(centres))
    with jax.enable_x64(True):
        energies, slopes = _values_and_slopes(
            term,
            np.pad(species[centres], padding),
            np.pad(species[others], padding),
            np.pad(distances, padding, constant_values=2.0 * term.cutoff),
        )
    energies, slopes = (np.asarray(values)[: len(centres)] for values in (energies, slopes))
    pulls = (slopes / distances)[:, None] * vectors  # on the centre
    forces = np.stack([np.bincount(centres, pulls[:, a], n) for a in range(3)], axis=1)
    atom_energies = np.bincount(centres, 0.5 * energies, n)
    return PairSums(float(atom_energies.sum()), atom_energies, forces, 0.5 * vectors.T @ pulls)


@partial(jax.jit, static_argnums=0)
def _values_and_slopes(
    term: Term, first: jax.Array, second: jax.Array, distances: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return energies_and_slopes(term, first, second, distances)


def energies_and_slopes(
    term: Term, first: jax.Array, second: jax.Array, distances: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Energies (eV) and their derivatives (eV/A) by the distance, of any shape."""
    return jax.jvp(lambda d: term.pair_energy(first, second, d), (distances,), (jnp.ones_like(distances),))
