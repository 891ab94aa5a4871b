"""Where calculations run that need nothing of each other: one setting for sample, learn and kappa --run.

`processes` of this machine, the workers of `dask`, or `executorlib`, which submits to Slurm where there is one.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .hints import pip_install
from .wording import counted

PROCESSES, DASK, EXECUTORLIB = ENGINES = ("processes", "dask", "executorlib")
NEEDS = {DASK: ("distributed", "dask distributed"), EXECUTORLIB: ("executorlib", "executorlib[cluster]")}
SUBMITS = "pysqa", "h5py"  # with which executorlib gives jobs to Slurm
# executorlib's own names a partition, and has the job read the user's login files; SBATCH_PARTITION and its like are
# for Slurm's choices.
JOB = """\
#!/bin/bash
#SBATCH --job-name=so3krates
#SBATCH --chdir={{working_directory}}
#SBATCH --output=output
#SBATCH --ntasks={{cores}}
{{command}}
"""
MOST_WORKERS = 64  # on any machine; where there are many cores, four times as many as these
ATTEMPTS = 2  # at each calculation
HOPELESS = 3  # so many that failed before any succeeded: the others are not tried
LISTED = 3  # failures that a message names
ENDED_ALONE = (
    "its process has ended {} times, the last with no other beside it: it takes more memory than there is, or its "
    "program ends the process"
)
LOGGER = logging.getLogger(__name__)


class EngineError(RuntimeError):
    """An engine that is not there, or calculations that failed; the message says which, and what to do."""


def require_engine(engine: str, workers: int) -> None:
    """Refuses an engine that is unknown or not installed, and numbers of workers that make no sense."""
    if engine not in ENGINES:
        raise EngineError(f'engine = "{engine}": give {", ".join(ENGINES)}')
    most = max(MOST_WORKERS, 4 * (os.cpu_count() or 1))
    if workers < 1 or (engine == PROCESSES and workers > most):
        raise EngineError(f"processes = {workers}: give 1 to {most} on this machine of {os.cpu_count()} cores")
    if engine in NEEDS:
        module, packages = NEEDS[engine]
        try:
            for name in (module, *(SUBMITS if engine == EXECUTORLIB and _submits() else ())):
                importlib.import_module(name)
        except ImportError as error:
            raise EngineError(
                f'engine = "{engine}" needs a package ({error.name}): {pip_install(*packages.split())}'
            ) from None


def _submits() -> bool:
    """Whether calculations become jobs of Slurm: outside of one, where it is at hand."""
    return "SLURM_JOB_ID" not in os.environ and shutil.which("sbatch") is not None


@contextmanager
def open_engine(engine: str, workers: int, cores: int = 1) -> Iterator[Executor]:
    """An executor of `concurrent.futures`, to be used in a `with` block. Raises EngineError as `require_engine`.

    dask: of the scheduler that DASK_SCHEDULER_ADDRESS names, or with workers of its own. executorlib: in an allocation
    of Slurm on its machines, where `sbatch` is each calculation as a job of so many cores, else on this machine.
    """
    require_engine(engine, workers)
    if engine == PROCESSES and workers == 1:
        yield _Own()
    elif engine == PROCESSES:
        processes = _Processes(workers)
        try:
            yield processes
        finally:
            processes.shutdown(cancel_futures=True)
    elif engine == DASK:
        from distributed import Client

        own: dict[str, Any] = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        own["silence_logs"] = logging.CRITICAL  # failures are said by us
        with Client(**({} if "DASK_SCHEDULER_ADDRESS" in os.environ else own)) as client:
            # Else what is tried again would be taken for the same, and its failure be given back.
            yield client.get_executor(pure=False)
    else:
        import executorlib

        if _submits():
            # What an earlier run left in a folder of executorlib's would be taken for the result. Its own "cores" are
            # copies of the calculation.
            resources = {"cores": 1, "threads_per_core": cores, "submission_template": JOB}
            with (
                tempfile.TemporaryDirectory(prefix=".jobs-", dir=Path.cwd()) as scratch,
                executorlib.SlurmClusterExecutor(cache_directory=scratch, resource_dict=resources) as pool,
            ):
                try:
                    yield _Jobs(pool)
                except BaseException:  # an interruption takes the jobs out of the queue
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
            return
        in_job = "SLURM_JOB_ID" in os.environ
        kind = executorlib.SlurmJobExecutor if in_job else executorlib.SingleNodeExecutor
        with kind(max_workers=workers) as pool:
            yield pool


class _Own(Executor):
    """Calculates in this process, when it is asked."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future


class _Processes(Executor):
    """Processes of this machine, in whose place there are new ones where one has ended."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self.renew()

    def renew(self) -> None:
        """New processes; those of before are gone."""
        # A forked process would inherit the threads of JAX and the state of MPI.
        self._pool = ProcessPoolExecutor(self._workers, multiprocessing.get_context("spawn"))

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        try:
            return self._pool.submit(function, *arguments, **named)
        except BrokenExecutor:  # a process has ended since the last result
            self.renew()
            return self._pool.submit(function, *arguments, **named)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


class _Jobs(Executor):
    """Each calculation is a job of its own, in this folder; one that is tried again is another job."""

    def __init__(self, pool: Any) -> None:
        self._pool, self._count = pool, 0

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        self._count += 1
        resources = {"cache_key": f"job-{self._count}"}
        future: Future[Any] = self._pool.submit(
            _in_folder, os.getcwd(), function, *arguments, resource_dict=resources, **named
        )
        return future


def _in_folder(folder: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    os.chdir(folder)
    return function(*arguments, **named)


def own_process() -> Executor:
    """An executor without further processes."""
    return _Own()


def run_all(
    pool: Executor,
    workers: int,
    function: Callable[..., Any],
    jobs: Mapping[str, tuple[Any, ...]],
    on_done: Callable[[str, Any], None],
) -> dict[str, Exception]:
    """`function(*arguments)` for jobs by name; `on_done` is given each result as it comes.

    What fails is tried once more, when the others have begun. Where a process of this machine ends, what was running or
    waiting in its pool is run again, one after the other, so that it shows whose process it was. Returns why some
    failed again; the others are all done, unless HOPELESS of them failed before any succeeded. Raises EngineError where
    another engine is gone.
    """
    waiting = list(jobs)[::-1]
    tried = dict.fromkeys(jobs, 0)
    running: dict[Future[Any], str] = {}
    failed: dict[str, Exception] = {}
    alone: set[str] = set()  # run without others, as a process has ended with them
    succeeded = False
    most = 1 if isinstance(pool, _Own) else workers if isinstance(pool, _Jobs) else 2 * workers
    while waiting or running:
        # A short queue: what a job needs travels when its turn has come.
        while waiting and len(running) < (1 if alone else most):
            name = waiting.pop()
            try:
                running[pool.submit(function, *jobs[name])] = name
            except BrokenExecutor as gone:
                raise EngineError(_ended(gone)) from gone
            tried[name] += 1
        done = wait(running, return_when=FIRST_COMPLETED).done
        if isinstance(pool, _Processes) and any(isinstance(future.exception(), BrokenExecutor) for future in done):
            done = wait(running).done  # all of them know it
            pool.renew()
            lost = [running[future] for future in done if isinstance(future.exception(), BrokenExecutor)]
            alone.update(lost)
            if len(lost) > 1:
                LOGGER.warning("a process has ended: the %d that it may have been run again, one by one", len(lost))
        for future in done:
            name = running.pop(future)
            error = future.exception()
            if error is None:
                succeeded = True
                alone.discard(name)
                on_done(name, future.result())
            elif isinstance(error, BrokenExecutor):
                if not isinstance(pool, _Processes):
                    raise EngineError(_ended(error)) from error
                if len(lost) > 1:
                    tried[name] -= 1
                if tried[name] < ATTEMPTS:
                    waiting.append(name)
                else:
                    alone.discard(name)
                    failed[name] = EngineError(ENDED_ALONE.format(ATTEMPTS))
            elif not isinstance(error, Exception):
                raise error
            elif tried[name] < ATTEMPTS:
                alone.discard(name)
                waiting.insert(0, name)
            else:
                alone.discard(name)
                failed[name] = error
        if len(failed) >= HOPELESS and not succeeded:
            for future in running:
                future.cancel()
            return failed
    return failed


def _ended(error: BaseException) -> str:
    """What to do where a process of an engine has ended."""
    return (
        f"a process of the engine has ended ({' '.join(str(error).split())}), perhaps for want of memory: give fewer "
        "at a time; the same command goes on with what is missing"
    )


def describe_failures(failed: Mapping[str, Exception], total: int, what: str) -> str:
    """Which calculations failed, and why, in a line."""
    listed = "; ".join(f"{name}: {' '.join(str(error).split())}" for name, error in list(failed.items())[:LISTED])
    more = f"; and {len(failed) - LISTED} more" if len(failed) > LISTED else ""
    return f"{len(failed)} of {counted(total, what)} failed, each {ATTEMPTS} times: {listed}{more}"
