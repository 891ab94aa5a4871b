"""The network and its stages: pure functions of arrays, no files, no LAMMPS."""

from .config import PRESETS, ConfigError, ModelConfig
from .network import Graph, atom_energies, init_params
from .potential import Batch, Prediction, predict

__all__ = [
    "PRESETS",
    "Batch",
    "ConfigError",
    "Graph",
    "ModelConfig",
    "Prediction",
    "atom_energies",
    "init_params",
    "predict",
]
