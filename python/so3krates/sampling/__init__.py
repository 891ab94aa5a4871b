"""Making labelled structures: crystals, thermal and random displacements, dynamics, and their labels."""

from .calculators import Recipe
from .crystals import relax_crystal, relax_positions, strained, wurtzite
from .harmonic import EinsteinDisplacements, SamplingError, ThermalDisplacements, force_constants
from .lammps_labels import GAN_TERSOFF, LammpsCalculator
from .plan import DynamicsPlan, EinsteinPlan, Plan, RattlePlan, SamplingPlan
from .sample import label_frames, parts_folder, sample
from .structures import structures
from .workers import Workers

__all__ = [
    "GAN_TERSOFF",
    "DynamicsPlan",
    "EinsteinDisplacements",
    "EinsteinPlan",
    "LammpsCalculator",
    "Plan",
    "RattlePlan",
    "Recipe",
    "SamplingError",
    "SamplingPlan",
    "ThermalDisplacements",
    "Workers",
    "force_constants",
    "label_frames",
    "parts_folder",
    "relax_crystal",
    "relax_positions",
    "sample",
    "strained",
    "structures",
    "wurtzite",
]
