"""GAP: QUIP's gap_fit, two-body and SOAP kernels, and quippy's calculator."""

import sys
from pathlib import Path

import ase.io
from protocol import Job, main

SIGMAS = (0.001, 0.05, 0.05)  # eV/atom, eV/A, eV/atom of virials: expected errors


def train(job: Job) -> None:
    options, frames = job.options, []
    for atoms in job.train:
        atoms.info["gap_energy"] = atoms.get_potential_energy()
        atoms.arrays["gap_forces"] = atoms.get_forces()
        if "stress" in atoms.calc.results:
            atoms.info["gap_virial"] = -atoms.get_volume() * atoms.get_stress(voigt=False)
        atoms.calc = None
        frames.append(atoms)
    ase.io.write(job.folder / "gap.extxyz", frames, format="extxyz")
    cutoff = options["cutoff"]
    pairs = f"distance_2b cutoff={cutoff} covariance_type=ard_se delta=0.5 theta_uniform=1.0 n_sparse=15 add_species=T"
    soap = (
        f"soap cutoff={cutoff} cutoff_transition_width=1.0 n_max={options['n_max']} l_max={options['l_max']} "
        f"atom_sigma=0.5 zeta=4 covariance_type=dot_product delta=0.3 n_sparse={options['sparse']} "
        "sparse_method=cur_points add_species=T"
    )
    shifts = ":".join(f"{element}:0.0" for element in job.elements)
    energy, forces, virial = SIGMAS
    job.run(
        Path(sys.executable).parent / "gap_fit",
        "at_file=gap.extxyz",
        f"gap={{{pairs} : {soap}}}",
        f"e0={{{shifts}}}",
        f"default_sigma={{{energy} {forces} {virial} 0.0}}",
        "energy_parameter_name=gap_energy",
        "force_parameter_name=gap_forces",
        "virial_parameter_name=gap_virial",
        "sparse_jitter=1e-8",
        "do_copy_at_file=F",
        "gp_file=gap.xml",
        f"rnd_seed={job.seed + 1}",
    )


def calculator(job: Job):
    from quippy.potential import Potential

    return Potential(param_filename=str(job.folder / "gap.xml"))


main(train, calculator)
