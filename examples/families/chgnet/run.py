"""CHGNet with the weights that are in its package, as they are or fine-tuned."""

import json

import numpy as np
import torch
from ase.units import GPa
from chgnet.model import CHGNet
from chgnet.model.dynamics import CHGNetCalculator
from protocol import Job, main
from pymatgen.io.ase import AseAtomsAdaptor
from torch_training import Answer, fit


def train(job: Job) -> None:
    torch.set_num_threads(job.threads)
    model = CHGNet.load(use_device="cpu", verbose=False)

    def graphs(frames):
        return [model.graph_converter(AseAtomsAdaptor.get_structure(atoms)) for atoms in frames]

    train_graphs = graphs(job.train)
    # Its energies have the zero of its own training: what the elements' constants differ by is fitted first.
    counts, gaps = [], []
    for atoms, graph in zip(job.train, train_graphs, strict=True):
        energy = float(model.predict_graph(graph, task="e")["e"]) * len(atoms)
        counts.append([list(atoms.symbols).count(element) for element in job.elements])
        gaps.append(energy - atoms.get_potential_energy())
    shifts = np.linalg.lstsq(np.array(counts, float), np.array(gaps), rcond=1e-8)[0]
    (job.folder / "shifts.json").write_text(json.dumps(dict(zip(job.elements, shifts.tolist(), strict=True))))

    def predict(batch):
        found = model([graph for graph, _ in batch], task="efs")
        sizes = torch.tensor([len(graph.atomic_number) for graph, _ in batch])
        energy = found["e"].flatten() * sizes - torch.tensor([shift for _, shift in batch])
        return Answer(energy, torch.cat(list(found["f"])), torch.stack(list(found["s"])) * GPa)

    def samples(frames, own):
        return [
            (graph, float(sum(shifts[job.elements.index(symbol)] for symbol in atoms.symbols)))
            for atoms, graph in zip(frames, own, strict=True)
        ]

    if job.options["fine_tune"]:
        own = samples(job.train, train_graphs), samples(job.valid, graphs(job.valid))
        fit(model, predict, own, job, job.options["rate"], job.options["batch"])
    torch.save(model.as_dict(), job.folder / "model.pt")


class Shifted(CHGNetCalculator):
    """With the zero of energies that the labels have; of single atoms there is no graph, so their energy is zero."""

    def __init__(self, model, shifts) -> None:
        super().__init__(model, use_device="cpu", on_isolated_atoms="ignore")
        self.shifts = shifts

    def calculate(self, atoms=None, properties=None, system_changes=None) -> None:
        known, box = atoms.pbc.all(), atoms.copy()
        if not known:
            box.center(vacuum=10.0)
            box.pbc = True
        super().calculate(box, properties, system_changes, task="efs" if known else "ef")
        self.atoms = atoms.copy()
        self.results["energy"] = float(self.results["energy"]) - sum(self.shifts[symbol] for symbol in atoms.symbols)
        if known:
            self.results["stress"] = np.asarray(self.results["stress"])[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def calculator(job: Job):
    torch.set_num_threads(job.threads)
    model = CHGNet.from_dict(torch.load(job.folder / "model.pt", weights_only=False))
    return Shifted(model.eval(), json.loads((job.folder / "shifts.json").read_text()))


main(train, calculator)
