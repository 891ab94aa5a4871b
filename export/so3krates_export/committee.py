"""A committee in one bundle: members run one after the other on the same pairs, the first one last."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import numpy as np
from so3krates.model.committee import MemberResults, Sums, add_member, deviations, mean_results
from so3krates.storage import Model

from .plan import VIRIAL_CHANNELS, Addition, Array, Stage, adjoint_name, tree_stage

SHIFTS = "weights/committee/shifts"
MOVERS = ("first", "mean")  # whose forces move the atoms


class CommitteeError(ValueError):
    """Models that make no committee; the message says what differs."""


def check_members(models: Sequence[Model]) -> None:
    """Raises CommitteeError unless all are of the same network, elements, terms and baselines."""
    first = models[0]
    for number, model in enumerate(models[1:], 2):
        own, other = first.config.to_dict(), model.config.to_dict()
        for name in own:
            if own[name] != other[name]:
                raise CommitteeError(
                    f"model {number} has {name} = {other[name]!r}, and the first has {own[name]!r}: members of a "
                    "committee share their settings, as those of a training with --committee do"
                )
        if model.elements != first.elements:
            raise CommitteeError(
                f"model {number} is of {', '.join(model.elements)}, and the first of {', '.join(first.elements)}"
            )
        if model.terms != first.terms:
            raise CommitteeError(f"model {number} has other terms than the first: export them one by one")
        if model.baselines != first.baselines:
            raise CommitteeError(f"model {number} has another baseline than the first: export them one by one")
        for before, earlier in enumerate(models[: number - 1], 1):
            if _same_weights(earlier, model):
                raise CommitteeError(
                    f"models {before} and {number} have the same weights, so that they never differ: name each once"
                )


def _same_weights(one: Model, other: Model) -> bool:
    pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True)  # of equal settings
    return all(np.array_equal(a, b) for a, b in pairs)


def mean_shifts(models: Sequence[Model], mover: str) -> dict[str, float]:
    """Energy shifts of the bundle (eV): the first model's, or the members' mean."""
    members = models if mover == "mean" else models[:1]
    return {e: float(np.mean([m.energy_shifts[e] for m in members])) for e in models[0].elements}


def shift_weights(models: Sequence[Model], mover: str) -> dict[str, np.ndarray]:
    """(members, elements) eV: the members' shifts less the bundle's."""
    shifts = mean_shifts(models, mover)
    return {SHIFTS: np.array([[m.energy_shifts[e] - shifts[e] for e in models[0].elements] for m in models])}


class Committee:
    """Stages that gather what members say; members but the first run before it, so that it alone can be asked for."""

    def __init__(self, members: int, mover: str, channels: int, row_block: int) -> None:
        self._members, self._mover, self._row_block = members, mover, row_block
        self._channels = channels if mover == "mean" else 1  # virials are only for the mean
        has_virials = self._channels == VIRIAL_CHANNELS
        self._results = MemberResults._make(
            ("energy", "strain_gradient", "atom_energies", "forces", "atom_virials" if has_virials else None)
        )
        rows = ("committee_atom_energies", "committee_sums", "committee_squares")
        self._sums = Sums._make(
            ("member_energies", "member_strain_gradients", *rows, "committee_virials" if has_virials else None)
        )

    def after(self, number: int) -> list[Addition]:
        """Stages after the run of a member; `number` counts runs from 0, and the first model comes last."""
        is_last = number == self._members - 1
        member = 0 if is_last else number + 1
        function = functools.partial(add_member, member, number == 0, row_block=self._row_block)
        inputs = (SHIFTS, "species", "owned_count", self._results, self._sums)
        name = adjoint_name(f"committee_member_{member}", self._channels)
        found = [Addition(tree_stage(name, function, inputs, self._sums), self._arrays())]
        return [*found, *self._together()] if is_last else found

    def _arrays(self) -> dict[str, Array]:
        def of(role: str, *shape: str | int) -> Array:
            return Array("float64", shape, role)

        arrays = {
            "member_energies": of("output", self._members),
            "member_strain_gradients": of("output", self._members, 3, 3),
            "committee_atom_energies": of("state", "rows"),
            "committee_sums": of("state", "rows", 3),
            "committee_squares": of("state", "rows"),
        }
        return arrays | ({"committee_virials": of("state", "rows", 3, 3)} if self._sums.atom_virials else {})

    def _together(self) -> list[Addition]:
        stages: list[Stage] = []
        deviation = functools.partial(deviations, self._members, row_block=self._row_block)
        sums = (self._sums, "owned_count")
        name = adjoint_name("committee_forces", self._channels)
        stages.append(tree_stage(name, deviation, (*sums, "committee_forces"), "committee_forces"))
        if self._mover == "mean":
            mean = functools.partial(mean_results, self._members, row_block=self._row_block)
            name = adjoint_name("committee_mean", self._channels)
            stages.append(tree_stage(name, mean, (*sums, self._results), self._results))
        arrays = {"committee_forces": Array("float64", ("rows",), "output")}
        return [Addition(stage, arrays) for stage in stages]
