"""The loss of energies, forces and virials, and the errors that are shown beside it (docs/model.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from so3krates.data import FrameGraph, StoredGraphs, Targets
from so3krates.model.potential import Batch, Prediction

from .charges import labels_of_charges
from .config import TrainingConfig

# A component whose variance is below this share of the largest one is constant but for rounding.
DEGENERATE_VARIANCE = 1e-12
# Displacements for which an energy counts as much as a force: where energies per atom of the training frames differ by
# less than such moves change them, forces say more (docs/training_study.md).
ENERGY_LENGTH = 0.3  # A
# Of the mean error of a batch's energies that a centred loss keeps: enough that the energy of all atoms does not drift.
MEAN_SHARE = 0.1
UNITS = np.array([1000.0, 1000.0, 1000.0, 1.0, 1.0, 1.0])  # of eV/atom, eV/A, eV/A^3, e, e A, 1: errors are shown so


class Scales(NamedTuple):
    """Factors s of the squared errors: 1/variance of the training labels, or ones."""

    energy: np.ndarray  # () 1/eV^2
    forces: np.ndarray  # () A^2/eV^2
    virial: np.ndarray  # (3, 3) 1/eV^2
    per_atom: np.ndarray  # () power of the number of atoms by which errors of energy and virial are divided: 1 or 0
    charges: np.ndarray | float = 1.0  # () 1/e^2, where the network predicts charges
    dipoles: np.ndarray | float = 1.0  # () 1/(e A)^2
    ratios: np.ndarray | float = 1.0  # ()


class ErrorSums(NamedTuple):
    """Sums over a batch in the order energy, forces, stress; they add up over batches.

    Q = 3, or 6 where the network predicts charges: then charges, dipoles and Hirshfeld ratios follow.
    """

    scaled: jax.Array  # (Q,) of s (y - y*)^2, what the loss is made of
    squared: jax.Array  # (Q,) of squared errors in (eV/atom)^2, (eV/A)^2, (eV/A^3)^2, e^2, (e A)^2, 1
    counts: jax.Array  # (Q,) entries with a label
    offsets: jax.Array  # (Q,) of errors of energies in eV/atom, with their signs; 0 of all others


class Centre(NamedTuple):
    """Of the errors of a batch's energies, of all its parts together."""

    total: jax.Array  # () sum of errors in eV/atom
    number: jax.Array  # () energies with a label


def normalised_weights(config: TrainingConfig) -> np.ndarray:
    """Weights of energy, forces, stress, and where there are such of charges, dipoles, ratios, with sum 1, (Q,)."""
    weights = np.array(list(config.weights.values()), np.float64)
    return weights / weights.sum()


def variance_scales(graphs: Sequence[FrameGraph], per_atom: bool = False) -> Scales:
    """1/variance of each target over the training labels: pooled for forces, per component for virials.

    With `per_atom` energies and virials are those per atom of a structure, so that small cells count as large ones do.
    A virial component that is constant takes the largest variance of its siblings; a target that is constant
    altogether, or has no label, takes 1, because a division by its variance would mean nothing.
    """
    energies, virials, forces = [], [], _Pool()
    for energy, own_forces, virial in labels_of(graphs):
        size = len(own_forces) if per_atom else 1
        energies.append(energy / size)
        virials.append(virial / size)
        forces.add(own_forces)
    stacked = np.stack(virials)
    components = np.array([_variance(stacked[:, a, b]) for a in range(3) for b in range(3)]).reshape(3, 3)
    largest = components.max()
    components = np.where(components > DEGENERATE_VARIANCE * largest, components, largest)
    scales = Scales(
        _inverse(_variance(np.array(energies))),
        _inverse(forces.variance),
        _inverse(components),
        np.asarray(float(per_atom)),
    )
    more = labels_of_charges(graphs)
    if not more:
        return scales
    charges, dipoles, ratios = (_inverse(_variance(np.concatenate(values))) for values in zip(*more, strict=True))
    return scales._replace(charges=charges, dipoles=dipoles, ratios=ratios)


def usual_energy_weight(config: TrainingConfig, scales: Scales) -> float | None:
    """The weight of energies beside forces of weight 1: their variance over ENERGY_LENGTH^2 that of forces, at most 1.

    A crystal's frames at one temperature differ by a few meV per atom: errors divided by so little would outweigh all
    forces from the first step on. None where the loss has no errors per atom over standard deviations, no forces or no
    energies, or where energies do not differ.
    """
    is_scaled = config.variance_scaling and config.per_atom and scales.energy != 1.0
    if not is_scaled or config.weights["energy_weight"] == 0 or config.weights["force_weight"] == 0:
        return None
    weight = scales.forces / (ENERGY_LENGTH**2 * scales.energy)
    return min(1.0, float(f"{weight:.2g}"))


def labels_of(graphs: Sequence[FrameGraph]) -> Iterable[tuple[float, np.ndarray, np.ndarray]]:
    """Energy, forces and virial of each graph; stored graphs give them without neighbours."""
    if isinstance(graphs, StoredGraphs):
        return graphs.labels()
    return ((g.energy, g.forces, g.virial) for g in graphs)


class _Pool:
    """Variance of finite numbers that come in parts (Chan, Golub and LeVeque 1983)."""

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        values = values[np.isfinite(values)]
        if values.size == 0:
            return
        mean = float(values.mean())
        total = self._count + values.size
        apart = (mean - self._mean) ** 2 * self._count * values.size / total
        self._squares += float(np.square(values - mean).sum()) + apart
        self._mean += (mean - self._mean) * values.size / total
        self._count = total

    @property
    def variance(self) -> float:
        variance = self._squares / max(self._count, 1)
        return variance if variance > DEGENERATE_VARIANCE**2 * (variance + self._mean**2) else 0.0


def unit_scales(per_atom: bool = False) -> Scales:
    """Scales of a loss without variance scaling."""
    return Scales(np.ones(()), np.ones(()), np.ones((3, 3)), np.asarray(float(per_atom)))


def _variance(values: np.ndarray) -> float:
    """Variance (ddof 0) of the finite values; 0 where they differ by rounding only, or there are none."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0
    variance = float(np.var(values))
    return variance if variance > DEGENERATE_VARIANCE**2 * float(np.mean(values**2)) else 0.0


def _inverse(variance: np.ndarray | float) -> np.ndarray:
    variance = np.asarray(variance, np.float64)
    return 1.0 / np.where(variance > 0, variance, 1.0)


def is_centred(config: TrainingConfig) -> bool:
    """Whether energies are compared less the mean error of their batch, as it goes into the shifts in the end.

    Each step of the optimiser moves the energy of all atoms by some meV, to which forces are blind. Where the energies
    of the training frames differ by little more, that would be most of the gradient (docs/training_study.md).
    """
    return config.refit_shift and config.per_atom


def centre_of(energies: jax.Array, targets: Targets) -> Centre:
    """Of predicted energies (S,) in eV."""
    error, known = _difference(energies, targets.energies)
    return Centre(jnp.sum(error / targets.atoms), jnp.sum(known))


def _centred(error: jax.Array, centre: Centre) -> jax.Array:
    """Squares of errors (S,) less their mean m, n/(n - 1) times, and MEAN_SHARE^2 m^2, as sums over a batch of n.

    Written so that m may be a constant: the gradient of the sum is the same. One energy alone is not centred.
    """
    mean = centre.total / centre.number.clip(1)
    is_alone = centre.number <= 1
    spread = jnp.where(is_alone, 0.0, centre.number / (centre.number - 1).clip(1))
    share = jnp.where(is_alone, 1.0, MEAN_SHARE**2)
    return spread * (error - mean) ** 2 + share * (2 * mean * error - mean**2)


def error_sums(
    prediction: Prediction, batch: Batch, targets: Targets, scales: Scales, centre: Centre | None = None
) -> ErrorSums:
    """Sums of squared errors of one batch; entries without a finite label, and padding, are skipped.

    `centre`: of the whole batch, where the loss is centred; scales are per atom then.
    """
    energy, has_energy = _difference(prediction.energies, targets.energies)
    forces, has_forces = _difference(prediction.forces, targets.forces)
    has_forces &= batch.atom_mask[:, None]
    forces = jnp.where(has_forces, forces, 0.0)
    virial, has_virial = _difference(prediction.strain_gradients, targets.virials)
    dtype = energy.dtype
    scale = jax.tree.map(lambda s: jnp.asarray(s, dtype), scales)
    size = jnp.asarray(targets.atoms, dtype) ** scale.per_atom
    per_atom = energy / size
    squares = per_atom**2 if centre is None else jnp.where(has_energy, _centred(per_atom, centre), 0.0)
    scaled = [
        jnp.sum(scale.energy * squares),
        jnp.sum(scale.forces * forces**2),
        jnp.sum(scale.virial * (virial / size[:, None, None]) ** 2),
    ]
    squared = [
        jnp.sum((energy / targets.atoms) ** 2),
        jnp.sum(forces**2),
        jnp.sum((virial / targets.volumes[:, None, None]) ** 2),
    ]
    masks = [has_energy, has_forces, has_virial]
    for value, label, own in (
        (prediction.charges, targets.charges, scale.charges),
        (prediction.dipoles, targets.dipoles, scale.dipoles),
        (prediction.ratios, targets.ratios, scale.ratios),
    ):
        if value is not None and label is not None:  # of a network that predicts them
            error, known = _difference(value, label)
            squared.append(jnp.sum(error**2))
            scaled.append(own * squared[-1])
            masks.append(known)
    return ErrorSums(
        scaled=jnp.stack(scaled),
        squared=jnp.stack(squared),
        counts=jnp.stack([jnp.sum(mask).astype(dtype) for mask in masks]),
        offsets=jnp.zeros(len(masks), dtype).at[0].set(jnp.sum(energy / targets.atoms)),
    )


def without_mean(sums: ErrorSums) -> ErrorSums:
    """Sums over all frames of a set, on the host, of errors of energies less their mean, scaled per atom."""
    scaled, squared, counts, offsets = (np.array(values, np.float64) for values in sums)
    whole = squared[0]
    if counts[0] > 1:  # an energy alone is compared as it is
        squared[0] = max(0.0, squared[0] - offsets[0] ** 2 / counts[0])
    scaled[0] *= squared[0] / whole if whole > 0 else 1.0
    return ErrorSums._make((scaled, squared, counts, offsets))


def _difference(value: jax.Array, label: jax.Array | np.ndarray) -> tuple[jax.Array, jax.Array]:
    """value - label, 0 where the label is NaN, and where it is not; NaN stays out of the gradient too."""
    known = jnp.isfinite(label)
    return jnp.where(known, value - jnp.where(known, label, 0.0), 0.0), known


def loss_of(sums: ErrorSums, weights: np.ndarray) -> jax.Array:
    """sum_t w_t (sum of s (y - y*)^2) / entries, of JAX or numpy sums; a target without labels adds 0."""
    return (weights.astype(sums.scaled.dtype) * sums.scaled / sums.counts.clip(1)).sum()


def root_mean_squares(sums: ErrorSums) -> np.ndarray:
    """Errors (Q,) in meV/atom, meV/A, meV/A^3, e, e A, 1; NaN for a target without labels."""
    counts = np.asarray(sums.counts, np.float64)
    mean = np.divide(np.asarray(sums.squared, np.float64), counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return UNITS[: len(counts)] * np.sqrt(mean)
