"""MTP: motep's trainer (BFGS, or another minimiser of scipy), its engine in C, its calculator."""

import numpy as np
from ase.calculators.calculator import all_changes
from ase.data import atomic_numbers
from ase.neighborlist import neighbor_list
from moments import Moments
from motep.calculator import MTP
from motep.io.mlip.mtp import read_mtp, write_mtp
from motep.optimizers import scipy as minimisers
from motep.potentials.mtp.data import BasisData, MTPData
from motep.train.trainer import Trainer
from protocol import Job, main

LOSS = {"energy_weight": 1.0, "forces_weight": 0.1, "stress_weight": 0.001}
RESERVE = 0.05  # of the budget, for what comes after


def untrained(job: Job) -> MTPData:
    options, basis = job.options, Moments(job.options["level"])
    shortest = options["shortest"] or min(neighbor_list("d", atoms, options["cutoff"]).min() for atoms in job.train)
    data = MTPData(
        version="1.1.0",
        potential_name=f"level {options['level']}",
        radial_basis=BasisData("RBChebyshev", 0.95 * shortest, float(options["cutoff"]), options["radial"]),
        radial_funcs_count=basis.functions,
        alpha_moments_count=basis.count,
        alpha_index_basic_count=len(basis.basic),
        alpha_index_basic=np.array(basis.basic, np.int32),
        alpha_index_times_count=len(basis.times),
        alpha_index_times=np.array(basis.times, np.int32),
        alpha_scalar_moments=len(basis.scalars),
        alpha_moment_mapping=np.array(basis.scalars, np.int32),
    )
    data.species = [atomic_numbers[element] for element in job.elements]
    return data


def train(job: Job) -> None:
    class Timed(minimisers.Callback):
        """Ends the minimisation when the budget is spent."""

        def __call__(self, intermediate_result) -> None:
            super().__call__(intermediate_result)
            print(f"{job.used:.0f} s, loss {intermediate_result.fun:.6g}", flush=True)
            if self.iter > 1 and job.left < RESERVE * job.budget:
                raise StopIteration

    minimisers.Callback = Timed
    data = untrained(job)
    steps = [{"method": "minimize", "kwargs": {"method": "BFGS", "options": {"maxiter": 10**6}}}]
    Trainer(data, seed=job.seed + 1, engine="cext", loss=LOSS, steps=steps).train(job.train)
    # Its reader does not understand what it writes in the newer form.
    write_mtp(job.folder / "model.mtp", data, legacy=True)


class AnyAtoms(MTP):
    """motep's engine keeps a list of neighbours: another number of atoms, or another periodicity, gets a new one."""

    known = None

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        kind = (len(atoms), *atoms.pbc)
        if kind != self.known:
            self.engine, self.known = type(self.engine)(self.engine.mtp_data, mode="run"), kind
        super().calculate(atoms, properties, system_changes)


def calculator(job: Job):
    data = read_mtp(job.folder / "model.mtp")
    data.species = [atomic_numbers[element] for element in job.elements]
    return AnyAtoms(data, engine="cext")


main(train, calculator)
