"""So3krates machine-learned potentials: train in JAX, run in LAMMPS."""

from .cpu_runtime import point_to_library

__version__ = "0.1.0"

point_to_library()
