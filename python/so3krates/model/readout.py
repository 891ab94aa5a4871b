"""The energy of an atom, Dense(silu(Dense(x))) (docs/model.md), and its adjoint: the stage between the way down and the
way back."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .config import ModelConfig
from .layer import MLP, applied
from .network import Params
from .rows import ROW_BLOCK, Rows


class ReadoutArrays(NamedTuple):
    """Arrays that `readout` fills."""

    atom_energies: jax.Array  # (N,) float64, eV
    adjoint_x: jax.Array  # (N, C, F)
    adjoint_chi: jax.Array  # (N, C, orders)
    forces: jax.Array  # (N, 3) float64, set to zero
    atom_virials: jax.Array | None  # (N, 3, 3) float64, set to zero; None unless C = 4


def readout(
    config: ModelConfig, params: Params, x: jax.Array, owned: jax.Array, into: ReadoutArrays, row_block: int = ROW_BLOCK
) -> tuple[jax.Array, jax.Array, ReadoutArrays]:
    """Energies of owned atoms, their sum (float64, eV), a zero strain gradient, adjoints of the last layer's output."""
    head = MLP((*config.readout_features, 1))

    rows_in_use = Rows(row_block, owned)

    def body(start: jax.Array, carry: tuple[jax.Array, ReadoutArrays]) -> tuple[jax.Array, ReadoutArrays]:
        total, arrays = carry
        energies, vjp = jax.vjp(lambda rows: applied(head, params, rows)[:, 0], rows_in_use.of(start, x))
        (gradient,) = vjp(jnp.ones_like(energies))
        energies = energies.astype(jnp.float64)

        def zeros(rows: jax.Array) -> jax.Array:
            return jnp.zeros((row_block, *rows.shape[1:]), rows.dtype)

        blocks = ReadoutArrays(
            atom_energies=energies,
            adjoint_x=lax.dynamic_update_slice_in_dim(zeros(arrays.adjoint_x), gradient[:, None], 0, 1),
            adjoint_chi=zeros(arrays.adjoint_chi),
            forces=zeros(arrays.forces),
            atom_virials=None if arrays.atom_virials is None else zeros(arrays.atom_virials),
        )
        total = total + jnp.sum(jnp.where(rows_in_use.used(start), energies, 0.0))
        return total, rows_in_use.store(start, arrays, blocks)

    energy, arrays = rows_in_use.for_each(body, (jnp.zeros((), jnp.float64), into))
    return energy, jnp.zeros((3, 3), jnp.float64), arrays
