"""What a run trains on: graphs of its frames, energy shifts, and the batch of each step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ase import Atoms

from so3krates.data import Buckets, DataError, StoredFrames, charge_labels, collate, shortest_distances
from so3krates.data.buckets import DRAWN, STEPS, random_batches
from so3krates.model.long_range import longest
from so3krates.model.network import Params
from so3krates.model.terms import beside_terms
from so3krates.storage import require_elements
from so3krates.wording import counted

from .charges import interactions_of, unused_dipoles, with_neighbours
from .config import RunConfig
from .evaluate import ordered_batches, precision
from .loss import unit_scales, usual_energy_weight, variance_scales
from .preparation import (
    differences,
    distances_in,
    elements_in,
    fingerprint,
    graphs_of,
    largest_force_in,
    moved,
    require_labels,
    require_parts,
    shifts_of,
    unlabelled,
    weighed,
    with_start,
)
from .processes import shared_out
from .run_folder import TrainingError
from .start import beyond_basis, floor_of, refitted, start_of, terms_of
from .step import batch_energies


class Material:
    """Frames of a run as the steps take them, and the sizes that follow from their number."""

    def __init__(
        self,
        config: RunConfig,
        frames_train: Sequence[Atoms] | StoredFrames,
        frames_valid: Sequence[Atoms] | StoredFrames,
        replay: Sequence[Atoms] = (),
    ) -> None:
        """Finds neighbours; `replay`: frames with the labels and energy shifts of the model that the run goes on from.

        Raises DataError for frames that cannot be used, TrainingError for too few of them and for a model that does
        not fit.
        """
        settings, cutoff = config.training, config.model.cutoff
        self._dtype = precision(settings.float64)
        self.start = start_of(config, elements_in(frames_train, replay))
        self.shifts = self.start.shifts if self.start else shifts_of(frames_train, config.data.energy_shift)
        self.elements = tuple(self.shifts)
        # What could not be saved is not trained.
        require_elements(config.model, self.elements, self.shifts)
        self.interactions = interactions_of(config.terms, self.elements)
        reach = longest(self.interactions) if self.interactions else None
        whole = graphs_of(frames_train, cutoff, self.shifts, "training data", reach)
        old = list(graphs_of(replay, cutoff, self.shifts, "replayed data", reach))
        self.distances = distances_in(whole) if not old else shortest_distances([*whole, *old])
        self.largest_force = largest_force_in(whole) if not old else largest_force_in([*whole, *old])
        if not self.distances and not self.interactions and self.start is None:
            raise DataError(
                f"no two atoms of {counted(len(whole) + len(old), 'training frame')} are within model.cutoff = "
                f"{cutoff:g} A of each other, so that there is nothing to learn: give frames of atoms that bind, whose "
                "lengths are in A (data.length_unit); isolated atoms may be among them"
            )
        nearest = min(self.distances.values(), default=math.inf)
        self.shortest = nearest if self.distances else 1.0  # A
        self.terms = terms_of(config, self.start, self.elements, self.distances)
        # As the network is beside the terms, and where the data begin.
        network = self.start.model.config if self.start else with_start(config.model, self.shortest)
        network = with_neighbours(network, whole)
        is_beside = self.start is not None and len(self.start.model.terms) > 0  # as it was trained
        network = network if is_beside else beside_terms(network, self.terms, self.shortest)
        network = floor_of(network, nearest) if self.start else network
        self.graphs = differences(whole, self.terms)
        validating = graphs_of(frames_valid, cutoff, self.shifts, "validation data", reach)
        self.valid_graphs = differences(validating, self.terms)
        # Before labels depend on what a network computes, whose rounding is the machine's.
        self.fingerprint = fingerprint(self.graphs, self.valid_graphs, *([unlabelled(old)] if old else []))
        settings, self.said = weighed(self.graphs, config)
        if self.interactions and not isinstance(frames_train, StoredFrames):
            found = sum(bool(np.isfinite(charge_labels(atoms).dipole).any()) for atoms in frames_train)
            self.said += [said] if (said := unused_dipoles(self.graphs, found)) else []
        self.config = dataclasses.replace(config, model=network, training=settings)
        if self.start:
            before, mode = self.shifts, config.data.energy_shift
            self.shifts, said = refitted(self.start, network, self.graphs, mode, self._dtype, self.interactions)
            self.said += [*self.start.said, *beyond_basis(network, nearest), said]
            moves = {element: shift - before[element] for element, shift in self.shifts.items()}
            self.graphs, self.valid_graphs = moved(self.graphs, moves), moved(self.valid_graphs, moves)
        self.new = len(self.graphs)  # frames that are not replayed, which come first
        if old:
            self.graphs = [*self.graphs, *differences(old, self.terms)]
        if len(self.valid_graphs):
            require_labels(self.valid_graphs, config, settings.weights, "validation")
        elif settings.patience >= 1:
            raise TrainingError(
                f"training.patience = {settings.patience} needs validation frames, and there are none: "
                "give some (data.n_valid, data.valid_file), or leave patience out"
            )
        self.scales = (
            variance_scales(self.graphs, settings.per_atom)
            if settings.variance_scaling
            else unit_scales(settings.per_atom)
        )
        if config.training.energy_weight is None and (weight := usual_energy_weight(settings, self.scales)):
            settings = dataclasses.replace(settings, energy_weight=weight)
            self.config = dataclasses.replace(self.config, training=settings)
            if weight < 1:
                gain = settings.energy_gain
                grows = f", {gain:g} times that in the end (training.energy_gain)" if gain != 1 else ""
                self.said.append(
                    f"energy_weight is {weight:.2g}{grows}: energies of the training frames differ by "
                    f"{1e3 / math.sqrt(self.scales.energy):.3g} meV/atom, little beside forces of "
                    f"{1 / math.sqrt(self.scales.forces):.3g} eV/A; training.energy_weight sets another"
                )
        self.batch_size = settings.batch_size_for(len(self.graphs))
        self._valid_batch_size = settings.valid_batch_size or self.batch_size
        self.said += require_parts(settings, self.batch_size)
        self._parts = settings.parts * jax.process_count()
        self.steps_per_epoch = len(self.graphs) // self.batch_size
        self.eval_every = settings.eval_every or self.steps_per_epoch
        self._order: tuple[int, np.ndarray] | None = None
        self.plan(settings.epochs_for(self.steps_per_epoch))
        self._foreseen = max(STEPS, self.epochs * self.steps_per_epoch)
        size = -(-self.batch_size // self._parts)
        self._buckets = Buckets(self.graphs, size, random_batches(len(self.graphs), size), self._foreseen / DRAWN)

    def plan(self, epochs: int) -> None:
        """Takes note of how many epochs the run has."""
        self.epochs = epochs
        self.total_steps = epochs * self.steps_per_epoch
        training = dataclasses.replace(self.config.training, epochs=epochs)
        self.config = dataclasses.replace(self.config, training=training)

    @property
    def numbers(self) -> dict[str, int]:
        """Frames by what they are for."""
        replayed = len(self.graphs) - self.new
        numbers = {"train": self.new, "valid": len(self.valid_graphs)}
        return numbers | ({"replayed": replayed} if replayed else {})

    def epoch(self, step: int) -> int:
        """The epoch, from 1, that the step's number belongs to; steps count from 1."""
        return (step - 1) // self.steps_per_epoch + 1

    def batch(self, step: int) -> tuple[Any, Any]:
        """The batch of a step, from 0, and its targets; in several parts these come first in all arrays.

        It depends on the seed and the step alone, so that a resumed run sees the same. Of several processes each reads
        its own parts only.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        settings = self.config.training
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng([settings.seed_training, epoch])
            self._order = (epoch, generator.permutation(len(self.graphs)))
        rows = self._order[1][position * self.batch_size : (position + 1) * self.batch_size]
        parts = np.array_split(rows, self._parts)
        shape = self._buckets.shape(*parts)
        first = jax.process_index() * settings.parts
        own = parts[first : first + settings.parts]
        batches = [collate([self.graphs[i] for i in part], shape, self._dtype) for part in own]
        if self._parts == 1:
            return batches[0]
        return shared_out(jax.tree.map(lambda *arrays: np.stack(arrays), *batches), settings.devices)

    def valid_batches(self) -> Iterator[tuple[Any, Any]]:
        """Batches of the validation frames and their targets: of several processes, those of this one."""
        share = (jax.process_index(), jax.process_count())
        graphs, times = self.valid_graphs, self._foreseen / self.eval_every
        for _, batch, targets in ordered_batches(graphs, self._valid_batch_size, self._dtype, share, times):
            yield batch, targets

    def refitted_shifts(self, params: Params) -> dict[str, float]:
        """Shifts of all elements moved by the mean energy error per atom of the training frames, without replayed ones.

        Forces weigh so much in the loss that a constant, to which they are blind, is learnt last.
        """
        graphs = self.graphs[: self.new] if self.new < len(self.graphs) else self.graphs
        errors = np.full(len(graphs), np.nan)
        for indices, batch, targets in ordered_batches(graphs, self._valid_batch_size, self._dtype):
            energies = batch_energies(self.config.model, params, batch, self.interactions)
            found = (targets.energies - np.asarray(energies, np.float64)) / targets.atoms
            errors[indices] = found[: len(indices)]
        known = np.isfinite(errors)
        offset = float(errors[known].mean()) if known.any() else 0.0
        return {element: shift + offset for element, shift in self.shifts.items()}
