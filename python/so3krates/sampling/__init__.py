"""Making labelled structures: crystals, thermal displacements over strain and temperature, labels from LAMMPS."""

from .crystals import relax_crystal, relax_positions, strained, wurtzite
from .harmonic import SamplingError, ThermalDisplacements, force_constants
from .lammps_labels import GAN_TERSOFF, LammpsCalculator
from .plan import SamplingPlan, harmonic_frames, label_frames

__all__ = [
    "GAN_TERSOFF",
    "LammpsCalculator",
    "SamplingError",
    "SamplingPlan",
    "ThermalDisplacements",
    "force_constants",
    "harmonic_frames",
    "label_frames",
    "relax_crystal",
    "relax_positions",
    "strained",
    "wurtzite",
]
