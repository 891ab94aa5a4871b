"""Weights of SO3LR in the layout of the fused CPU kernels (csrc/kernels/so3lr.h), and its long-range tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from so3krates.model.config import ModelConfig
from so3krates.model.long_range import (
    BOHR,
    HARTREE,
    RADIUS,
    SPREAD,
    Dispersion,
    Electrostatics,
    Interaction,
)
from so3krates.model.network import Params
from so3krates.model.reductions import FILTERS, constant_filter

from .fused import (
    PADDING,
    QUAD,
    FusedError,
    check_fused,
    exchange_weights,
    filter_rank,
    filter_weights,
    interleaved,
    projection_weights,
)

CELLS = {"float32": 1024, "float64": 8192}  # of the long-range tables: their error is below rounding
NEAREST = 0.05  # A: nuclei do not come closer, and functions of the distance lose digits there
ROOT = "weights/fused/"
NORMALISED = (  # what happens at an atom behind the messages, in the order of the kernels' arguments
    "scale_1", "bias_1", "residual_in", "residual_in_bias", "residual_out", "residual_out_bias", "exchange",
    "exchange_bias", "scale_2", "bias_2",
)  # fmt: skip


class LongNumbers(NamedTuple):
    """What the kernel of long-range pairs takes as attributes (csrc/kernels/so3lr.h)."""

    ranges: tuple[float, float]  # A^2
    scales: tuple[float, float]  # per A^2, and of the damping radius
    spread: tuple[float, ...]


def check_so3lr(config: ModelConfig, interactions: Sequence[Interaction]) -> None:
    """Raises FusedError for a model that the kernels do not compute; its radial filters must be tabulated."""
    check_fused(config)

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise FusedError(f"the fused kernels do not compute {what}: export with body 'xla'")

    require(config.features % PADDING == 0, f"features = {config.features} (a multiple of {PADDING})")
    require(config.heads in (1, 2, 4), f"heads = {config.heads} (1, 2 or 4)")
    require(head_ends(config)[-1] <= 4 * config.features, f"readout_features = {config.readout_features}")
    kinds = [type(interaction) for interaction in interactions]
    known = (Electrostatics, Dispersion)
    require(
        all(kind in known for kind in kinds) and len(set(kinds)) == len(kinds),
        f"interactions {', '.join(interaction.name for interaction in interactions)}",
    )


def head_ends(config: ModelConfig) -> list[int]:
    """Where the hidden layers of energies, charges and ratios end that lie side by side."""
    widths = (config.readout_features[0], config.features, config.features // 2)
    return [int(end) for end in np.cumsum([-(-width // PADDING) * PADDING for width in widths])]


def so3lr_weights(
    config: ModelConfig,
    params: Params,
    atomic_numbers: list[int],
    interactions: Sequence[Interaction],
    precision: str,
) -> dict[str, np.ndarray]:
    """Weights of a tabulated network and of the long-range pairs, float64, by their names in the plan. Needs x64."""
    check_so3lr(config, interactions)
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    params["layers_0"] = _without_invariants(config, params["layers_0"])
    rank = filter_rank(config, params)
    arrays = {
        f"layers_{k}/{name}": value
        for k in range(config.layers)
        for name, value in _layer_weights(config, params[f"layers_{k}"], rank if k > 0 else 1).items()
    }
    arrays |= {f"heads/{name}": value for name, value in _head_weights(config, params, atomic_numbers).items()}
    arrays |= {"long/tables": long_tables(interactions, CELLS[precision])}
    arrays |= {"long/elements": _long_elements(interactions, len(atomic_numbers))}
    return {f"{ROOT}{name}": np.ascontiguousarray(value) for name, value in arrays.items()}


def _without_invariants(config: ModelConfig, layer: Params) -> Params:
    """The first layer, whose Euclidean variables are zero: its filters' networks of the invariants are constant."""
    filters: dict[str, Any] = {}
    for name in FILTERS:
        spherical = layer[name]["spherical"]
        constant = np.asarray(constant_filter(config, layer[name])) - layer[name]["radial"]["dense_0"]["bias"]
        last = {"kernel": np.zeros_like(spherical["dense_1"]["kernel"]), "bias": constant}
        filters[name] = {**layer[name], "spherical": {"dense_0": spherical["dense_0"], "dense_1": last}}
    return {**layer, **filters}


def _layer_weights(config: ModelConfig, layer: Params, rank: int) -> dict[str, np.ndarray]:
    names = exchange_weights(config, layer) | filter_weights(config, layer, rank) | projection_weights(config, layer)
    residual = layer["residual"]
    into, out_of = (residual[f"dense_{n}"] for n in range(2))
    residual_in, residual_out = interleaved(config, into["kernel"].T).T, interleaved(config, out_of["kernel"])
    norms = {f"{part}_{n}": interleaved(config, layer[f"norm_{n}"][part]) for n in (1, 2) for part in ("scale", "bias")}
    return (
        names
        | norms
        | {
            "residual_in": residual_in,
            "residual_in_bias": into["bias"],
            "residual_out": residual_out,
            "residual_out_bias": interleaved(config, out_of["bias"]),
            "residual_in_t": residual_in.T,
            "residual_out_t": residual_out.T,
        }
    )


def _head_weights(config: ModelConfig, params: Params, atomic_numbers: list[int]) -> dict[str, np.ndarray]:
    """The heads' hidden layers side by side; behind them sums for each element."""
    rows = np.asarray(atomic_numbers)
    ends = head_ends(config)
    readout, charges, hirshfeld = (params[name] for name in ("readout", "charges", "hirshfeld"))
    networks = (readout, charges["network"], hirshfeld["network"])
    hidden, bias = np.zeros((config.features, ends[-1])), np.zeros(ends[-1])
    out, out_bias = np.zeros((len(rows), ends[-1])), np.zeros((len(rows), QUAD))
    scale, query = params["energy_scale"][rows], hirshfeld["query"][rows]
    query = query / math.sqrt(query.shape[1])
    last = [network["dense_1"] for network in networks]
    sums = (
        scale[:, None] * last[0]["kernel"][:, 0],
        np.tile(last[1]["kernel"][:, 0], (len(rows), 1)),
        query @ last[2]["kernel"].T,
    )
    constants = (
        scale * last[0]["bias"],
        charges["shift"][rows] + last[1]["bias"],
        hirshfeld["shift"][rows] + query @ last[2]["bias"],
    )
    for head, (begin, network) in enumerate(zip((0, *ends), networks, strict=False)):
        first = network["dense_0"]
        own = slice(begin, begin + len(first["bias"]))
        hidden[:, own] = interleaved(config, first["kernel"].T).T
        bias[own] = first["bias"]
        out[:, own] = sums[head]
        out_bias[:, head] = constants[head]
    return {"hidden": hidden, "hidden_t": hidden.T, "bias": bias, "out": out, "out_bias": out_bias}


def _of(kind: type, interactions: Sequence[Interaction]) -> Any:
    return next((interaction for interaction in interactions if isinstance(interaction, kind)), None)


def long_parts(interactions: Sequence[Interaction]) -> dict[str, int]:
    """Where the interactions that there are stand in the long-range pairs' energies, by section of the settings."""
    kinds = [type(interaction) for interaction in interactions]
    return {kind.section: k for k, kind in enumerate((Electrostatics, Dispersion)) if kind in kinds}


def long_numbers(interactions: Sequence[Interaction]) -> LongNumbers:
    """Of interactions that `check_so3lr` accepts; one that is not there has the other's range."""
    charges, dispersion = (_of(kind, interactions) for kind in (Electrostatics, Dispersion))
    longest = max((interaction.cutoff for interaction in interactions), default=1.0)
    ranges = tuple(float(part.cutoff if part else longest) ** 2 for part in (charges, dispersion))
    damping = dispersion.damping if dispersion else 1.0
    spread = tuple(number * RADIUS**power for power, number in enumerate(SPREAD))
    return LongNumbers((ranges[0], ranges[1]), (BOHR**-2, damping), spread)


def _long_elements(interactions: Sequence[Interaction], elements: int) -> np.ndarray:
    """Polarisability of the free atom (bohr^3), and its square over C6 (bohr^3 / Hartree ...), (elements, 2)."""
    dispersion = _of(Dispersion, interactions)
    if dispersion is None:
        return np.ones((elements, 2))
    polarisabilities, coefficients = np.array(dispersion.polarisabilities), np.array(dispersion.coefficients)
    return np.stack([polarisabilities, polarisabilities**2 / coefficients], axis=-1)


def long_tables(interactions: Sequence[Interaction], cells: int) -> np.ndarray:
    """Cubic polynomials of the squared distance, (2, cells + 1, 4): ke U of the charges, and minus a Hartree times the
    dispersion's switch. They meet values and slopes at both ends of each cell; the last cell is beyond the range."""
    numbers = long_numbers(interactions)
    charges, dispersion = (_of(kind, interactions) for kind in (Electrostatics, Dispersion))
    one = (jnp.ones(()),)

    def coulomb(distance: jax.Array) -> jax.Array:
        return jnp.asarray(charges.pair_energy(one, one, distance))

    def switch(distance: jax.Array) -> jax.Array:
        return -HARTREE * jnp.asarray(dispersion.switch(distance))

    tables = np.zeros((2, cells + 1, QUAD))
    for part, (interaction, function) in enumerate(((charges, coulomb), (dispersion, switch))):
        if interaction is not None:
            tables[part, :-1] = _cubics(function, numbers.ranges[part], cells)
    return tables


def _cubics(function: Callable[[jax.Array], jax.Array], length: float, cells: int) -> np.ndarray:
    """Coefficients (cells, 4) in the place within a cell; `function` is zero from the square `length` on."""
    step = length / cells
    distances = jnp.asarray(np.sqrt(np.maximum(step * np.arange(cells + 1), NEAREST**2)))
    inside = jnp.arange(cells + 1) < cells
    found, slope = jax.vmap(jax.value_and_grad(function))(distances)
    values, slopes = np.asarray(jnp.where(inside, found, 0.0)), np.asarray(slope / (2 * distances) * step * inside)
    rise = values[1:] - values[:-1]
    square = 3 * rise - 2 * slopes[:-1] - slopes[1:]
    cube = -2 * rise + slopes[:-1] + slopes[1:]
    return np.stack([values[:-1], slopes[:-1], square, cube], axis=-1)
