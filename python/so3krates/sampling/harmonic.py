"""Thermal displacements of the classical harmonic crystal, from force constants by finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator

# The three uniform translations have eigenvalues below this share of the largest one, all vibrations lie above.
TRANSLATION = 1e-6


class SamplingError(ValueError):
    """A structure that cannot be sampled; the message says what to change."""


def force_constants(
    crystal: Atoms,
    calculator: Calculator,
    step: float = 0.01,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Second derivatives of the energy, (3n, 3n) in eV/A^2, by central differences of forces.

    `step` is the displacement in A. The result is symmetric and obeys the acoustic sum rule.
    `on_progress` is called with (atoms done, atoms).
    """
    n = len(crystal)
    displaced = crystal.copy()
    displaced.calc = calculator
    phi = np.zeros((n, 3, n, 3))
    for atom in range(n):
        for axis in range(3):
            forces = []
            for sign in (1, -1):
                displaced.positions = crystal.positions
                displaced.positions[atom, axis] += sign * step
                forces.append(displaced.get_forces())
            phi[atom, axis] = (forces[1] - forces[0]) / (2.0 * step)
        if on_progress is not None:
            on_progress(atom + 1, n)
    phi = phi.reshape(3 * n, 3 * n)
    phi = 0.5 * (phi + phi.T)
    # A uniform translation costs nothing: it is projected out of both sides.
    shift = np.tile(np.eye(3), (n, 1)) / np.sqrt(n)
    project = np.eye(3 * n) - shift @ shift.T
    return project @ phi @ project


class ThermalDisplacements:
    """Classical harmonic crystal: draws displacements of a temperature.

    u_i = m_i^(-1/2) sum_s e_si sqrt(k_B T) / omega_s xi_s with normal xi_s, over the eigenmodes e_s, omega_s of the
    mass-weighted force constants without the three acoustic ones at Gamma.

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
        # (3n, 3n - 3) in A/sqrt(eV): displacement per standard normal variable and sqrt(k_B T)
        self._amplitudes = weights[:, None] * modes[:, vibrations] / np.sqrt(eigenvalues[vibrations])

    def draw(self, temperature: float, random: np.random.Generator) -> np.ndarray:
        """One set of displacements (n, 3) in A; `temperature` in K."""
        normal = random.normal(size=self._amplitudes.shape[1])
        return (np.sqrt(units.kB * temperature) * self._amplitudes @ normal).reshape(-1, 3)

    def covariance(self, temperature: float) -> np.ndarray:
        """Exact covariance of the displacements, (3n, 3n) in A^2; `temperature` in K."""
        return units.kB * temperature * self._amplitudes @ self._amplitudes.T
