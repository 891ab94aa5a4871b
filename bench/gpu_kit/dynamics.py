"""Phases that run LAMMPS: correctness, speed by size, other potentials, two ranks, a million atoms, what fits."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import subprocess
import threading

from .first import Pieces
from .lammps import Deck, notes, read_run, run_lammps, timings
from .process import CommandError, run_command
from .sizes import (
    ATOM_STEPS,
    CHOICES,
    GROWTH,
    MILLION,
    MILLION_STEPS,
    PEER,
    PORTABLE,
    RANKS,
    RUN_SECONDS,
    SPEED,
    Context,
)

RELATIVE = 1e-4  # of LAMMPS' numbers of the first frame, to those of float64 on the CPU
DRIFT = 1e-5  # eV/atom, beyond that of the CPU in float64
NVE_STEPS = 100
SLOW = 0.1  # speed of the portable body in units of that of the kernels, to choose the number of steps
FLUX_SHARE = 0.3  # of the steps of a size are done again with the flux


def frame(network: str) -> Deck:
    """What is compared with the same deck on the CPU in float64."""
    return Deck(f"nve-{network}", network, steps=NVE_STEPS, thermo=10, flux=True)


def lammps(context: Context) -> Pieces:
    """The first frame's energy, pressure, strongest forces and heat flux; 100 steps of NVE."""
    for network in context.networks():
        if context.platform == "cuda" and network == "small":
            continue
        expected = json.loads((context.kit / f"references/lammps-{network}.json").read_text())
        run = run_lammps(context, frame(network), context.left)
        found, failures = read_run(run), []
        groups = {
            "energy": ("PotEng",),
            "pressure": ("Press", "Pxx", "Pyy", "Pzz"),
            "strongest forces": ("c_strongest[1]", "c_strongest[2]", "c_strongest[3]"),
            "heat flux": ("c_flux[1]", "c_flux[2]", "c_flux[3]"),
        }
        errors = {}
        for what, columns in groups.items():
            scale = max(abs(expected["first"][c]) for c in columns)
            errors[what] = max(abs(found["first"][c] - expected["first"][c]) for c in columns) / max(scale, 1e-300)
            if not errors[what] < RELATIVE:
                failures.append(f"LAMMPS with {network}: {what} differs by {errors[what]:.1e} from the CPU")
        if not found["drift"] < expected["drift"] + DRIFT:
            failures.append(
                f"LAMMPS with {network}: the energy drifts by {found['drift']:.1e} eV/atom in {found['steps']} steps, "
                f"and on the CPU by {expected['drift']:.1e}"
            )
        yield {
            "networks": {network: {"errors": errors, "drift": found["drift"], "expected_drift": expected["drift"]}},
            "notes": notes(run),
            "failures": failures,
        }


def _steps(context: Context, atoms: int, rate: float) -> int:
    return max(5, min(400, int(rate * RUN_SECONDS[context.platform] / atoms)))


def speed(context: Context) -> Pieces:
    """Sizes in turn with the kernels, each with the heat flux too; some with the portable programs."""
    first, rate = context.networks()[0], ATOM_STEPS[context.platform]
    for body, bundle, sizes, factor in (
        ("kernels", first, SPEED, 1.0),
        ("portable", f"{first}-xla", PORTABLE, SLOW),
    ):
        for atoms in sizes[context.platform]:
            steps = _steps(context, atoms, rate * factor)
            deck = Deck(f"{body}-{atoms}", bundle, atoms, steps, flux_steps=max(3, int(FLUX_SHARE * steps)))
            try:
                run = run_lammps(context, deck, context.left)
            except CommandError as error:
                yield {"sizes": [{"body": body, "asked": atoms}], "failures": [f"{body}, {atoms} atoms: {error}"]}
                continue
            row = {"body": body, "asked": atoms, **timings(run, deck), "notes": notes(run)}
            row["with_flux"] = row["flux_ms_per_step"] / row["ms_per_step"]
            if body == "kernels":
                rate = max(row["atom_steps_per_second"], 0.1 * rate)
            yield {"sizes": [row]}
    yield from choices(context, first, rate)


def choices(context: Context, network: str, rate: float) -> Pieces:
    """Compilation (s) and steps (ms) with XLA's first choice of each product (`yes`) and with one that it timed."""
    if context.platform == "cpu":
        yield {"choices_note": "deterministic: on a CPU the option changes nothing, so neither was timed"}
        return
    atoms = CHOICES
    steps = _steps(context, atoms, rate)
    for word in ("yes", "no"):
        # Without a cache, so that both compile all that they run.
        deck = Deck(f"deterministic-{word}", network, atoms, steps, options=f"deterministic {word} cache off")
        try:
            found = timings(run_lammps(context, deck, context.left), deck)
        except CommandError as error:
            yield {"failures": [f"deterministic {word}, {atoms} atoms: {error}"]}
            continue
        kept = ("atoms", "steps", "compile_seconds", "ms_per_step", "ms_device", "bytes_per_atom")
        yield {"choices": {word: {key: found[key] for key in kept}}}


def growth(context: Context) -> Pieces:
    """Larger sizes in turn until one does not fit."""
    if context.platform == "cpu":
        yield {"skipped": "a CPU's memory is not what this phase is about"}
        return
    for atoms in GROWTH:
        deck = Deck(f"growth-{atoms}", context.networks()[0], atoms, steps=4)
        with Watch() as watch:
            try:
                run = run_lammps(context, deck, context.left)
            except CommandError as error:
                # The end of the climb, not a failure: why it ended is the result.
                yield {"sizes": [{"asked": atoms, "ended": str(error)}]}
                return
        yield {"sizes": [{"asked": atoms, **timings(run, deck), "most_memory_mib": watch.most}]}


class Watch:
    """The most memory that was in use on any GPU while this lives, MiB; None without nvidia-smi."""

    def __init__(self) -> None:
        self.most: int | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while shutil.which("nvidia-smi") and not self._end.wait(0.5):
            said = subprocess.run(query, capture_output=True, text=True)
            if numbers := [int(word) for word in said.stdout.split() if word.isdigit()]:
                self.most = max(self.most or 0, *numbers)


def million(context: Context) -> Pieces:
    """A production run of a Green-Kubo deck: the heat flux every tenth step."""
    atoms, steps = MILLION[context.platform], MILLION_STEPS[context.platform]
    deck = Deck("million", context.networks()[0], atoms, flux_steps=steps, flux_every=10 if steps > 10 else 1)
    run = run_lammps(context, deck, context.left)
    yield {"run": timings(run, deck) | {"flux_every": deck.flux_every}}


def ranks(context: Context) -> Pieces:
    """One deck on one rank and on two of the same device, through the host and, where MPI takes it, on the device."""
    network = context.networks()[0]
    atoms = RANKS[context.platform]
    steps = _steps(context, atoms, ATOM_STEPS[context.platform])
    share = f"memory {0.45 * context.memory:.3f}" if context.platform == "cuda" else ""
    frames = {}
    for name, count, options in (
        ("one rank", 1, ""),
        ("two ranks", 2, share),
        ("two ranks, device memory", 2, f"{share} gpu/aware yes"),
    ):
        if "device memory" in name and context.platform == "cpu":
            continue
        deck = Deck(name.replace(" ", "-").replace(",", ""), network, atoms, steps, ranks=count, options=options)
        try:
            run = run_lammps(context, deck, context.left)
        except CommandError as error:
            # The MPI that pip installs does not take device memory: what it does then is worth knowing, and no failure.
            known = "device memory" in name
            yield {"runs": {name: {"problem": str(error)}}, "failures": [] if known else [f"{name}: {error}"]}
            continue
        frames[name] = read_run(run)["first"]
        yield {"runs": {name: timings(run, deck) | {"notes": notes(run)}}}
    if len(frames) > 1:
        reference = frames.pop("one rank", {})
        for name, frame in frames.items():
            difference = abs(frame["PotEng"] - reference["PotEng"]) / abs(reference["PotEng"])
            problem = f"{name}: the energy differs by {difference:.1e} from one rank"
            failures = [] if difference < RELATIVE else [problem]
            yield {"runs": {name: {"energy_error": difference}}, "failures": failures}


def peers(context: Context) -> Pieces:
    """Atom-steps/s of other potentials' own benchmarks, and the ratio of ours to them."""
    if not context.peers:
        yield {"skipped": "no --peer NAME=COMMAND was given: a command that runs 108000 atoms of GaN"}
        return
    ours = _own_rate(context)
    yield {"ours": ours, "atoms": PEER[context.platform]}
    for name, command in context.peers.items():
        try:
            done = run_command(["bash", "-c", command], context.left)
            rate = rate_of(done.output)
        except (CommandError, ValueError) as error:
            yield {"failures": [f"{name} ({shlex.split(command)[0] if command.strip() else 'no command'}): {error}"]}
            continue
        yield {"peers": {name: {"atom_steps_per_second": rate, "ours_over_theirs": ours / rate}}}


def _own_rate(context: Context) -> float:
    atoms = PEER[context.platform]
    deck = Deck("beside", context.networks()[0], atoms, _steps(context, atoms, ATOM_STEPS[context.platform]))
    return float(timings(run_lammps(context, deck, context.left), deck)["atom_steps_per_second"])


def rate_of(output: str) -> float:
    """Atom-steps/s that a benchmark prints: LAMMPS' last loop, GPUMD's speed, or a line `atom-steps/s NUMBER`."""
    loops = re.findall(r"Loop time of (\S+) on \d+ procs for (\d+) steps with (\d+) atoms", output)
    speeds = re.findall(r"(?:[Ss]peed of this run = |atom-steps/s[ =:]+)(\S+)", output)
    if not loops and not speeds:
        raise ValueError("printed neither LAMMPS' loop time nor a line 'atom-steps/s NUMBER'")
    rate = float(speeds[-1]) if speeds else int(loops[-1][1]) * int(loops[-1][2]) / float(loops[-1][0])
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"printed a speed of {rate}")
    return rate
