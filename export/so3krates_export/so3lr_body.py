"""The bodies of SO3LR: charges, long-range pairs and the sums over all atoms that both need (docs/so3lr.md)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from flax.traverse_util import unflatten_dict
from so3krates.model import so3lr_stages as stages
from so3krates.model.config import ModelConfig, So3lrConfig
from so3krates.model.long_range import Dispersion, Interaction, interactions_from
from so3krates.model.properties import AtomProperties
from so3krates.model.rows import ROW_BLOCK
from so3krates.model.term_stages import Lists
from so3krates.storage import Model
from so3krates.total_charge import State

from .fused import interleaved
from .plan import Addition, Array, Part, Reduce, Refresh, Stage, tree_stage
from .portable_body import PortableBody

SYSTEM = "weights/system/"  # total charge and unpaired electrons of the bundle
_HEADS = ("readout", "charges", "hirshfeld")
_EMBEDDINGS = ("embedding", "charge_embedding", "spin_embedding")
EMBEDDINGS = tuple(f"weights/{group}/" for group in _EMBEDDINGS)  # what names of their weights begin with


class ExportError(ValueError):
    """A model or an option that bundles have no place for; the message says what is left."""


def checked_so3lr(model: Model, others: Sequence[Model], cutoff_long: float | None) -> Model:
    """The model with interactions that end at `cutoff_long` (A). Raises ExportError where it cannot be exported so."""
    if not isinstance(model.config, So3lrConfig):
        raise ExportError("the model knows no charge or multiplicity of a system: leave them out")
    if others:
        raise ExportError("models of the architecture so3lr have no committee yet: export one alone")
    if cutoff_long is None:
        return model
    settings = {part.section: part.settings() | {"cutoff": float(cutoff_long)} for part in model.interactions}
    return dataclasses.replace(model, interactions=interactions_from(settings, model.elements))


def system_weights(electrons: State) -> dict[str, np.ndarray]:
    """What the programs read of the electrons."""
    return {
        f"{SYSTEM}charge": np.array(float(electrons.charge)),
        f"{SYSTEM}unpaired": np.array(electrons.multiplicity - 1.0),
    }


def electrons_entry(model: Model, electrons: State) -> dict[str, Any]:
    """The manifest's "electrons" (docs/bundle.md)."""
    return {**electrons._asdict(), "protons": [atomic_numbers[element] for element in model.elements]}


def system_arrays(elements: int, energies: int, interactions: Sequence[Interaction]) -> dict[str, Array]:
    """What every body of SO3LR has beside the network's own; energies: how many parts the long-range pairs have.

    Ratios that no interaction reads were never trained, and are no output.
    """
    of_ratios = "output" if any(isinstance(part, Dispersion) for part in interactions) else "state"
    row, scalar = ("rows",), ()
    arrays: dict[str, tuple[tuple[int | str, ...], str]] = {
        "element_counts": ((elements,), "state"),
        "raw_charges": (row, "state"),
        "charge_sums": ((2,), "state"),
        "charge_slopes": (row, "state"),
        "ratio_slopes": (row, "state"),
        "slope_sum": (scalar, "state"),
        "charges": (row, "output"),
        "hirshfeld_ratios": (row, of_ratios),
        "energy_network": (scalar, "output"),
        "energies_long": ((energies,), "state"),
    }
    return {name: Array("float64", shape, role) for name, (shape, role) in arrays.items()}


def embedding_weights(weight_names: Sequence[str]) -> Callable[..., dict[str, Any]]:
    """f(*groups), the names among those of weights that are of groups of parameters, as a tree."""

    def of(*groups: str) -> dict[str, Any]:
        prefixes = tuple(f"weights/{group}/" for group in groups)
        names = [name for name in weight_names if name.startswith(prefixes)]
        return unflatten_dict({name.removeprefix("weights/"): name for name in names}, sep="/")

    return of


def feature_order(config: ModelConfig) -> list[int]:
    """Of the model's features in the kernels' rows, which have no padding."""
    order = np.rint(interleaved(config, np.arange(config.features))).astype(int)
    return [int(feature) for feature in order]


class SystemStages:
    """Stages of `so3lr_stages`, the same in every body: the composition, charges, sums over all atoms."""

    def __init__(
        self, config: So3lrConfig, elements: int, weights: Callable[..., dict[str, Any]], row_block: int | None
    ) -> None:
        """weights: names of those of groups of parameters, as a tree. row_block: None for all rows at once."""
        self._config, self._elements, self._weights, self._row_block = config, elements, weights, row_block

    def stage(self, function: str, inputs: object, outputs: object, *fixed: object) -> Stage:
        """That of a function of `so3lr_stages`."""
        blocked = functools.partial(getattr(stages, function), *fixed, row_block=self._row_block)
        return tree_stage(function, blocked, inputs, outputs)

    def embed(self, state: tuple[str, ...], order: Sequence[int]) -> list[Part]:
        """Features of elements from the composition of all ranks, in rows with this order of features."""
        inputs = (
            self._weights(*_EMBEDDINGS), f"{SYSTEM}charge", f"{SYSTEM}unpaired", "element_counts", "species",
            "row_count", state,
        )  # fmt: skip
        return [
            self.stage("count_elements", ("species", "owned_count"), "element_counts", self._elements),
            Reduce(("element_counts",)),
            self.stage("embed_system", inputs, state, self._config, tuple(order)),
        ]

    def readout(self, heads: Stage, long_pairs: Stage, heads_adjoint: Stage) -> list[Part]:
        """The way from the last layer's features to their adjoints."""
        settle = (f"{SYSTEM}charge", "charge_sums", "raw_charges", "owned_count", "charges")
        return [
            heads,
            Reduce(("charge_sums",)),
            self.stage("settle_charges", settle, "charges"),
            Refresh(("charges", "hirshfeld_ratios")),
            long_pairs,
            Reduce(("slope_sum",)),
            tree_stage("add_parts", stages.add_parts, ("energy_network", "energies_long"), "energy"),
            heads_adjoint,
        ]

    def outputs(self, parts: Mapping[str, int]) -> list[Addition]:
        """Stages of outputs that no other stage computes; parts: sections by their place in `energies_long`."""
        inputs = ("positions", "atom_of_row", "charges", "owned_count")
        additions = [Addition(self.stage("dipole", inputs, "dipole"), {"dipole": Array("float64", (3,), "output")})]
        for section, k in parts.items():
            name = f"energy_{section}"
            stage = tree_stage(name, lambda energies, k=k: energies[k], ("energies_long",), name)
            additions.append(Addition(stage, {name: Array("float64", (), "output")}))
        rest = tree_stage(
            "energy_repulsion",
            lambda energy, network, parts: energy - stages.add_parts(network, parts),
            ("energy", "energy_network", "energies_long"),
            "energy_repulsion",
        )
        return [*additions, Addition(rest, {"energy_repulsion": Array("float64", (), "output")})]


class So3lrBody(PortableBody):
    """Its layers are those of `PortableBody`; what comes before and after them is of `so3lr_stages`."""

    def __init__(self, model: Model, precision: str, weight_names: list[str], row_block: int = ROW_BLOCK) -> None:
        assert isinstance(model.config, So3lrConfig)
        super().__init__(model.config, precision, weight_names, row_block=row_block)
        self._so3lr, self._interactions = model.config, model.interactions
        named = functools.partial(self._weights, self.weights)
        self._system = SystemStages(model.config, len(model.elements), named, self.row_block)
        self.arrays |= system_arrays(len(model.elements), len(model.interactions), model.interactions)

    def embed(self) -> list[Part]:
        return self._system.embed(self.state(0), range(self._config.features))

    def readout(self) -> list[Part]:
        weights = self._weights(self.weights, *_HEADS) | {"energy_scale": f"{self.weights}energy_scale"}
        features = self.state(self._config.layers)[0]
        filled = stages.HeadArrays._make(stages.HeadArrays._fields)
        paired = stages.PairArrays._make(stages.PairArrays._fields)
        slopes = ("charge_slopes", "ratio_slopes")
        properties = AtomProperties("charges", "hirshfeld_ratios")  # type: ignore[arg-type]  # names
        lists = Lists._make(Lists._fields)
        return self._system.readout(
            self._system.stage(
                "heads",
                (weights, features, "species", "owned_count", filled),
                ("charge_sums", "energy_network", "strain_gradient", filled),
                self._so3lr,
            ),
            self._system.stage(
                "long_pairs", (lists, properties, paired), ("energies_long", "slope_sum", paired), self._interactions
            ),
            self._system.stage(
                "heads_adjoint",
                (weights, features, "species", slopes, "slope_sum", "charge_sums", "owned_count", self._adjoint),
                self._adjoint,
                self._so3lr,
            ),
        )

    def further_outputs(self) -> list[Addition]:
        """Stages of outputs that no other stage computes."""
        return self._system.outputs({part.section: k for k, part in enumerate(self._interactions)})
