"""Thermal conductivity from the temperature profiles of in.nemd: python conductivity.py PROFILE ..."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

W_PER_M_K = 1602.176634  # of 1 eV/(ps A K)


class Profile(NamedTuple):
    """Temperatures of the layers, block by block, and what the deck says of the run."""

    power: float  # eV/ps into the hot slab
    area: float  # A^2, across the heat
    length: float  # A, along it
    slab: float  # A, thickness of the hot and the cold slab, which begin at 0 and length / 2
    positions: np.ndarray  # (layers,) A, centres
    temperatures: np.ndarray  # (blocks, layers) K


def read_profile(path: Path) -> Profile:
    """The file that in.nemd writes. A block that was written twice, as by a run that was continued, counts once.

    Raises ValueError for a file without a complete block, or with blocks of runs with other settings.
    """
    lines = path.read_text().splitlines()
    if not lines or not lines[0].startswith("power="):
        raise ValueError(f"{path}: begins with {lines[:1]}, not with power=..., as in.nemd writes it")
    titles = {line for line in lines if line.startswith("power=")}
    if len(titles) > 1:
        listed = "; ".join(sorted(titles))
        raise ValueError(f"{path}: holds runs of {len(titles)} settings ({listed}): write a file for each")
    settings = dict(word.split("=") for word in lines[0].split(","))
    blocks: dict[int, np.ndarray] = {}
    rows = [line.split() for line in lines if line[:1].isspace() or line[:1].isdigit()]
    while rows:
        step, count = int(rows[0][0]), int(rows[0][1])
        if len(rows) > count:
            blocks[step] = np.array(rows[1 : 1 + count], float)
        rows = rows[1 + count :]
    if not blocks:
        raise ValueError(f"{path}: no complete block; run more steps, or take a smaller block")
    table = np.array([blocks[step] for step in sorted(blocks)])  # columns: layer, position, atoms, temperature
    filled = table[:, :, 2].min(axis=0) > 0
    return Profile(
        *(float(settings[name]) for name in ("power", "area", "length", "slab")),
        table[0, filled, 1],
        table[:, filled, 3],
    )


def gradients(profile: Profile, margin: float) -> np.ndarray:
    """Fall of the temperature from the hot to the cold slab in K/A, one value per block, both flanks in one fit.

    Layers in the slabs or within `margin` A of them are left out. Raises ValueError where too few are left.
    """
    half, x = profile.length / 2, profile.positions
    distance = np.where(x < half, x - profile.slab, profile.length - x)  # from the hot slab
    inside = (distance > margin) & (distance < half - profile.slab - margin)
    if inside.sum() < 4:
        raise ValueError(f"{inside.sum()} layers lie between the slabs: take a longer box or a smaller --margin")
    return -np.polyfit(distance[inside], profile.temperatures[:, inside].T, 1)[0]


def conductivity(profile: Profile, gradient: float) -> float:
    """W/mK; half of the power goes along each flank."""
    return W_PER_M_K * profile.power / (2.0 * profile.area * gradient)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profiles", nargs="+", type=Path, help="of runs that differ in their seed only")
    parser.add_argument("--skip", type=int, default=5, help="first blocks, before the state is steady")
    parser.add_argument("--margin", type=float, default=5.0, help="A left out beside the slabs")
    options = parser.parse_args()
    found = []
    for path in options.profiles:
        profile = read_profile(path)
        blocks = gradients(profile, options.margin)[options.skip :]
        if len(blocks) < 2:
            parser.error(f"{path}: {len(blocks)} blocks are left of {len(profile.temperatures)}: run on, or skip fewer")
        gradient, error = blocks.mean(), blocks.std(ddof=1) / np.sqrt(len(blocks))
        found.append(conductivity(profile, gradient))
        print(
            f"{path}: {len(blocks)} blocks, gradient {gradient:.3f} +- {error:.3f} K/A, "
            f"kappa {found[-1]:.3f} +- {found[-1] * error / gradient:.3f} W/mK"
        )
    if len(found) > 1:
        error = np.std(found, ddof=1) / np.sqrt(len(found))
        print(f"mean of {len(found)}: kappa {np.mean(found):.3f} +- {error:.3f} W/mK")


if __name__ == "__main__":
    main()
