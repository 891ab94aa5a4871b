"""Terms of the energy as stages: they run after the network's and add to its results."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from so3krates.model.long_range import Interaction
from so3krates.model.term_stages import Lists, TermArrays, add_term
from so3krates.model.terms import Term
from so3krates.storage import Model

from .plan import VIRIAL_CHANNELS, Addition, Body, Stage, adjoint_name, tree_stage


def term_stages(body: Body, terms: Sequence[Term]) -> list[Addition]:
    """A stage for each term: the body's own, or else the portable one, which all bodies of a bundle share."""
    return [Addition(body.term(term) or _portable(body, term), {}) for term in terms]


def _portable(body: Body, term: Term) -> Stage:
    virials = "atom_virials" if body.channels == VIRIAL_CHANNELS else None
    names = ("energy", "strain_gradient", "atom_energies", "forces", virials)
    into = TermArrays._make(names)  # names in place of arrays
    function = functools.partial(add_term, term, row_block=body.row_block)
    program = adjoint_name(f"term_{term.name}", body.channels)
    return tree_stage(program, function, (Lists._make(Lists._fields), into), into)


def term_entries(model: Model, has_long_lists: bool = False) -> dict[str, Any]:
    """What the manifest says of terms and interactions; nothing where there are none.

    has_long_lists: whether interactions read candidate lists, which then reach as far; else they find pairs themselves.
    """
    parts: list[Term | Interaction] = [*model.terms, *model.interactions]
    if not parts:
        return {}
    entries = [
        {"name": part.name, "section": part.section, "cutoff": part.cutoff, "meaning": part.describe()}
        | part.settings()
        for part in parts
    ]
    farthest = max(model.reach, *(part.cutoff for part in parts))
    if has_long_lists or not model.interactions:
        return {"terms": entries, "reach": farthest}
    return {"terms": entries, "reach": model.reach, "atoms_reach": farthest}
