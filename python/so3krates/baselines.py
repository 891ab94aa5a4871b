"""Baselines: energies that are known beforehand, taken off labels before training and added again in a run.

LAMMPS adds them by `pair_style hybrid/overlay`; in Python LAMMPS' library does, or a calculator of ASE
(docs/baselines.md).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import atomic_numbers

from .model.config import ConfigError

NEUTRAL = 1e-6  # e, of a whole structure
# Of LAMMPS' Ewald sum in Python, whose error is this times the force between two charges of 1 e at 1 A.
KSPACE_ACCURACY = 1e-9
KSPACE_CUTOFF = 10.0  # A, where the sum in real space ends
ACCURATE = ("pair_modify table 0", "kspace_modify order 7")
FAR = "neigh_modify one 20000 page 1000000"  # neighbours of an atom, as dispersion reaches 30 A
ALL_PAIRS = ("neighbor 0.5 nsq", FAR)
FARTHEST = 1e5  # A, between two atoms of an open structure
DECK_ACCURACY = 1e-5  # what a deck is told to write
# They would run programs, or read other words than those that are checked.
FORBIDDEN = set("$&#`\"'\n\r;")
COMMON_KEYS = ("elements", "pair_style", "pair_coeff", "kspace_style", "charges", "calculator")


class BaselineError(ValueError):
    """A structure that a baseline cannot compute; the message says why, with numbers."""


class Coefficients(NamedTuple):
    """A line of pair_coeff."""

    pair: tuple[str, ...]  # the two elements; none: all pairs, `* *`
    words: str  # that follow

    def line(self, elements: Sequence[str]) -> str:
        """As LAMMPS reads it where types are numbered in the order of these elements."""
        types = " ".join(str(k) for k in sorted(elements.index(element) + 1 for element in self.pair)) or "* *"
        return f"pair_coeff {types} {self.words}".rstrip()


class Deck(NamedTuple):
    """What a deck says of a baseline beside `pair_style so3krates`; "" and none: nothing."""

    pair_style: str
    pair_coeff: tuple[Coefficients, ...]
    kspace_style: str = ""
    charges: tuple[tuple[str, float], ...] = ()  # e, of the elements that it is for

    def lines(self, elements: Sequence[str]) -> list[str]:
        """Lines for `LammpsCalculator` with these elements."""
        found = []
        if self.charges:
            charges = dict(self.charges)
            found.append("fix charges all property/atom q ghost yes")
            found += [f"set type {k} charge {charges[e]!r}" for k, e in enumerate(elements, 1)]
        found.append(f"pair_style {self.pair_style}")
        found += [coefficients.line(elements) for coefficients in self.pair_coeff]
        return found + ([f"kspace_style {self.kspace_style}"] if self.kspace_style else [])

    def entry(self) -> dict[str, Any]:
        """For the manifest of a bundle (docs/bundle.md)."""
        return {
            "pair_style": self.pair_style,
            "pair_coeff": [{"pair": list(c.pair), "words": c.words} for c in self.pair_coeff],
            "kspace_style": self.kspace_style,
            "charges": dict(self.charges),
        }


NO_DECK = Deck("", ())  # of what LAMMPS does not have


class Baseline(Protocol):
    """What a baseline is; instances are immutable and hashable."""

    section: ClassVar[str]  # of its settings

    @property
    def elements(self) -> tuple[str, ...]:
        """That it knows; none: it does not say."""
        ...

    def settings(self) -> dict[str, Any]:
        """What it is made of again, as plain values for TOML and JSON."""
        ...

    def describe(self) -> str:
        """One line to print."""
        ...

    def deck(self) -> Deck:
        """What a run in LAMMPS needs."""
        ...

    def require(self, atoms: Atoms) -> None:
        """Raises BaselineError for a structure that it cannot be computed of."""
        ...

    def calculator(self, atoms: Atoms) -> Calculator:
        """A calculator of its own for structures like this one: periodic in the same way, of elements that it knows."""
        ...


@dataclasses.dataclass(frozen=True)
class FixedCharges:
    """Coulomb energy of point charges that belong to the elements, summed over all images (Ewald)."""

    section: ClassVar[str] = "terms.electrostatics"
    name: ClassVar[str] = "fixed_charges"

    charges: tuple[tuple[str, float], ...]  # e

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """From `[terms.electrostatics]`. Raises ConfigError."""
        for key in settings:
            if key not in ("form", "charges"):
                raise ConfigError(f"unknown key {cls.section}.{key}: known are form, charges")
        return cls(_charges(cls.section, settings.get("charges")))

    @property
    def elements(self) -> tuple[str, ...]:
        """Those that have charges."""
        return tuple(element for element, _ in self.charges)

    def settings(self) -> dict[str, Any]:
        """What `from_settings` makes the same of."""
        return {"form": self.name, "charges": dict(self.charges)}

    def describe(self) -> str:
        """One line to print."""
        named = ", ".join(f"{element} {charge:+g} e" for element, charge in self.charges)
        return f"Coulomb energy of fixed charges ({named}) and all their images"

    def deck(self) -> Deck:
        """Ewald's sum by LAMMPS' pppm."""
        coefficients = (Coefficients((), ""),)
        return Deck(f"coul/long {KSPACE_CUTOFF:g}", coefficients, f"pppm {DECK_ACCURACY:g}", self.charges)

    def require(self, atoms: Atoms) -> None:
        """Refuses periodic structures that are not neutral, and elements without a charge."""
        charges = dict(self.charges)
        missing = sorted(set(atoms.symbols) - charges.keys())
        if missing:
            raise BaselineError(
                f"{', '.join(missing)} has no charge in [{self.section}]: known are {', '.join(charges)}"
            )
        _require_neutral(charges, atoms)

    def calculator(self, atoms: Atoms) -> Calculator:
        """LAMMPS' Ewald sum of a crystal; of an open structure, the sum over all pairs."""
        style, kspace = f"coul/cut {FARTHEST:g}", ""
        if atoms.pbc.any():
            style, kspace = f"coul/long {KSPACE_CUTOFF:g}", f"pppm {KSPACE_ACCURACY:g}"
        deck = Deck(style, (Coefficients((), ""),), kspace, self.charges)
        # Tables of the error function would be the largest error; all pairs of an open structure need no bins.
        return _lammps(deck, self.elements, ACCURATE if kspace else ALL_PAIRS)


@dataclasses.dataclass(frozen=True)
class GivenBaseline:
    """A style of LAMMPS, or a calculator of ASE; of section [baseline]."""

    section: ClassVar[str] = "baseline"

    own_elements: tuple[str, ...] = ()  # of atom types 1, 2, ... of pair_coeff
    own_deck: Deck = NO_DECK
    factory: str = ""  # "module:Class(arguments)" of ASE's calculators; "": LAMMPS computes it

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """From `[baseline]`. Raises ConfigError."""
        for key in settings:
            if key not in COMMON_KEYS:
                raise ConfigError(f"unknown key baseline.{key}: known are {', '.join(COMMON_KEYS)}")
        texts = {name: settings.get(name, "") for name in ("pair_style", "kspace_style", "calculator")}
        for name, value in texts.items():
            if not isinstance(value, str):
                raise ConfigError(f"baseline.{name} = {value!r}: give a text")
        if not texts["pair_style"] and not texts["calculator"]:
            raise ConfigError(
                'baseline: give the words of a pair_style, as in pair_style = "zbl 1.0 2.0" with its pair_coeff and '
                'elements, or a calculator of ASE, as in calculator = "ase.calculators.lj:LennardJones()"'
            )
        elements = _texts("elements", settings.get("elements", []))
        for element in elements:
            if element not in atomic_numbers:
                raise ConfigError(f"baseline.elements: {element!r} is no chemical symbol")
        if len(set(elements)) != len(elements):
            raise ConfigError(f"baseline.elements = {list(elements)}: give each element once")
        if not texts["pair_style"]:
            for name in ("pair_coeff", "kspace_style", "charges"):
                if settings.get(name):
                    raise ConfigError(f"baseline.{name} = {settings[name]!r}: give a pair_style too")
            return cls(elements, NO_DECK, texts["calculator"])
        if not elements:
            raise ConfigError('baseline.elements is missing: name those of atom types 1, 2, ..., as in ["Ga", "N"]')
        _plain("pair_style", texts["pair_style"])
        _plain("kspace_style", texts["kspace_style"])
        style = texts["pair_style"].split()[0]
        if style.startswith(("hybrid", "python", "so3krates", "none")):
            raise ConfigError(
                f"baseline.pair_style = {texts['pair_style']!r}: {style} is no style of its own; give one that is"
            )
        coefficients = [
            c for line in _texts("pair_coeff", settings.get("pair_coeff", [])) for c in _parsed(line, elements)
        ]
        _require_all_pairs(coefficients, elements)
        charges = settings.get("charges")
        found = _charges("baseline", charges) if charges is not None else ()
        missing = sorted(set(elements) - {element for element, _ in found})
        if found and missing:
            raise ConfigError(f"baseline.charges has none for {', '.join(missing)}: give one for each of the elements")
        return cls(
            elements, Deck(texts["pair_style"], tuple(coefficients), texts["kspace_style"], found), texts["calculator"]
        )

    @property
    def elements(self) -> tuple[str, ...]:
        """Those of its atom types."""
        return self.own_elements

    def settings(self) -> dict[str, Any]:
        """What `from_settings` makes the same of."""
        deck = self.own_deck
        lines = [c.line(self.own_elements).removeprefix("pair_coeff ") for c in deck.pair_coeff]
        found = {
            "elements": list(self.own_elements),
            "pair_style": deck.pair_style,
            "pair_coeff": lines,
            "kspace_style": deck.kspace_style,
            "charges": dict(deck.charges),
            "calculator": self.factory,
        }
        return {key: value for key, value in found.items() if value}

    def describe(self) -> str:
        """One line to print."""
        deck = self.own_deck
        words = [f"pair_style {deck.pair_style}"] if deck.pair_style else []
        words += [f"kspace_style {deck.kspace_style}"] if deck.kspace_style else []
        words += [f"in Python {self.factory}"] if self.factory else []
        return ", ".join(words)

    def deck(self) -> Deck:
        """What was given."""
        return self.own_deck

    def require(self, atoms: Atoms) -> None:
        """Refuses elements that have no atom type."""
        missing = sorted(set(atoms.symbols) - set(self.own_elements))
        if self.own_elements and missing:
            raise BaselineError(
                f"{', '.join(missing)} is not among the elements of [baseline], {', '.join(self.own_elements)}"
            )
        if self.own_deck.charges:
            _require_neutral(dict(self.own_deck.charges), atoms)

    def calculator(self, atoms: Atoms) -> Calculator:
        """The calculator that is named, or LAMMPS with the style."""
        if self.factory:
            from .sampling.calculators import named_calculator

            return named_calculator(self.factory)
        return _lammps(self.own_deck, self.own_elements, (FAR,))


class Sums(NamedTuple):
    """What baselines say of one structure."""

    energy: float  # eV
    forces: np.ndarray  # (n, 3) eV/A
    strain_gradient: np.ndarray  # (3, 3) dE/d(strain), eV, symmetric


class Baselines:
    """Some baselines together, with the calculators that were made for them; copies and pickles make their own."""

    def __init__(self, parts: Sequence[Baseline] = ()) -> None:
        self.parts = tuple(parts)
        self._made: dict[tuple[Baseline, bool], Calculator] = {}

    def __reduce__(self) -> tuple[type[Baselines], tuple[tuple[Baseline, ...]]]:
        return Baselines, (self.parts,)

    def __bool__(self) -> bool:
        return bool(self.parts)

    @property
    def charges(self) -> dict[str, float]:
        """Of elements (e), where charges act on each other without end; none: there are no such baselines."""
        found: dict[str, float] = {}
        for deck in (part.deck() for part in self.parts):
            for element, charge in deck.charges if deck.kspace_style else ():
                found[element] = found.get(element, 0.0) + charge
        return found

    @property
    def by_lammps(self) -> bool:
        """Whether LAMMPS computes any of them in this process."""
        return any(not (isinstance(part, GivenBaseline) and part.factory) for part in self.parts)

    def sums(self, atoms: Atoms) -> Sums:
        """Of a structure that is periodic in three directions or in none. Raises BaselineError."""
        total = Sums(0.0, np.zeros((len(atoms), 3)), np.zeros((3, 3)))
        for part in self.parts:
            own = self._of_part(part, atoms)
            gradient = total.strain_gradient + own.strain_gradient
            total = Sums(total.energy + own.energy, total.forces + own.forces, gradient)
        return total

    def add_to(self, found: dict[str, Any], atoms: Atoms) -> None:
        """Adds them to the results of a potential (`Runtime.evaluate`), energies of atoms excepted."""
        if not self.parts or len(atoms) == 0 or not found.keys() & {"energy", "forces", "virial", "stress"}:
            return
        sums = self.sums(atoms)
        own = {"energy": sums.energy, "forces": sums.forces, "virial": -sums.strain_gradient}
        if atoms.cell.rank == 3:
            own["stress"] = sums.strain_gradient / atoms.get_volume()
        for name, value in own.items():
            if name in found:
                found[name] = found[name] + value

    def _of_part(self, part: Baseline, atoms: Atoms) -> Sums:
        from .sampling.calculators import computed

        if atoms.pbc.any() and not atoms.pbc.all():
            raise BaselineError(
                f"pbc = {atoms.pbc.tolist()}: baselines are for structures periodic in all directions or in none; a "
                "slab has to be periodic along its normal too, with a vacuum"
            )
        part.require(atoms)
        structure = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        is_periodic = bool(atoms.pbc.all())
        calculator = self._made.get((part, is_periodic))
        try:
            if calculator is None:
                calculator = part.calculator(structure)
                self._made[part, is_periodic] = calculator
            found = computed(calculator, structure)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise BaselineError(f"the baseline ({part.describe()}) cannot be computed: {error}") from error
        lost = [name for name, values in found.items() if not np.isfinite(values).all()]
        if lost:
            raise BaselineError(f"the baseline ({part.describe()}) gives a {lost[0]} that is not finite")
        energy, forces = float(found["energy"]), found["forces"]
        if not is_periodic:
            gradient = -np.einsum("ia,ib->ab", structure.positions, forces)
            return Sums(energy, forces, 0.5 * (gradient + gradient.T))
        if "stress" not in found:
            raise BaselineError(f"the baseline ({part.describe()}) gives no stress of a periodic structure")
        xx, yy, zz, yz, xz, xy = np.asarray(found["stress"]).reshape(6)
        return Sums(energy, forces, atoms.get_volume() * np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))


def baselines_from(terms: Mapping[str, Any], baseline: Mapping[str, Any]) -> tuple[Baseline, ...]:
    """Baselines of the sections [terms] and [baseline] of settings. Raises ConfigError."""
    found: list[Baseline] = []
    electrostatics = terms.get("electrostatics")
    if isinstance(electrostatics, Mapping) and is_fixed_charges(electrostatics):
        found.append(FixedCharges.from_settings(electrostatics))
    if baseline:
        found.append(GivenBaseline.from_settings(baseline))
    if len(found) == 2:
        one, other = (part.deck() for part in found)
        both = "[terms.electrostatics] and [baseline]"
        if other.kspace_style:
            raise ConfigError(f"{both} both have a kspace_style, and a run has one: leave out either of them")
        if other.charges and dict(one.charges) != dict(other.charges):
            raise ConfigError(f"{both} have other charges for the same atoms: give both the same")
    return tuple(found)


def pair_sections(terms: Any) -> Any:
    """Sections of [terms] without those that are baselines. Raises ConfigError for a form that is not known."""
    if not isinstance(terms, Mapping) or "electrostatics" not in terms:
        return terms
    own = terms["electrostatics"]
    if not isinstance(own, Mapping):
        raise ConfigError(f"[terms.electrostatics] must be a section of keys, got {own!r}")
    if not is_fixed_charges(own):
        raise ConfigError(
            f"terms.electrostatics.form = {own['form']!r}: known are {FixedCharges.name}, and predicted_charges of a "
            "network of the architecture so3lr"
        )
    return {section: values for section, values in terms.items() if section != "electrostatics"}


def is_fixed_charges(section: Any) -> bool:
    """Whether a section [terms.electrostatics] is that of fixed charges."""
    return isinstance(section, Mapping) and section.get("form", FixedCharges.name) == FixedCharges.name


def settings_of_baselines(baselines: Sequence[Baseline]) -> dict[str, dict[str, Any]]:
    """The inverse of `baselines_from`: settings by their section."""
    return {part.section: part.settings() for part in baselines}


def _require_neutral(charges: Mapping[str, float], atoms: Atoms) -> None:
    """Refuses periodic structures whose charges (e) do not add up to zero."""
    total = math.fsum(charges[symbol] for symbol in atoms.symbols)
    if atoms.pbc.any() and abs(total) > NEUTRAL:
        counts = ", ".join(f"{n} {e} of {charges[e]:+g} e" for e, n in sorted(atoms.symbols.formula.count().items()))
        raise BaselineError(
            f"the fixed charges add up to {total:+.6g} e ({counts}), and the Coulomb energy of a periodic cell that is "
            "not neutral is infinite: give charges that fit, or another structure"
        )


def _lammps(deck: Deck, elements: Sequence[str], more: Sequence[str] = ()) -> Calculator:
    from .sampling.lammps_labels import LammpsCalculator

    return LammpsCalculator([*deck.lines(elements), *more], elements)


def _charges(section: str, given: Any) -> tuple[tuple[str, float], ...]:
    advice = "give e by element, as in {Ga = 1.5, N = -1.5}"
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f"{section}.charges = {given!r}: {advice}")
    for element, charge in given.items():
        if element not in atomic_numbers:
            raise ConfigError(f"{section}.charges: {element!r} is no chemical symbol: {advice}")
        if isinstance(charge, bool) or not isinstance(charge, int | float) or not math.isfinite(charge):
            raise ConfigError(f"{section}.charges: {element} = {charge!r}: {advice}")
    if not any(given.values()):
        raise ConfigError(f"{section}.charges are all 0: {advice}")
    return tuple(sorted((element, float(charge)) for element, charge in given.items()))


def _texts(key: str, value: Any) -> tuple[str, ...]:
    value = (value,) if isinstance(value, str) else value
    if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
        raise ConfigError(f"baseline.{key} = {value!r}: give a list of texts")
    return tuple(value)


def _plain(key: str, text: str) -> None:
    found = sorted(FORBIDDEN & set(text))
    if found:
        raise ConfigError(f"baseline.{key} = {text!r}: {found[0]!r} has a meaning of its own in decks; leave it out")


def _parsed(line: str, elements: Sequence[str]) -> list[Coefficients]:
    """A line of pair_coeff by pairs of elements."""
    _plain("pair_coeff", line)
    words = line.split()
    if len(words) < 2:
        raise ConfigError(f"baseline.pair_coeff has {line!r}: write two types first, as LAMMPS does: '1 2 31 7'")
    rest = " ".join(words[2:])
    if words[:2] == ["*", "*"]:
        return [Coefficients((), rest)]
    first, second = (_types(word, line, elements) for word in words[:2])
    pairs = {tuple(sorted(pair)) for pair in itertools.product(first, second)}
    return [Coefficients((elements[i], elements[j]), rest) for i, j in sorted(pairs)]


def _require_all_pairs(coefficients: Sequence[Coefficients], elements: Sequence[str]) -> None:
    """Refuses what LAMMPS would mix: beside a style for all pairs, as in a run, it mixes nothing."""
    given = {frozenset(line.pair) for line in coefficients}
    pairs = itertools.combinations_with_replacement(range(1, len(elements) + 1), 2)
    missing = [f"{i} {j}" for i, j in pairs if frozenset((elements[i - 1], elements[j - 1])) not in given]
    if missing and frozenset() not in given:
        raise ConfigError(
            f"baseline.pair_coeff has no line for types {', '.join(missing)}: write one for each pair of types, as "
            "hybrid/overlay of a run mixes none"
        )


def _types(word: str, line: str, elements: Sequence[str]) -> range:
    """Indices from 0 of the types that a word of LAMMPS names."""
    low, star, high = word.partition("*")
    try:
        first = int(low) if low or not star else 1
        last = (int(high) if high else len(elements)) if star else first
    except ValueError:
        first = last = 0
    if not 1 <= first <= last <= len(elements):
        known = ", ".join(f"{k} = {element}" for k, element in enumerate(elements, 1))
        raise ConfigError(f"baseline.pair_coeff has {line!r}: {word!r} is no type; they are {known}")
    return range(first - 1, last)
