"""ASE calculator on a bundle, or on a model folder."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from ._harness import StructureError
from .files import write_frames
from .hints import command
from .runtime import Runtime, Turns
from .shipped import located

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
        guard_uncertainty: float | None = None,
        charge: int | None = None,
        multiplicity: int | None = None,
        **options: Any,
    ) -> None:
        """The arguments of `Runtime`, or a model folder, which takes none of them; `options` go to ASE's `Calculator`.

        outputs: names of what `results` hold besides the standard outputs.
        guard: what is done where atoms are nearer, or forces larger, than in its training data: "warn",
        once by Python's `warnings`; "stop", a StructureError, after the frame was written to
        guard-evaluation-N.extxyz in ASE's `directory`; "off", nothing.
        guard_uncertainty: eV/A, likewise where the force on an atom is more uncertain; None: nobody looks.
        charge, multiplicity: of every structure, total charge (e) and unpaired electrons + 1, for models that know
        them (docs/so3lr.md); None: what `atoms.info` says under these names, else 0 and 1, or those that a bundle was
        exported with.

        Raises what `Runtime` raises, TypeError for unknown options, ModelError for a folder without model, ValueError
        for a device with a folder, for unknown outputs, for another guard, for a limit of uncertainty of a potential
        that tells none, and for a charge or multiplicity of one that knows none.
        """
        unknown = sorted(options.keys() - ASE_OPTIONS)
        if unknown:
            raise TypeError(
                f"unknown option {unknown[0]}: known are device, threads, plugin, cache, skin, outputs, guard, "
                "guard_uncertainty, charge, multiplicity and ASE's " + ", ".join(sorted(ASE_OPTIONS))
            )
        if guard not in GUARDS:
            raise ValueError(f"guard is {guard!r}: give one of {', '.join(GUARDS)}")
        self._guard, self._has_warned, self._evaluations = guard, False, 0
        self._turns = Turns()
        super().__init__(**options)
        self.runtime: Runtime | ModelRuntime = (
            self._open_model(bundle, device, charge, multiplicity)
            if located(bundle).is_dir()
            else Runtime(
                bundle,
                device=device,
                threads=threads,
                plugin=plugin,
                cache=cache,
                skin=skin,
                charge=charge,
                multiplicity=multiplicity,
            )
        )
        self._outputs = self.runtime.require(outputs) if outputs else []
        self._limit = self._checked_limit(guard_uncertainty)
        if guard == "stop" and self._limit is None and not self.runtime.knows_limits:
            warnings.warn(
                f'{self.runtime.path}: guard="stop" ends nothing, as the file does not say how near atoms are in its '
                "training data: export a newly trained model, or give guard_uncertainty",
                stacklevel=2,
            )
        self.implemented_properties = list(dict.fromkeys([*type(self).implemented_properties, *self.runtime.outputs]))

    @staticmethod
    def _open_model(bundle: str | Path, device: str, charge: int | None, multiplicity: int | None) -> "ModelRuntime":
        if device != "cpu":
            platform, name = device.split(":")[0], f"{Path(bundle).name}.so3k"
            exporting = command("so3krates", "export", bundle, "--platform", platform, "-o", name)
            raise ValueError(
                f"{bundle} is a model folder, which Python evaluates on the CPU; for device {device!r} export it: "
                f"{exporting}"
            )
        from . import predictions

        return predictions.ModelRuntime(bundle, charge=charge, multiplicity=multiplicity)

    def _checked_limit(self, limit: float | None) -> float | None:
        """The limit of uncertainty, where it can be looked at."""
        if limit is None:
            return None
        if not limit > 0 or self._guard == "off":
            raise ValueError(
                f"guard = {self._guard!r}, guard_uncertainty = {limit!r}: give warn or stop, and eV/A above 0"
            )
        if "uncertainty" not in self.runtime.outputs:
            exporting = command("so3krates", "export", "MODEL", "-o", "potential.so3k")
            raise ValueError(
                f"guard_uncertainty = {limit:g}: {self.runtime.path} tells no uncertainties; a bundle does that was "
                f"exported without --no-uncertainty: {exporting}"
            )
        return limit

    def _look(self, found: dict[str, Any]) -> None:
        """Says what of the structure, and of what was found of it, is beyond the training data."""
        self._evaluations += 1
        if self._guard == "off" or (self._guard == "warn" and self._has_warned):
            return
        said = self.runtime.extrapolations()
        if self._limit is not None and len(self.atoms) and found["uncertainty"].max() > self._limit:
            k = int(found["uncertainty"].argmax())
            said.append(
                f"the uncertainty of the force on atom {k} ({self.atoms.symbols[k]}) is {found['uncertainty'][k]:.4g} "
                f"eV/A, more than the {self._limit:g} eV/A that guard allows"
            )
        if not said:
            return
        text = f"{self.runtime.path}: {'; '.join(said)}. "
        advice = "use a smaller timestep, look at the structure, or train on such structures"
        if self._guard == "stop":
            try:
                written = f"The frame is in {self._write_frame(found, '; '.join(said))}"
            except OSError as error:
                written = f"The frame could not be written ({error})"
            raise StructureError(f'{text}{written}. To go on regardless: guard="warn"; else {advice}')
        self._has_warned = True
        warnings.warn(f'{text}Said once; to end there: guard="stop"; if it is not meant so, {advice}', stacklevel=2)

    def _write_frame(self, found: dict[str, Any], reason: str) -> Path:
        """The structure with ids and what was found of it, and the reason."""
        frame = Atoms(self.atoms.numbers, self.atoms.positions, cell=self.atoms.cell, pbc=self.atoms.pbc)
        frame.info = {"reason": reason}
        frame.arrays["id"] = np.arange(len(frame))
        frame.calc = SinglePointCalculator(frame, forces=found["forces"])
        if "uncertainty" in found:
            frame.arrays["uncertainty"] = found["uncertainty"]
        path = Path(self.directory) / f"guard-evaluation-{self._evaluations}.extxyz"
        write_frames(path, [frame])
        return path

    def forget_structure(self) -> None:
        """Finds the neighbours of the next structure anew, so that its results depend on it alone."""
        with self._turns:
            self.reset()
            self.runtime.forget_structure()

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """As ASE's own, and what `atoms.info` says of the electrons, which ASE does not look at."""
        changes: list[str] = super().check_state(atoms, tol)
        if not changes and self.runtime.state_of(self.atoms) != self.runtime.state_of(atoms):
            changes = ["info"]
        return changes

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
            watched = [] if self._limit is None else ["uncertainty"]
            wanted = dict.fromkeys([*standard, *self._outputs, *further, *watched])
            names = [name for name in wanted if name not in known]
            found = self.runtime.evaluate(self.atoms, names)
            self._look(known | found)
            if "stress" in found:
                found["stress"] = full_3x3_to_voigt_6_stress(found["stress"])
            self.results = known | found
            self.results["free_energy"] = self.results["energy"]
