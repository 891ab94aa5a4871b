"""SevenNet from random weights, by the model builder and the calculator of sevenn."""

import copy

import numpy as np
import sevenn._keys as KEY
import torch
from protocol import Job, main
from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG
from sevenn.atom_graph_data import AtomGraphData
from sevenn.calculator import SevenNetCalculator
from sevenn.model_build import build_E3_equivariant_model
from sevenn.train.dataload import unlabeled_atoms_to_graph
from sevenn.util import chemical_species_preprocess
from torch_geometric.data import Batch
from torch_training import Answer, fit


def network(job: Job, scale: float, shift: float, neighbours: float) -> torch.nn.Module:
    options = job.options
    config = copy.deepcopy(DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG)
    config |= chemical_species_preprocess(job.elements)
    config |= {KEY.CUTOFF: options["cutoff"], KEY.NODE_FEATURE_MULTIPLICITY: options["channels"]}
    config |= {
        KEY.LMAX: options["max_l"],
        KEY.NUM_CONVOLUTION: options["convolutions"],
        KEY.CONV_DENOMINATOR: neighbours,
    }
    config |= {KEY.SHIFT: shift, KEY.SCALE: scale, KEY.IS_PARITY: False}
    return build_E3_equivariant_model(config)


def train(job: Job) -> None:
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    frames = job.train

    def graphs(own):
        return [AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(atoms, job.options["cutoff"])) for atoms in own]

    samples = graphs(frames), graphs(job.valid)
    neighbours = sum(graph[KEY.EDGE_IDX].shape[1] for graph in samples[0]) / sum(map(len, frames))
    scale = float(np.sqrt(np.mean([np.square(atoms.get_forces()).mean() for atoms in frames])))
    shift = float(np.mean([atoms.get_potential_energy() / len(atoms) for atoms in frames]))
    model = network(job, scale, shift, float(neighbours))
    model.set_is_batch_data(True)
    model.eval_type_map = torch.tensor(True)

    def predict(batch):
        found = model(Batch.from_data_list([graph.clone() for graph in batch]))
        order = [0, 3, 5, 3, 1, 4, 5, 4, 2]  # its stress is xx yy zz xy yz zx, and of the other sign
        stress = -found[KEY.PRED_STRESS].reshape(-1, 6)[:, order].reshape(-1, 3, 3)
        return Answer(found[KEY.PRED_TOTAL_ENERGY], found[KEY.PRED_FORCE], stress)

    fit(model, predict, samples, job, job.options["rate"], job.options["batch"])
    model.set_is_batch_data(False)
    torch.save((model.state_dict(), scale, shift, float(neighbours)), job.folder / "model.pt")


def calculator(job: Job):
    torch.set_num_threads(job.threads)
    weights, *numbers = torch.load(job.folder / "model.pt", weights_only=False)
    model = network(job, *numbers)
    model.load_state_dict(weights)
    return SevenNetCalculator(model, file_type="model_instance", device="cpu")


main(train, calculator)
