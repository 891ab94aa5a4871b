"""A small many-body potential as a bundle: all that a network's bundle has, with formulas that fit in a few lines.

E_i = 1/2 sum_j phi(r_ij) + F(rho_i),  rho_i = sum_j q_j f(r_ij),  F(rho) = -sqrt(1 + rho),
phi(r) = D_ij (exp(-2 a (r - r0)) - 2 exp(-a (r - r0))) c(r),  f(r) = exp(-r) c(r),  c(r) = (1 - (r / cutoff)^2)^3.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from so3krates import _harness
from so3krates_export.bundle import write_bundle
from so3krates_export.lowering import STABLEHLO_VERSION, lower
from so3krates_export.manifest import results_of, with_sources

INPUTS = _harness.BUNDLE_INPUTS
OUTPUTS = {name: b for name, b in _harness.BUNDLE_OUTPUTS.items() if name != "atom_virials"}

ELEMENTS = ["Ga", "N"]
ENERGY_SHIFTS = [-27314.0, 12.5]  # eV; the first as large as an all-electron energy
CUTOFF = 4.0
STEEPNESS, BOND = 1.6, 2.1
DEPTH = np.array([[0.5, 1.0], [1.0, 0.3]])
CHARGE = np.array([0.7, 2.3])

LADDER = [
    {"rows": 8, "atoms": 1024, "candidates": 96, "neighbours": 32},
    {"rows": 8, "atoms": 1024, "candidates": 128, "neighbours": 96},
    {"rows": 128, "atoms": 2048, "candidates": 128, "neighbours": 96},
]


def write_toy_bundle(path: Path, ladder: list[dict[str, int]] | None = None, **changes: Any) -> Path:
    """Write the potential in float64; `changes` replace keys of the manifest."""
    manifest, tensors = toy_bundle(ladder or LADDER)
    write_bundle(path, {**manifest, **changes}, tensors)
    return path


def toy_bundle(ladder: list[dict[str, int]]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Manifest and tensors."""
    buffers = {
        **{name: {"dtype": b["dtype"], "shape": [*b["shape"]], "role": "input"} for name, b in INPUTS.items()},
        **{name: {"dtype": b["dtype"], "shape": [*b["shape"]], "role": "output"} for name, b in OUTPUTS.items()},
        "edges": {"dtype": "float64", "shape": ["rows", "neighbours", 3], "role": "state"},
        "neighbours": {"dtype": "int32", "shape": ["rows", "neighbours"], "role": "state"},
        "counts": {"dtype": "int32", "shape": ["rows"], "role": "state"},
        "slopes": {"dtype": "float64", "shape": ["rows", 1], "role": "state"},
    }
    weights = {"weights/depth": DEPTH, "weights/charge": CHARGE}
    table = ["edges", "neighbours", "counts"]
    steps = [
        {
            "run": "neighbours",
            "inputs": [
                "positions",
                "row_of_atom",
                "atom_of_row",
                "candidate_count",
                "candidates",
                "owned_count",
                *table,
            ],
            "outputs": [*table, "neighbours_needed"],
        },
        {
            "run": "density",
            "inputs": ["species", *table, "owned_count", "weights/charge"],
            "outputs": ["slopes", "atom_energies"],
        },
        {"refresh": ["slopes"]},
        {
            "run": "pair",
            "inputs": ["species", *table, "slopes", "owned_count", "weights/depth", "weights/charge", "atom_energies"],
            "outputs": ["atom_energies", "forces", "strain_gradient"],
        },
        {"run": "total", "inputs": ["atom_energies", "owned_count"], "outputs": ["energy"]},
    ]
    programs = {"neighbours": _neighbours, "density": _density, "pair": _pair, "total": _total}
    manifest = {
        "producer": "toy",
        "model": {"name": "toy"},
        "elements": ELEMENTS,
        "energy_shifts": ENERGY_SHIFTS,
        "cutoff": CUTOFF,
        "message_passing_steps": 2,
        "units": "metal",
        "precision": "float64",
        "platform": "cpu",
        "stablehlo_version": STABLEHLO_VERSION,
        "training": None,
        "ladder": ladder,
        "buffers": buffers,
        "programs": {name: [f"programs/{name}/{k}" for k in range(len(ladder))] for name in programs},
        "schedules": {"forces": with_sources(steps)},
        "outputs": {name: buffer["output"] for name, buffer in OUTPUTS.items() if "output" in buffer},
    }
    manifest["results"] = results_of(manifest)
    tensors: dict[str, np.ndarray] = dict(weights)
    with jax.enable_x64(True):
        for step in steps:
            if "run" not in step:
                continue
            inputs, outputs = step["inputs"], step["outputs"]
            donated = [k for k, name in enumerate(inputs) if name in outputs]
            for k, rung in enumerate(ladder):
                arguments = [
                    jax.ShapeDtypeStruct(weights[name].shape, weights[name].dtype)
                    if name in weights
                    else jax.ShapeDtypeStruct([rung.get(n, n) for n in buffers[name]["shape"]], buffers[name]["dtype"])
                    for name in inputs
                ]
                artifact = lower(programs[step["run"]], arguments, donated)
                tensors[f"programs/{step['run']}/{k}"] = np.frombuffer(artifact, np.uint8)
    return manifest, tensors


def _neighbours(positions, row_of_atom, atom_of_row, count, candidates, owned, edges, neighbours, counts):
    """Rows are filled one by one, so that what lies beyond the owned rows stays as it was."""
    width, listed = edges.shape[1], candidates.shape[1]

    def row(i, state):
        edges, neighbours, counts, needed = state
        valid = jnp.arange(listed) < count[i]
        atoms = jnp.where(valid, candidates[i], 0)
        vectors = positions[atoms] - positions[atom_of_row[i]]
        inside = valid & ((vectors**2).sum(-1) < CUTOFF**2)
        order = jnp.resize(jnp.argsort(~inside, stable=True), width)
        found = inside.sum(dtype=jnp.int32)
        return (
            edges.at[i].set(vectors[order]),
            neighbours.at[i].set(row_of_atom[atoms[order]]),
            counts.at[i].set(jnp.minimum(found, width)),
            jnp.maximum(needed, found),
        )

    return jax.lax.fori_loop(0, owned, row, (edges, neighbours, counts, jnp.int32(0)))


def _distances(edges, counts, owned):
    """Distances, and which entries are neighbours; the others, which may be anything, get a harmless distance."""
    is_owned = jnp.arange(edges.shape[0]) < owned
    valid = (jnp.arange(edges.shape[1]) < counts[:, None]) & is_owned[:, None]
    return jnp.sqrt(jnp.where(valid, (edges**2).sum(-1), 1.0)), valid


def _cut(r):
    return (1 - (r / CUTOFF) ** 2) ** 3


def _species_of(species, neighbours, valid):
    return species[jnp.where(valid, neighbours, 0)]


def _density(species, edges, neighbours, counts, owned, charge):
    r, valid = _distances(edges, counts, owned)
    other = _species_of(species, neighbours, valid)
    density = jnp.where(valid, charge[other] * jnp.exp(-r) * _cut(r), 0.0).sum(1)
    return -0.5 / jnp.sqrt(1 + density)[:, None], -jnp.sqrt(1 + density)


def _pair(species, edges, neighbours, counts, slopes, owned, depth, charge, atom_energies):
    r, valid = _distances(edges, counts, owned)
    own, other = species[:, None], _species_of(species, neighbours, valid)
    depth = depth[own, other]

    def phi(r):
        return depth * (jnp.exp(-2 * STEEPNESS * (r - BOND)) - 2 * jnp.exp(-STEEPNESS * (r - BOND))) * _cut(r)

    value, phi_slope = jax.jvp(phi, (r,), (jnp.ones_like(r),))
    _, f_slope = jax.jvp(lambda r: jnp.exp(-r) * _cut(r), (r,), (jnp.ones_like(r),))
    own_slope, other_slope = slopes, slopes[jnp.where(valid, neighbours, 0), 0]
    tension = phi_slope + (own_slope * charge[other] + other_slope * charge[own]) * f_slope
    tension = jnp.where(valid, tension / r, 0.0)[..., None]
    edges = jnp.where(valid[..., None], edges, 0.0)
    forces = (tension * edges).sum(1)
    gradient = 0.5 * jnp.einsum("ija,ijb->ab", tension * edges, edges)
    return atom_energies + 0.5 * jnp.where(valid, value, 0.0).sum(1), forces, gradient


def _total(atom_energies, owned):
    return jnp.where(jnp.arange(atom_energies.shape[0]) < owned, atom_energies, 0.0).sum()


def reference_energies(atoms: Atoms) -> np.ndarray:
    """Energies per atom in numpy, by summing over all images (atoms,), eV."""
    species = np.array([ELEMENTS.index(symbol) for symbol in atoms.get_chemical_symbols()])
    # Images that any pair may need: the height of the cell, and how far atoms lie apart in cell vectors.
    inverse = np.linalg.inv(atoms.cell.complete().array)
    spread = np.ptp(atoms.positions @ inverse, axis=0)
    reach = np.where(atoms.pbc, np.ceil(CUTOFF * np.linalg.norm(inverse, axis=0) + spread), 0).astype(int)
    pair, density = np.zeros(len(atoms)), np.zeros(len(atoms))
    for shift in np.ndindex(*(2 * n + 1 for n in reach)):
        vectors = atoms.positions[None] - atoms.positions[:, None] + (np.array(shift) - reach) @ atoms.cell.array
        r = np.linalg.norm(vectors, axis=-1)
        inside = (r > 0) & (r < CUTOFF)
        cut = np.where(inside, (1 - (r / CUTOFF) ** 2) ** 3, 0.0)
        morse = np.exp(-2 * STEEPNESS * (r - BOND)) - 2 * np.exp(-STEEPNESS * (r - BOND))
        pair += (DEPTH[species[:, None], species[None]] * morse * cut).sum(1)
        density += (CHARGE[species][None] * np.exp(-r) * cut).sum(1)
    return 0.5 * pair - np.sqrt(1 + density) + np.array(ENERGY_SHIFTS)[species]


def reference_forces(atoms: Atoms, step: float = 1e-4) -> np.ndarray:
    """Forces by central differences of the reference energy without its shifts (atoms, 3), eV/A."""
    forces = np.zeros((len(atoms), 3))
    for i, k in np.ndindex(*forces.shape):
        moved = [atoms.copy(), atoms.copy()]
        for sign, copy in zip((1, -1), moved, strict=True):
            copy.positions[i, k] += sign * step
        forces[i, k] = -_difference(*moved) / (2 * step)
    return forces


def reference_strain_gradient(atoms: Atoms, step: float = 1e-5) -> np.ndarray:
    """dE/d(strain) by central differences (3, 3), eV."""
    gradient = np.zeros((3, 3))
    for a, b in np.ndindex(3, 3):
        strained = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * step
            copy = atoms.copy()
            copy.set_cell(atoms.cell.array @ strain, scale_atoms=False)
            copy.positions = atoms.positions @ strain
            strained.append(copy)
        gradient[a, b] = _difference(*strained) / (2 * step)
    return gradient


def _difference(plus: Atoms, minus: Atoms) -> float:
    """Sum of differences: the large shifts cancel atom by atom, not in the sum."""
    return float((reference_energies(plus) - reference_energies(minus)).sum())
