"""The runs of a campaign: folders, what each was made with, and the work of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from so3krates.engines import EngineError, open_engine, require_engine, run_all
from so3krates.files import make_folder, require_folder, write_text
from so3krates.lammps.long_run import run_remotely, variables_of

from .crystals import make_crystal, write_crystal
from .settings import Campaign, CampaignError, Crystal, digest

RECORD = "made_with.json"
FILE = "run"  # of the names of what the deck writes
DATA = f"{FILE}.data"


class Planned(NamedTuple):
    """One run."""

    crystal: Crystal
    seed: int
    folder: Path
    variables: dict[str, str]

    @property
    def name(self) -> str:
        """As its folder is named within the campaign."""
        return f"{self.crystal.name}/{self.folder.name}"


class Outcome(NamedTuple):
    """What became of the runs."""

    logs: dict[str, list[list[Path]]]  # of the finished runs of each crystal, by seed
    failed: dict[str, Exception]  # by the run's name
    said: list[str]  # what happened on the way
    repeated: int  # runs that were finished before


def plan_runs(campaign: Campaign, folder: Path) -> list[Planned]:
    """All runs, crystal after crystal; their crystals are not made yet."""
    return [
        Planned(crystal, seed, folder / crystal.name / f"seed-{seed}", campaign.values(crystal, seed))
        for crystal in campaign.crystals
        for seed in range(1, campaign.seeds + 1)
    ]


def run_campaign(campaign: Campaign, folder: Path, report: Callable[[str, int, int], None]) -> Outcome:
    """Makes what is missing and runs what has not come to its end; each run goes on where it was stopped.

    A run that fails is tried once more and then left. Raises CampaignError for a folder with runs of other settings,
    EngineError for an engine that is not there.
    """
    require_engine(campaign.engine, campaign.processes)
    require_folder(folder)
    planned = plan_runs(campaign, folder)
    for run in planned:
        _prepare(campaign, run)
    jobs = {
        run.name: (str(campaign.deck), str(run.folder), _given(run), campaign.ranks, campaign.retries)
        for run in planned
    }
    found: dict[str, tuple[list[str], int, list[str]]] = {}
    report("runs", 0, len(jobs))

    def keep(name: str, result: tuple[list[str], int, list[str]]) -> None:
        found[name] = result
        report("runs", len(found), len(jobs))

    cores = campaign.ranks * campaign.threads_of_rank
    with open_engine(campaign.engine, campaign.processes, cores) as pool:
        failed = run_all(pool, campaign.processes, run_remotely, jobs, keep)
    logs: dict[str, list[list[Path]]] = {crystal.name: [] for crystal in campaign.crystals}
    said = []
    for run in planned:
        if run.name in found:
            paths, _, words = found[run.name]
            logs[run.crystal.name].append([Path(path) for path in paths])
            said += [f"{run.name}: {text}" for text in words]
        elif run.name not in failed:
            failed[run.name] = EngineError("was not tried, as others failed before any came to its end")
    return Outcome(logs, failed, said, sum(attempts == 0 for _, attempts, _ in found.values()))


def _given(run: Planned) -> dict[str, str]:
    given = {**run.variables, "file": FILE}
    if run.crystal.is_made:
        record = json.loads((run.folder / RECORD).read_text(encoding="utf-8"))
        given |= {"data": "1", "elements": record["elements"]}
    return given


def _prepare(campaign: Campaign, run: Planned) -> None:
    """The folder of a run with its crystal, or the same folder of an earlier call."""
    crystal = run.crystal
    record: dict[str, Any] = {
        "variables": {name: value for name, value in run.variables.items() if name not in ("potential", "style")},
        "deck": digest(campaign.deck),
        "potential": digest(campaign.potential) if campaign.potential is not None else None,
        "structure": digest(crystal.structure) if crystal.structure is not None else None,
        "repeats": list(crystal.repeats) if crystal.repeats else None,
        "isotopes": crystal.isotopes,
        "doping": {new: dict(of) for new, of in crystal.doping.items()},
    }
    path = run.folder / RECORD
    if path.is_file():
        _require_same(path, record)
        return
    make_folder(run.folder)
    if crystal.is_made:
        made = make_crystal(crystal, variables_of(campaign.deck) | run.variables, run.seed)
        write_crystal(run.folder / DATA, made)
        record["elements"] = " ".join(made.elements)
    write_text(path, json.dumps(record, indent=1) + "\n")


def _require_same(path: Path, record: Mapping[str, Any]) -> None:
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        flat = [{**one, **one["variables"]} for one in (old, record)]
    except (ValueError, KeyError, TypeError) as error:
        raise CampaignError(
            f"{path} is damaged: take the folder {path.parent} away, and its run begins anew"
        ) from error
    for name in flat[1]:
        before, now = flat[0].get(name), flat[1][name]
        if name != "variables" and before != now:
            words = (
                f"{name} = {before}, not {now}" if name not in ("deck", "potential", "structure") else f"another {name}"
            )
            raise CampaignError(
                f"{path.parent} was begun with {words}: choose another output, another name of the crystal, or take "
                "the folder away"
            )
