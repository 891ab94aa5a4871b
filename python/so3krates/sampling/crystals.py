"""Crystals as a calculator sees them: build, relax, strain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from warnings import catch_warnings, filterwarnings

from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from .harmonic import SamplingError

MAX_STEPS = 300


def wurtzite(a: float = 3.19, c: float = 5.19, formula: str = "GaN") -> Atoms:
    """Primitive cell of wurtzite, 4 atoms; lattice constants in A."""
    return bulk(formula, "wurtzite", a=a, c=c)


def relax_crystal(crystal: Atoms, calculator: Calculator, fmax: float = 1e-3) -> Atoms:
    """A copy at the calculator's own lattice constants and positions.

    `fmax`: largest force (eV/A) that is left. Raises SamplingError when it is not reached.
    """
    crystal = crystal.copy()
    crystal.calc = calculator
    _relax(FrechetCellFilter(crystal), fmax)
    crystal.calc = None
    return crystal


def relax_positions(crystal: Atoms, calculator: Calculator, fmax: float = 1e-3) -> Atoms:
    """A copy with relaxed positions in the same cell; see `relax_crystal`."""
    crystal = crystal.copy()
    crystal.calc = calculator
    _relax(crystal, fmax)
    crystal.calc = None
    return crystal


def strained(crystal: Atoms, strain: float) -> Atoms:
    """A copy whose lengths are multiplied by 1 + strain in all directions."""
    crystal = crystal.copy()
    crystal.set_cell(crystal.cell.array * (1.0 + strain), scale_atoms=True)
    return crystal


@contextmanager
def exact_enough() -> Iterator[None]:
    """Without scipy's warnings of logarithms of strains that are off by more than 2e-13."""
    with catch_warnings():
        filterwarnings("ignore", "logm result", RuntimeWarning)
        yield


def _relax(target: Atoms | FrechetCellFilter, fmax: float) -> None:
    with exact_enough():
        # ASE takes filters where it says Atoms.
        at_rest = BFGS(cast(Atoms, target), logfile=None).run(fmax=fmax, steps=MAX_STEPS)
    if not at_rest:
        raise SamplingError(f"relaxation did not reach {fmax} eV/A in {MAX_STEPS} steps: start from a better crystal")
