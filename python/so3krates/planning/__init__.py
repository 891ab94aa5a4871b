"""How long a run takes and how much memory, before it is made: `so3krates plan` (docs/cluster.md)."""

from .estimate import Estimate, Layout, estimate, largest_system, layouts
from .gpus import GPUS
from .measure import Machine, measure, read_machine, write_machine
from .slurm import job_script
from .system import System, read_system

__all__ = [
    "GPUS",
    "Estimate",
    "Layout",
    "Machine",
    "System",
    "estimate",
    "job_script",
    "largest_system",
    "layouts",
    "measure",
    "read_machine",
    "read_system",
    "write_machine",
]
