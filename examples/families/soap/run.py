"""SOAP + ridge: energies are linear in the atoms' SOAP vectors, forces and stress in their derivatives, by dscribe.

dscribe has no derivatives of periodic structures: each atom with its neighbours is handed to it as a cluster.
"""

import math

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list
from dscribe.descriptors import SOAP
from linear import Equations, ridge
from protocol import Job, main

REACH = math.sqrt(-2 * math.log(1e-3))  # widths at which dscribe takes a Gaussian to end
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


class Vectors:
    """SOAP vectors of atoms and their derivatives."""

    def __init__(self, job: Job) -> None:
        self.elements, self.cutoff = job.elements, job.options["cutoff"]
        sizes = {name: job.options[name] for name in ("n_max", "l_max", "sigma")}
        # Gaussians of atoms beyond the cutoff reach into it: without these there is a step.
        self.reach = self.cutoff + REACH * job.options["sigma"]
        self.soap = SOAP(species=job.elements, r_cut=self.cutoff, periodic=False, dtype="float64", **sizes)

    def environments(self, atoms):
        """Of each atom: its number, its element's, neighbours (n,), vectors to them (n, 3), vector (f,), (n, 3, f)."""
        i, j, vectors = neighbor_list("ijD", atoms, self.reach)
        symbols = np.array(atoms.get_chemical_symbols())
        for k in range(len(atoms)):
            own, to = j[i == k], vectors[i == k]
            cluster = Atoms([symbols[k], *symbols[own]], np.concatenate([np.zeros((1, 3)), to]))
            slopes, values = self.soap.derivatives(cluster, centers=[0], attach=True, method="analytical")
            yield k, self.elements.index(symbols[k]), own, to, values[0], slopes[0, 1:]

    def equations(self, atoms) -> Equations:
        """Features are those of each element's atoms in turn, its number of atoms first."""
        shape = len(self.elements), self.soap.get_number_of_features() + 1
        energy, forces, strain = np.zeros(shape), np.zeros((len(atoms), 3, *shape)), np.zeros((3, 3, *shape))
        for k, kind, own, to, values, slopes in self.environments(atoms):
            energy[kind] += [1.0, *values]
            np.add.at(forces[:, :, kind, 1:], own, -slopes)
            forces[k, :, kind, 1:] += slopes.sum(axis=0)
            strain[:, :, kind, 1:] += np.einsum("nif,nj->ijf", slopes, to)
        rows = np.array([0.5 * (strain[i, j] + strain[j, i]).ravel() for i, j in VOIGT])
        stress = rows / atoms.get_volume() if atoms.pbc.all() else None
        return Equations(energy.ravel(), forces.reshape(3 * len(atoms), -1), stress)


def train(job: Job) -> None:
    vectors = Vectors(job)

    def equations(frames, share):
        until = job.used + share * job.left
        for number, atoms in enumerate(frames):
            if job.used > until:
                print(f"{number} of {len(frames)} frames are used: there is no time for more", flush=True)
                return
            yield atoms, vectors.equations(atoms)

    np.save(job.folder / "coefficients.npy", ridge(equations(job.train, 0.8), equations(job.valid, 0.8)))


class Soap(Calculator):
    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.vectors = Vectors(job)
        self.coefficients = np.load(job.folder / "coefficients.npy").reshape(len(job.elements), -1)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        energy, forces, strain = 0.0, np.zeros((len(atoms), 3)), np.zeros((3, 3))
        for k, kind, own, to, values, slopes in self.vectors.environments(atoms):
            first, *rest = self.coefficients[kind]
            energy += first + values @ rest
            pushes = slopes @ rest
            np.add.at(forces, own, -pushes)
            forces[k] += pushes.sum(axis=0)
            strain += pushes.T @ to
        self.results = {"energy": energy, "forces": forces}
        if atoms.pbc.all():
            self.results["stress"] = np.array([0.5 * (strain[i, j] + strain[j, i]) for i, j in VOIGT])
            self.results["stress"] /= atoms.get_volume()


main(train, Soap)
