"""The user's decks with the potential of a round: what they saved, and what they saw."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms

from so3krates.data.suspects import overlap
from so3krates.files import make_folder, write_text
from so3krates.lammps import LammpsError, run_deck
from so3krates.model.config import ConfigError

from .config import LearnConfig, RunSettings

SAVED = "saved.extxyz"
SUMMARY = "summary.json"
DECK = "in.deck"
STYLE = re.compile(r"^(\s*pair_style\s+(?:\S+\s+)*?so3krates)(?=\s|$)(.*)$", re.DOTALL)
COEFF = re.compile(r'^(\s*pair_coeff\s+\S+\s+\S+\s+(?:so3krates\s+)?)("[^"]*"|\S+)(?=\s|$)(.*)$', re.DOTALL)
HYBRID_COEFF = re.compile(r"^\s*pair_coeff\s+\S+\s+\S+\s+so3krates\s")
SEEN = re.compile(r"^So3krates: \S+ was above \S+ \S+ in (\d+) of (\d+) frames, at most (\S+);")
ENDED = re.compile(r"^So3krates: (step \d+: .* above \S+): the run ends here$")
GUARDED = re.compile(r"(step \d+: .*?)\. The frame is in (guard-step-\d+\.extxyz)")
AT_ONCE = "of its first structure: begin with labelled frames of that kind, or with a larger learn.stop"


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """What a deck saw."""

    looks: int
    above: int  # looks that found an atom above the lower threshold
    largest: float  # eV/A
    ended: str = ""  # why before its end; empty: it came to its end
    error: str = ""  # LAMMPS' words, where it ended so

    @property
    def at_once(self) -> bool:
        """Whether it ended at its first structure, which other velocities do not change."""
        return bool(self.ended) and self.looks <= 1


def prepared(text: str, deck: str, potential: str, options: str) -> str:
    """The deck with another potential, and with options of `pair_style so3krates` put before its own.

    Raises ConfigError where it has no such style, or saves frames itself.
    """
    lines = re.sub(r"&[ \t]*\n", " ", text).splitlines()
    style = next((words[1] for line in lines if (words := line.split())[:1] == ["units"] and len(words) > 1), "metal")
    if style != "metal":
        raise ConfigError(f"{deck} has units {style}: thresholds of the loop are in eV/A, so write it in units metal")
    styles = [line for line in lines if STYLE.match(line)]
    if not styles:
        raise ConfigError(
            f"{deck} has no line pair_style so3krates (files that it includes are not looked through): write it, with "
            "pair_coeff * * FILE.so3k ELEMENT ..., into the deck itself"
        )
    own = [line for line in styles if re.search(r"so3krates\b.*\s(save|deviation)\s", line)]
    if own:
        raise ConfigError(f"{deck}: {' '.join(own[0].split())}: leave save and deviation to the loop")
    is_hybrid = any(not re.match(r"^\s*pair_style\s+so3krates(\s|$)", line) for line in styles)
    found, replaced = [], 0
    for line in lines:
        if STYLE.match(line):
            line = STYLE.sub(lambda m: f"{m[1]} {options}{m[2]}", line)
        elif COEFF.match(line) and (not is_hybrid or HYBRID_COEFF.match(line)):
            line = COEFF.sub(lambda m: f"{m[1]}{potential}{m[3]}", line)
            replaced += 1
        found.append(line)
    if not replaced:
        raise ConfigError(f"{deck} has no pair_coeff * * FILE.so3k ELEMENT ... of so3krates: write it after pair_style")
    return "\n".join(found) + "\n"


def varies(run: RunSettings) -> bool:
    """Whether the seed makes another run of the deck."""
    return "seed" not in run.variables and re.search(r"\$\{seed\}|\bv_seed\b", _text(run)) is not None


def check_decks(runs: Sequence[RunSettings]) -> None:
    """Raises ConfigError for a deck that cannot be run, before anything is trained."""
    for run in runs:
        prepared(_text(run), run.deck, "potential.so3k", "")
        others = (Path(name).read_text(encoding="utf-8", errors="replace") for name in run.files)
        text = "\n".join([_text(run), *others])
        for name in run.variables:
            if not re.search(rf"\b{re.escape(name)}\b", text):
                known = ", ".join(dict.fromkeys(re.findall(r"^\s*variable\s+(\S+)", text, re.MULTILINE))) or "none"
                raise ConfigError(f"{run.deck} uses no variable {name} (run.variables); it has {known}")


def explore(run: RunSettings, folder: Path, potential: Path, learn: LearnConfig, seed: int) -> RunSummary:
    """Runs a deck in a folder of its own, once: what lies there from a run that came to its end is read again.

    Variables `seed` and `round_folder`-independent values are the caller's. A run that LAMMPS ends with an error after
    some frames were seen is no failure: young potentials break. Raises LammpsError where nothing was seen.
    """
    if (folder / SUMMARY).is_file():
        return RunSummary(**json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
    if folder.exists():
        shutil.rmtree(folder)
    make_folder(folder)
    for name in run.files:
        shutil.copyfile(name, folder / Path(name).name)
    # The first frame beyond the distances and forces of the training data is the last that is no guess.
    limits = f"{learn.output} {learn.save:g} {learn.stop:g}"
    options = f"guard stop save {SAVED} {limits} every {learn.every} check {learn.check_every}"
    place = f"../{potential.name}" if potential.parent == folder.parent else str(potential)
    write_text(folder / DECK, prepared(_text(run), run.deck, place, options))
    lines: list[str] = []
    variables: dict[str, Any] = {"seed": seed} | run.variables
    error = ""
    try:
        run_deck(folder / DECK, folder, variables, run.ranks, lines.append)
    except LammpsError as problem:
        error = " ".join(str(problem).split())
    summary = _summary(lines, _read(folder), error)
    if summary.looks == 0:
        raise LammpsError(
            f"{error}; no frame was looked at before it" if error else f"{run.deck} ran no steps: see {folder}"
        )
    write_text(folder / SUMMARY, json.dumps(dataclasses.asdict(summary), indent=1) + "\n")
    return summary


def saved_frames(folder: Path) -> list[Atoms]:
    """Structures that a run saved before atoms overlapped, if they did, with what is known of each in `info`."""
    return _before_overlap(_read(folder))[0]


def _before_overlap(frames: Sequence[Atoms]) -> tuple[list[Atoms], str]:
    """Frames before the first in which atoms overlap, and that; what a young potential does from then on is no physics.

    Its uncertainty says so late or never, and a labeller would give such frames forces that nothing is learnt from.
    """
    for number, atoms in enumerate(frames):
        if found := overlap(atoms):
            return list(frames[:number]), f"step {atoms.info['step']}: {found}"
    return list(frames), ""


def _read(folder: Path) -> list[Atoms]:
    frames: list[Atoms] = []
    saved = [folder / SAVED] if (folder / SAVED).is_file() else []
    for path in [*saved, *folder.glob("guard-step-*.extxyz")]:  # the guard's, if there is one, is the last
        for read in ase.io.iread(path, index=":"):
            if "X" in read.get_chemical_symbols():
                raise LammpsError(f"{path}: some atoms are of another pair style, so that frames cannot be labelled")
            atoms = Atoms(read.numbers, read.positions, cell=read.cell, pbc=read.pbc)
            is_guards = "reason" in read.info
            if is_guards and frames and frames[-1].info["step"] == read.info["step"]:  # saved already
                frames[-1].info |= {"above": True, "guard": True}
                continue
            largest = next((float(value) for key, value in read.info.items() if key.startswith("largest_")), 0.0)
            atoms.info = {
                "run": folder.name.partition(".")[0],  # of all starts of a deck
                "step": int(read.info["step"]),
                "look": int(read.info.get("look", frames[-1].info["look"] + 1 if frames else 1)),
                "largest": largest,
                "above": is_guards or bool(read.info["above"]),
                "check": bool(read.info.get("check", False)),
                "guard": is_guards,
            }
            frames.append(atoms)
    return frames


def _text(run: RunSettings) -> str:
    return Path(run.deck).read_text(encoding="utf-8", errors="replace")


def _summary(lines: Sequence[str], frames: Sequence[Atoms], error: str) -> RunSummary:
    """Of the style's own lines; where LAMMPS ended with an error, of the frames."""
    seen = [match for line in lines if (match := SEEN.match(line))]
    ended = next((match[1] for line in lines if (match := ENDED.match(line))), "")
    above = sum(int(match[1]) for match in seen)
    looks = sum(int(match[2]) for match in seen)
    largest = max((float(match[3].rstrip(".")) for match in seen), default=0.0)
    if guarded := GUARDED.search(error):
        ended, error = guarded[1], ""
    if (error or guarded) and frames:
        above = max(above, sum(bool(atoms.info["above"]) for atoms in frames))
        looks = max(looks, max(int(atoms.info["look"]) for atoms in frames))
        largest = max(largest, max(float(atoms.info["largest"]) for atoms in frames))
    sound, overlapping = _before_overlap(frames)
    if overlapping:
        above = sum(bool(atoms.info["above"]) for atoms in sound)
        looks = int(frames[len(sound)].info["look"])
        largest = max((float(atoms.info["largest"]) for atoms in sound), default=0.0)
        ended = overlapping
    found = RunSummary(looks, above, largest, ended or ("an error of LAMMPS" if error else ""), error)
    return dataclasses.replace(found, ended=f"{ended} ({AT_ONCE})") if ended and found.at_once else found
