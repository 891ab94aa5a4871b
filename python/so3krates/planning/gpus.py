"""Machines with GPUs, by what docs/gpu.md expects of the kernels: counted and estimated, measured on none."""

from __future__ import annotations

from .measure import Machine

# Of an H200: atoms a second (1/s) where nothing else waits; time (s) of a row that goes through the host's memory both
# ways.
RATE, ROW = 3.0e6, 2.5e-7
START = 7.5e-4  # s: launches, and a wait for the forces
LISTS, BUILDS = 2e-6, 0.1  # s an atom, of LAMMPS' own on one core, and how often
MEMORY_START, MEMORY_ATOM = 0.3e9, 11e3  # bytes
H200 = 132 * 1.75  # processors times GHz, which set the first cache's bytes a second, the tightest limit


def _machine(processors: float, gigahertz: float, memory: float, gpus: int = 8) -> Machine:
    """memory: of one GPU, bytes."""
    atom = H200 / (processors * gigahertz) / RATE
    return Machine(
        cores=gpus,
        memory=gpus * memory,
        start=START,
        atom=atom,
        atom_small=atom,
        row=ROW,
        shared=0.0,
        lists=LISTS,
        builds=BUILDS,
        memory_start=MEMORY_START,
        memory_atom=MEMORY_ATOM,
        memory_row=MEMORY_ATOM,  # at most: of others there are no adjoints
        unit="GPU",
    )


GPUS = {
    "a100": _machine(108, 1.41, 80e9),
    "h100": _machine(132, 1.75, 80e9),
    "h200": _machine(132, 1.75, 141e9),
}


def said_of(name: str) -> str:
    """What a plan of one of them is worth, in words with numbers."""
    rate = 1e-6 / GPUS[name].atom
    return (
        f"--machine {name}: expected from counted instructions, {rate:.1f} million atom-steps/s of a GPU, and not "
        "measured on any (docs/gpu.md): it may be off by a factor; times of lists are those of one core a GPU"
    )
