"""How fine the radial tables and how many numbers behind the invariants' filters must be: the fewest whose forces agree
with the network's own to a tolerance."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from so3krates.data.neighbours import directed_pairs
from so3krates.model.config import ModelConfig, So3lrConfig
from so3krates.model.geometry import masked_vectors
from so3krates.model.network import Graph, Params, atom_energies
from so3krates.model.potential import Batch
from so3krates.model.reductions import FILTERS, radial_functions, tabulated, with_rank
from so3krates.model.so3lr import atom_outputs
from so3krates.model.system import System

from .fused import LARGEST_RANK

TOLERANCE = 2e-5  # eV/A
START = 0.5  # A, the shortest distance that tables resolve
LARGE_FORCE = 10.0  # eV/A; where forces are larger, errors count relative to them
LARGEST_MOLECULE, MOLECULES = 6, 2  # atoms; that an element is looked at in
CONTACT, DROPLET_SPACING = 1.5, 3.5  # A, of molecules in a droplet: least, and of their centres
GRIDS = (256, 512, 1024, 2048, 4096, 8192, 16384)
RANK_STEP = 4
RANK_SHARE = 0.25  # of the tolerance, for the rank alone: it meets invariants that these structures do not have


class TableError(ValueError):
    """No grid is fine enough; the message has the numbers."""


class Tables(NamedTuple):
    """A tabulated network and what is known of its error."""

    config: ModelConfig
    params: Params
    nodes: int  # of each spline
    rank: int  # of the last matrices of the filters' networks of the invariants; their width where nothing was reduced
    force_error: (
        float  # eV/A, largest component over the structures; in units of |F| / LARGE_FORCE where that exceeds 1
    )
    largest_force: float  # eV/A, there
    structures: int

    def describe(self) -> dict[str, float | int]:
        """For a manifest."""
        return {
            "nodes": self.nodes,
            "rank": self.rank,
            "start": START,
            "force_error": self.force_error,
            "largest_force": self.largest_force,
            "structures": self.structures,
        }


def choose_tables(
    config: ModelConfig,
    params: Params,
    elements: tuple[str, ...],
    tolerance: float = TOLERANCE,
    least_nodes: int = 0,
) -> Tables:
    """The coarsest grid, then the lowest rank, whose forces differ from the network's by less than `tolerance` (eV/A),
    in float64.

    Compared on structures made from the elements' radii (see `structures_for`). Raises TableError where none suffices.
    """
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)
        structures = molecules_for(elements) if isinstance(config, So3lrConfig) else []
        if not set(elements) <= {symbol for atoms in structures for symbol in atoms.symbols}:
            structures = structures_for(elements)
        batch = _batch(structures, config.cutoff)
        distances = np.linalg.norm(np.asarray(_vectors(batch, batch.positions))[np.asarray(batch.mask)], axis=-1)

        def forces_of(radial: tuple[np.ndarray, np.ndarray], spherical: Params) -> np.ndarray:
            return np.asarray(_forces(config, spherical, batch, *radial))

        forces = forces_of(radial_functions(config, params, distances), params)
        scale = np.maximum(1.0, np.linalg.norm(forces, axis=1, keepdims=True) / LARGE_FORCE)
        if not np.isfinite(forces).all():
            raise TableError(
                "the network's forces on the structures that check tables are not finite: "
                "export with body 'xla' and tables 'off'"
            )

        def change(found: np.ndarray, reference: np.ndarray) -> float:
            return float((np.abs(found - reference) / scale).max())

        for nodes in (n for n in GRIDS if n >= least_nodes):
            reduced = tabulated(config, params, nodes, START)
            splines = radial_functions(*reduced, distances)
            on_grid = forces_of(splines, params)
            if change(on_grid, forces) < tolerance:
                break
        else:
            raise TableError(
                f"tables of {GRIDS[-1]} nodes change forces by {change(on_grid, forces):.1e} eV/A, and "
                f"{tolerance:.1e} is allowed: allow more, or export with body 'xla' and tables 'off'"
            )
        rank, found = config.spherical_filter_features[0], on_grid
        invariants = _invariants(config, params, batch) if len(config.spherical_filter_features) == 2 else []
        for fewer in range(RANK_STEP, int(LARGEST_RANK * rank) + 1 if invariants else 0, RANK_STEP):
            candidate = with_rank(config, reduced[1], invariants, fewer)
            at_rank = forces_of(splines, with_rank(config, params, invariants, fewer))
            if change(at_rank, on_grid) < RANK_SHARE * tolerance and change(at_rank, forces) < tolerance:
                rank, found, reduced = fewer, at_rank, (reduced[0], candidate)
                break
        return Tables(*reduced, nodes, rank, change(found, forces), float(np.abs(forces).max()), len(structures))


# Unoptimised: it runs once.
@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def _all_invariants(config: ModelConfig, params: Params, batch: Batch) -> list[jax.Array]:
    """What the filters' networks of the invariants are given in each layer behind the first, (N, K, degrees)."""
    found: dict[str, jax.Array] = {}

    def intercept(call: Callable[..., Any], arguments: Any, keywords: Any, context: Any) -> Any:
        if context.module.name == "spherical":
            found[context.module.path[0]] = arguments[0]
        return call(*arguments, **keywords)

    with nn.intercept_methods(intercept):
        _energy(config, params, batch, _vectors(batch, batch.positions))
    return [found[f"layers_{k}"] for k in range(1, config.layers)]


def _invariants(config: ModelConfig, params: Params, batch: Batch) -> list[np.ndarray]:
    """The same of the pairs that there are, (pairs, degrees)."""
    return [np.asarray(found)[np.asarray(batch.mask)] for found in _all_invariants(config, params, batch)]


def _energy(config: ModelConfig, params: Params, batch: Batch, vectors: jax.Array) -> jax.Array:
    """Of all structures, eV. What SO3LR says of atoms acts as in a liquid: charges at potentials of +-1 V in turn, and
    1 eV for the change of a Hirshfeld ratio by 1."""
    graph = Graph(batch.species, batch.neighbours, vectors, batch.mask)
    if not isinstance(config, So3lrConfig):
        return atom_energies(config, params, graph).sum()
    none = jnp.zeros(len(batch.cells))
    found = atom_outputs(config, params, graph, System(batch.structure, batch.atom_mask.astype(float), none, none))
    potentials = jnp.where(jnp.arange(len(batch.species)) % 2 == 0, 1.0, -1.0)
    charges, ratios = found.properties
    return found.energies.sum() + (potentials * charges).sum() + ratios.sum()


def molecules_for(elements: tuple[str, ...]) -> list[Atoms]:
    """Small G2 molecules, some with each element, rattled, and a droplet of them. Deterministic."""
    from ase.build import molecule  # a second of each start
    from ase.collections import g2

    random = np.random.default_rng(0)
    small = [atoms for atoms in map(molecule, g2.names) if len(atoms) <= LARGEST_MOLECULE]
    known = [atoms for atoms in small if set(atoms.symbols) <= set(elements)]
    chosen = []
    for element in elements:
        chosen += [atoms for atoms in known if element in atoms.symbols and atoms not in chosen][:MOLECULES]
    structures = [_rattled(atoms.copy(), 0.07, random) for atoms in chosen]
    droplet = Atoms()
    for place in np.ndindex(2, 2, 2) if chosen else ():
        part = chosen[random.integers(len(chosen))].copy()
        part.rotate(random.uniform(0, 180), random.normal(size=3))
        part.translate(DROPLET_SPACING * np.array(place) - part.get_center_of_mass())
        apart = np.linalg.norm(part.positions[:, None] - droplet.positions, axis=-1)
        if apart.min(initial=np.inf) > CONTACT:
            droplet += part
    return [*structures, droplet]


def structures_for(elements: tuple[str, ...]) -> list[Atoms]:
    """Structures like those that a potential of these elements is trained on, and random ones. Deterministic.

    Lattices of two sublattices with neighbours at about the sum of covalent radii, strained and rattled, the elements
    taking turns; disordered ones, less dense; and triangles of all pairs of elements.
    """
    from ase.build import bulk  # a second of each start

    random = np.random.default_rng(0)
    radii = {e: covalent_radii[atomic_numbers[e]] for e in elements}
    structures = []
    for k, first in enumerate(elements):
        second = elements[(k + 1) % len(elements)]
        bond = radii[first] + radii[second]
        # Edge of the cubic cell over the distance of neighbours.
        for lattice, edge in (("zincblende", 4 / np.sqrt(3)), ("rocksalt", 2.0)):
            for stretch, rattling in ((0.97, 0.1), (1.03, 0.2)):
                atoms = bulk("NaCl", lattice, a=stretch * bond * edge, cubic=True)
                atoms.symbols = [first if s == "Na" else second for s in atoms.symbols]
                structures.append(_rattled(atoms, rattling, random))
    for stretch in (1.1, 1.25):
        atoms = bulk("X", "sc", a=stretch * 2 * max(radii.values()), cubic=True).repeat(2)
        atoms.symbols = list(random.permutation([elements[k % len(elements)] for k in range(len(atoms))]))
        structures.append(_rattled(atoms, 0.2, random))
    for k, first in enumerate(elements):
        for second in elements[k:]:
            triangle = np.array([[0.0, 0.0, 0.0], [1.0, 0.1, 0.0], [0.2, 1.1, 0.3]])
            structures.append(Atoms([first, second, first], positions=1.1 * (radii[first] + radii[second]) * triangle))
    return structures


def _rattled(atoms: Atoms, amplitude: float, random: np.random.Generator) -> Atoms:
    atoms.positions += random.normal(0.0, amplitude, atoms.positions.shape)
    return atoms


def _batch(structures: list[Atoms], cutoff: float) -> Batch:
    """All structures as one graph."""
    pairs, offset = [], 0
    for atoms in structures:
        i, j, shift = directed_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
        pairs.append((i + offset, j + offset, shift))
        offset += len(atoms)
    i, j, shift = (np.concatenate(column) for column in zip(*pairs, strict=True))
    counts = np.bincount(i, minlength=offset)
    slot = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    neighbours = np.tile(np.arange(offset, dtype=np.int32)[:, None], (1, counts.max()))
    shifts, mask = np.zeros((*neighbours.shape, 3)), np.zeros(neighbours.shape, bool)
    neighbours[i, slot], shifts[i, slot], mask[i, slot] = j, shift, True
    return Batch(
        species=jnp.asarray(np.concatenate([a.numbers for a in structures]), jnp.int32),
        positions=jnp.asarray(np.concatenate([a.positions for a in structures])),
        cells=jnp.asarray(np.stack([a.cell.array for a in structures])),
        structure=jnp.asarray(np.repeat(np.arange(len(structures)), [len(a) for a in structures]), jnp.int32),
        neighbours=jnp.asarray(neighbours),
        shifts=jnp.asarray(shifts),
        mask=jnp.asarray(mask),
        atom_mask=jnp.ones(offset, bool),
    )


@jax.jit
def _vectors(batch: Batch, positions: jax.Array) -> jax.Array:
    shifts = jnp.einsum("nkc,ncb->nkb", batch.shifts, batch.cells[batch.structure])
    return positions[batch.neighbours] - positions[:, None] + shifts


# Unoptimised: it runs a few times only.
@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def _forces(config: ModelConfig, params: Params, batch: Batch, values: jax.Array, slopes: jax.Array) -> jax.Array:
    """Forces with other radial filters, known at the edges in use: one compilation serves all grids.

    values, slopes: as of `radial_functions` at the lengths of the edges, in the order of `batch.mask`.
    """
    edge = (jnp.cumsum(batch.mask) - 1).reshape(batch.mask.shape)

    def energy(positions: jax.Array) -> jax.Array:
        vectors = _vectors(batch, positions)
        distances = jnp.linalg.norm(masked_vectors(vectors, batch.mask, config.cutoff), axis=-1)
        change = (distances - jax.lax.stop_gradient(distances))[..., None]  # zero, with a derivative

        def intercept(call: Callable[..., Any], arguments: Any, keywords: Any, context: Any) -> Any:
            if context.module.name != "radial":
                return call(*arguments, **keywords)
            layer, name, _ = context.module.path
            own = int(layer.removeprefix("layers_")), FILTERS.index(name)
            return values[own][edge] + slopes[own][edge] * change

        with nn.intercept_methods(intercept):
            return _energy(config, params, batch, vectors)

    return -jax.grad(energy)(batch.positions)
