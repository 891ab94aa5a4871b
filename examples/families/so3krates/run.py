"""So3krates, by this package's own commands: train, export, and the bundle as an ASE calculator."""

import os
import shutil
import sys
from pathlib import Path

from protocol import Job, main

COMMAND = Path(sys.executable).parent / "so3krates"


def train(job: Job) -> None:
    # What one trial compiles serves the others and the training.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(job.folder / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    values = {
        "data.train_file": job.folder / "train.extxyz",
        "data.valid_file": job.folder / "valid.extxyz",
        "training.seed_model": job.seed,
        "training.seed_training": job.seed,
    }
    settings = [f"{key}={value}" for key, value in values.items()] + job.options["settings"]

    def run(steps: int) -> None:
        shutil.rmtree(job.folder / "model", ignore_errors=True)
        words = [word for setting in [*settings, f"training.steps={steps}"] for word in ("--set", setting)]
        job.run(COMMAND, "train", "--preset", job.options["preset"], *words, "-o", "model", "--no-physics", "--force")

    run(job.trial(run, few=5))
    shutil.rmtree(job.folder / "compiled")
    job.run(COMMAND, "export", "model", "-o", "model.so3k")


def calculator(job: Job):
    from so3krates.calculator import So3kratesCalculator

    return So3kratesCalculator(str(job.folder / "model.so3k"), threads=job.threads, guard="off")


main(train, calculator)
