"""ASE calculator on a bundle."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from .runtime import Runtime, Turns


class So3kratesCalculator(Calculator):
    """Energy, forces, stress (Voigt, ASE sign) and per-atom energies of a `.so3k` bundle, in eV and A.

    One calculator may serve any number of structures in turn, of any size and periodicity. Threads that share one take
    turns.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(
        self,
        bundle: str | Path,
        device: str = "cpu",
        threads: int = 0,
        plugin: str = "",
        cache: str = "",
        skin: float = 0.5,
        **options: Any,
    ) -> None:
        """The arguments of `Runtime`; `options` go to ASE's `Calculator`."""
        self._turns = Turns()
        super().__init__(**options)
        self.runtime = Runtime(bundle, device=device, threads=threads, plugin=plugin, cache=cache, skin=skin)

    def forget_structure(self) -> None:
        """Finds the neighbours of the next structure anew, so that its results depend on it alone."""
        with self._turns:
            self.reset()
            self.runtime.forget_structure()

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """As ASE's own, in one turn from the comparison of structures to the result."""
        with self._turns:
            return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute everything at once; the stress is left out where the cell has no volume."""
        with self._turns:
            super().calculate(atoms, properties, system_changes)
            found = self.runtime.evaluate(self.atoms)
            self.results = {name: found[name] for name in ("energy", "energies", "forces")}
            self.results["free_energy"] = found["energy"]
            if "stress" in found:
                self.results["stress"] = full_3x3_to_voigt_6_stress(found["stress"])
