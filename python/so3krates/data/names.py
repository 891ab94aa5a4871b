"""Labels under other names than those that are read: found, counted and proposed, never dropped in silence."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from so3krates.wording import counted

from .frames import LabelKeys, Labels

WHOLE = {"energy": " (of the whole frame, not per atom)"}
SHOWN = 5  # keys in a message
QUANTITIES = ("energy", "forces", "stress")
# Words in a key by which a quantity is known, and those by which it is another one.
NAMES = {
    "energy": re.compile(r"energ|toten|^e_?(tot|total|pot|0|ref|dft)?$", re.IGNORECASE),
    "forces": re.compile(r"forc|^f(_?(ref|dft))?$", re.IGNORECASE),
    "stress": re.compile(r"stress|virial|^(s|v|w)$", re.IGNORECASE),
}
OTHER = re.compile(
    r"weight|sigma|std|error|uncert|cut|kin|fermi|band|thresh|tol|conv|gap|max|mean|rms|per_?atom|atomi[cs]|unit|key"
    r"|smear|constant|const|shift|tag|type|name|disp|formation|cohes|binding|mag|d3|vdw|id$",
    re.IGNORECASE,
)

# Entries of the shape of a label that are none.
NO_LABEL = re.compile(
    r"^(momenta|velo|vel|v$|initial|magmom|displ|mass|time|step|temp|press|volume|charge|spin|total_?(charge|spin)|dipole"
    r"|constraint|frame|index|idx|natoms|n_?atoms|seed|lattice|cell|box|origin|pbc|k_?points|.*weight|.*(std|.sigma)$)",
    re.IGNORECASE,
)


class OtherNames:
    """Frames that lack a label under its key but have one like it under another, counted as they come."""

    def __init__(self, keys: LabelKeys, quantities: Sequence[str] = QUANTITIES) -> None:
        wanted = {"energy": keys.energy, "forces": keys.forces, "stress": keys.virial or keys.stress}
        self.wanted = {name: key for name, key in wanted.items() if key and name in quantities}
        self.missing: Counter[str] = Counter()  # frames without the label
        self.found: dict[str, Counter[str]] = defaultdict(Counter)  # quantity -> key -> frames without the label
        self.shaped: dict[str, Counter[str]] = defaultdict(Counter)  # the same of keys that fit in shape only
        self.undefined: Counter[str] = Counter()  # frames with NaN under the very key
        self.frames = 0

    def add(self, atoms: Atoms, values: Labels) -> None:
        """Looks at one frame and at the labels that were read from it."""
        self.frames += 1
        for name in self.wanted:
            if not np.isnan(getattr(values, name)).all():
                continue
            self.missing[name] += 1
            self.undefined[name] += any(key == self.wanted[name] for key, _ in _entries(atoms))
            self.found[name].update(key for key in candidates(atoms, name) if key != self.wanted[name])
            self.shaped[name].update(key for key in alike(atoms, name) if key != self.wanted[name])

    def without_labels(self) -> bool:
        """Whether no frame has any of the labels."""
        return all(self.missing[name] == self.frames for name in self.wanted)

    def lines(self) -> list[str]:
        """A line for each quantity that is there under another name, with the setting that reads it."""
        found = []
        for name, keys in self.found.items():
            if keys:
                ordered = sorted(keys.items(), key=lambda item: (-item[1], len(item[0])))  # the plainest name first
                there = ", ".join(f"{key!r} ({count})" for key, count in ordered)
                proposed = setting(name, ordered[0][0])
                found.append(
                    f"{self.missing[name]} of {counted(self.frames, 'frame')} have no {name} under "
                    f"{self.wanted[name]!r}, but "
                    f"under {there}: set {proposed} in section [data], or --set data.{proposed.replace(' ', '')}"
                )
        return found

    def guesses(self) -> list[str]:
        """A line for each quantity that no frame has, with the entries that could be it by their shape."""
        found = []
        for name, key in self.wanted.items():
            if self.frames and self.missing[name] == self.frames and self.shaped[name] and not self.found[name]:
                some = ", ".join(map(repr, sorted(self.shaped[name])[:SHOWN]))
                found.append(
                    f"none of {counted(self.frames, 'frame')} has {name} under {key!r}; of its shape "
                    f"are {some}: if one of them "
                    f"is it{WHOLE.get(name, '')}, set {name}_key{' (of a virial: virial_key)' * (name == 'stress')}"
                )
        return found

    def undefined_lines(self) -> list[str]:
        """A line for each quantity that is NaN under its own key in some frames, as which it counts as missing."""
        return [
            f"{count} of {counted(self.frames, 'frame')} have NaN under {self.wanted[name]!r}, read as no {name}"
            for name, count in self.undefined.items()
            if count
        ]


def setting(name: str, key: str) -> str:
    """The line of section [data] that reads a quantity under a key."""
    kind = "virial" if name == "stress" and "stress" not in key.lower() and key.lower() not in ("s",) else name
    return f'{kind}_key = "{key}"'


def is_named(key: str, name: str) -> bool:
    """Whether a key looks like that of a quantity."""
    return bool(NAMES[name].search(key)) and not OTHER.search(key)


def candidates(atoms: Atoms, name: str) -> Iterator[str]:
    """Keys of `info`, arrays and results of a frame that look like a quantity by name and shape."""
    for key, value in _entries(atoms):
        if is_named(key, name) and _fits(value, name, len(atoms)):
            yield key


def alike(atoms: Atoms, name: str) -> Iterator[str]:
    """Keys that look like a quantity by shape, and like nothing else by name."""
    for key, value in _entries(atoms):
        other = NO_LABEL.search(key) or any(is_named(key, n) for n in QUANTITIES)
        if not other and not isinstance(value, str | int | np.integer) and _fits(value, name, len(atoms)):
            yield key


def _fits(value: Any, name: str, atoms: int) -> bool:
    """Whether a value has the shape of a quantity, and a number."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return False
    fits = {
        "energy": array.size == 1 and not isinstance(value, bool | np.bool_),
        "forces": array.shape == (atoms, 3),
        "stress": array.size in (6, 9) and array.shape != (atoms, 3),
    }
    return fits[name] and bool(np.isfinite(array).any())


def _entries(atoms: Atoms) -> Iterator[tuple[str, Any]]:
    results: Mapping[str, Any] = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    for source in (atoms.info, atoms.arrays, results):
        for key, value in source.items():
            if isinstance(key, str) and key not in ("numbers", "positions"):
                yield key, value
