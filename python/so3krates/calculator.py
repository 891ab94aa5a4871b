"""ASE calculator on a bundle, or on a model folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from .hints import command
from .runtime import Runtime, Turns

if TYPE_CHECKING:
    from .predictions import ModelRuntime

ASE_OPTIONS = {"atoms", "directory", "label"}  # that ASE's calculators take


class So3kratesCalculator(Calculator):
    """Energy, forces, stress (Voigt, ASE sign) and per-atom energies of a `.so3k` bundle, in eV and A.

    One calculator may serve any number of structures in turn, of any size and periodicity. Threads that share one take
    turns. It may be copied and pickled: a copy makes an evaluator of its own when it is first used. A model folder is
    evaluated in Python and in float64, for tests and small structures; `so3krates export` makes the bundle that is
    fast.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012 (as ASE declares it)

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
        """The arguments of `Runtime`, or a model folder, which takes none of them; `options` go to ASE's `Calculator`.

        Raises what `Runtime` raises, TypeError for unknown options, ModelError for a folder without model, ValueError
        for a device with a folder.
        """
        unknown = sorted(options.keys() - ASE_OPTIONS)
        if unknown:
            raise TypeError(
                f"unknown option {unknown[0]}: known are device, threads, plugin, cache, skin and ASE's "
                + ", ".join(sorted(ASE_OPTIONS))
            )
        self._turns = Turns()
        super().__init__(**options)
        if not Path(bundle).is_dir():
            self.runtime: Runtime | ModelRuntime = Runtime(
                bundle, device=device, threads=threads, plugin=plugin, cache=cache, skin=skin
            )
            return
        if device != "cpu":
            exporting = command("so3krates", "export", bundle, "--platform", "cuda", "-o", f"{Path(bundle).name}.so3k")
            raise ValueError(
                f"{bundle} is a model folder, which Python evaluates on the CPU; for device {device!r} export it: "
                f"{exporting}"
            )
        from . import predictions

        self.runtime = predictions.ModelRuntime(bundle)

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
