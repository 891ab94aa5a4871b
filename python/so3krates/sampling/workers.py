"""Calculations shared out to processes; each result is kept on disk, so that none is made twice."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from ase.calculators.calculator import Calculator

from so3krates.engines import (
    PROCESSES,
    EngineError,
    describe_failures,
    open_engine,
    own_process,
    require_engine,
    run_all,
)
from so3krates.files import replacing
from so3krates.progress import Callback

from .calculators import Recipe, forget, work_in
from .harmonic import SamplingError

Result = dict[str, np.ndarray]
Source = Recipe | Calculator
DRIVER, TEACHER = "driver", "teacher"


class _Calculators:
    """The calculators of one process by role, made when they are needed; equal recipes share one."""

    def __init__(self, sources: Mapping[str, Source], folder: Path | None) -> None:
        self._sources, self._folder = sources, folder
        self._made: list[tuple[Source, Calculator]] = []

    def of(self, role: str) -> Calculator:
        source = self._sources[role]
        for other, calculator in self._made:
            if other is source or other == source:
                return calculator
        calculator = source.make() if isinstance(source, Recipe) else source
        if self._folder is not None:  # processes must not write the same files
            work_in(calculator, self._folder / f"process-{os.getpid()}")
        self._made.append((source, calculator))
        return calculator


_of_process: tuple[Any, _Calculators] | None = None  # of a process of a pool, and for whom it was made


class Workers:
    """The driver, which makes structures, and the teacher, which labels them, in one or more processes.

    A calculation is a function of a calculator and of plain arguments, with a name under which its result is kept in
    `folder`, where there is one: what lies there is not calculated again. Results do not depend on the number of
    processes. To be used in a `with` block. Raises SamplingError where several processes share a calculator that is
    not given by a Recipe, and where calculations fail twice, when all others are done.
    """

    def __init__(
        self,
        teacher: Source,
        driver: Source | None = None,
        folder: str | Path | None = None,
        processes: int = 1,
        on_progress: Callback | None = None,
        engine: str = PROCESSES,
    ) -> None:
        sources = {TEACHER: teacher, DRIVER: teacher if driver is None else driver}
        try:
            require_engine(engine, processes)
        except EngineError as error:
            raise SamplingError(str(error)) from error
        self._is_shared = processes > 1 or engine != PROCESSES
        if self._is_shared and not all(isinstance(source, Recipe) for source in sources.values()):
            raise SamplingError("several processes need calculators by name: give a Recipe")
        self.folder = None if folder is None else Path(folder)
        self._sources, self._processes, self._on_progress = sources, processes, on_progress
        self._own = _Calculators(sources, self.folder)
        self._engine, self._stack, self._pool = engine, contextlib.ExitStack(), own_process()

    def __enter__(self) -> Workers:
        if self._is_shared:
            self._pool = self._stack.enter_context(open_engine(self._engine, self._processes))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def names(self) -> dict[str, str]:
        """What is known of teacher and driver, in words."""
        words = {
            role: str(source) if isinstance(source, Recipe) else type(source).__name__
            for role, source in self._sources.items()
        }
        return words if words[DRIVER] != words[TEACHER] else {TEACHER: words[TEACHER]}

    def run(
        self,
        stage: str,
        role: str,
        function: Callable[..., Result],
        jobs: Mapping[str, tuple[Any, ...]],
        counted: tuple[int, int] | None = None,
    ) -> list[Result]:
        """Results of ``function(calculator of the role, *arguments)`` for jobs by name, in their order.

        `counted`: how many of how many were done before, where a stage has several calls.
        """
        before, total = counted or (0, len(jobs))
        results: dict[str, Result] = {name: found for name in jobs if (found := self._kept(name)) is not None}
        missing = [name for name in jobs if name not in results]
        self._report(stage, before + len(results), total)

        def keep(name: str, result: Result) -> None:
            results[name] = result
            self._report(stage, before + len(results), total)

        calculate = _work if self._is_shared else self._calculate
        own = self._sources, self.folder, role, function
        arguments = {name: (*own, self._path(name), jobs[name]) for name in missing}
        failed = run_all(self._pool, self._processes, calculate, arguments, keep)
        if len(jobs) == len(failed) == 1:
            raise next(iter(failed.values()))
        if failed:
            kept = "" if self.folder is None else "; the others are kept, and the same command goes on with these"
            first = next(iter(failed.values()))
            raise SamplingError(describe_failures(failed, len(jobs), "calculation") + kept) from first
        return [results[name] for name in jobs]

    def _calculate(
        self, _: Any, __: Any, role: str, function: Callable[..., Result], path: Path | None, arguments: Any
    ) -> Result:
        """One calculation in this process."""
        return _calculated(self._own.of(role), function, path, arguments)

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.npz"

    def _kept(self, name: str) -> Result | None:
        path = self._path(name)
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path) as content:
                return dict(content)
        except (ValueError, EOFError, zipfile.BadZipFile):
            return None  # damaged: it is calculated again

    def _report(self, stage: str, done: int, total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(stage, done, total)


def _work(
    sources: Mapping[str, Source],
    folder: Path | None,
    role: str,
    function: Callable[..., Result],
    path: Path | None,
    arguments: tuple[Any, ...],
) -> Result:
    """One calculation in a process of a pool, which keeps its calculators."""
    global _of_process
    if _of_process is None or _of_process[0] != (sources, folder):
        _of_process = (sources, folder), _Calculators(sources, folder)
    return _calculated(_of_process[1].of(role), function, path, arguments)


def _calculated(
    calculator: Calculator, function: Callable[..., Result], path: Path | None, arguments: tuple[Any, ...]
) -> Result:
    forget(calculator)
    result = function(calculator, *arguments)
    if path is not None:
        with replacing(path) as part:
            np.savez(part, **cast(dict[str, Any], result))  # a name cannot be that of an option: they are ours
    return result
