"""Attention along a list of pairs, with derivatives of first and second order: what a training step spends its time on.

On the CPU the compiled kernels do the work (csrc/kernels/attention.h has the formulas), on other devices XLA. A pair
(i, j) carries two coefficients, 0 for i <- j and 1 for j <- i. What is given for the second order is the derivative of
the first-order results; higher orders are not defined on the CPU.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import linear_call

from so3krates.kernels import register_kernels
from so3krates.model.potential import Pairs


def to_directions(pairs: Pairs, atoms: jax.Array, of: int) -> jax.Array:
    """Rows of atoms (N, ...) for both directions of every pair, (2, P, ...): of=0 the receiving atom, 1 the sending.

    Padding is zero. Its transpose is `sum_directions` with the same `of`: gathers both, no scatter.
    """
    return linear_call(_to_directions, _sum_directions, (pairs, jnp.int32(of)), atoms)


def sum_directions(pairs: Pairs, directions: jax.Array, of: int) -> jax.Array:
    """Sums of (2, P, ...) over the directions whose receiving (of=0) or sending (1) atom is a row: (N, ...)."""
    return linear_call(_sum_directions, _to_directions, (pairs, jnp.int32(of)), directions)


def _to_directions(residuals: tuple[Pairs, jax.Array], atoms: jax.Array) -> jax.Array:
    pairs, of = residuals
    used = jnp.arange(pairs.ends.shape[1]) < pairs.used
    used = used.reshape(1, -1, *(1,) * (atoms.ndim - 1))
    return jnp.where(used, atoms[jnp.where(of == 0, pairs.ends, pairs.ends[::-1])], 0)


def _sum_directions(residuals: tuple[Pairs, jax.Array], directions: jax.Array) -> jax.Array:
    pairs, of = residuals
    count = pairs.ends.shape[1]
    flat = directions.reshape(2 * count, *directions.shape[2:])
    turned = jnp.where(pairs.slots < count, pairs.slots + count, pairs.slots - count)
    rows = flat[jnp.where((of == 0) | (pairs.slots == 2 * count), pairs.slots, turned) % (2 * count)]
    used = (pairs.slots < 2 * count).reshape(*pairs.slots.shape, *(1,) * (directions.ndim - 2))
    return jnp.where(used, rows, 0).sum(1)


def attend(pairs: Pairs, query: jax.Array, filters: jax.Array, key: jax.Array, heads: int) -> jax.Array:
    """a0 = sum_f q_i w k_j and a1 = sum_f q_j w k_i, f within each head: (2, P, heads).

    query, key: (N, F); filters: (P, F).
    """
    return _attend(heads, pairs, query, filters, key)


def gather(pairs: Pairs, coefficients: jax.Array, values: jax.Array) -> jax.Array:
    """Sums m_i += a0 v_j, m_j += a1 v_i over all pairs: (N, F). coefficients: (2, P, heads); values: (N, F)."""
    return _gather(coefficients.shape[-1], pairs, coefficients, values)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(heads: int, pairs: Pairs, query: jax.Array, filters: jax.Array, key: jax.Array) -> jax.Array:
    shape = (2, filters.shape[0], heads)
    return _call("attend", _attend_reference, heads, pairs, (query, filters, key), shape)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend_adjoint(heads: int, pairs: Pairs, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    _, query, filters, key = arrays
    return _call("attend_adjoint", _attend_adjoint_reference, heads, pairs, arrays, query, filters, key)


def _attend_second(heads: int, pairs: Pairs, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    *_, coefficients, query, filters, key = arrays
    reference = _second(_attend_adjoint_reference, 3)
    return _call("attend_second", reference, heads, pairs, arrays, coefficients, query, filters, key)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(heads: int, pairs: Pairs, coefficients: jax.Array, values: jax.Array) -> jax.Array:
    return _call("gather", _gather_reference, heads, pairs, (coefficients, values), values)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather_adjoint(heads: int, pairs: Pairs, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    _, coefficients, values = arrays
    return _call("gather_adjoint", _gather_adjoint_reference, heads, pairs, arrays, coefficients, values)


def _gather_second(heads: int, pairs: Pairs, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    *_, sums, coefficients, values = arrays
    reference = _second(_gather_adjoint_reference, 2)
    return _call("gather_second", reference, heads, pairs, arrays, sums, coefficients, values)


def _save(function: Any) -> Any:
    return lambda heads, pairs, *arrays: (function(heads, pairs, *arrays), (pairs, arrays))


def _zero(pairs: Pairs) -> Pairs:
    """Whole numbers have no derivative; shifts are not read here."""
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, jax.dtypes.float0), pairs._replace(shifts=cast(jax.Array, None)))
    return zeros._replace(shifts=jax.tree.map(jnp.zeros_like, pairs.shifts))


def _attend_vjp(heads: int, saved: tuple[Pairs, tuple[jax.Array, ...]], bar: jax.Array) -> tuple[Any, ...]:
    return _zero(saved[0]), *_attend_adjoint(heads, saved[0], bar, *saved[1])


def _attend_adjoint_vjp(heads: int, saved: tuple[Pairs, tuple[jax.Array, ...]], bars: Any) -> tuple[Any, ...]:
    return _zero(saved[0]), *_attend_second(heads, saved[0], *bars, *saved[1])


def _gather_vjp(heads: int, saved: tuple[Pairs, tuple[jax.Array, ...]], bar: jax.Array) -> tuple[Any, ...]:
    return _zero(saved[0]), *_gather_adjoint(heads, saved[0], bar, *saved[1])


def _gather_adjoint_vjp(heads: int, saved: tuple[Pairs, tuple[jax.Array, ...]], bars: Any) -> tuple[Any, ...]:
    return _zero(saved[0]), *_gather_second(heads, saved[0], *bars, *saved[1])


_attend.defvjp(_save(_attend), _attend_vjp)
_attend_adjoint.defvjp(_save(_attend_adjoint), _attend_adjoint_vjp)
_gather.defvjp(_save(_gather), _gather_vjp)
_gather_adjoint.defvjp(_save(_gather_adjoint), _gather_adjoint_vjp)


def _call(name: str, reference: Any, heads: int, pairs: Pairs, arrays: tuple[jax.Array, ...], *shapes: Any) -> Any:
    """A kernel on the CPU, `reference` elsewhere; `shapes` are those of the results, or arrays that have them."""
    dtype = arrays[0].dtype

    def kernel(pairs: Pairs, *arrays: jax.Array) -> Any:
        results = tuple(jax.ShapeDtypeStruct(s if isinstance(s, tuple) else s.shape, dtype) for s in shapes)
        call = jax.ffi.ffi_call(f"so3krates_{name}", results[0] if len(results) == 1 else results)
        first, second = pairs.ends
        return call(pairs.used, first, second, *arrays, heads=np.int64(heads), real_bytes=np.int64(dtype.itemsize))

    register_kernels()
    return jax.lax.platform_dependent(pairs, *arrays, cpu=kernel, default=partial(reference, heads))


def _by_heads(array: jax.Array, heads: int) -> jax.Array:
    return array.reshape(*array.shape[:-1], heads, array.shape[-1] // heads)


def _attend_reference(heads: int, pairs: Pairs, query: jax.Array, filters: jax.Array, key: jax.Array) -> jax.Array:
    products = to_directions(pairs, query, 0) * filters * to_directions(pairs, key, 1)
    return _by_heads(products, heads).sum(-1)


def _gather_reference(heads: int, pairs: Pairs, coefficients: jax.Array, values: jax.Array) -> jax.Array:
    sent = _by_heads(to_directions(pairs, values, 1), heads) * coefficients[..., None]
    return sum_directions(pairs, sent.reshape(*sent.shape[:2], -1), 0)


def _attend_adjoint_reference(heads: int, pairs: Pairs, bar: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    return jax.vjp(lambda *a: _attend_reference(heads, pairs, *a), *arrays)[1](bar)


def _gather_adjoint_reference(heads: int, pairs: Pairs, bar: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    return jax.vjp(lambda *a: _gather_reference(heads, pairs, *a), *arrays)[1](bar)


def _second(adjoint: Any, results: int) -> Any:
    def second(heads: int, pairs: Pairs, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        bars, arguments = arrays[:results], arrays[results:]
        return jax.vjp(lambda *a: adjoint(heads, pairs, *a), *arguments)[1](bars)

    return second
