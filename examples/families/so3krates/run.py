"""So3krates, by this package's own commands: train, export, and the bundle as an ASE calculator."""

import sys
from pathlib import Path

from protocol import Job, main

SHARE = 0.9  # of the budget that training is told; the rest is for starting, compiling and exporting


def train(job: Job) -> None:
    command = Path(sys.executable).parent / "so3krates"
    # Its hours are by the clock.
    hours = job.seconds(SHARE * job.left) / 3600
    values = {
        "data.train_file": job.folder / "train.extxyz",
        "data.valid_file": job.folder / "valid.extxyz",
        "training.hours": f"{hours:.6f}",
        "training.seed_model": job.seed,
        "training.seed_training": job.seed,
    }
    settings = [f"{key}={value}" for key, value in values.items()] + job.options["settings"]
    words = [word for setting in settings for word in ("--set", setting)]
    preset = ("--preset", job.options["preset"])
    job.run(command, "train", *preset, *words, "-o", "model", "--no-physics", "--force")
    job.run(command, "export", "model", "-o", "model.so3k")


def calculator(job: Job):
    from so3krates.calculator import So3kratesCalculator

    return So3kratesCalculator(str(job.folder / "model.so3k"), threads=job.threads, guard="off")


main(train, calculator)
