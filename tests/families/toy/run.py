import os
import sys
import time

import numpy as np
from ase.calculators.calculator import Calculator
from matscipy.neighbours import neighbour_list
from protocol import main


def train(job):
    with open(os.environ["TOY_NOTES"], "a") as notes:
        notes.write(f"{job.options['fails']} {len(job.train)} {len(job.valid)} {job.seed}\n")
    if job.options["fails"] == "raises":
        raise RuntimeError("the toy is broken")
    if job.options["fails"] == "time":
        while True:
            pass
    if job.options["fails"] == "memory":
        held = np.ones(10**8)
        time.sleep(60)
        print(held.sum())


class Toy(Calculator):
    """Pairs: -0.2 eV/A^4 (4 A - d)^3 (d - 32/15 A), whose minimum is at 2.6 A."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        box = atoms.copy()
        if not atoms.pbc.any():
            box.center(vacuum=5.0)
        i, d, vectors = neighbour_list("idD", box, 4.0)
        slopes = -0.2 * ((4 - d) ** 3 - 3 * (4 - d) ** 2 * (d - 32 / 15))
        pulls = (slopes / d)[:, None] * vectors
        forces = np.stack([np.bincount(i, pulls[:, k], len(atoms)) for k in range(3)], axis=1)
        self.results = {"energy": float(-0.1 * ((4 - d) ** 3 * (d - 32 / 15)).sum()), "forces": forces}
        if atoms.pbc.all():
            full = 0.5 * vectors.T @ pulls / atoms.get_volume()
            self.results["stress"] = full[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        if os.environ.get("TOY_FAILS") == "nan":
            self.results["forces"] = forces * np.nan
        if os.environ.get("TOY_FAILS") == "absurd":
            self.results["forces"] = forces * 1e200
        if os.environ.get("TOY_FAILS") == "dies":
            sys.exit(3)


if __name__ == "__main__":
    main(train, lambda job: Toy())
