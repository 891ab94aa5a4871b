"""SO3LR on water in float32: a box by the evaluator against float64 of the CPU, then molecular dynamics by size."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from .first import Pieces, library
from .harness import Evaluator
from .lammps import WARM_UP, Deck, notes, run_lammps, timings
from .process import CommandError
from .sizes import RUN_SECONDS, WATER, WATER_ATOMS, WATER_RATE, Context

BUNDLE = "so3lr/so3lr"
TOLERANCE = 2e-5  # of the largest value
OUTPUTS = ("charges", "hirshfeld_ratios", "energy_electrostatics", "energy_dispersion")
COMPARED = ("energy", "forces", "strain_gradient", *OUTPUTS)
SIGNAL = 1e-3  # the least that a largest value must be
STEP = 0.0005  # ps


@dataclasses.dataclass(frozen=True)
class Water(Deck):
    """Copies of the box that `bench/gpu --pack` made, for a run at constant energy."""

    copies: int = 1  # along each axis

    def cells(self) -> tuple[int, int, int]:
        """Of the box."""
        return self.copies, self.copies, self.copies

    def text(self, context: Context) -> str:
        """The input file."""
        memory = f" memory {context.memory}" if context.platform == "cuda" else ""
        lines = [
            "units metal\natom_style atomic\natom_modify map yes\nbox tilt large",
            f'read_data "{context.kit.resolve()}/decks/water.data"',
            "replicate ${nx} ${ny} ${nz}",
            f"pair_style so3krates verbose yes shifts no device {context.device}{memory} {self.options}".rstrip(),
            "pair_coeff * * ${potential} O H",
            f"velocity all create 300 1 loop geom\nneighbor 1.0 bin\ntimestep {STEP}\nfix ensemble all nve",
            "thermo_style custom step atoms pe etotal press",
            f"run 0\nthermo 1000000\nrun {WARM_UP}\nthermo {self.thermo}\nrun {self.steps}",
        ]
        return "\n".join(lines) + "\n"


def so3lr(context: Context) -> Pieces:
    """Errors on the box, then speeds."""
    if not context.bundle(BUNDLE).is_file():
        yield {"skipped": f"the archive has no bundle of SO3LR for {context.platform}"}
        return
    yield compared(context)
    for copies in WATER:
        atoms = WATER_ATOMS * copies**3
        steps = max(5, min(400, int(WATER_RATE * RUN_SECONDS[context.platform] / atoms)))
        deck = Water(f"water-{atoms}", BUNDLE, atoms, steps, copies=copies)
        try:
            run = run_lammps(context, deck, context.left)
        except CommandError as error:
            yield {"sizes": [{"asked": atoms}], "failures": [f"SO3LR, {atoms} atoms: {error}"]}
            continue
        yield {"sizes": [{"asked": atoms, **timings(run, deck), "notes": notes(run)}]}


def compared(context: Context) -> dict[str, Any]:
    """Errors in units of the largest value; whether a second evaluation is equal to the bit."""
    with np.load(context.kit / "references/so3lr.npz") as archive:
        arrays = dict(archive)
    bundle, cache = context.bundle(BUNDLE), str(context.cache)
    evaluator = Evaluator(library(context), bundle, context.device, context.plugin, cache, context.memory)
    evaluator.set_lists(arrays)
    found, again = (evaluator.evaluate(arrays["positions"], OUTPUTS) for _ in range(2))
    same = all(np.array_equal(found[key], again[key]) for key in found)
    found["strain_gradient"] = 0.5 * (found["strain_gradient"] + found["strain_gradient"].T)
    errors, failures = {}, []
    for output in COMPARED:
        expected = arrays[f"expected_{output}"]
        largest = float(np.abs(expected).max())
        errors[output] = float(np.abs(found[output] - expected).max()) / max(largest, SIGNAL)
        if not errors[output] < TOLERANCE or largest < SIGNAL:
            failures.append(f"SO3LR: {output} differs by {errors[output]:.1e} of its largest value {largest:.1e}")
    if not same:
        failures.append("SO3LR: two evaluations differ")
    return {"errors": errors, "equal_to_the_bit": same, "failures": failures}
