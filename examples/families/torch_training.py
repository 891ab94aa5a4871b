"""Training of networks in PyTorch until a budget is spent: one loop for all families that are written with it."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from protocol import Job

WEIGHTS = {"energy": 0.1, "forces": 0.8, "stress": 0.1}  # of squares, each over the labels' variance
WARM_UP = 0.02  # share of the budget in which the learning rate rises
CLIP = 10.0  # of the gradient's norm
KEEP = 0.99  # of the averaged weights, from step to step
RESERVE = 0.05  # of the budget, for what comes after
VALIDATION = 0.1  # share of the time


class Answer(NamedTuple):
    """Of a batch; stress may be None."""

    energy: torch.Tensor  # (frames,) eV
    forces: torch.Tensor  # (atoms, 3) eV/A
    stress: torch.Tensor | None  # (frames, 3, 3) eV/A^3


class _Labels:
    def __init__(self, frames: Sequence[Atoms]) -> None:
        self.atoms = torch.tensor([len(atoms) for atoms in frames])
        self.energy = torch.tensor([atoms.get_potential_energy() for atoms in frames])
        self.forces = [torch.tensor(atoms.get_forces()) for atoms in frames]
        known = all("stress" in atoms.calc.results for atoms in frames)
        self.stress = torch.tensor(np.array([a.get_stress(voigt=False) for a in frames])) if known else None


def fit(
    network: torch.nn.Module,
    predict: Callable[[list[Any]], Answer],
    samples: tuple[list[Any], list[Any]],
    job: Job,
    rate: float,
    batch: int = 4,
) -> None:
    """Trains `network` until the budget is spent; it ends with the averaged weights that were best on validation.

    predict: its answer for a list of samples, one for each frame of the job's training and validation frames.
    AdamW, a rate that rises and falls as a cosine of the time that is spent.
    """
    torch.manual_seed(job.seed)
    random.seed(job.seed)
    train, valid = _Labels(job.train), _Labels(job.valid)
    scale = {
        "energy": (train.energy / train.atoms).var().clamp_min(1e-8),
        "forces": torch.cat(train.forces).square().mean(),
        "stress": None if train.stress is None else train.stress.var(),
    }

    def loss(labels: _Labels, own: list[Any], places: Sequence[int]) -> torch.Tensor:
        answer = predict([own[k] for k in places])
        found = (answer.energy.flatten() - labels.energy[places]) / labels.atoms[places]
        total = WEIGHTS["energy"] * found.square().mean() / scale["energy"]
        wanted = torch.cat([labels.forces[k] for k in places])
        total = total + WEIGHTS["forces"] * (answer.forces - wanted).square().mean() / scale["forces"]
        if answer.stress is not None and labels.stress is not None:
            found = answer.stress.reshape(-1, 3, 3) - labels.stress[places]
            total = total + WEIGHTS["stress"] * found.square().mean() / scale["stress"]
        return total

    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=1e-6, amsgrad=True)
    average, best, steps, spent = copy.deepcopy(network.state_dict()), (math.inf, None), 0, 0.0
    begin, until = job.used, job.budget * (1 - RESERVE)
    order: list[int] = []
    while job.used < until:
        if len(order) < batch:
            order = random.sample(range(len(samples[0])), len(samples[0]))
        places, order = order[:batch], order[batch:]
        part = (job.used - begin) / (until - begin)
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, part / WARM_UP + 0.05) * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))
        network.train()
        optimiser.zero_grad(set_to_none=True)
        loss(train, samples[0], places).backward()
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        optimiser.step()
        steps += 1
        keep = min(KEEP, steps / (steps + 10))
        for name, value in network.state_dict().items():
            average[name] = keep * average[name] + (1 - keep) * value if value.is_floating_point() else value.clone()
        if spent <= VALIDATION * (job.used - begin) or job.used >= until:
            before, kept = job.used, copy.deepcopy(network.state_dict())
            network.load_state_dict(average)
            network.eval()
            found = sum(float(loss(valid, samples[1], [k]).detach()) for k in range(len(samples[1])))
            spent += job.used - before
            if found < best[0]:
                best = (found, copy.deepcopy(average))
            network.load_state_dict(kept)
            print(f"{time.strftime('%X')} step {steps}, {job.used:.0f} s, validation {found:.4g}", flush=True)
    if best[1] is not None:
        network.load_state_dict(best[1])
    network.eval()
