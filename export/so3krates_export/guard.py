"""What a bundle asks of who uses it: distances and forces of the training data (guard), and its baselines."""

from __future__ import annotations

import math
from typing import Any

from so3krates.storage import Model


def guard_entry(model: Model) -> dict[str, Any]:
    """The manifest's "guard" (docs/bundle.md), from what the model tells of its training; nothing where it does not.

    Pairs of elements that were never neighbours have null.
    """
    training = model.training or {}
    distances = training.get("distances")
    if not isinstance(distances, dict):
        return {}
    known = {frozenset(pair.split("-")): float(distance) for pair, distance in distances.items()}
    table = [[known.get(frozenset((a, b))) for b in model.elements] for a in model.elements]
    force = training.get("largest_force")
    return {"guard": {"distances": table, "largest_force": force if force and math.isfinite(force) else None}}


def baselines_entry(model: Model) -> dict[str, Any]:
    """The manifest's "baselines" (docs/bundle.md); nothing where there are none."""
    entries = [
        {
            "section": part.section,
            "meaning": part.describe(),
            "settings": part.settings(),
            "elements": list(part.elements),
        }
        | part.deck().entry()
        for part in model.baselines
    ]
    return {"baselines": entries} if entries else {}
