"""One run in several processes: the losses of one, files written once, an end that says why and can be gone on from."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import pytest
from quick import quick_generator
from so3krates.cli_train import run_config
from so3krates.lammps.environment import mpi_file
from so3krates.training import TrainingError, load_stored, train
from so3krates.training.launch import require_count, run_processes
from so3krates.training.processes import AMD, GPUS, INTEL, NVIDIA, PLACE, Place, count_gpus, free_port, place
from training_runs import make_frames, quiet, rows_of

ROUNDING = 2e-4  # of a loss, relative: sums in another order, amplified by some steps
SETTINGS = """
[model]
features = 12
heads = 2
layers = 1
degrees = [1, 2]
radial_functions = 8
cutoff = 4.0
[data]
file = "data.extxyz"
n_train = 8
n_valid = 3
stream = true
[training]
epochs = {epochs}
batch_size = 3
valid_batch_size = 1
learning_rate = 3e-3
schedule = "constant"
optimiser = "adam"
patience = 0
checkpoint_minutes = 1e-6
"""
TALK = """
import sys

import numpy as np
from so3krates.training.processes import agreed, is_first, joined, leave, of_all, of_first, place
here = place()
with joined(here):
    found = of_all(np.array(1 + 2.0**-50 + here.rank)).tolist()
    words = here.rank, is_first(), found, of_first([here.rank])
    ends = agreed(f"of {here.rank}" if here.rank else None), agreed(None)
    leave()
# One write: the lines of two processes share a pipe, and print may write word by word.
sys.stdout.write(" ".join(map(str, (*words, *ends))) + "\\n")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    ase.io.write(folder / "data.extxyz", make_frames(11))
    return folder


def written(folder: Path, epochs: int) -> Path:
    path = folder / f"{epochs}.toml"
    path.write_text(SETTINGS.format(epochs=epochs))
    return path


def alone(folder: Path, epochs: int, output: Path, resume: bool = False) -> list[dict[str, str]]:
    """Metrics of the run in this process."""
    config = run_config(written(folder, epochs), None, None, ["training.checkpoint_minutes=60"])
    frames = load_stored(config.data, config.model.cutoff, folder / "frames")
    train(config, *frames, output, quiet, resume)
    return rows_of(output)


def command(folder: Path, epochs: int, output: Path, *more: str) -> list[str]:
    words = ["train", str(written(folder, epochs)), "-o", str(output), "--no-physics", *more]
    return [sys.executable, "-m", "so3krates.cli", *words]


def assert_close(a: list[dict[str, str]], b: list[dict[str, str]]) -> None:
    assert [row["step"] for row in a] == [row["step"] for row in b]
    for one, other in zip(a, b, strict=True):
        for key in ("train_loss", "valid_loss", "valid_forces_rmse"):
            assert float(one[key]) == pytest.approx(float(other[key]), rel=ROUNDING)


def test_a_killed_process_ends_the_others_and_one_process_goes_on(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    words = command(folder, 4000, output, "--processes", "2")
    said = tmp_path / "said"  # no pipe, which what JAX says might fill before anybody reads
    with said.open("w") as file:
        environment = os.environ | {"XLA_FLAGS": quick_generator()}
        started = subprocess.Popen(words, env=environment, stdout=file, stderr=subprocess.STDOUT)
    metrics = output / "metrics.csv"
    while started.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) < 4):
        time.sleep(0.1)
    assert started.poll() is None, said.read_text()
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    assert len(children) == 2, said.read_text()
    os.kill(int(children[1]), signal.SIGKILL)
    assert started.wait() == 1
    text = said.read_text()
    assert text.count("Error:") == 1
    assert "process 2 of 2 was ended by SIGKILL" in text and "--resume goes on from the state of step" in text
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    before = rows_of(output)
    epochs = int(before[-1]["epoch"]) + 2
    straight = alone(folder, epochs, tmp_path / "straight")
    losses = [float(row["train_loss"]) for row in straight]
    assert max(losses) > 1.05 * min(losses)  # steps do something
    assert_close(alone(folder, epochs, output, resume=True), straight)
    assert_close(before, straight[: len(before)])


def test_processes_find_each_other_and_speak() -> None:
    """Started by mpiexec, and as Slurm would start them."""
    mpiexec = [str(mpi_file("mpiexec")), "-n", "2"]
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "localhost"}
    slurm |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}"}
    by_slurm = [([], {**slurm, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}) for rank in "01"]
    said = []
    for processes in ([(mpiexec, {})], by_slurm):
        started = [
            subprocess.Popen(
                [*launcher, sys.executable, "-c", TALK], env=os.environ | more, stdout=subprocess.PIPE, text=True
            )
            for launcher, more in processes
        ]
        said.append("".join(one.communicate()[0] for one in started))
        assert not any(one.returncode for one in started), said
    whole = 1 + 2.0**-50  # not a number in float32
    for lines in said:
        assert sorted(lines.splitlines()) == sorted(
            f"{rank} {rank == 0} {[whole, whole + 1]} [0] of 1 None" for rank in (0, 1)
        )


def test_where_a_process_stands() -> None:
    srun = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}
    assert place(srun) == Place("srun", 3, 4)
    assert place(srun | {"PMI_RANK": "3", "PMI_SIZE": "4"}) == Place("srun", 3, 4)
    # mpiexec of MPICH in a job starts a helper on each machine by srun.
    assert place(srun | {"PMI_RANK": "9", "PMI_SIZE": "16"}) == Place("mpiexec", 9, 16)
    # The script of a job of four tasks is one process.
    assert place(srun | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}).size == 1
    assert place({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}) == Place("Open MPI", 1, 2)
    assert place({PLACE: "127.0.0.1:1234,1,2"}) == Place("--processes", 1, 2)
    assert place({}).size == 1


def test_a_machine_without_an_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "nowhere.invalid")
    with pytest.raises(TrainingError, match=r"name, 'nowhere.invalid', has no address .* '127.0.1.1 nowhere.invalid'"):
        run_processes(["train"], 2, tmp_path)


def test_gpus_are_counted(tmp_path: Path) -> None:
    """Of NVIDIA by their own devices, of the others by those that render and their makers' numbers."""
    for name in ("nvidia0", "nvidia1", "nvidiactl", "dri/renderD128", "dri/renderD129", "dri/renderD130", "dri/card0"):
        device = tmp_path / "dev" / name
        device.parent.mkdir(parents=True, exist_ok=True)
        device.touch()
    for name, maker in (("renderD128", AMD), ("renderD129", INTEL), ("renderD131", AMD)):  # the last is not let in
        file = tmp_path / "sys/class/drm" / name / "device/vendor"
        file.parent.mkdir(parents=True)
        file.write_text(f"{maker}\n")
    assert [count_gpus(maker, tmp_path) for maker in (NVIDIA, AMD, INTEL)] == [2, 1, 1]
    assert [count_gpus(maker, tmp_path / "sys") for maker in GPUS.values()] == [0, 0, 0]


def test_numbers_of_processes_that_make_no_sense() -> None:
    for count in (0, -1, 4096):
        with pytest.raises(TrainingError, match=rf"--processes {count}: this machine has .* give 1 to"):
            require_count(count)
