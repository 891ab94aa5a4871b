"""So3krates, by this package itself: a short trial, as many steps as fit, and the bundle as an ASE calculator."""

import contextlib
import os
import statistics
import time

from protocol import Job, main

TRIAL = 0.15  # of the budget, after which few steps are enough
FEW, MANY = 5, 30  # steps of the trial that have compiled nothing
COMPILED = 0.3  # of the longest step, from which on a step has compiled its program
SHARE = 0.75  # of what is left that steps and validations take; the rest: programs are traced again, and the export


class Enough(Exception):
    """The trial has told what it is for."""


def train(job: Job) -> None:
    # What the trial compiles serves the training.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(job.folder / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    from so3krates import training
    from so3krates.cli_values import set_value
    from so3krates.exporting import export_model
    from so3krates.training.config import SECTIONS

    frames = job.train, job.valid

    content = {section: {} for section in SECTIONS}
    for setting in job.options["settings"]:
        set_value(content, setting)

    def run(steps: int, folder: str, watch) -> training.TrainingResult:
        content["training"] |= {"seed_model": job.seed, "seed_training": job.seed, "steps": steps}
        config = training.RunConfig.from_settings(job.options["preset"], content)
        return training.train(config, *frames, job.folder / folder, watch)

    taken: list[float] = []
    mark = time.process_time()

    def ready() -> list[float]:
        """Steps of the trial that have compiled nothing, CPU s."""
        return [seconds for seconds in taken if seconds < COMPILED * max(taken)]

    def timed(status: training.Status) -> None:
        nonlocal mark
        if status.step <= len(taken):
            return  # a message
        before, mark = mark, time.process_time()
        taken.append(mark - before)
        if len(ready()) >= (FEW if job.used > TRIAL * job.budget else MANY):
            raise Enough

    with contextlib.suppress(Enough):
        run(2 * MANY, "trial", timed)
    step = statistics.fmean(ready() or taken)  # batches differ in size
    # An epoch has a validation, of which a batch costs no more than a step.
    share = len(frames[0]) / (len(frames[0]) + len(frames[1]))
    print(f"{step:.3f} CPU s for a step, {job.used:.0f} s so far", flush=True)
    result = run(max(MANY, int(SHARE * job.left * share / step)), "model", lambda status: None)
    export_model(result.model, job.folder / "model.so3k")


def calculator(job: Job):
    from so3krates.calculator import So3kratesCalculator

    return So3kratesCalculator(str(job.folder / "model.so3k"), threads=job.threads, guard="off")


main(train, calculator)
