"""What a potential says of a crystal (docs/physics.md)."""

from .crystal import (
    PairCurve,
    Physics,
    PhysicsError,
    VolumeCurve,
    crystal_of,
    elastic_constants,
    equation_of_state,
    pair_curve,
    physics_of,
    relaxed_crystal,
    require_crystal,
)
from .report import as_json, physics_tables, quantities, read_reference, write_physics

__all__ = [
    "PairCurve",
    "Physics",
    "PhysicsError",
    "VolumeCurve",
    "as_json",
    "crystal_of",
    "elastic_constants",
    "equation_of_state",
    "pair_curve",
    "physics_of",
    "physics_tables",
    "quantities",
    "read_reference",
    "relaxed_crystal",
    "require_crystal",
    "write_physics",
]
