"""The portable body of SO3LR: charges, long-range pairs and the sums over all atoms that both need (docs/so3lr.md)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from so3krates.model import so3lr_stages as stages
from so3krates.model.config import So3lrConfig
from so3krates.model.long_range import interactions_from
from so3krates.model.properties import AtomProperties
from so3krates.model.term_stages import Lists
from so3krates.storage import Model
from so3krates.total_charge import State

from .plan import Addition, Array, Part, Reduce, Refresh, Stage, tree_stage
from .portable_body import PortableBody

SYSTEM = "weights/system/"  # total charge and unpaired electrons of the bundle
_HEADS = ("readout", "charges", "hirshfeld")
_EMBEDDINGS = ("embedding", "charge_embedding", "spin_embedding")


class ExportError(ValueError):
    """A model or an option that bundles have no place for; the message says what is left."""


def checked_so3lr(
    model: Model,
    others: Sequence[Model],
    platform: str,
    body: str,
    tables: float | str,
    cutoff_long: float | None,
) -> Model:
    """The model with interactions that end at `cutoff_long` (A). Raises ExportError where it cannot be exported so."""
    if not isinstance(model.config, So3lrConfig):
        raise ExportError("the model knows no charge or multiplicity of a system: leave them out")
    cannot = [
        (len(others) > 0, "committee"),
        (platform != "cpu", f"platform {platform}"),
        (body == "fused", "body fused"),
        (tables not in ("auto", "off"), f"tables {tables}"),
    ]
    for is_wanted, what in cannot:
        if is_wanted:
            raise ExportError(
                f"models of the architecture so3lr have no {what} yet: export one alone for the CPU with body xla and "
                "no tables"
            )
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


class So3lrBody(PortableBody):
    """Its layers are those of `PortableBody`; what comes before and after them is of `so3lr_stages`."""

    def __init__(self, model: Model, precision: str, weight_names: list[str]) -> None:
        assert isinstance(model.config, So3lrConfig)
        super().__init__(model.config, precision, weight_names)
        self._so3lr, self._interactions, self._elements = model.config, model.interactions, len(model.elements)
        row, scalar = ("rows",), ()
        more: dict[str, tuple[tuple[int | str, ...], str]] = {
            "element_counts": ((self._elements,), "state"),
            "raw_charges": (row, "state"),
            "charge_sums": ((2,), "state"),
            "charge_slopes": (row, "state"),
            "ratio_slopes": (row, "state"),
            "slope_sum": (scalar, "state"),
            "charges": (row, "output"),
            "hirshfeld_ratios": (row, "output"),
            "energy_network": (scalar, "output"),
            "energies_long": ((len(self._interactions),), "state"),
        }
        self.arrays |= {name: Array("float64", shape, role) for name, (shape, role) in more.items()}

    def _stage(self, function: str, inputs: object, outputs: object, *fixed: object) -> Stage:
        blocked = functools.partial(getattr(stages, function), *fixed, row_block=self.row_block)
        return tree_stage(function, blocked, inputs, outputs)

    def embed(self) -> list[Part]:
        inputs = (
            self._weights(self.weights, *_EMBEDDINGS), f"{SYSTEM}charge", f"{SYSTEM}unpaired",
            "element_counts", "species", "row_count", self.state(0),
        )  # fmt: skip
        return [
            self._stage("count_elements", ("species", "owned_count"), "element_counts", self._elements),
            Reduce(("element_counts",)),
            self._stage("embed_system", inputs, self.state(0), self._so3lr),
        ]

    def readout(self) -> list[Part]:
        weights = self._weights(self.weights, *_HEADS) | {"energy_scale": f"{self.weights}energy_scale"}
        features = self.state(self._config.layers)[0]
        filled = stages.HeadArrays._make(stages.HeadArrays._fields)
        paired = stages.PairArrays._make(stages.PairArrays._fields)
        slopes = ("charge_slopes", "ratio_slopes")
        properties = AtomProperties("charges", "hirshfeld_ratios")  # type: ignore[arg-type]  # names
        lists = Lists._make(Lists._fields)
        return [
            self._stage(
                "heads",
                (weights, features, "species", "owned_count", filled),
                ("charge_sums", "energy_network", "strain_gradient", filled),
                self._so3lr,
            ),
            Reduce(("charge_sums",)),
            self._stage(
                "settle_charges", (f"{SYSTEM}charge", "charge_sums", "raw_charges", "owned_count", "charges"), "charges"
            ),
            Refresh(("charges", "hirshfeld_ratios")),
            self._stage(
                "long_pairs", (lists, properties, paired), ("energies_long", "slope_sum", paired), self._interactions
            ),
            Reduce(("slope_sum",)),
            tree_stage("add_parts", stages.add_parts, ("energy_network", "energies_long"), "energy"),
            self._stage(
                "heads_adjoint",
                (weights, features, "species", slopes, "slope_sum", "charge_sums", "owned_count", self._adjoint),
                self._adjoint,
                self._so3lr,
            ),
        ]

    def further_outputs(self) -> list[Addition]:
        """Stages of outputs that no other stage computes."""
        inputs = ("positions", "atom_of_row", "charges", "owned_count")
        additions = [Addition(self._stage("dipole", inputs, "dipole"), {"dipole": Array("float64", (3,), "output")})]
        for k, interaction in enumerate(self._interactions):
            name = f"energy_{interaction.section}"
            stage = tree_stage(name, lambda parts, k=k: parts[k], ("energies_long",), name)
            additions.append(Addition(stage, {name: Array("float64", (), "output")}))
        rest = tree_stage(
            "energy_repulsion",
            lambda energy, network, parts: energy - stages.add_parts(network, parts),
            ("energy", "energy_network", "energies_long"),
            "energy_repulsion",
        )
        return [*additions, Addition(rest, {"energy_repulsion": Array("float64", (), "output")})]
