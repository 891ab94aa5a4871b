"""`bench/gpu --kit FILE`: the phases one after the other, each a process with a limit, its results written at once.

FOLDER gets gpu.json (rewritten whole after every piece of news), page.md and log.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import queue
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from . import machine
from .page import page
from .process import kill_group, start, tail
from .sizes import Context

RESULT = "\x1e"  # begins a line of a phase's output that is a piece of its results, as JSON
LOG_BYTES = 1_000_000  # of a phase that log.txt keeps
LEAST = 3.0  # s: a phase is not begun with less


class Phase(NamedTuple):
    """A function of a module, named like the phase; given a Context, it yields pieces of its results."""

    name: str
    what: str
    module: str
    limit: float  # s


PHASES = (
    Phase("contact", "driver, plugin, NVRTC; a client is made; arrays go up and come down", "gpu_kit.first", 40),
    Phase("program", "a program of one operation is compiled and run", "gpu_kit.first", 30),
    Phase("kernels", "each kernel alone against float64 of the CPU", "gpu_kit.kernels", 60),
    Phase("cell", "a cell: both bodies, float32 and float64, against float64 of the CPU", "gpu_kit.cell", 90),
    Phase("compile", "programs of all sizes that follow, into the cache", "gpu_kit.programs", 120),
    Phase("lammps", "LAMMPS against LAMMPS on the CPU; 100 steps of NVE; heat flux", "gpu_kit.dynamics", 60),
    Phase("speed", "molecular dynamics by size", "gpu_kit.dynamics", 180),
    Phase("so3lr", "SO3LR on water: against float64 of the CPU, and by size", "gpu_kit.so3lr", 90),
    Phase("ceilings", "copies, transfers and matrix products", "gpu_kit.programs", 40),
    Phase("profile", "each program and kernel by itself", "gpu_kit.programs", 50),
    Phase("peers", "other potentials that this machine has", "gpu_kit.dynamics", 120),
    Phase("ranks", "two processes on one GPU", "gpu_kit.dynamics", 60),
    Phase("million", "a million atoms with the heat flux", "gpu_kit.dynamics", 150),
    Phase("copies", "forces of many copies of a cell are those of the cell", "gpu_kit.cell", 70),
    Phase("growth", "the largest size that fits", "gpu_kit.dynamics", 120),
    Phase("tools", "compute-sanitizer and ncu", "gpu_kit.tools", 120),
)


class Results:
    """gpu.json: what is known so far. A write that fails is said and tried again with the next piece."""

    def __init__(self, folder: Path, known: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self.known = folder, known
        self.problem = ""

    def write(self) -> None:
        """Readers see the old file or the new one, never a part."""
        self._replace("gpu.json", json.dumps(self.known, indent=1))

    def finish(self) -> None:
        """Write the page as well."""
        self.write()
        self._replace("page.md", page(self.known))

    def log(self, text: str) -> None:
        """Add to log.txt."""
        try:
            with open(self._folder / "log.txt", "a", errors="replace") as stream:
                stream.write(text)
        except OSError as error:
            self._complain("log.txt", error)

    def _replace(self, name: str, text: str) -> None:
        part = self._folder / f"{name}.part"
        try:
            part.write_text(text)
            os.replace(part, self._folder / name)
            self.problem = ""
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            self._complain(name, error)

    def _complain(self, name: str, error: OSError) -> None:
        problem = f"writing {self._folder / name} failed: {error.strerror}: give --out a folder with room for 20 MB"
        if problem != self.problem:
            print(problem, flush=True)
        self.problem = problem


def merge(into: dict[str, Any], piece: dict[str, Any]) -> None:
    """Add a piece: lists grow, tables are merged, other values are replaced."""
    for key, value in piece.items():
        if isinstance(value, list) and isinstance(into.get(key), list):
            into[key] += value
        elif isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def lines_of(child: subprocess.Popen[str], deadline: float) -> Iterator[str | None]:
    """Lines as they come; None when the deadline has passed."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=max(0.01, deadline - time.time()))
        except queue.Empty:
            yield None
            return
        if line == "":
            return
        yield line


def run_phase(phase: Phase, context: Context, results: Results, left: float, patience: float) -> dict[str, Any]:
    """The phase's entry of gpu.json."""
    entry: dict[str, Any] = {"what": phase.what, "limit": phase.limit, "state": "running", "results": {}}
    results.known["phases"][phase.name] = entry
    results.write()
    limit = min(phase.limit * patience, left)
    if limit < LEAST:
        entry |= {"state": "skipped", "problem": "no time was left: give --budget more seconds, or --phases"}
        return entry
    context.deadline = time.time() + limit
    command = [sys.executable, "-m", "gpu_kit.phase", phase.module, phase.name, context.to_json()]
    log: list[str] = []
    begin = time.perf_counter()
    child = start(command, context.environment(), context.work)
    state = "passed"
    try:
        for line in lines_of(child, context.deadline):
            if line is None:
                state = "over its limit"
                entry["problem"] = f"took more than {limit:.0f} s; what it had learnt is kept"
            elif line.startswith(RESULT):
                merge(entry["results"], json.loads(line[1:]))
                results.write()
            else:
                log.append(line)
    finally:
        kill_group(child)
    child.wait()
    entry["seconds"] = round(time.perf_counter() - begin, 2)
    if state == "passed" and child.returncode != 0:
        state = "failed"
        entry.setdefault("problem", entry["results"].pop("problem", f"ended with code {child.returncode}"))
    if state == "passed" and (skipped := entry["results"].pop("skipped", None)):
        state, entry["problem"] = "not run", skipped
    text = "".join(log)
    if state != "passed" and text.strip():
        entry["log"] = tail(text)
    entry["state"] = state
    results.log(f"==== {phase.name}: {state}, {entry['seconds']} s\n{text[-LOG_BYTES:]}\n")
    return entry


def find_parts(options: argparse.Namespace, context: Context) -> dict[str, Any]:
    """Fill in plugin, NVRTC and driver. Raises MissingError with what is missing."""
    packages = [Path(folder) for folder in options.packages]
    if context.platform == "cpu":
        context.plugin = machine.find_cpu_plugin(machine.package_folders(packages), options.plugin)
        context.driver = os.environ.get("SO3KRATES_CUDA_DRIVER", "")
        if not context.driver and "c++" in machine.tools():
            context.driver = str(machine.build_stand_in(context.kit / "stand_in", context.work / "stand_in"))
        context.nvrtc = os.environ.get("SO3KRATES_NVRTC", context.driver)
        return {"plugin": context.plugin, "driver": context.driver}
    driver, library = machine.open_driver(os.environ.get("SO3KRATES_CUDA_DRIVER", ""))
    found = {"cuda_of_driver": driver.release, "gpu": machine.describe_gpu(library, context.index)}
    folders = machine.package_folders(packages)
    context.driver = driver.library
    context.plugin = machine.find_plugin(folders, driver.release, options.plugin)
    try:
        context.nvrtc = machine.find_nvrtc(folders, driver.release, [Path(f) for f in options.cuda])
    except machine.MissingError as error:
        # The portable programs run without it: that is measured all the same.
        found["nvrtc_problem"] = str(error)
        print(error, flush=True)
    return found | {"plugin": context.plugin, "nvrtc": context.nvrtc}


def run(options: argparse.Namespace, kit: Path, work: Path) -> int:
    """All phases; 0 where none failed that was run."""
    begin = time.time()
    context = Context(
        kit=kit,
        work=work,
        device=options.device if ":" in options.device or options.device == "cpu" else f"{options.device}:0",
        cache=work / "cache",
        memory=options.memory,
        peers=dict(peer.partition("=")[::2] for peer in options.peer),
        cores=len(os.sched_getaffinity(0)),
    )
    description = context.description()
    known: dict[str, Any] = {
        "kit": {key: description[key] for key in ("made", "commit", "versions")},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv[1:]),
        "device": context.device,
        "machine": machine.describe_host(),
        "phases": {},
    }
    results = Results(options.out, known)
    results.write()
    try:
        known["machine"] |= find_parts(options, context)
    except machine.MissingError as error:
        known["problem"] = str(error)
        results.finish()
        print(error, flush=True)
        return 1
    names = options.phases.split(",") if options.phases else [phase.name for phase in PHASES]
    for phase in (phase for phase in PHASES if phase.name in names):
        entry = run_phase(phase, context, results, options.budget - (time.time() - begin), options.patience)
        problem = f": {entry['problem']}" if "problem" in entry else ""
        print(f"{phase.name:9} {entry['state']:8} {entry.get('seconds', 0.0):6.1f} s{problem}", flush=True)
        results.write()
    known["seconds"] = round(time.time() - begin, 1)
    results.finish()
    print(page(known), flush=True)
    failed = [n for n, entry in known["phases"].items() if entry["state"] not in ("passed", "not run", "skipped")]
    if failed:
        print(f"failed: {', '.join(failed)}; see {options.out / 'gpu.json'} and log.txt beside it", flush=True)
    return 1 if failed or results.problem else 0


def main(arguments: list[str] | None = None) -> int:
    """The command line; `kit` is the unpacked archive."""
    parser = argparse.ArgumentParser(prog="bench/gpu --kit", description=__doc__)
    parser.add_argument("kit", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of the results")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:INDEX, or cpu for a rehearsal")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for everything")
    parser.add_argument("--patience", type=float, default=1.0, help="factor of each phase's limit, for a slow machine")
    parser.add_argument("--phases", default="", help=f"only these, of {','.join(phase.name for phase in PHASES)}")
    parser.add_argument("--memory", type=float, default=0.95, help="share of the GPU's memory that may be taken")
    parser.add_argument("--plugin", default="", help="path of XLA's plugin, xla_cuda_plugin.so")
    parser.add_argument("--packages", action="append", default=[], help="a folder site-packages to look in, too")
    parser.add_argument("--cuda", action="append", default=[], help="folder of a CUDA toolkit to look in, too")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=COMMAND",
        help="another potential's benchmark of 108000 atoms: prints LAMMPS' loop time, or atom-steps/s",
    )  # fmt: skip
    parser.add_argument("--work", type=Path, help="scratch folder that is kept: compiled programs serve the next run")
    options = parser.parse_args(arguments)
    unknown = set(filter(None, options.phases.split(","))) - {phase.name for phase in PHASES}
    if unknown:
        parser.error(f"there is no phase {', '.join(sorted(unknown))}: {', '.join(p.name for p in PHASES)}")
    kit, options.out = options.kit.resolve(), options.out.resolve()
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        return run(options, kit, options.work.resolve())
    with tempfile.TemporaryDirectory(prefix="so3krates-kit-") as work:
        return run(options, kit, Path(work))


if __name__ == "__main__":
    sys.exit(main())
