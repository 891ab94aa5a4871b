"""The one order in which the stages of a network run (docs/architecture.md), whatever body computes them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
from so3krates import _harness
from so3krates.model.terms import Term

VIRIAL_CHANNELS = 4  # of the adjoint that gives per-atom virials


class Array(NamedTuple):
    """An array that is not a weight; a size is a number or the name of a capacity."""

    dtype: str
    shape: tuple[int | str, ...]
    role: str  # "input", "state" or "output"


class Call(NamedTuple):
    """One run of a program; names of weights start with "weights/"."""

    program: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Refresh(NamedTuple):
    """Rows of other ranks are overwritten with their owners' values."""

    arrays: tuple[str, ...]


class Reduce(NamedTuple):
    """Sums over a rank's own atoms, float64 and of fixed sizes, become those over all ranks."""

    arrays: tuple[str, ...]


class Plan(NamedTuple):
    """All that is needed to run a network stage by stage."""

    arrays: dict[str, Array]
    programs: dict[str, Callable[..., tuple[jax.Array, ...]]]  # positional, in the order of a call's inputs
    steps: Sequence[Call | Refresh | Reduce]

    def donated(self, call: Call) -> tuple[int, ...]:
        """Positions of inputs that are updated in place."""
        return tuple(k for k, name in enumerate(call.inputs) if name in call.outputs)


class Stage(NamedTuple):
    """A call and the program that it runs."""

    call: Call
    function: Callable[..., tuple[jax.Array, ...]]


Part = Stage | Refresh | Reduce


class Body(Protocol):
    """How each stage is computed, on which arrays; never when.

    A stage may be None where a body has no use for it. Stages of one name are one program, which layers share.
    """

    arrays: dict[str, Array]  # of its own, besides `evaluator_arrays`
    weights: str  # what names of weights in its own layout begin with
    prefix: str  # of names that another body in the same bundle may have too
    precision: str  # numpy name of the network's dtype
    channels: int  # of the adjoint: 1, or 4 with per-atom virials
    row_block: int  # rows that portable loops handle at once
    message_adjoint: tuple[str, ...]  # what `layer_adjoint` reads of other rows

    def state(self, k: int) -> tuple[str, ...]:
        """What layer k reads of other rows: features first, and Euclidean variables."""

    def pairs(self) -> Stage:
        """Pairs within the cutoff from the candidate lists, and the largest number of a row."""

    def embed(self) -> Stage | list[Part] | None:
        """`state(0)` from the species."""

    def project(self, k: int) -> Stage | None:
        """Queries, keys and values of layer k, of all rows."""

    def layer(self, k: int) -> Stage:
        """Attention and exchange block of layer k."""

    def readout(self) -> Stage | list[Part]:
        """Energies and their adjoint; sets what the adjoints of the layers add to."""

    def exchange_adjoint(self, k: int) -> Stage:
        """Adjoints of the sums of layer k's messages."""

    def layer_adjoint(self, k: int) -> Stage:
        """Adds layer k's part to forces, strain gradient and per-atom virials."""

    def term(self, term: Term) -> Stage | None:
        """A way of the body's own to add a term to all results; None: that of `term_stages.py`."""


def build_plan(
    body: Body,
    layers: int,
    more: Iterable[Addition] = (),
    others: Sequence[Body] = (),
    after: Callable[[int], Iterable[Addition]] = lambda run: (),
) -> Plan:
    """Energies and their derivatives, stage by stage, and then each of `more`, which all arrays are there for.

    others: further networks on the same pairs and arrays, which run before. after(n): what comes after the n-th one.
    """
    arrays = evaluator_arrays(body.precision, body.channels) | body.arrays
    programs: dict[str, Callable[..., tuple[jax.Array, ...]]] = {}
    steps: list[Call | Refresh | Reduce] = []

    def run(parts: Part | list[Part] | None) -> None:
        for part in parts if isinstance(parts, list) else [parts]:
            if isinstance(part, Stage):
                programs.setdefault(part.call.program, part.function)
                steps.append(part.call)
            elif part is not None:
                steps.append(part)

    def add(additions: Iterable[Addition]) -> None:
        for addition in additions:
            arrays.update(addition.arrays)
            run(addition.stage)

    def network(member: Body) -> None:
        run(member.embed())
        for k in range(layers):
            if k > 0:
                steps.append(Refresh(member.state(k)))
            run(member.project(k))
            run(member.layer(k))
        run(member.readout())
        for k in reversed(range(layers)):
            run(member.exchange_adjoint(k))
            steps.append(Refresh(member.message_adjoint))
            if k + 1 < layers:  # those of the last layer are still there
                run(member.project(k))
            run(member.layer_adjoint(k))

    run(body.pairs())
    for number, member in enumerate((*others, body)):
        network(member)
        add(after(number))
    add(more)
    return Plan(arrays, programs, steps)


class Addition(NamedTuple):
    """A stage that runs after a network's, and the arrays that it brings: a term, an output, or a committee's sum."""

    stage: Stage
    arrays: dict[str, Array]


def member_root(root: str, member: int) -> str:
    """What names of weights begin with, for a member of a committee; the first has those of a single network."""
    return root if member == 0 else f"{root}member_{member}/"


def adjoint_name(name: str, channels: int) -> str:
    """Name of an array or a program whose shapes depend on the number of adjoint channels."""
    return name if channels == 1 else f"{name}_{channels}"


def tree_stage(program: str, function: Callable[..., Any], inputs: Any, outputs: Any) -> Stage:
    """A stage of a function of trees; inputs and outputs: such trees with names in place of arrays."""
    names, structure = jax.tree.flatten(inputs)
    call = Call(program, tuple(names), tuple(jax.tree.leaves(outputs)))
    return Stage(call, Positional(program, function, structure))


class Positional:
    """A function of trees as one of their leaves, which gives a tuple of leaves.

    Two are equal where function, fixed arguments (of a `functools.partial`) and trees are: exports of one process that
    differ in weights alone share their programs (`ladder.lower_ladder`).
    """

    def __init__(self, name: str, function: Callable[..., Any], structure: Any) -> None:
        self.__name__, self._function, self._structure = name, function, structure
        self._key: tuple[Any, ...] = (name, function, structure)
        if isinstance(function, functools.partial):
            fixed = tuple(function.keywords.items())
            self._key = (name, function.func, function.args, fixed, structure)

    def __call__(self, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(jax.tree.leaves(self._function(*jax.tree.unflatten(self._structure, arrays))))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Positional) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def evaluator_arrays(precision: str, channels: int) -> dict[str, Array]:
    """What every plan has: the evaluator's inputs, the pairs within the cutoff, and the results."""
    arrays = {
        name: Array(buffer["dtype"], tuple(buffer["shape"]), role)
        for role, buffers in (("input", _harness.BUNDLE_INPUTS), ("output", _harness.BUNDLE_OUTPUTS))
        for name, buffer in buffers.items()
        if name != "atom_virials" or channels == VIRIAL_CHANNELS
    }
    return arrays | {
        "vectors": Array(precision, ("rows", "neighbours", 3), "state"),
        "neighbours": Array("int32", ("rows", "neighbours"), "state"),
    }
