"""SOAP + ridge: energies are linear in the atoms' SOAP vectors, forces in their derivatives, which dscribe gives."""

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from dscribe.descriptors import SOAP
from linear import Equations, ridge
from protocol import Job, main

AT_ONCE = 8  # atoms whose derivatives are held at a time
STRAIN = 1e-4
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


class Sums:
    """SOAP vectors summed over the atoms of each element, with a constant in front, and their derivatives."""

    def __init__(self, job: Job) -> None:
        self.elements, options = job.elements, job.options
        self.length = {"r_cut": options["cutoff"], "n_max": options["n_max"], "l_max": options["l_max"]}
        self.soap = {
            pbc: SOAP(species=job.elements, periodic=pbc, dtype="float64", **self.length) for pbc in (True, False)
        }

    def kinds(self, atoms):
        return np.array([[symbol == element for symbol in atoms.symbols] for element in self.elements], float)

    def energy(self, atoms):
        kinds = self.kinds(atoms)
        vectors = self.soap[bool(atoms.pbc.all())].create(atoms)
        return np.concatenate([kinds.sum(axis=1)[:, None], kinds @ vectors], axis=1).ravel()

    def forces(self, atoms):
        kinds, soap = self.kinds(atoms), self.soap[bool(atoms.pbc.all())]
        parts = []
        for first in range(0, len(atoms), AT_ONCE):
            include = list(range(first, min(first + AT_ONCE, len(atoms))))
            found = soap.derivatives(atoms, include=include, attach=True, method="analytical", return_descriptor=False)
            parts.append(-np.einsum("kc,cixf->ixkf", kinds, found))
        rows = np.concatenate(parts)  # (atoms, 3, kinds, features)
        return np.concatenate([np.zeros((*rows.shape[:3], 1)), rows], axis=3).reshape(3 * len(atoms), -1)

    def stress(self, atoms):
        rows = []
        for i, j in VOIGT:
            ends = []
            for sign in (1, -1):
                strain = np.zeros((3, 3))
                strain[i, j] += 0.5 * sign * STRAIN
                strain[j, i] += 0.5 * sign * STRAIN
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
                ends.append(self.energy(moved))
            rows.append((ends[0] - ends[1]) / (2 * STRAIN) / atoms.get_volume())
        return np.array(rows)


def train(job: Job) -> None:
    sums = Sums(job)

    def equations(frames, share):
        until = job.used + share * job.left
        for atoms in frames:
            if job.used > until:
                print("no time for further frames", flush=True)
                return
            yield atoms, Equations(sums.energy(atoms), sums.forces(atoms), sums.stress(atoms))

    np.save(job.folder / "coefficients.npy", ridge(equations(job.train, 0.85), equations(job.valid, 0.6)))


class Soap(Calculator):
    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.sums, self.coefficients = Sums(job), np.load(job.folder / "coefficients.npy")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        for name in ("energy", *properties):
            shape = (-1, 3) if name == "forces" else -1
            value = getattr(self.sums, name)(self.atoms) @ self.coefficients
            self.results[name] = float(value) if name == "energy" else value.reshape(shape)


main(train, Soap)
