"""The original code's potential of GaN in tests/reference, as the folder that the original writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import flax.traverse_util
import numpy as np
import orbax.checkpoint as ocp
from ase.data import atomic_numbers

GAN = Path(__file__).resolve().parent / "reference" / "mlff_gan"  # weights, settings and results


def write_module(folder: Path) -> Path:
    """Write the model folder `folder` (new): settings, and weights as the original's checkpoints hold them."""
    shutil.copytree(GAN / "module", folder)
    shutil.copyfile(GAN / "inputs.json", folder.parent / "inputs.json")
    with np.load(GAN / "params.npz") as archive:
        params = flax.traverse_util.unflatten_dict({name: archive[name] for name in archive.files}, sep="/")
    # Adam's second moments tell which elements were trained.
    embedding = params["params"]["feature_embeddings_0"]["Embed_0"]["embedding"]
    trained = np.zeros_like(embedding)
    trained[[atomic_numbers["N"], atomic_numbers["Ga"]]] = 1e-4
    moments = {"params": {"feature_embeddings_0": {"Embed_0": {"embedding": trained}}}}
    state = {"valid_params": params, "opt_state": {"0": {"nu": moments}}, "step": 800}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder / "ckpt_799" / "state", state)
    return folder
