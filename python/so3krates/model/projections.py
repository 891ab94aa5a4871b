"""Queries, keys and values of atoms: what edges read of the atoms at their ends."""

from __future__ import annotations

from typing import NamedTuple

import jax

from .config import ModelConfig
from .layer import Centre, Other, applied_layer
from .network import Params


class Projections(NamedTuple):
    """What edges read from atoms besides their Euclidean variables, each (N, F)."""

    query: jax.Array
    geometric_query: jax.Array
    key: jax.Array
    value: jax.Array
    geometric_key: jax.Array

    def ends(self, chi: jax.Array) -> tuple[Centre, Other]:
        """The same as the two ends of an edge."""
        return Centre(self.query, self.geometric_query, chi), Other(self.key, self.value, self.geometric_key, chi)


def projections_of(config: ModelConfig, params: Params, x: jax.Array) -> Projections:
    """Projections of rows of features, (..., F)."""
    centre, other = applied_layer(config, params, "project", x, None)
    return Projections(*centre[:2], *other[:3])
