"""MACE, by the modules and the calculator of mace-torch."""

import numpy as np
import torch

torch.serialization.add_safe_globals([slice])  # for the constants of e3nn 0.4.4

from ase.data import atomic_numbers  # noqa: E402
from e3nn import o3  # noqa: E402
from mace import data, modules, tools  # noqa: E402
from mace.calculators import MACECalculator  # noqa: E402
from mace.tools import torch_geometric  # noqa: E402
from protocol import Job, main  # noqa: E402
from torch_training import Answer, fit  # noqa: E402

SHARED = {"num_bessel": 8, "num_polynomial_cutoff": 5, "max_ell": 3, "gate": torch.nn.functional.silu}


def graphs(frames, table, cutoff):
    return [
        data.AtomicData.from_config(
            data.config_from_atoms(atoms, data.KeySpecification()), z_table=table, cutoff=cutoff
        )
        for atoms in frames
    ]


def train(job: Job) -> None:
    torch.set_num_threads(job.threads)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(job.seed)
    options, frames = job.options, job.train
    numbers = sorted(atomic_numbers[element] for element in job.elements)
    table = tools.AtomicNumberTable(numbers)
    own = graphs(frames, table, options["cutoff"])
    neighbours = sum(graph.edge_index.shape[1] for graph in own) / sum(map(len, frames))
    irreps = " + ".join(f"{options['channels']}x{l}{'eo'[l % 2]}" for l in range(options["max_l"] + 1))
    model = modules.ScaleShiftMACE(
        r_max=options["cutoff"],
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=options["interactions"],
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps(irreps),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=neighbours,
        atomic_numbers=numbers,
        correlation=options["correlation"],
        atomic_inter_scale=float(np.sqrt(np.mean([np.square(a.get_forces()).mean() for a in frames]))),
        atomic_inter_shift=float(np.mean([a.get_potential_energy() / len(a) for a in frames])),
        **SHARED,
    )

    def predict(batch):
        together = torch_geometric.Batch.from_data_list(batch).to_dict()
        found = model(together, training=model.training, compute_force=True, compute_stress=True)
        return Answer(found["energy"], found["forces"], found["stress"])

    fit(model, predict, (own, graphs(job.valid, table, options["cutoff"])), job, options["rate"], options["batch"])
    torch.save(model, job.folder / "model.pt")


def calculator(job: Job):
    torch.set_num_threads(job.threads)
    return MACECalculator(model_paths=str(job.folder / "model.pt"), device="cpu", default_dtype="float32")


main(train, calculator)
