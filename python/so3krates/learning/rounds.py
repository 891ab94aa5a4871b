"""A round of a learning loop as a folder: each of its steps leaves a file, and what is there is not done again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from rich.console import Console

from so3krates import exporting
from so3krates.data import finite, read_frames
from so3krates.files import make_folder, write_frames, write_text
from so3krates.hints import command
from so3krates.model.config import ConfigError
from so3krates.predictions import runtime_properties
from so3krates.progress import Callback
from so3krates.storage import Model
from so3krates.training import DataConfig, Properties, RunConfig, error_table, reference, run_session
from so3krates.training.finetuning import member_starts
from so3krates.training.run_folder import holds_run
from so3krates.wording import counted

from .choose import choose, distinct, spread
from .config import LearningSettings
from .explore import RunSummary, explore, saved_frames, varies
from .labels import label, require_some

POTENTIAL, SUMMARY = "potential.so3k", "summary.json"
CANDIDATES, CHOSEN, LABELLED = "candidates.extxyz", "chosen.extxyz", "labelled.extxyz"
TRAIN, VALID = "train.extxyz", "valid.extxyz"
FURTHER = 100  # between the seeds of a deck's starts in a round
MILLI = 1000.0


@dataclasses.dataclass(frozen=True)
class Round:
    """Folders and settings of a round; round 0 only labels what there is to begin with."""

    number: int
    output: Path  # of the loop
    settings: LearningSettings
    console: Console
    on_progress: Callback

    @property
    def folder(self) -> Path:
        """Where all of the round lies."""
        return self.output / f"round-{self.number:02d}"

    @property
    def summary(self) -> dict[str, Any] | None:
        """What a finished round says; None: it is not finished."""
        path = self.folder / SUMMARY
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def labelled(self) -> list[Atoms]:
        """Frames that this round labelled."""
        path = self.folder / LABELLED
        return read_frames(path) if path.is_file() and path.stat().st_size else []

    # Round 0

    def begin(self) -> dict[str, Any]:
        """Data that are there, and labels of the structures to begin with."""
        if self.summary is not None:
            return self.summary
        make_folder(self.folder)
        data, learn = self.settings.training.data, self.settings.learn
        frames: list[Atoms] = [] if data.file is None else list(read_frames(data.file, data.keys))
        given, failed = len(frames), {}
        if learn.structures is not None:
            structures = _bare(ase.io.read(learn.structures, index=":"))
            if learn.max_labels is not None and len(structures) > learn.max_labels:
                raise ConfigError(
                    f"learn.structures holds {counted(len(structures), 'structure')} to label, more than "
                    f"learn.max_labels = {learn.max_labels}: choose among them by "
                    + command(
                        "so3krates", "select", learn.structures, "-n", str(learn.max_labels), "-o", "fewer.extxyz"
                    )
                    + ", or raise it"
                )
            write_frames(self.folder / CHOSEN, structures)
            made = label(structures, self.settings.label, self.folder / "labels", self.on_progress)
            require_some(made, self.folder / "labels")
            frames += made.frames
            failed = made.failed
        write_frames(self.folder / LABELLED, frames)
        return self._finish({"given": given, "labels": len(frames) - given, "failed": list(failed.values())})

    # Further rounds

    def train(self, frames: Sequence[Sequence[Atoms]], last: Path | None) -> Path:
        """Trains on the frames of all rounds before, from the last models, and exports; returns the bundle.

        frames: by round. last: folder of the round whose models this one starts from.
        """
        bundle = self.folder / POTENTIAL
        if bundle.is_file():
            return bundle
        make_folder(self.folder)
        train, valid = parted(frames, self.settings.learn.valid_share)
        for name, part in ((TRAIN, train), (VALID, valid)):
            if not (self.folder / name).is_file():
                write_frames(self.folder / name, part)
        for place, config in self.configs(last):
            if (place / "done").is_file():
                continue
            results = run_session(config, place, self.console, self.settings.learn.test_file, resume=holds_run(place))
            if results[-1].reason.startswith("stopped by"):
                raise KeyboardInterrupt
            write_text(place / "done", "")
        first, *others = (Model.load(place) for place, _ in self.configs(last))
        exporting.export_model(first, bundle, self.settings.learn.precision, others=others)
        return bundle

    def configs(self, last: Path | None) -> list[tuple[Path, RunConfig]]:
        """The trainings of the round with their folders; those from the models of round `last` learn more slowly."""
        learn, config = self.settings.learn, self.settings.training
        data = DataConfig(
            train_file=str(self.folder / TRAIN),
            valid_file=str(self.folder / VALID),
            tag_key=config.data.tag_key,
            energy_shift=config.data.energy_shift,
            leave_out_faulty=True,
        )
        names = ["model"] if learn.committee == 1 else [f"models/seed-{n}" for n in range(learn.committee)]
        configs = []
        t = config.training
        for n, (name, start) in enumerate(zip(names, member_starts(t.initial_model, learn.committee), strict=True)):
            changes: dict[str, Any] = {"seed_model": t.seed_model + n, "seed_training": t.seed_training + n}
            changes["initial_model"] = start if last is None else str(last / name)
            if last is not None:
                slower = learn.retrain_share(goes_on=start is not None)
                changes["learning_rate"] = slower * t.learning_rate
                changes["learning_rate_stop"] = slower * t.learning_rate_stop
            if last is not None and learn.retrain_steps is not None:
                changes |= {"epochs": None, "hours": None, "steps": learn.retrain_steps}
            training = dataclasses.replace(t, **changes)
            configs.append((self.folder / name, dataclasses.replace(config, data=data, training=training)))
        return configs

    def explore(self, bundle: Path) -> list[RunSummary]:
        """Runs all decks, those that ended early again with other seeds, and gathers what they saved."""
        learn, summaries, frames = self.settings.learn, [], []
        for number, run in enumerate(self.settings.runs):
            self.on_progress("runs", number, len(self.settings.runs))
            for start in range(learn.starts if varies(run) else 1):
                seed = 1 + learn.seed + 1000 * self.number + number + FURTHER * start
                folder = self.folder / (f"run-{number + 1}" + (f".{start + 1}" if start else ""))
                summary = explore(run, folder, bundle, learn, seed)
                summaries.append(summary)
                frames += saved_frames(folder)
                if not summary.ended or summary.at_once:
                    break
        self.on_progress("runs", len(self.settings.runs), len(self.settings.runs))
        if not (self.folder / CANDIDATES).is_file():
            write_frames(self.folder / CANDIDATES, frames)
        return summaries

    def choose(self, bundle: Path, known: Sequence[Atoms], most: int) -> list[Atoms]:
        """At most so many frames to label, those to check by among them; `known`: that are labelled already."""
        path = self.folder / CHOSEN
        if path.is_file():
            return _read_chosen(path)
        learn = self.settings.learn
        # Of frames that are the same one to check by stays.
        candidates = sorted(_read_chosen(self.folder / CANDIDATES), key=lambda atoms: not atoms.info["check"])
        fresh = [candidates[k] for k in distinct(candidates, known)]
        predicted = runtime_properties(bundle, fresh)
        above = [k for k, atoms in enumerate(fresh) if atoms.info["above"]]
        checks = spread([k for k, atoms in enumerate(fresh) if atoms.info["check"]], min(learn.checks_per_round, most))
        rest = [k for k in above if k not in checks]
        number = max(min(learn.labels_per_round, most - len(checks)), 0)
        seed = learn.seed + self.number
        order = choose([fresh[k] for k in rest], _rows(predicted, rest), learn.choose, number, learn.stop, seed)
        chosen = []
        for why, k in [*(("check", k) for k in checks), *((learn.choose, rest[k]) for k in order)]:
            atoms = fresh[k].copy()
            atoms.info |= {"why": why, "round": self.number}
            chosen.append(atoms)
        write_frames(path, chosen)
        return chosen

    def label(self, chosen: Sequence[Atoms], has_worked: bool = True) -> list[str]:
        """Labels of the chosen frames; returns what became of those that failed.

        `has_worked`: whether the labeller has made any label before; where not, LabelsFailed is raised if it makes
        none.
        """
        made = label(chosen, self.settings.label, self.folder / "labels", self.on_progress)
        if not has_worked:
            require_some(made, self.folder / "labels")
        if not (self.folder / LABELLED).is_file():
            write_frames(self.folder / LABELLED, made.frames)
        return list(made.failed.values())

    def conclude(self, bundle: Path, runs: Sequence[RunSummary], failed: Sequence[str]) -> dict[str, Any]:
        """Errors of the potential on the fresh labels, and the round's summary."""
        frames = self.labelled()
        looks = sum(run.looks for run in runs)
        parts = {
            "fresh": frames,
            "checks": [atoms for atoms in frames if atoms.info.get("why") == "check"],
            "test": [] if self.settings.learn.test_file is None else self._test_frames(),
        }
        return self._finish(
            {
                "labels": len(frames),
                "failed": list(failed),
                "looks": looks,
                "above": sum(run.above for run in runs),
                "uncertain_share": sum(run.above for run in runs) / max(looks, 1),
                "largest": max((run.largest for run in runs), default=0.0),
                "ended": [run.error or run.ended for run in runs if run.ended],
                "errors": {name: _errors(bundle, part) for name, part in parts.items() if part},
            }
        )

    def remove_runs(self) -> None:
        """Deletes what is left of decks that were killed; for a round that begins anew."""
        for folder in self.folder.glob("run-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _test_frames(self) -> list[Atoms]:
        return list(read_frames(self.settings.learn.test_file or "", self.settings.training.data.keys))

    def _finish(self, content: dict[str, Any]) -> dict[str, Any]:
        content = {"round": self.number, **content}
        write_text(self.folder / SUMMARY, json.dumps(content, indent=1) + "\n")
        return content


def parted(frames: Sequence[Sequence[Atoms]], share: float) -> tuple[list[Atoms], list[Atoms]]:
    """Frames that train and frames that validate; of each round evenly spread, and the same in all later rounds."""
    train: list[Atoms] = []
    valid: list[Atoms] = []
    for part in frames:
        number = min(max(round(share * len(part)), 1 if not valid else 0), len(part) - 1) if part else 0
        places = set((np.arange(number) * len(part) / max(number, 1) + len(part) / max(2 * number, 1)).astype(int))
        for place, atoms in enumerate(part):
            (valid if place in places else train).append(atoms)
    return train, valid


def _errors(bundle: Path, frames: Sequence[Atoms]) -> dict[str, Any]:
    predicted = runtime_properties(bundle, frames)
    rows = error_table(predicted, reference(frames))
    found: dict[str, Any] = {
        name.replace(", ", " ").replace(" ", "_"): {"rmse": finite(e.rmse), "mae": finite(e.mae), "unit": e.unit}
        for name, e in rows.items()
    }
    return found | {"frames": len(frames)}


def _rows(found: Properties, rows: Sequence[int]) -> Properties:
    of_atoms = None if found.atom_energies is None else [found.atom_energies[k] for k in rows]
    index = np.array(rows, int)
    forces = [found.forces[k] for k in rows]
    return Properties(found.atoms[index], found.energies[index], forces, found.stresses[index], of_atoms)


def _bare(frames: Any) -> list[Atoms]:
    """Structures without labels that they may carry."""
    return [Atoms(a.numbers, a.positions, cell=a.cell, pbc=a.pbc) for a in frames]


def _read_chosen(path: Path) -> list[Atoms]:
    """Frames of a file of ours, which may hold none."""
    return list(ase.io.read(path, index=":")) if path.stat().st_size else []
