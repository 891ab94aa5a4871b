"""SchNet and PaiNN, by the layers and the calculator of schnetpack."""

import torch
from torch.utils.data import dataloader

# schnetpack 2.1.1 looks for a name that newer versions of PyTorch have otherwise.
dataloader.T_co = getattr(dataloader, "T_co", None) or dataloader._T_co

import schnetpack as spk  # noqa: E402
from protocol import Job, main  # noqa: E402
from schnetpack import properties as p  # noqa: E402
from schnetpack.data.loader import _atoms_collate_fn  # noqa: E402
from schnetpack.interfaces import SpkCalculator  # noqa: E402
from schnetpack.transform import CastTo32, MatScipyNeighborList  # noqa: E402
from torch_training import Answer, fit  # noqa: E402


def network(job: Job) -> torch.nn.Module:
    options = job.options
    kind = {"schnet": spk.representation.SchNet, "painn": spk.representation.PaiNN}[options["representation"]]
    features = options["features"]
    representation = kind(
        n_atom_basis=features,
        n_interactions=options["interactions"],
        radial_basis=spk.nn.GaussianRBF(n_rbf=options["radial"], cutoff=options["cutoff"]),
        cutoff_fn=spk.nn.CosineCutoff(options["cutoff"]),
    )
    energy = spk.atomistic.Atomwise(n_in=features, output_key="energy")
    return spk.model.NeuralNetworkPotential(
        representation=representation,
        input_modules=[spk.atomistic.Strain(), spk.atomistic.PairwiseDistances()],
        output_modules=[energy, spk.atomistic.Forces(calc_stress=True)],
    )


def samples(job: Job, frames):
    transforms = (MatScipyNeighborList(cutoff=job.options["cutoff"]), CastTo32())
    found = []
    for number, atoms in enumerate(frames):
        inputs = {
            p.n_atoms: torch.tensor([len(atoms)]),
            p.Z: torch.tensor(atoms.numbers),
            p.R: torch.tensor(atoms.positions),
            p.cell: torch.tensor(atoms.cell.array)[None],
            p.pbc: torch.tensor(atoms.pbc)[None],
            p.idx: torch.tensor([number]),
        }
        for transform in transforms:
            inputs = transform(inputs)
        found.append(inputs)
    return found


def train(job: Job) -> None:
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    model = network(job)

    def predict(batch):
        found = model(_atoms_collate_fn(batch))
        return Answer(found["energy"], found["forces"], found["stress"])

    fit(
        model,
        predict,
        (samples(job, job.train), samples(job, job.valid)),
        job,
        job.options["rate"],
        job.options["batch"],
    )
    torch.save(model, job.folder / "model.pt")


class Calculator(SpkCalculator):
    """A stress asked of molecules is left out; the model is an object, which PyTorch loads only when it is told."""

    def _load_model(self, model_file):
        return torch.load(model_file, weights_only=False).eval()

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)) -> None:
        super().calculate(atoms, ["energy", "forces"] + (["stress"] if atoms.pbc.all() else []), system_changes)


def calculator(job: Job):
    torch.set_num_threads(job.threads)
    neighbours = MatScipyNeighborList(cutoff=job.options["cutoff"])
    return Calculator(
        str(job.folder / "model.pt"), neighbours, stress_key="stress", energy_unit="eV", position_unit="Ang"
    )


main(train, calculator)
