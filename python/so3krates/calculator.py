"""ASE calculator on a bundle, or on a model folder."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from ._harness import StructureError
from .hints import command
from .runtime import Runtime, Turns

if TYPE_CHECKING:
    from .predictions import ModelRuntime

GUARDS = ("off", "warn", "stop")
ASE_OPTIONS = {"atoms", "directory", "label"}  # that ASE's calculators take


class So3kratesCalculator(Calculator):
    """Energy, forces, stress (Voigt, ASE sign) and per-atom energies of a `.so3k` bundle, in eV and A.

    One calculator may serve any number of structures in turn, of any size and periodicity. Threads that share one take
    turns. It may be copied and pickled: a copy makes an evaluator of its own when it is first used. A model folder is
    evaluated in Python and in float64, for tests and small structures; `so3krates export` makes the bundle that is
    fast.

    Other outputs of a bundle (`calculator.runtime.outputs`) come by their names: `get_property("feature_norm", atoms)`
    computes one when it is asked for, and those that `outputs` names are in `results` each time.
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
        outputs: Sequence[str] = (),
        guard: str = "warn",
        **options: Any,
    ) -> None:
        """The arguments of `Runtime`, or a model folder, which takes none of them; `options` go to ASE's `Calculator`.

        outputs: names of what `results` hold besides the standard outputs.
        guard: what is done where atoms are nearer, or forces larger, than in its training data: "warn",
        once by Python's `warnings`; "stop", a StructureError; "off", nothing.

        Raises what `Runtime` raises, TypeError for unknown options, ModelError for a folder without model, ValueError
        for a device with a folder, for unknown outputs and for another guard.
        """
        unknown = sorted(options.keys() - ASE_OPTIONS)
        if unknown:
            raise TypeError(
                f"unknown option {unknown[0]}: known are device, threads, plugin, cache, skin, outputs, guard "
                "and ASE's " + ", ".join(sorted(ASE_OPTIONS))
            )
        if guard not in GUARDS:
            raise ValueError(f"guard is {guard!r}: give one of {', '.join(GUARDS)}")
        self._guard, self._has_warned = guard, False
        self._turns = Turns()
        super().__init__(**options)
        self.runtime: Runtime | ModelRuntime = (
            self._open_model(bundle, device)
            if Path(bundle).is_dir()
            else Runtime(bundle, device=device, threads=threads, plugin=plugin, cache=cache, skin=skin)
        )
        self._outputs = self.runtime.require(outputs) if outputs else []
        self.implemented_properties = list(dict.fromkeys([*type(self).implemented_properties, *self.runtime.outputs]))

    @staticmethod
    def _open_model(bundle: str | Path, device: str) -> "ModelRuntime":
        if device != "cpu":
            exporting = command("so3krates", "export", bundle, "--platform", "cuda", "-o", f"{Path(bundle).name}.so3k")
            raise ValueError(
                f"{bundle} is a model folder, which Python evaluates on the CPU; for device {device!r} export it: "
                f"{exporting}"
            )
        from . import predictions

        return predictions.ModelRuntime(bundle)

    def _look(self) -> None:
        """Says what of the structure is beyond the training data."""
        if self._guard == "off" or (self._guard == "warn" and self._has_warned):
            return
        found = self.runtime.extrapolations()
        if not found:
            return
        text = f"{self.runtime.path}: {'; '.join(found)}. "
        advice = "use a smaller timestep, look at the structure, or train on such structures"
        if self._guard == "stop":
            raise StructureError(f'{text}To go on regardless: guard="warn"; else {advice}')
        self._has_warned = True
        warnings.warn(f'{text}Said once; to end there: guard="stop"; if it is not meant so, {advice}', stacklevel=2)

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
        """Computes the standard outputs at once, and further ones where they are asked for.

        The stress is left out where the cell has no volume.
        """
        with self._turns:
            super().calculate(atoms, properties, system_changes)
            known = {} if system_changes else self.results
            standard = [name for name, output in self.runtime.outputs.items() if output.standard and name != "virial"]
            further = [name for name in properties if name in self.runtime.outputs and name not in standard]
            names = [name for name in dict.fromkeys([*standard, *self._outputs, *further]) if name not in known]
            found = self.runtime.evaluate(self.atoms, names)
            self._look()
            if "stress" in found:
                found["stress"] = full_3x3_to_voigt_6_stress(found["stress"])
            self.results = known | found
            self.results["free_energy"] = self.results["energy"]
