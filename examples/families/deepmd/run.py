"""DeePMD: `dp --tf train`, a descriptor of two-body embedding (se_e2_a), and deepmd-kit's calculator.

By TensorFlow, whose wheel for the CPU is the version that deepmd-kit was built with.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from protocol import Job, main

DP = Path(sys.executable).parent / "dp"


def systems(job: Job, name: str, frames) -> list[str]:
    """Frames as deepmd-kit reads them: a folder for each list of atoms."""
    groups = defaultdict(list)
    for atoms in frames:
        groups[tuple(atoms.symbols)].append(atoms)
    folders = []
    for number, (symbols, own) in enumerate(groups.items()):
        folder = job.folder / f"{name}-{number}"
        (folder / "set.000").mkdir(parents=True, exist_ok=True)
        types = [str(job.elements.index(symbol)) for symbol in symbols]
        (folder / "type.raw").write_text("\n".join(types) + "\n")
        (folder / "type_map.raw").write_text("\n".join(job.elements) + "\n")
        arrays = {
            "coord": [atoms.positions.ravel() for atoms in own],
            "box": [atoms.cell.array.ravel() for atoms in own],
            "energy": [atoms.get_potential_energy() for atoms in own],
            "force": [atoms.get_forces().ravel() for atoms in own],
        }
        if all("stress" in atoms.calc.results for atoms in own):
            arrays["virial"] = [-atoms.get_volume() * atoms.get_stress(voigt=False).ravel() for atoms in own]
        for key, values in arrays.items():
            np.save(folder / "set.000" / f"{key}.npy", np.array(values))
        folders.append(str(folder))
    return folders


def train(job: Job) -> None:
    options = job.options
    content = {
        "model": {
            "type_map": job.elements,
            "descriptor": {
                "type": "se_e2_a",
                "rcut": options["cutoff"],
                "rcut_smth": 0.6 * options["cutoff"],
                "sel": [options["neighbours"]] * len(job.elements),
                "neuron": [16, 32, 64],
                "axis_neuron": 8,
                "seed": job.seed,
            },
            "fitting_net": {"neuron": [96, 96, 96], "resnet_dt": True, "seed": job.seed},
        },
        "learning_rate": {"type": "exp", "start_lr": options["rate"], "stop_lr": 1e-6},
        "loss": {
            **{"start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 10},
            **{"start_pref_v": 0.01, "limit_pref_v": 0.1},
        },
        "training": {
            "training_data": {"systems": systems(job, "train", job.train), "batch_size": options["batch"]},
            "validation_data": {"systems": systems(job, "valid", job.valid), "batch_size": 1, "numb_btch": 2},
            "seed": job.seed,
            "disp_file": "lcurve.out",
            "save_ckpt": "model.ckpt",
        },
    }

    def run(steps: int) -> None:
        content["learning_rate"]["decay_steps"] = max(1, steps // 100)
        content["training"] |= {"numb_steps": steps, "disp_freq": max(10, steps // 50), "save_freq": steps}
        (job.folder / "input.json").write_text(json.dumps(content, indent=1))
        job.run(DP, "--tf", "train", "--skip-neighbor-stat", "input.json")

    run(job.trial(run))
    job.run(DP, "--tf", "freeze", "-o", "model.pb")


def calculator(job: Job):
    from deepmd.calculator import DP as Calculator

    return Calculator(model=str(job.folder / "model.pb"))


main(train, calculator)
