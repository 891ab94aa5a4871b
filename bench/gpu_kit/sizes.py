"""Sizes of what is run, and what every phase is given; standard library only."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

FOLDER = "so3krates-gpu-kit"
SPEED = {"cuda": (864, 4_000, 32_000, 108_000, 500_000, 1_000_000), "cpu": (192,)}  # atoms
PORTABLE: dict[str, tuple[int, ...]] = {"cuda": (4_000, 108_000), "cpu": ()}
GROWTH = (2_000_000, 4_000_000, 8_000_000, 12_000_000)  # tried in turn until one does not fit
CHOICES = 108_000  # atoms, with and without products that XLA has timed
MILLION = {"cuda": 1_000_000, "cpu": 192}
RANKS = {"cuda": 32_000, "cpu": 192}
PEER = {"cuda": 108_000, "cpu": 192}
MILLION_STEPS = {"cuda": 200, "cpu": 4}
PROFILE = {"cuda": 5, "cpu": 1}  # copies of the reference cell along each axis
COPIES = {"cuda": (10, 17), "cpu": (1,)}  # the same, where forces are compared with those of one cell
MATRIX = {"cuda": 8192, "cpu": 512}
VECTOR = {"cuda": 2**28, "cpu": 2**20}
WATER_ATOMS = 192  # of the box of SO3LR
WATER = (1, 5, 10)  # copies of it along each axis
WATER_RATE = 1e6  # atom-steps/s expected
RUN_SECONDS = {"cuda": 4.0, "cpu": 1.0}  # of stepping for one size
ATOM_STEPS = {"cuda": 2e6, "cpu": 2e3}  # expected per second, to choose the number of steps


@dataclasses.dataclass
class Context:
    """Where everything is, for a phase."""

    kit: Path  # the unpacked archive
    work: Path  # scratch
    device: str  # "cuda:INDEX" or "cpu"
    cache: Path  # compiled programs
    plugin: str = ""
    nvrtc: str = ""
    driver: str = ""
    memory: float = 0.95
    deadline: float = float("inf")  # of the phase, as time.time()
    peers: dict[str, str] = dataclasses.field(default_factory=dict)
    cores: int = 1

    @property
    def platform(self) -> str:
        """`cuda` or `cpu`."""
        return self.device.split(":")[0]

    @property
    def index(self) -> int:
        """Of the GPU."""
        return int(self.device.partition(":")[2] or 0)

    @property
    def left(self) -> float:
        """Seconds until the phase must end."""
        return self.deadline - time.time()

    def bundle(self, name: str) -> Path:
        """A bundle for the device."""
        return self.kit / "bundles" / self.platform / f"{name}.so3k"

    def description(self) -> dict[str, Any]:
        """kit.json."""
        return json.loads((self.kit / "kit.json").read_text())

    def networks(self) -> list[str]:
        """Names of the networks that the kit has for the device; the first is the one whose speed is measured."""
        return [name for name in self.description()["networks"] if self.bundle(name).is_file()]

    def environment(self) -> dict[str, str]:
        """Variables with which the kit's programs find each other, plugin, driver and NVRTC."""
        kit = self.kit.resolve()
        own = {
            "LD_LIBRARY_PATH": str(kit / "mpi/lib"),
            "LAMMPS_PLUGIN_PATH": str(kit / "site/so3krates/lib"),
            "PYTHONPATH": str(kit / "bench"),
        }
        environment = dict(os.environ)
        for name, folder in own.items():
            others = [path for path in environment.get(name, "").split(":") if path and path != folder]
            environment[name] = ":".join([folder, *others])
        environment["SO3KRATES_CACHE"] = str(self.cache)
        environment.setdefault("OMP_NUM_THREADS", "1")
        for name, value in (
            (f"SO3KRATES_PJRT_{self.platform.upper()}", self.plugin),
            ("SO3KRATES_NVRTC", self.nvrtc),
            ("SO3KRATES_CUDA_DRIVER", self.driver),
        ):
            if value:
                environment[name] = value
        return environment

    def to_json(self) -> str:
        """For another process."""
        return json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()})

    @classmethod
    def from_json(cls, text: str) -> Context:
        """The inverse of `to_json`."""
        values = json.loads(text)
        return cls(**values | {name: Path(values[name]) for name in ("kit", "work", "cache")})
