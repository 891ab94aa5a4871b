"""NEP: its trainer is GPUMD's `nep`, which needs an NVIDIA GPU; here a model that it made is run by calorine."""

import shutil
import sys

from protocol import Job, main


def train(job: Job) -> None:
    if not job.options["model"]:
        sys.exit("NEP is trained by GPUMD's nep on an NVIDIA GPU: give options.nep.model, the nep.txt that it made")
    shutil.copyfile(job.options["model"], job.folder / "nep.txt")


def calculator(job: Job):
    from calorine.calculators import CPUNEP

    return CPUNEP(str(job.folder / "nep.txt"))


main(train, calculator)
