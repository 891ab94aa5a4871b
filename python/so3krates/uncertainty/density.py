"""The density of training environments: principal axes, and a few Gaussians for each element."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

ARRAYS = ("mean", "axes", "centres", "whitening", "floor", "slope", "power", "limit")
COMPONENTS = 32  # principal axes, at most
GAUSSIANS = 8  # of an element, at most
LEAST_ATOMS = 2  # of a Gaussian, for each of its axes; elements with fewer atoms have fewer Gaussians
PRIOR = 0.1  # of the whole covariance that a Gaussian's is mixed with, as if of as many atoms as there are axes
RIDGE = 1e-6  # of the mean variance, so that axes along which nothing varies count little
LEAST_ERROR = 1e-4  # eV/A: below this an error of a force is rounding
POWERS = (0.5, 4.0)  # of the distance with which errors may grow
FEW = 30  # atoms of an element, below which its errors are taken together with the others'


class UncertaintyError(ValueError):
    """Data from which no uncertainty can be made; the message says what is missing."""


class Density(NamedTuple):
    """Of environments, one row for each atom; E elements, K Gaussians, D numbers of an environment, P axes.

    The uncertainty of an atom of element e with environment h, in eV/A, is what its force's components are expected to
    be wrong by: ``sqrt(floor_e^2 + (slope_e d^power_e)^2)`` with ``d = min_k |(p - centre_ek) whitening_ek|``
    and ``p = (h - mean) axes``. Beyond limit_e, the largest distance that was calibrated, the second part grows as d
    does.
    """

    mean: np.ndarray  # (D,)
    axes: np.ndarray  # (D, P)
    centres: np.ndarray  # (E, K, P)
    whitening: np.ndarray  # (E, K, P, P)
    floor: np.ndarray  # (E,) eV/A
    slope: np.ndarray  # (E,) eV/A
    power: np.ndarray  # (E,)
    limit: np.ndarray  # (E,)

    def distances(self, environments: np.ndarray, elements: np.ndarray) -> np.ndarray:
        """d of atoms, (N,); environments: (N, D), elements: (N,) indices."""
        points = (environments - self.mean) @ self.axes
        found = np.zeros(len(points))
        for element in np.unique(elements):
            rows = elements == element
            shifted = points[rows][:, None] - self.centres[element]  # (n, K, P)
            white = np.einsum("nkp,kpq->nkq", shifted, self.whitening[element])
            found[rows] = np.sqrt(np.square(white).sum(axis=-1).min(axis=1))
        return found

    def uncertainties(self, environments: np.ndarray, elements: np.ndarray) -> np.ndarray:
        """Of atoms, (N,) eV/A; arguments as of `distances`."""
        distance = self.distances(environments, elements)
        limit = self.limit[elements]
        grown = np.minimum(distance, limit) ** self.power[elements] * np.maximum(distance / limit, 1.0)
        return np.hypot(self.floor[elements], self.slope[elements] * grown)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], elements: int) -> Density:
        """Raises UncertaintyError for arrays that do not fit each other or the number of elements."""
        missing = [name for name in ARRAYS if name not in arrays]
        if missing:
            raise UncertaintyError(f"lacks {', '.join(missing)}")
        density = cls(**{name: np.asarray(arrays[name], np.float64) for name in ARRAYS})
        if density.axes.ndim != 2 or density.centres.ndim != 3:
            raise UncertaintyError(f"axes have shape {density.axes.shape}, centres {density.centres.shape}")
        (width, axes), gaussians = density.axes.shape, density.centres.shape[1]
        shapes = {
            "mean": (width,),
            "centres": (elements, gaussians, axes),
            "whitening": (elements, gaussians, axes, axes),
            "floor": (elements,),
            "slope": (elements,),
            "power": (elements,),
            "limit": (elements,),
        }
        for name, shape in shapes.items():
            if getattr(density, name).shape != shape:
                raise UncertaintyError(f"{name} has shape {getattr(density, name).shape}, and {shape} is needed")
        return density


def density_of(environments: np.ndarray, elements: np.ndarray, names: Sequence[str], seed: int = 0) -> Density:
    """Of training atoms, not yet calibrated: floor 0, slope, power and limit 1.

    environments: (N, D); elements: (N,) indices into `names`, each of which must occur.
    Raises UncertaintyError for an element without atoms, and for fewer than two atoms.
    """
    count = len(names)
    from scipy.cluster.vq import kmeans2  # half a second of each start

    if len(environments) < 2:
        raise UncertaintyError("the training frames have fewer than two atoms")
    mean = environments.mean(axis=0)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov((environments - mean).T)))
    axes = vectors[:, ::-1][:, :COMPONENTS]
    points = (environments - mean) @ axes
    size = axes.shape[1]
    centres, whitening = np.zeros((count, GAUSSIANS, size)), np.zeros((count, GAUSSIANS, size, size))
    for element in range(count):
        own = points[elements == element]
        if len(own) == 0:
            raise UncertaintyError(f"{names[element]} has no atoms in the training frames that are looked at")
        groups = max(1, min(GAUSSIANS, len(own) // (LEAST_ATOMS * size)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="One of the clusters is empty")  # which is then left out
            _, labels = kmeans2(own, groups, minit="++", seed=seed) if groups > 1 else (None, np.zeros(len(own), int))
        whole = np.atleast_2d(np.cov(own.T)) if len(own) > 1 else np.zeros((size, size))
        whole = whole + RIDGE * max(values.sum(), 1e-12) / len(values) * np.eye(size)
        found = [_gaussian(own[labels == k], whole) for k in np.unique(labels)]
        for k in range(GAUSSIANS):  # repeated ones change no minimum
            centres[element, k], whitening[element, k] = found[k % len(found)]
    return Density(mean, axes, centres, whitening, np.zeros(count), *np.ones((3, count)))


def _gaussian(points: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and whitening of some points of an element; whole: the covariance of all of them."""
    centre, size = points.mean(axis=0), len(whole)
    own = (points - centre).T @ (points - centre)
    covariance = (own + PRIOR * size * whole) / (len(points) + size)
    return centre, np.linalg.cholesky(np.linalg.inv(covariance))


def calibrated(density: Density, distances: np.ndarray, elements: np.ndarray, errors: np.ndarray) -> Density:
    """Floor, slope and power by maximum likelihood of normal errors, for each element.

    distances, elements: (N,) of atoms that did not train. errors: (N, 3) of their forces, eV/A.
    Elements with fewer than `FEW` atoms have those of all atoms. Raises UncertaintyError without atoms.
    """
    if len(errors) == 0:
        raise UncertaintyError("there are no forces that did not train: give validation frames")
    whole = _scales(distances, errors)
    scales = np.zeros((len(density.floor), len(whole)))
    for element in range(len(scales)):
        rows = elements == element
        scales[element] = _scales(distances[rows], errors[rows]) if rows.sum() >= FEW else whole
    return density._replace(**dict(zip(("floor", "slope", "power", "limit"), scales.T, strict=True)))


def _scales(distances: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Floor, slope, power and limit."""
    from scipy.optimize import minimize  # half a second of each start

    squares = np.square(errors).sum(axis=1)
    typical = max(np.sqrt(np.mean(distances**2)), 1e-12)
    size = max(np.sqrt(squares.mean() / 3), LEAST_ERROR)
    logs = np.log(np.maximum(distances, 1e-6 * typical) / typical)

    def objective(x: np.ndarray) -> float:
        variance = np.exp(2 * x[0]) + np.exp(2 * (x[1] + x[2] * logs))
        return float(np.mean(1.5 * np.log(variance) + 0.5 * squares / variance))

    low = np.log(LEAST_ERROR)
    start = [np.log(size / 2), np.log(size), 1.0]
    best = minimize(objective, start, method="L-BFGS-B", bounds=[(low, None), (low, None), POWERS]).x
    limit = max(distances.max(), typical)
    return np.array([np.exp(best[0]), np.exp(best[1] - best[2] * np.log(typical)), best[2], limit])
