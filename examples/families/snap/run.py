"""SNAP: LAMMPS' compute snap gives the equations, its pair style runs the fit (as FitSNAP does it)."""

import numpy as np
from lammps_calculator import LammpsCalculator
from linear import Equations, ridge
from protocol import Job, main

RADIUS, RFAC = 0.5, 0.99363


def shape(job: Job) -> tuple[float, int, int, list[float]]:
    options = job.options
    weights = options["weights"] or [1.0 - 0.2 * number for number in range(len(job.elements))]
    return options["cutoff"], options["twojmax"], int(options["quadratic"]), weights


def with_constants(rows, constants):
    """Rows of components, those of each element preceded by its constant."""
    parts = rows.reshape(len(rows), len(constants), -1)
    first = np.broadcast_to(constants, parts.shape[:2])[:, :, None]
    return np.concatenate([first, parts], axis=2).reshape(len(rows), -1)


def equations(job: Job, frames):
    cutoff, twojmax, quadratic, weights = shape(job)
    radii = " ".join([str(RADIUS)] * len(job.elements))
    options = f"bzeroflag 0 quadraticflag {quadratic}"
    compute = f"compute b all snap {cutoff} {RFAC} {twojmax} {radii} {' '.join(map(str, weights))} {options}"
    commands = [f"pair_style zero {cutoff}", "pair_coeff * *", compute, "fix b all ave/time 1 1 1 c_b[1] mode vector"]
    lammps = LammpsCalculator(commands, job.elements)
    for atoms in frames:
        prism = lammps.place(atoms, anew=True)  # compute snap makes computes of its own at each run
        lammps.lammps.command("run 0 post no")
        table = lammps.lammps.numpy.extract_compute("b", 0, 2)[:, :-1]
        n = len(atoms)
        counts = np.array([list(atoms.symbols).count(element) for element in job.elements], float)
        forces = table[1 : 1 + 3 * n].reshape(n, 3, -1)
        rotated = np.stack([prism.vector_to_ase(forces[:, :, k]) for k in range(forces.shape[2])], axis=2)
        virial = table[1 + 3 * n :]
        full = virial[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]  # 3 x 3 x features
        turned = np.stack([prism.tensor2_to_ase(full[:, :, k]) for k in range(full.shape[2])], axis=2)
        stress = -turned[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] / atoms.get_volume()
        yield (
            atoms,
            Equations(
                with_constants(table[:1], counts)[0],
                with_constants(rotated.reshape(3 * n, -1), 0.0 * counts),
                with_constants(stress, 0.0 * counts),
            ),
        )


def train(job: Job) -> None:
    coefficients = ridge(equations(job, job.train), equations(job, job.valid))
    cutoff, twojmax, quadratic, weights = shape(job)
    parts = coefficients.reshape(len(job.elements), -1)
    lines = [f"{len(job.elements)} {parts.shape[1]}"]
    for element, weight, values in zip(job.elements, weights, parts, strict=True):
        lines += [f"{element} {RADIUS} {weight}", *map(repr, values.tolist())]
    (job.folder / "model.snapcoeff").write_text("\n".join(lines) + "\n")
    settings = {"rcutfac": cutoff, "twojmax": twojmax, "rfac0": RFAC, "rmin0": 0, "bzeroflag": 0}
    settings["quadraticflag"] = quadratic
    (job.folder / "model.snapparam").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))


def calculator(job: Job):
    files = " ".join(f'"{job.folder / name}"' for name in ("model.snapcoeff", "model.snapparam"))
    commands = ["pair_style snap", f"pair_coeff * * {files} {' '.join(job.elements)}"]
    return LammpsCalculator(commands, job.elements, job.threads)


main(train, calculator)
