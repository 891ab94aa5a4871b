"""The settings of a campaign: a TOML file, each key checked by its name."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase.data import atomic_numbers

from so3krates.engines import ENGINES, PROCESSES
from so3krates.files import plain_text
from so3krates.hints import command
from so3krates.lammps.long_run import variables_of
from so3krates.shipped import deck_named, decks, located

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # of a crystal: it names a folder
MOST_SEEDS = 1000
# Variables of the deck that the campaign sets itself.
OWN = ("seed", "file", "restart", "data", "elements")


class CampaignError(ValueError):
    """Settings or a folder of which no campaign can be made; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Crystal:
    """One of the systems: variables of the deck, or a crystal that is made for it."""

    name: str
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    structure: Path | None = None  # a cell in any format of ASE
    repeats: tuple[int, int, int] | None = None  # of the cell
    isotopes: bool = False  # in their natural shares
    doping: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)  # new -> old -> share of old

    @property
    def is_made(self) -> bool:
        """Whether a data file is written for it."""
        return self.structure is not None or self.repeats is not None or self.isotopes or bool(self.doping)


@dataclasses.dataclass(frozen=True)
class Campaign:
    """What is run and how it is analysed; paths are whole."""

    deck: Path
    crystals: tuple[Crystal, ...]
    potential: Path | None = None  # a bundle; None: the deck has its own pair style
    seeds: int = 3
    engine: str = PROCESSES
    processes: int = 1  # runs at a time
    ranks: int = 1  # of each
    threads: int = 0  # of each rank; 0: the cores of this machine, shared
    retries: int = 3  # after a killed rank, from the restart files
    average: str = "xyz"
    discard: float = 0.0  # ps
    window: float = 1.0  # ps
    cutoff_time: float | None = None  # ps
    phonons: Path | None = None  # phonons.json of `so3krates phonons --kappa`
    machine: Path | None = None  # a measurement of `so3krates plan`
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the deck, for all crystals

    @property
    def threads_of_rank(self) -> int:
        """Threads of each rank."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // (self.processes * self.ranks))

    def values(self, crystal: Crystal, seed: int) -> dict[str, str]:
        """Variables that the deck is given for a run, apart from those that name files of the campaign."""
        known = variables_of(self.deck)
        own: dict[str, Any] = {"seed": seed}
        if self.potential is not None and "potential" in known:
            own["potential"] = self.potential
        given = {**self.variables, **crystal.variables}
        if "style" not in given and known.get("style", "").startswith("so3krates"):
            own["style"] = f"{known['style']} threads {self.threads_of_rank}"
        return {name: str(value) for name, value in {**given, **own}.items()}


def read_campaign(path: Path) -> Campaign:
    """Settings from a file, whose paths count from where it lies. Raises CampaignError, OSError."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CampaignError(f"{path} is no TOML: {' '.join(str(error).split())}") from error
    try:
        return _campaign(content, path.parent)
    except CampaignError as error:
        raise CampaignError(f"{plain_text(str(path))}: {error}") from error


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _campaign(content: dict[str, Any], home: Path) -> Campaign:
    fields = {field.name for field in dataclasses.fields(Campaign)}
    _require_keys("", content, fields)
    crystals = content.pop("crystals", None)
    if not isinstance(crystals, dict) or not crystals:
        raise CampaignError("has no crystal: give one or more sections [crystals.NAME] with its variables or repeats")
    deck = _deck(_of_kind("", content, "deck", str, "gan_kappa", f"one of {', '.join(decks())}, or a file"), home)
    known = variables_of(deck)
    for name in ("seed", "file"):
        if name not in known:
            raise CampaignError(f"deck = {deck}: has no line variable {name} index VALUE, by which runs differ")
    variables = _variables("variables", content.pop("variables", {}), known)
    made = tuple(_crystal(name, section, known, home) for name, section in crystals.items())
    potential = _of_kind("", content, "potential", str, None, "a bundle, or a potential of this package")
    values: dict[str, Any] = {"deck": deck, "crystals": made, "variables": variables}
    if potential is not None:
        values["potential"] = _potential(potential, home)
    elif "potential" in known and not {"potential", "style"} & set(variables):
        raise CampaignError('potential is missing: give potential = "gan.so3k", or one of this package by its name')
    whole = {"seeds": 1, "processes": 1, "ranks": 1, "threads": 0, "retries": 0}
    for key, least in whole.items():
        if key in content:
            values[key] = _of_kind("", content, key, int, None, f"a whole number of at least {least}")
            if values[key] < least or (key == "seeds" and values[key] > MOST_SEEDS):
                most = f" to {MOST_SEEDS}" if key == "seeds" else " or more"
                raise CampaignError(f"{key} = {values[key]}: give {least}{most}")
    for key in ("discard", "window", "cutoff_time"):
        if key in content:
            values[key] = float(_of_kind("", content, key, int | float, None, "a time in ps"))
            if not 0 <= values[key] < math.inf:
                raise CampaignError(f"{key} = {values[key]}: give a time in ps that is not negative")
    if "average" in content:
        values["average"] = _of_kind("", content, "average", str, None, "xyz, xy,z or none")
    if "engine" in content:
        values["engine"] = content["engine"]
        if values["engine"] not in ENGINES:
            raise CampaignError(f"engine = {content['engine']!r}: give {', '.join(ENGINES)}")
    for key in ("phonons", "machine"):
        if key in content:
            values[key] = home / _of_kind("", content, key, str, None, "a file")
    return Campaign(**values)


def _crystal(name: str, section: Any, known: Mapping[str, str], home: Path) -> Crystal:
    where = f"crystals.{name}"
    if not NAME.fullmatch(name):
        raise CampaignError(f"{where}: its name is that of a folder: give letters, digits, - and _")
    if not isinstance(section, dict):
        raise CampaignError(f"{where} = {section!r}: give a section [{where}]")
    section = dict(section)
    values: dict[str, Any] = {}
    if (structure := section.pop("structure", None)) is not None:
        values["structure"] = home / str(structure)
        if not values["structure"].is_file():
            raise CampaignError(f"{where}.structure = {structure!r}: no such file")
    if (repeats := section.pop("repeats", None)) is not None:
        good = isinstance(repeats, list) and len(repeats) == 3 and all(_is_whole(n) and n >= 1 for n in repeats)
        if not good:
            raise CampaignError(f"{where}.repeats = {repeats!r}: give three whole numbers of at least 1, as [6, 4, 4]")
        values["repeats"] = tuple(repeats)
    values["isotopes"] = section.pop("isotopes", False)
    if not isinstance(values["isotopes"], bool):
        raise CampaignError(f"{where}.isotopes = {values['isotopes']!r}: give true for natural shares, or false")
    values["doping"] = _doping(where, section.pop("doping", {}))
    values["variables"] = _variables(where, section, known)
    crystal = Crystal(name, **values)
    if crystal.is_made and not {"data", "elements"} <= set(known):
        raise CampaignError(
            f"{where} wants a crystal to be made, and the deck has no variables data and elements to read it by: give "
            "variables of the deck only, or a deck with both, as gan_kappa has"
        )
    if crystal.is_made and crystal.structure is None and not {"a", "c", "u"} <= set(known):
        raise CampaignError(f"{where}.structure is missing: give a cell in any format of ASE")
    return crystal


def _doping(where: str, given: Any) -> dict[str, dict[str, float]]:
    """New element -> old element -> share of its atoms."""
    advice = "give new = {old = share}, as doping = {Al = {Ga = 0.05}}, with shares above 0 that add up to at most 1"
    if not isinstance(given, dict):
        raise CampaignError(f"{where}.doping = {given!r}: {advice}")
    shares: dict[str, float] = {}
    for new, of in given.items():
        if new not in atomic_numbers or not isinstance(of, dict) or not of:
            raise CampaignError(f"{where}.doping.{new} = {of!r}: {advice}")
        for old, share in of.items():
            if old not in atomic_numbers or old == new or not _is_number(share) or not 0 < share <= 1:
                raise CampaignError(f"{where}.doping.{new}.{old} = {share!r}: {advice}")
            shares[old] = shares.get(old, 0.0) + share
            if shares[old] > 1 + 1e-9:
                raise CampaignError(f"{where}.doping replaces {shares[old]:g} of {old}: {advice}")
    return given


def _variables(where: str, given: Any, known: Mapping[str, str]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise CampaignError(f"{where} = {given!r}: give a section [{where}]")
    for name, value in given.items():
        if name in OWN:
            raise CampaignError(f"{where}.{name}: the campaign sets this variable of the deck itself; leave it out")
        if name not in known:
            raise CampaignError(f"{where}.{name}: the deck has no such variable; it has {', '.join(sorted(known))}")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise CampaignError(f"{where}.{name} = {value!r}: give a number or a text")
    return given


def _deck(name: str, home: Path) -> Path:
    path = home / name
    if path.is_file():
        return path.resolve()
    try:
        return deck_named(name)
    except KeyError:
        raise CampaignError(f"deck = {name!r}: no such file, and the package has {', '.join(decks())}") from None


def _potential(name: str, home: Path) -> Path:
    path = home / name if (home / name).exists() else located(name)
    if not path.is_file():
        exporting = command("so3krates", "export", "MODEL", "-o", "potential.so3k")
        raise CampaignError(f"potential = {name!r}: no such bundle; this writes one: {exporting}")
    return path.resolve()


def _require_keys(where: str, section: Mapping[str, Any], known: set[str]) -> None:
    for key in section:
        if key not in known:
            raise CampaignError(f"{where}{key} is no setting: there are {', '.join(sorted(known))}")


def _of_kind(where: str, section: Mapping[str, Any], key: str, kind: Any, otherwise: Any, advice: str) -> Any:
    value = section.get(key, otherwise)
    if value is otherwise and key not in section:
        return otherwise
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CampaignError(f"{where}{key} = {value!r}: give {advice}")
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
