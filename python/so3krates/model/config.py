"""Hyper-parameters of the network, their defaults and what makes them impossible."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

RADIAL_BASES = ("phys", "gaussian", "spline")
CUTOFF_FUNCTIONS = ("cosine", "phys", "polynomial", "exponential")
LARGEST_CUTOFF = 100.0  # A; every pair of atoms would be neighbours
LARGEST_SIZE = 65536  # of layers, features and so on, far above any that fits into memory


class ConfigError(ValueError):
    """A setting that cannot work; the message names the key, the value and the way out."""


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_SIZE


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Settings of one network; the defaults are those of the published GaN potential.

    Lengths are in A. Widths that are not given follow from `features`: (F, F), (F // 4, F) and (F,).
    """

    radial_bases: ClassVar[tuple[str, ...]] = RADIAL_BASES
    # Parameters before the first layer and after the last, by the first part of their names.
    inputs: ClassVar[tuple[str, ...]] = ("embedding",)
    outputs: ClassVar[tuple[str, ...]] = ("readout",)

    cutoff: float = 5.0  # radius of one message-passing step
    features: int = 132  # F, width of an atom's feature vector
    heads: int = 4  # H, heads of the feature attention
    layers: int = 3  # L, message-passing steps
    degrees: tuple[int, ...] = (1, 2, 3)  # l of the Euclidean variables; one head of the geometric attention each
    radial_basis: str = "phys"
    radial_functions: int = 32  # K
    radial_start: float | None = None  # A, centre of the first function of "gaussian"; a training finds it in its data
    spline_start: float = 0.5  # A, used by radial_basis = "spline": below it the basis is constant
    radial_floor: float = 0.0  # A, below which radial filters go over to constants; 0: nowhere
    cutoff_function: str = "cosine"
    polynomial_order: int = 6  # p, used by cutoff_function = "polynomial"
    radial_filter_features: tuple[int, ...] = None  # type: ignore[assignment]  # widths of the radial filters' network
    spherical_filter_features: tuple[int, ...] = None  # type: ignore[assignment]  # of the degree filters' network
    readout_features: tuple[int, ...] = None  # type: ignore[assignment]  # hidden widths of the energy head
    embeddings: int = 100  # atomic numbers 0 .. embeddings - 1
    layer_normalization: bool = False  # normalise features before attention and before the exchange block
    residual_mlp_1: bool = False  # residual network after the attention
    residual_mlp_2: bool = False  # residual network after the exchange block
    float32_invariants: bool = (
        False  # round the exchange block's Clebsch-Gordan factors to float32, as the original code does
    )

    def __post_init__(self) -> None:
        for name in ("degrees", "radial_filter_features", "spherical_filter_features", "readout_features"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        for name in ("features", "heads", "layers", "radial_functions", "embeddings", "polynomial_order"):
            value = getattr(self, name)
            if not _is_size(value):
                raise ConfigError(f"{name} = {value!r}: give a whole number of at least 1, and at most {LARGEST_SIZE}")
        f = self.features
        defaults = {
            "radial_filter_features": (f, f),
            "spherical_filter_features": (f // 4, f),
            "readout_features": (f,),
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._validate()

    def _validate(self) -> None:
        def require(condition: bool, message: str) -> None:
            if not condition:
                raise ConfigError(message)

        for name in ("layer_normalization", "residual_mlp_1", "residual_mlp_2", "float32_invariants"):
            require(isinstance(getattr(self, name), bool), f"{name} = {getattr(self, name)!r}: give true or false")
        for name in ("cutoff", "spline_start", "radial_floor", "radial_start"):
            value = getattr(self, name)
            is_length = isinstance(value, int | float) and not isinstance(value, bool)
            require(is_length or (name == "radial_start" and value is None), f"{name} = {value!r}: give a length in A")
        require(
            isinstance(self.cutoff, int | float) and 0 < self.cutoff <= LARGEST_CUTOFF,
            f"cutoff = {self.cutoff!r}: give a length in A above 0 and up to {LARGEST_CUTOFF:g}",
        )
        require(
            isinstance(self.degrees, tuple)
            and len(self.degrees) > 0
            and all(_is_size(l) for l in self.degrees)
            and list(self.degrees) == sorted(set(self.degrees))
            and all(l in (1, 2, 3, 4) for l in self.degrees),
            f"degrees = {self.degrees!r}: give ascending values out of 1, 2, 3, 4",
        )
        require(
            self.features % self.heads == 0,
            f"features = {self.features} is not divisible by heads = {self.heads}: "
            f"take features = {_next_multiple(self.features, self.heads)} or other heads",
        )
        require(
            self.features % len(self.degrees) == 0,
            f"features = {self.features} is not divisible by the number of degrees, {len(self.degrees)}: "
            f"take features = {_next_multiple(self.features, len(self.degrees))} or other degrees",
        )
        require(
            self.radial_basis in self.radial_bases,
            f"radial_basis = {self.radial_basis!r}: known are {', '.join(self.radial_bases)}",
        )
        require(
            self.cutoff_function in CUTOFF_FUNCTIONS,
            f"cutoff_function = {self.cutoff_function!r}: known are {', '.join(CUTOFF_FUNCTIONS)}",
        )
        fewest = 4 if self.radial_basis == "spline" else 2
        require(self.radial_functions >= fewest, f"radial_functions = {self.radial_functions}: give at least {fewest}")
        require(
            self.radial_start is None
            or (isinstance(self.radial_start, int | float) and 0 <= self.radial_start < self.cutoff),
            f"radial_start = {self.radial_start!r}: give a length in A from 0 to below the cutoff, or leave it out",
        )
        require(
            isinstance(self.spline_start, int | float) and 0 <= self.spline_start < self.cutoff,
            f"spline_start = {self.spline_start!r}: give a length in A from 0 to below the cutoff",
        )
        require(
            isinstance(self.radial_floor, int | float) and 0 <= self.radial_floor < self.cutoff,
            f"radial_floor = {self.radial_floor!r}: give a length in A below the cutoff, or 0 for none",
        )
        for name in ("radial_filter_features", "spherical_filter_features"):
            widths = getattr(self, name)
            require(
                isinstance(widths, tuple)
                and len(widths) > 0
                and all(map(_is_size, widths))
                and widths[-1] == self.features,
                f"{name} = {widths!r}: give positive widths that end with features = {self.features}",
            )
        require(
            isinstance(self.readout_features, tuple) and all(map(_is_size, self.readout_features)),
            f"readout_features = {self.readout_features!r}: give positive widths",
        )

    @property
    def orders(self) -> int:
        """Length of an atom's Euclidean variables, the sum of 2l + 1 over the degrees."""
        return sum(2 * l + 1 for l in self.degrees)

    @property
    def tabulated_type(self) -> type[ModelConfig]:
        """Of settings whose radial filters are splines."""
        return type(self)

    def message_factor(self, width: int) -> float:
        """What the sums over the `width` features of a head are multiplied by in messages."""
        return 1.0 / math.sqrt(width)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values, for TOML and JSON; those that are absent are left out."""
        settings = dataclasses.asdict(self).items()
        return {k: list(v) if isinstance(v, tuple) else v for k, v in settings if v is not None}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`; keys that are absent take their defaults.

        Raises ConfigError for an unknown key or an impossible value.
        """
        if "architecture" in settings:
            raise ConfigError(
                f"architecture = {settings['architecture']!r}: only So3krates networks are trained, which need no such "
                f"key; models of another architecture are imported (so3krates import-{SO3LR})"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise ConfigError(f"unknown model setting {unknown[0]!r}: known are {', '.join(sorted(known))}")
        return cls(**settings)


_NO_CHOICES = (
    "layer_normalization",
    "residual_mlp_1",
    "residual_mlp_2",
    "float32_invariants",
    "radial_start",
    "spline_start",
    "polynomial_order",
)


@dataclasses.dataclass(frozen=True)
class So3lrConfig(ModelConfig):
    """Settings of a network of the architecture of SO3LR; the defaults are the published ones (docs/so3lr.md)."""

    radial_bases: ClassVar[tuple[str, ...]] = ("bernstein",)
    inputs: ClassVar[tuple[str, ...]] = ("embedding", "charge_embedding", "spin_embedding")
    outputs: ClassVar[tuple[str, ...]] = ("readout", "energy_scale", "charges", "hirshfeld")
    _no_choices: ClassVar[tuple[str, ...]] = _NO_CHOICES

    cutoff: float = 4.5
    features: int = 128
    degrees: tuple[int, ...] = (1, 2, 3, 4)
    radial_basis: str = "bernstein"
    cutoff_function: str = "phys"
    embeddings: int = 18  # up to chlorine
    bernstein_rate: float = 0.9448630809783936  # g, 1/A: 0.944863062918464 in float32, as it was trained with
    mean_neighbours: float | None = 13.168995780096482  # by which messages are divided; None: a training counts them

    def _validate(self) -> None:
        super()._validate()
        plain = ModelConfig()
        for name in self._no_choices:
            if getattr(self, name) != getattr(plain, name):
                raise ConfigError(f"{name} = {getattr(self, name)!r}: the architecture {SO3LR} has no such choice")
        for name in ("bernstein_rate", "mean_neighbours"):
            value = getattr(self, name)
            if name == "mean_neighbours" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigError(f"{name} = {value!r}: give a number above 0")

    @property
    def tabulated_type(self) -> type[ModelConfig]:
        """Of settings whose radial filters are splines."""
        return TabulatedSo3lrConfig

    def message_factor(self, width: int) -> float:
        """One over the mean number of neighbours, whatever the width."""
        if self.mean_neighbours is None:
            raise ConfigError("mean_neighbours is not given: a training counts them in its data")
        return 1.0 / self.mean_neighbours

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values, with the architecture, which `config_from` reads."""
        values = super().to_dict()
        return {"architecture": SO3LR} | {name: value for name, value in values.items() if name not in _NO_CHOICES}


@dataclasses.dataclass(frozen=True)
class TabulatedSo3lrConfig(So3lrConfig):
    """Those of such a network with splines for its radial filters, which is made of it and never written down."""

    radial_bases: ClassVar[tuple[str, ...]] = ("spline",)
    _no_choices: ClassVar[tuple[str, ...]] = tuple(name for name in _NO_CHOICES if name != "spline_start")

    radial_basis: str = "spline"


SO3LR = "so3lr"
ARCHITECTURES: dict[str, type[ModelConfig]] = {"so3krates": ModelConfig, SO3LR: So3lrConfig}


def config_from(settings: Mapping[str, Any]) -> ModelConfig:
    """Settings of a network of any architecture; where none is named, of So3krates. Raises ConfigError."""
    values = dict(settings)
    architecture = values.pop("architecture", "so3krates")
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"architecture = {architecture!r}: known are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[architecture].from_dict(values)


def _next_multiple(value: int, factor: int) -> int:
    return -(-value // factor) * factor


PRESETS: dict[str, ModelConfig] = {"gan": ModelConfig()}
