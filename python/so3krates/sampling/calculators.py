"""Calculators by a text that every process can make its own one from."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, FileIOCalculator
from ase.calculators.genericfileio import GenericFileIOCalculator

from .harmonic import SamplingError
from .lammps_labels import GAN_TERSOFF, LammpsCalculator

LAMMPS = "lammps"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to make a calculator.

    `text` is "lammps" for the interaction of the lines in `deck`, whose atom types are `elements` in their order; a
    model folder or a bundle; or "module:factory" of any ASE calculator, with arguments of plain values where it needs
    some: "ase.calculators.lj:LennardJones(epsilon=0.01, sigma=3.4)".
    """

    text: str = LAMMPS
    deck: tuple[str, ...] = GAN_TERSOFF
    elements: tuple[str, ...] = ("Ga", "N")

    def __str__(self) -> str:
        """What is written beside labels."""
        return f"{LAMMPS}: {'; '.join(self.deck)}" if self.text == LAMMPS else self.text

    def make(self) -> Calculator:
        """A calculator of its own. Raises SamplingError for a text that names none."""
        if self.text == LAMMPS:
            return LammpsCalculator(self.deck, self.elements)
        path = Path(self.text)
        if path.is_dir():
            return _model_calculator(path)
        if path.is_file():
            from so3krates.calculator import So3kratesCalculator

            return So3kratesCalculator(path, threads=1)
        return _by_name(self.text)


def forget(calculator: Calculator) -> None:
    """Drops what a calculator keeps of earlier structures: results must not depend on which process saw them."""
    for name in ("forget_structure", "reset"):
        if hasattr(calculator, name):
            getattr(calculator, name)()
            return


def work_in(calculator: Calculator, folder: Path) -> None:
    """Gives a calculator that runs a program with files a folder for them; others have none."""
    if getattr(calculator, "command", None) is not None or hasattr(calculator, "template"):
        calculator.directory = folder


def computed(calculator: Calculator, atoms: Atoms) -> dict[str, np.ndarray]:
    """Energy (eV), forces (eV/A) and, of a periodic structure, stress (eV/A^3) where the calculator has it.

    The energy is the one that forces are derivatives of: of programs that extrapolate it to zero smearing too, the
    free energy. Raises what the calculator raises.
    """
    wanted = ["energy", "forces"]
    if atoms.pbc.all() and "stress" in calculator.implemented_properties:
        wanted.append("stress")
    atoms.calc = calculator
    found = {name: np.array(calculator.get_property(name, atoms), np.float64) for name in wanted}
    free_energy = getattr(calculator, "results", {}).get("free_energy")
    return found if free_energy is None else found | {"energy": np.array(free_energy, np.float64)}


def _model_calculator(folder: Path) -> Calculator:
    import jax

    from so3krates.checks.potentials import PotentialCalculator, open_potential

    jax.config.update("jax_enable_x64", True)
    return PotentialCalculator(open_potential(folder))


def named_calculator(text: str) -> Calculator:
    """A calculator of ASE by its class, "module:Class(arguments)", that runs no program.

    Models name it, which may come from anywhere. Raises SamplingError for a text that names none.
    """
    make, positional, named = _factory(text)
    if not (isinstance(make, type) and issubclass(make, BaseCalculator)):
        raise SamplingError(f"calculator {text!r} is no class of ASE's calculators, which alone a model may name")
    if issubclass(make, FileIOCalculator | GenericFileIOCalculator) or "command" in named:
        raise SamplingError(f"calculator {text!r} runs a program with files, and a model may name none that does")
    return _made(text, cast(type[Calculator], make), positional, named)


def _by_name(text: str) -> Calculator:
    return _made(text, *_factory(text))


def _made(text: str, make: Callable[..., Calculator], positional: list[Any], named: dict[str, Any]) -> Calculator:
    try:
        return make(*positional, **named)
    except Exception as error:  # of a library that is not ours
        raise SamplingError(f"calculator {text!r} cannot be made: {type(error).__name__}: {error}") from error


def _factory(text: str) -> tuple[Callable[..., Calculator], list[Any], dict[str, Any]]:
    """What a text names, and its arguments."""
    name, colon, call = text.partition(":")
    advice = "give lammps, a model folder, a bundle, or module:factory as in ase.calculators.emt:EMT"
    if not colon:
        raise SamplingError(f"calculator {text!r} is neither a file nor a folder: {advice}")
    factory, positional, named = _parsed(text, call, advice)
    try:
        return getattr(importlib.import_module(name), factory), positional, named
    except (ImportError, AttributeError) as error:
        raise SamplingError(f"calculator {text!r} cannot be imported ({error}): {advice}") from error


def _parsed(text: str, call: str, advice: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Name and arguments of `factory` or `factory(1, key=2)`."""
    try:
        tree = ast.parse(call, mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, [], {}
        if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
            raise ValueError("not the name of a factory")
        named = {word.arg: ast.literal_eval(word.value) for word in tree.keywords if word.arg is not None}
        return tree.func.id, [ast.literal_eval(value) for value in tree.args], named
    except (SyntaxError, ValueError) as error:
        raise SamplingError(f"calculator {text!r} is not understood ({error}): {advice}") from error
