"""Stages of a committee: what its members say, one after the other, and how far they differ (docs/uncertainty.md)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .rows import ROW_BLOCK, Rows


class MemberResults(NamedTuple):
    """Of the member that was evaluated last, float64."""

    energy: jax.Array  # () eV
    strain_gradient: jax.Array  # (3, 3) eV
    atom_energies: jax.Array  # (N,) eV
    forces: jax.Array  # (N, 3) eV/A
    atom_virials: jax.Array | None  # (N, 3, 3) eV; None unless they are asked for


class Sums(NamedTuple):
    """Over the members so far, float64; M members."""

    energies: jax.Array  # (M,) eV of each
    strain_gradients: jax.Array  # (M, 3, 3) eV of each
    atom_energies: jax.Array  # (N,) eV
    forces: jax.Array  # (N, 3) eV/A
    squares: jax.Array  # (N,) (eV/A)^2, of forces
    atom_virials: jax.Array | None  # (N, 3, 3) eV


def add_member(
    member: int,
    is_first: bool,
    shifts: jax.Array,
    species: jax.Array,
    owned: jax.Array,
    results: MemberResults,
    sums: Sums,
    row_block: int = ROW_BLOCK,
) -> Sums:
    """The sums with one more member, which is the first to be added where `is_first`.

    shifts: (M, E) eV, energy shifts of the members' elements less those of the bundle. species: (N,).
    """
    rows_in_use = Rows(row_block, owned)

    def body(start: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        total, *rows = carry
        own = rows_in_use.of(start, species)
        shift = jnp.where(rows_in_use.used(start), shifts[member].astype(jnp.float64)[own], 0.0)
        forces = rows_in_use.of(start, results.forces)
        new = [rows_in_use.of(start, results.atom_energies) + shift, forces, jnp.square(forces).sum(axis=1)]
        if results.atom_virials is not None:
            new.append(rows_in_use.of(start, results.atom_virials))
        if not is_first:
            new = [block + rows_in_use.of(start, array) for block, array in zip(new, rows, strict=True)]
        return total + shift.sum(), *(rows_in_use.store(start, a, b) for a, b in zip(rows, new, strict=True))

    kept = [array for array in sums[2:] if array is not None]
    shift, *rows = rows_in_use.for_each(body, (jnp.zeros((), jnp.float64), *kept))
    energies = jnp.zeros_like(sums.energies) if is_first else sums.energies
    strains = jnp.zeros_like(sums.strain_gradients) if is_first else sums.strain_gradients
    energies = energies.at[member].set(results.energy + shift)
    strains = strains.at[member].set(results.strain_gradient)
    return Sums(energies, strains, *rows, *([None] if results.atom_virials is None else []))


def deviations(members: int, sums: Sums, owned: jax.Array, into: jax.Array, row_block: int = ROW_BLOCK) -> jax.Array:
    """Sample standard deviation of a component of the force on each atom over all members, (N,) eV/A."""
    rows_in_use = Rows(row_block, owned)

    def body(start: jax.Array, found: jax.Array) -> jax.Array:
        forces, squares = rows_in_use.of(start, (sums.forces, sums.squares))
        spread = squares - jnp.square(forces).sum(axis=1) / members
        values = jnp.sqrt(jnp.maximum(spread, 0.0) / (3 * (members - 1)))
        return rows_in_use.store(start, found, values)

    return rows_in_use.for_each(body, into)


def mean_results(
    members: int, sums: Sums, owned: jax.Array, results: MemberResults, row_block: int = ROW_BLOCK
) -> MemberResults:
    """The members' mean in place of the last one's results."""
    rows_in_use = Rows(row_block, owned)
    rows = [array for array in results[2:] if array is not None]
    summed = [sums.atom_energies, sums.forces, *([] if sums.atom_virials is None else [sums.atom_virials])]

    def body(start: jax.Array, carry: list[jax.Array]) -> list[jax.Array]:
        blocks = [rows_in_use.of(start, array) / members for array in summed]
        return [rows_in_use.store(start, a, b) for a, b in zip(carry, blocks, strict=True)]

    rows = rows_in_use.for_each(body, rows)
    virials = [None] if results.atom_virials is None else []
    return MemberResults(sums.energies.mean(), sums.strain_gradients.mean(axis=0), *rows, *virials)
