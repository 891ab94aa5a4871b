"""M3GNet from random weights, by the model, the potential and the calculator of matgl."""

import numpy as np
import torch
from ase.units import GPa
from matgl.apps.pes import Potential
from matgl.ext.ase import Atoms2Graph, PESCalculator
from matgl.models import M3GNet
from protocol import Job, main
from torch_geometric.data import Batch
from torch_training import Answer, fit


def network(job: Job, scale: float) -> Potential:
    options = job.options
    model = M3GNet(
        element_types=tuple(job.elements),
        is_intensive=False,
        cutoff=options["cutoff"],
        threebody_cutoff=options["threebody_cutoff"],
        dim_node_embedding=options["features"],
        dim_edge_embedding=options["features"],
        units=options["features"],
        nblocks=options["blocks"],
        use_smooth=True,
    )
    return Potential(model, data_std=scale)


def train(job: Job) -> None:
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    frames = job.train
    scale = float(np.sqrt(np.mean([np.square(atoms.get_forces()).mean() for atoms in frames])))
    potential = network(job, scale)
    converter = Atoms2Graph(tuple(job.elements), job.options["cutoff"])

    def graphs(own):
        return [converter.get_graph(atoms)[:2] for atoms in own]

    def predict(batch):
        lattices = torch.cat([lattice.reshape(1, 3, 3) for _, lattice in batch])
        energy, forces, stress, _ = potential(Batch.from_data_list([graph for graph, _ in batch]), lattices)
        return Answer(energy, forces, stress.reshape(-1, 3, 3) * GPa)

    samples = graphs(frames), graphs(job.valid)
    fit(potential, predict, samples, job, job.options["rate"], job.options["batch"])
    torch.save((potential.state_dict(), scale), job.folder / "model.pt")


def calculator(job: Job):
    torch.set_num_threads(job.threads)
    weights, scale = torch.load(job.folder / "model.pt", weights_only=False)
    potential = network(job, scale)
    potential.load_state_dict(weights)
    return PESCalculator(potential.eval(), stress_unit="eV/A3", use_voigt=True)


main(train, calculator)
