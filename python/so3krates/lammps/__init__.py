"""LAMMPS as this package installs it: where its parts are, and how decks are run."""

from .environment import load_mpi, plugin_directory
from .run import LammpsError, run_deck

__all__ = ["LammpsError", "load_mpi", "plugin_directory", "run_deck"]
