"""Speed of SO3LR on boxes of water: bundles in turn, then the model in plain JAX.

Plain JAX comes last: it gives back gigabytes after each step, which slows whatever runs in its process.

python bench/so3lr.py [--atoms N ...] [--threads T] [--rounds R] BUNDLE ...: bundles of examples/models/so3lr.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "examples" / "models" / "so3lr"
SPACING = 3.104  # A, of water molecules at the density of the liquid


def water(atoms: int) -> Any:
    """A cubic box with at least so many atoms, molecules in all directions."""
    import numpy as np
    from ase import Atoms
    from ase.build import molecule

    random = np.random.default_rng(0)
    side = round((atoms / 3) ** (1 / 3))
    box = Atoms(cell=3 * [side * SPACING], pbc=True)
    for place in np.ndindex(side, side, side):
        part = molecule("H2O")
        part.rotate(random.uniform(0, 180), random.normal(size=3))
        part.translate(SPACING * np.array(place))
        box += part
    return box


def plain(atoms: Any) -> Callable[[], Any]:
    """Energy and forces by automatic differentiation in float32, lists made before."""
    import jax
    import numpy as np
    from so3krates.data.long_pairs import unordered_pairs
    from so3krates.data.neighbours import directed_pairs
    from so3krates.model.potential import LongPairs
    from so3krates.model.system_potential import Structure, predict_system
    from so3krates.storage import Model

    model = Model.load(FOLDER)
    i, j, shift = directed_pairs(atoms.positions, atoms.cell.array, atoms.pbc, model.config.cutoff)
    counts = np.bincount(i, minlength=len(atoms))
    slot = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    neighbours = np.zeros((len(atoms), counts.max()), np.int32)
    shifts, mask = np.zeros((*neighbours.shape, 3), np.float32), np.zeros(neighbours.shape, bool)
    neighbours[i, slot], shifts[i, slot], mask[i, slot] = j, shift, True
    reach = max(part.cutoff for part in model.interactions)
    ends, images = unordered_pairs(atoms.positions, atoms.cell.array, atoms.pbc, reach)
    index = {number: k for k, number in enumerate((1, 6, 7, 8, 9, 15, 16, 17))}
    single = jax.tree.map(lambda p: np.asarray(p, np.float32), model.params)
    pairs: dict[str, Any] = {
        "ends": ends.astype(np.int32),
        "shifts": images.astype(np.float32),
        "used": np.int32(ends.shape[1]),
    }
    arrays: dict[str, Any] = {
        "numbers": atoms.numbers.astype(np.int32),
        "species": np.array([index[number] for number in atoms.numbers], np.int32),
        "positions": atoms.positions.astype(np.float32),
        "cell": atoms.cell.array.astype(np.float32),
        "neighbours": neighbours,
        "shifts": shifts,
        "mask": mask,
        "atom_mask": np.ones(len(atoms), bool),
        "charge": np.float32(0),
        "unpaired": np.float32(0),
    }
    structure = Structure(long_pairs=LongPairs(**pairs), **arrays)
    structure, single = jax.device_put((structure, single))
    return lambda: predict_system(model.config, model.interactions, single, structure).forces.block_until_ready()


def bundled(path: str, atoms: Any, threads: int) -> Callable[[], Any]:
    """The same by a bundle; lists with a skin are kept, and atoms move a little."""
    import numpy as np
    from so3krates.runtime import Runtime

    runtime, moving, random = Runtime(path, threads=threads), atoms.copy(), np.random.default_rng(1)

    def step() -> Any:
        moving.positions += random.normal(0, 1e-4, moving.positions.shape)
        return runtime.evaluate(moving, ["energy", "forces"])

    return step


def main() -> None:
    """Prints medians of wall and processor time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--atoms", type=int, nargs="+", default=[1500, 3000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-plain", action="store_true")
    given = parser.parse_args()
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: given.threads]))
    import numpy as np

    for size in given.atoms:
        atoms = water(size)
        groups = [{path: bundled(path, atoms, given.threads) for path in given.bundles}]
        if not given.no_plain:
            groups.append({"plain JAX": plain(atoms)})
        times: dict[str, list[tuple[float, float]]] = {}
        for steps in groups:
            for name, step in steps.items():
                times[name] = []
                step()
            for _ in range(given.rounds):
                for name, step in steps.items():
                    wall, processor = time.perf_counter(), time.process_time()
                    step()
                    times[name].append((time.perf_counter() - wall, time.process_time() - processor))
        for name, found in times.items():
            wall, processor = np.median(found, axis=0)
            least = min(found)[0]
            print(
                f"{len(atoms)} atoms, {given.threads} threads, {name}: {1e6 * wall / len(atoms):.1f} us/atom "
                f"(least {1e6 * least / len(atoms):.1f}, processor {1e6 * processor / len(atoms):.1f}), "
                f"{len(atoms) / wall:.0f} atom-steps/s"
            )


if __name__ == "__main__":
    main()
