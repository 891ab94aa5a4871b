"""Settings of a comparison: sections [compare], [data] and [options.FAMILY]."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from so3krates.model.config import ConfigError
from so3krates.training.checks import is_int, is_number, require
from so3krates.training.config import DataConfig, section_of
from so3krates.training.settings_file import found_path, load_settings, section_from

from .families import Family, families

SPLIT_KEYS = ("train_file", "valid_file", "n_train", "train_split", "stream", "energy_shift")


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Which families, what each may spend, and what is examined."""

    families: tuple[str, ...] = ()  # names, in the order of the report; has to be given
    test_file: str | None = None  # labelled frames that the errors are of; has to be given
    minutes: float = 10.0  # of CPU time per thread, for each training
    threads: int = 1  # of each training and prediction
    memory: float = 8.0  # GB that a family's processes may hold together
    sizes: tuple[int, ...] = ()  # frames to train on, a training for each; empty: all
    seeds: int | dict[str, int] = 1  # trainings of each family, or by its name (others: 1)
    structure: str | None = None  # file of a crystal for the checks; absent: the calmest test frame, or a simple one
    check_minutes: float = 10.0  # of CPU time per thread for all checks of a potential; 0: none
    drift_steps: int = 300  # of the dynamics at constant energy
    speed_atoms: int = 1000  # at least so many in the cell that speed is measured on; 0: not measured
    runners: str | None = None  # a folder of further families
    environments: str = ".compare"  # folder in which their environments are made

    def __post_init__(self) -> None:
        def check(name: str, good: bool, advice: str) -> None:
            require(good, "compare", name, getattr(self, name), advice)

        named = self.families
        texts = isinstance(named, list | tuple) and all(isinstance(name, str) and name for name in named)
        check("families", texts and len(named) > 0, 'a list of names, as in ["so3krates", "soap"]')
        object.__setattr__(self, "families", tuple(dict.fromkeys(named)))
        check("sizes", isinstance(self.sizes, list | tuple), "a list of numbers of frames")
        check("sizes", all(is_int(size, 1) for size in self.sizes), "whole numbers of at least 1")
        object.__setattr__(self, "sizes", tuple(sorted(set(self.sizes))))
        for name in ("minutes", "memory"):
            value = getattr(self, name)
            check(name, is_number(value) and value > 0, "a number above 0")
        check("check_minutes", is_number(self.check_minutes) and self.check_minutes >= 0, "a number of at least 0")
        check("threads", is_int(self.threads, 1), "a whole number of at least 1")
        for name in ("drift_steps", "speed_atoms"):
            check(name, is_int(getattr(self, name)), "a whole number of at least 0")
        counts = self.seeds.values() if isinstance(self.seeds, dict) else (self.seeds,)
        check(
            "seeds", all(is_int(count, 1) for count in counts), "a whole number of at least 1, or one for each family"
        )
        for name in ("test_file", "structure", "runners"):
            value = getattr(self, name)
            check(name, value is None or (isinstance(value, str) and value != ""), "a path, or leave it out")
        check("environments", isinstance(self.environments, str) and self.environments != "", "the path of a folder")
        check("test_file", self.test_file is not None, "a file of labelled frames that train nothing")

    def seeds_of(self, family: str) -> int:
        """Trainings of a family that differ in their seeds alone."""
        return self.seeds.get(family, 1) if isinstance(self.seeds, dict) else self.seeds


@dataclasses.dataclass(frozen=True)
class CompareSettings:
    """All of a comparison's settings; paths are absolute."""

    compare: CompareConfig
    data: DataConfig
    families: dict[str, Family]  # those that are compared
    options: dict[str, dict[str, Any]]  # of each of them, its own defaults included

    @classmethod
    def load(cls, path: str | Path) -> CompareSettings:
        """From a TOML file. Raises ConfigError, beginning with the path, with the key that is wrong."""
        return load_settings(path, cls._from_dict)

    @classmethod
    def _from_dict(cls, content: dict[str, Any], folder: Path) -> CompareSettings:
        sections = {name: section_from(content, name, {}) for name in ("compare", "data", "options")}
        if content:
            known = ", ".join(f"[{name}]" for name in sections)
            raise ConfigError(f"unknown section [{next(iter(content))}]: known are {known}")
        given = sections["data"]
        for key in SPLIT_KEYS:
            if key in given:
                raise ConfigError(f"data.{key}: leave it out; give data.file, data.n_valid and compare.sizes")
        n_valid = given.pop("n_valid", None)
        require(n_valid is None or is_int(n_valid, 1), "data", "n_valid", n_valid, "a whole number of at least 1")
        compare = section_of(CompareConfig, "compare", sections["compare"])
        data = section_of(DataConfig, "data", given)
        require(data.file is not None, "data", "file", data.file, "a file of labelled frames to train on")
        places = {
            name: found_path(folder, "compare", name, getattr(compare, name))
            for name in ("test_file", "structure", "runners")
        }
        compare = dataclasses.replace(compare, environments=str(folder / compare.environments), **places)
        file = found_path(folder, "data", "file", data.file)
        data = dataclasses.replace(data, file=file, n_train=None if n_valid is None else 1, n_valid=n_valid)
        there = families(compare.runners)
        options = sections["options"]
        for place, names in (("compare.families", compare.families), ("options", options)):
            unknown = [name for name in names if name not in there]
            if unknown:
                raise ConfigError(f"{place}: unknown {', '.join(unknown)}; families are {', '.join(sorted(there))}")
        if isinstance(compare.seeds, dict) and (others := [name for name in compare.seeds if name not in there]):
            raise ConfigError(f"compare.seeds: unknown {', '.join(others)}; families are {', '.join(sorted(there))}")
        for name, values in options.items():
            if not isinstance(values, dict):
                raise ConfigError(f"options.{name} must be a section of keys, got {values!r}")
            for key in values:
                if key not in there[name].options:
                    raise ConfigError(f"unknown key options.{name}.{key}: known are {', '.join(there[name].options)}")
        chosen = {name: there[name] for name in compare.families}
        return cls(compare, data, chosen, {n: family.options | options.get(n, {}) for n, family in chosen.items()})
