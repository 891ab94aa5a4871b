"""A run in several processes: how they find each other, and what all of them must know (docs/training.md)."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from so3krates.hints import command, pip_install

from .run_folder import TrainingError

PLACE = "SO3KRATES_PROCESS"  # set by `--processes`: address of the first process, rank and number
LOST = 75  # exit status of a process whose fellow is gone
INTEL_GPUS = "ZE_AFFINITY_MASK"  # says which of Intel's a process sees: of these JAX does not tell its plugin
WAIT = 86400  # s that processes wait for each other at the end: the first has more to do
# Of MPICH's binary interface.
MPI_COMM_WORLD, MPI_CHAR = 0x44000000, 0x4C000101
ADDRESS_BYTES = 256
# Makers of GPUs, by JAX's plugin for them.
NVIDIA, AMD, INTEL = "0x10de", "0x1002", "0x8086"
GPUS = {"xla_cuda": NVIDIA, "xla_rocm": AMD, "xla_oneapi": INTEL}
# What XLA's collectives and the coordination service say of a process that is gone.
GONE = ("gloo", "nccl", "coordination", "connection reset", "closed by peer", "heartbeat", "unavailable:")


Made = TypeVar("Made")


class Place(NamedTuple):
    """Where a process stands among those of its run."""

    launcher: str  # in words
    rank: int
    size: int


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """What the launcher of this process has told it; of one process where there is none."""
    if PLACE in environment:
        _, rank, count = environment[PLACE].rsplit(",", 2)
        return Place("--processes", int(rank), int(count))

    def number(name: str) -> int:
        text = environment.get(name, "")
        return int(text) if text.isdecimal() else 0

    # A script of sbatch is a step of one task, whatever the job has; mpiexec starts its helpers by srun.
    tasks, ranks = number("SLURM_STEP_NUM_TASKS"), number("PMI_SIZE")
    if tasks > 1 and "SLURM_PROCID" in environment and ranks in (0, tasks):
        return Place("srun", number("SLURM_PROCID"), tasks)
    if ranks > 1:
        return Place("mpiexec", number("PMI_RANK"), ranks)
    if number("OMPI_COMM_WORLD_SIZE") > 1:
        return Place("Open MPI", number("OMPI_COMM_WORLD_RANK"), number("OMPI_COMM_WORLD_SIZE"))
    return Place("", 0, 1)


@contextmanager
def joined(here: Place) -> Iterator[None]:
    """Connects the processes of a run by `jax.distributed`, before anything is computed.

    Raises TrainingError where they do not find each other, or cannot.
    """
    if here.size == 1:
        yield
        return
    require_address()
    # SIGTERM is ours: it ends a run with a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(**_meeting(here), shutdown_timeout_seconds=WAIT)
        with _silent_output():  # of gloo, which tells of every connection
            multihost_utils.sync_global_devices("begin")
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"process {here.rank} of {here.size} (started by {here.launcher}) does not find the others: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    yield


def require_address() -> None:
    """Refuses a machine whose name has no address: by it processes meet. Raises TrainingError."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        raise TrainingError(
            f"this machine's own name, {name!r}, has no address ({error.strerror}), and by it the processes of a "
            f"training meet: add the line '127.0.1.1 {name}' to /etc/hosts"
        ) from error


def leave() -> None:
    """The end of all that processes do together; each may go on by itself. Nothing in a run of one process."""
    if not jax.distributed.is_initialized():
        return
    jax.distributed.shutdown()
    if _mpi_of_process.cache_info().currsize:
        _mpi_of_process().MPI_Finalize()


def _meeting(here: Place) -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize`."""
    if here.launcher == "--processes":
        address = os.environ[PLACE].rsplit(",", 2)[0]
        return {"coordinator_address": address, "num_processes": here.size, "process_id": here.rank}
    if here.launcher == "mpiexec":
        own = {"num_processes": here.size, "process_id": here.rank}
        if (local := os.environ.get("MPI_LOCALRANKID")) and gpus():
            own["local_device_ids"] = int(local)
            os.environ.setdefault(INTEL_GPUS, local)
        return {"coordinator_address": _address_by_mpi(here.rank), **own}
    if here.launcher == "Open MPI" and "OMPI_MCA_orte_hnp_uri" not in os.environ:  # of its versions up to 4
        if importlib.util.find_spec("mpi4py") is None:
            raise TrainingError(
                f"the {here.size} processes of this Open MPI find each other through mpi4py: {pip_install('mpi4py')}; "
                f"or {command('mpiexec', '-n', here.size)} of this environment"
            )
        return {"cluster_detection_method": "mpi4py"}
    return {}  # JAX knows Slurm and Open MPI


@cache
def _mpi_of_process() -> ctypes.CDLL:
    """MPI, begun: mpiexec then ends all processes where one ends without it."""
    from so3krates.lammps.environment import load_mpi

    mpi = load_mpi()
    mpi.MPI_Init(None, None)
    return mpi


def _address_by_mpi(rank: int) -> str:
    """Address of the first process, by one broadcast."""
    mpi, text = _mpi_of_process(), ctypes.create_string_buffer(ADDRESS_BYTES)
    if rank == 0:
        text.value = f"{socket.gethostname()}:{free_port()}".encode()
    if mpi.MPI_Bcast(text, ADDRESS_BYTES, MPI_CHAR, 0, MPI_COMM_WORLD):
        raise TrainingError("MPI_Bcast failed: the processes could not tell each other their address")
    return text.value.decode()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


def gpus() -> int:
    """GPUs of this machine that JAX has a plugin for, without waking any."""
    plugins = importlib.util.find_spec("jax_plugins")
    folders = list(plugins.submodule_search_locations or []) if plugins else []
    names = [name for folder in folders for name in os.listdir(folder)]
    return max(
        count_gpus(maker) if any(name.startswith(plugin) for name in names) else 0 for plugin, maker in GPUS.items()
    )


def count_gpus(maker: str, root: Path = Path("/")) -> int:
    """Those of a maker, by its number as PCI has it, that the devices of a system show. root: the system's folder."""
    if maker == NVIDIA:
        return sum(one.name.removeprefix("nvidia").isdecimal() for one in (root / "dev").glob("nvidia*"))
    makers = (root / "sys/class/drm" / one.name / "device/vendor" for one in (root / "dev/dri").glob("renderD*"))
    return sum(one.is_file() and one.read_text().strip() == maker for one in makers)


@contextmanager
def _silent_output() -> Iterator[None]:
    kept = os.dup(1)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


# What processes tell each other. In a run of one process each is what it was given.


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def of_first(value: Any) -> Any:
    """What the first process has here."""
    if jax.process_count() == 1:
        return value
    content = np.frombuffer(pickle.dumps(value), np.uint8) if is_first() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    given = content if is_first() else np.zeros(size, np.uint8)
    return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(given), np.uint8).tobytes())


def first_before_others(work: Callable[[], Made]) -> Made:
    """What a call makes in each process, when the first has done it: what it leaves on disk, the others find."""
    if jax.process_count() == 1:
        return work()
    made = work() if is_first() else None
    of_first(None)
    return work() if made is None else made


def of_all(array: np.ndarray) -> np.ndarray:
    """The arrays (...) of all processes, to the bit, (count, ...)."""
    if jax.process_count() == 1:
        return array[None]
    # As bytes: JAX would round float64.
    content = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    found = np.ascontiguousarray(multihost_utils.process_allgather(content))
    return found.view(array.dtype).reshape(-1, *array.shape)


def agreed(reason: str | None) -> str | None:
    """The first reason that any process has: all stop at the same step."""
    if jax.process_count() == 1:
        return reason
    own = jax.make_array_from_process_local_data(_along(mesh(1)), np.array([reason is not None]))
    if not np.asarray(_any()(own)):
        return None
    text = np.zeros(ADDRESS_BYTES, np.uint8)
    content = np.frombuffer((reason or "").encode()[:ADDRESS_BYTES], np.uint8)
    text[: len(content)] = content
    found = (row.tobytes().rstrip(b"\0").decode(errors="replace") for row in of_all(text))
    return next((one for one in found if one), None)


@cache
def _any() -> Any:
    return jax.jit(lambda flags: flags.any(), out_shardings=_whole(mesh(1)))


# Arrays that lie on the devices of all processes.


@cache
def mesh(devices: int) -> jax.sharding.Mesh:
    """The devices that share a batch: the first of every process, as many of each, in a row."""
    own = [[d for d in jax.devices() if d.process_index == k][:devices] for k in range(jax.process_count())]
    return jax.sharding.Mesh(np.array(own).reshape(-1), ("devices",))


def _along(row: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    return jax.sharding.NamedSharding(row, jax.sharding.PartitionSpec("devices"))


def _whole(row: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    return jax.sharding.NamedSharding(row, jax.sharding.PartitionSpec())


def shared_out(parts: Any, devices: int) -> Any:
    """Arrays whose first axis are the parts of this process, as arrays over the parts of all."""
    if jax.process_count() == 1:
        return parts
    place = _along(mesh(devices))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(place, np.asarray(x)), parts)


def everywhere(tree: Any, devices: int) -> Any:
    """Arrays that are the same in all processes, on the devices of all."""
    if jax.process_count() == 1:
        return tree
    place = _whole(mesh(devices))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(place, np.asarray(x)), tree)


def is_lost(error: BaseException) -> bool:
    """Whether what XLA says means that another process is gone."""
    return isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error).lower() for word in GONE)
