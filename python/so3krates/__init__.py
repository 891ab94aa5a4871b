"""So3krates machine-learned potentials: train in JAX, run in LAMMPS."""

__version__ = "0.1.0"
