"""NVIDIA's own tools on the smallest deck and the smallest structure, where they are here and time is left."""

from __future__ import annotations

import sys

from . import machine
from .first import Pieces
from .process import CommandError, run_command, tail
from .sizes import Context

CHECKS = ("memcheck", "racecheck", "initcheck", "synccheck")
KERNELS = "regex:messages"  # those that take most of the time
METRICS = ("--set", "full", "--launch-count", "4", "--clock-control", "none")


def tools(context: Context) -> Pieces:
    """Errors that each checker finds in one evaluation of the small network; ncu's report of two kernels."""
    if context.platform == "cpu":
        yield {"skipped": "the tools need a GPU"}
        return
    found = machine.tools()
    missing = [name for name in ("compute-sanitizer", "ncu") if name not in found]
    yield {"missing": missing}
    small, first = context.networks()[-1], context.networks()[0]
    if "compute-sanitizer" in found:
        for check in CHECKS:
            command = [found["compute-sanitizer"], "--tool", check, "--error-exitcode", "9"]
            try:
                done = run_command([*command, *worker(context, small)], context.left, context.environment())
                yield {"checks": {check: tail(done.output, 200)}}
            except CommandError as error:
                # A tool that cannot run here says nothing of the kernels.
                failures = [f"{check}: {error}"] if "ERROR SUMMARY" in str(error) else []
                yield {"checks": {check: str(error)}, "failures": failures}
    if "ncu" in found:
        command = [found["ncu"], *METRICS, "--kernel-name", KERNELS, *worker(context, first)]
        try:
            yield {"ncu": run_command(command, context.left, context.environment()).output[-60_000:]}
        except CommandError as error:
            yield {"ncu": str(error)}


def worker(context: Context, bundle: str) -> list[str]:
    """One evaluation of the reference cell, a process of its own."""
    return [sys.executable, "-m", "gpu_kit.cell", context.to_json(), bundle, "warm"]
