"""Thermal displacements of the classical harmonic crystal, from finite differences of forces, and of Einstein's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator

STEP = 0.01  # A, of finite differences
# The three uniform translations have eigenvalues below this share of the largest one, all vibrations lie above.
TRANSLATION = 1e-6


class SamplingError(ValueError):
    """A structure that cannot be sampled; the message says what to change."""


def displacement_forces(calculator: Calculator, crystal: Atoms, atom: int, step: float = STEP) -> dict[str, np.ndarray]:
    """Forces (3, 2, n, 3) in eV/A on `crystal` with one atom displaced by +-`step` (A) along each axis."""
    displaced = crystal.copy()
    displaced.calc = calculator
    forces = np.zeros((3, 2, len(crystal), 3))
    for axis in range(3):
        for place, sign in enumerate((1, -1)):
            displaced.positions = crystal.positions
            displaced.positions[atom, axis] += sign * step
            forces[axis, place] = displaced.get_forces()
    return {"forces": forces}


def force_constants_of(
    forces: Sequence[np.ndarray], repeats: tuple[int, int, int] = (1, 1, 1), step: float = STEP
) -> np.ndarray:
    """Second derivatives of the energy, (3n, 3n) in eV/A^2, symmetric and obeying the acoustic sum rule.

    `forces` are those of `displacement_forces` for each atom of the first cell of a supercell as `Atoms.repeat` orders
    it; the others follow by translation.
    """
    cells, own, n = int(np.prod(repeats)), len(forces), forces[0].shape[2]
    first = np.stack([(f[:, 1] - f[:, 0]) / (2.0 * step) for f in forces])  # (own, 3, n, 3)
    first = first.reshape(own, 3, *repeats, own, 3)
    blocks = np.zeros((cells, own, 3, cells, own, 3))
    for cell, shift in enumerate(np.ndindex(*repeats)):
        blocks[cell] = np.roll(first, shift, axis=(2, 3, 4)).reshape(own, 3, cells, own, 3)
    phi = blocks.reshape(3 * n, 3 * n)
    phi = 0.5 * (phi + phi.T)
    # A uniform translation costs nothing: it is projected out of both sides.
    uniform = np.tile(np.eye(3), (n, 1)) / np.sqrt(n)
    project = np.eye(3 * n) - uniform @ uniform.T
    return project @ phi @ project


def force_constants(crystal: Atoms, calculator: Calculator, step: float = STEP) -> np.ndarray:
    """Second derivatives of the energy, (3n, 3n) in eV/A^2, by central differences of forces over `step` (A).

    The result is symmetric and obeys the acoustic sum rule.
    """
    return force_constants_of(
        [displacement_forces(calculator, crystal, atom, step)["forces"] for atom in range(len(crystal))], step=step
    )


def springs_of(forces: Sequence[np.ndarray], symbols: Sequence[str], step: float = STEP) -> dict[str, float]:
    """Spring of each element in eV/A^2: the mean over its atoms and axes of the force back on a displaced atom.

    `forces` are those of `displacement_forces` for the atoms named by `symbols`.
    """
    own = [np.mean([(f[k, 1, n, k] - f[k, 0, n, k]) / (2.0 * step) for k in range(3)]) for n, f in enumerate(forces)]
    return {
        symbol: float(np.mean([spring for spring, other in zip(own, symbols, strict=True) if other == symbol]))
        for symbol in dict.fromkeys(symbols)
    }


class ThermalDisplacements:
    """Classical harmonic crystal: draws displacements of a temperature.

    u_i = m_i^(-1/2) sum_s e_si sqrt(k_B T) / omega_s (e_s xi) with normal xi (3n,), over the eigenmodes e_s, omega_s
    of the mass-weighted force constants without the three acoustic ones at Gamma. The sum is the square root of a
    matrix and does not depend on the choice of degenerate modes.

    Raises SamplingError when the crystal is not stable in one of its modes.
    """

    def __init__(self, force_constants: np.ndarray, masses: np.ndarray) -> None:
        """`force_constants` (3n, 3n) in eV/A^2, `masses` (n,) in atomic units."""
        weights = np.repeat(1.0 / np.sqrt(masses), 3)
        eigenvalues, modes = np.linalg.eigh(weights[:, None] * force_constants * weights[None, :])
        vibrations = np.argsort(np.abs(eigenvalues))[3:]
        lowest = eigenvalues[vibrations].min(initial=np.inf)
        if lowest <= TRANSLATION * eigenvalues.max():
            raise SamplingError(
                f"the crystal is not stable: its lowest vibration has omega^2 = {lowest:.3g} eV/(A^2 u); "
                "relax it first, or sample less strain"
            )
        # (3n, 3n) in A/sqrt(eV): displacement per standard normal variable and sqrt(k_B T)
        kept = modes[:, vibrations]
        self._amplitudes = weights[:, None] * (kept / np.sqrt(eigenvalues[vibrations])) @ kept.T

    def draw(self, temperature: float, random: np.random.Generator) -> np.ndarray:
        """One set of displacements (n, 3) in A; `temperature` in K."""
        normal = random.normal(size=self._amplitudes.shape[1])
        return (np.sqrt(units.kB * temperature) * self._amplitudes @ normal).reshape(-1, 3)

    def covariance(self, temperature: float) -> np.ndarray:
        """Exact covariance of the displacements, (3n, 3n) in A^2; `temperature` in K."""
        return units.kB * temperature * self._amplitudes @ self._amplitudes.T


class EinsteinDisplacements:
    """Atoms on springs of their own: every component of u_i is normal with variance k_B T / k_i.

    Raises SamplingError for an element without a spring, or with one that pushes.
    """

    def __init__(self, springs: Mapping[str, float], symbols: Sequence[str]) -> None:
        """`springs` in eV/A^2 by element, `symbols` (n,) of the atoms."""
        missing = sorted(set(symbols) - set(springs))
        if missing:
            raise SamplingError(f"element {missing[0]} has no spring: springs are given for {', '.join(springs)}")
        soft = next((symbol for symbol in springs if not 0.0 < springs[symbol] < math.inf), None)
        if soft is not None:
            raise SamplingError(f"the spring of {soft} is {springs[soft]:.3g} eV/A^2: it must be above 0, and finite")
        self._springs = np.array([springs[symbol] for symbol in symbols])[:, None]

    def draw(self, temperature: float, random: np.random.Generator) -> np.ndarray:
        """One set of displacements (n, 3) in A; `temperature` in K."""
        return np.sqrt(units.kB * temperature / self._springs) * random.normal(size=(len(self._springs), 3))
