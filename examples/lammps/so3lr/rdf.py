"""The distribution of oxygen about oxygen, as in.npt or in.ion leave it: python rdf.py water.rdf -o water.png"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def read(path: Path) -> np.ndarray:
    """Distance (A), g, neighbours up to there of the last average, [bins, 3]."""
    lines = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    bins = int(lines[0][1])
    return np.array(lines[-bins:], float)[:, 1:4]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("water.png"))
    arguments = parser.parse_args()
    r, g, neighbours = read(arguments.file).T
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    left = figure.subplots()
    left.plot(r, g, label="g")
    left.set(xlabel="distance (Å)", ylabel="g", xlim=(2, r[-1]))
    right = left.twinx()
    right.plot(r, neighbours, "--", color="C1", label="neighbours")
    right.set(ylabel="neighbours up to there", ylim=(0, None))
    figure.legend(loc="outside upper center", ncols=2)
    figure.savefig(arguments.output, dpi=150)
    peak = int(g.argmax())
    after = peak + int(g[peak : peak + max(1, int(1.5 / (r[1] - r[0])))].argmin())
    print(f"highest {g[peak]:.2f} at {r[peak]:.2f} A, lowest after it {g[after]:.2f} at {r[after]:.2f} A")
    print(f"{neighbours[after]:.1f} neighbours up to there")


if __name__ == "__main__":
    main()
