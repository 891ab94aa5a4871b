"""The reference cell through the evaluator: energy, forces, strain gradient, per-atom virials of every bundle."""

from __future__ import annotations

import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .first import Pieces, library
from .harness import Evaluator
from .process import CommandError, run_command
from .sizes import COPIES, Context

TOLERANCE = {"float32": 2e-5, "float64": 1e-9}  # of the largest force or total, or eV/atom
VIRIAL = 5.0  # times as much: moments of forces, summed
PORTABLE = 3.0  # times as much in float32: XLA's sums of the portable body, 3.1e-5 on a CPU
SIGNAL = 1e-4  # eV/A, the least that the largest force must be
COLD = "cold"  # bundle whose programs are compiled twice, by two processes


def numbers_of(elements: list[str]) -> dict[int, int]:
    """Species index of an atomic number."""
    return {{"Ga": 31, "N": 7}[element]: k for k, element in enumerate(elements)}


def lists_of(cell: dict[str, np.ndarray], elements: list[str]) -> dict[str, np.ndarray]:
    """The evaluator's integer inputs for the reference cell."""
    species = numbers_of(elements)
    names = ("row_of_atom", "atom_of_row", "candidate_count", "candidates")
    return {n: cell[n] for n in names} | {"species": np.array([species[int(n)] for n in cell["numbers"]], np.int32)}


def read_cell(context: Context, network: str) -> dict[str, np.ndarray]:
    """The reference cell and what is expected of it."""
    with np.load(context.kit / f"references/{network}.npz") as arrays:
        return dict(arrays)


def _number(places: np.ndarray, width: int) -> np.ndarray:
    """Of cells at whole-numbered places (..., 3), with `width` along each axis."""
    return (places[..., 0] * width + places[..., 1]) * width + places[..., 2]


def copies_of(cell: dict[str, np.ndarray], elements: list[str], k: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Lists and positions of k x k x k copies of the cell, periodic as a whole."""
    base = lists_of(cell, elements)
    atoms, rows = len(cell["numbers"]), base["row_of_atom"].astype(np.int64)
    vectors, positions = cell["cell"], cell["positions"]
    # Which cell the atom of an entry lies in, seen from the cell whose list it is in.
    shift = np.rint((positions - positions[rows]) @ np.linalg.inv(vectors)).astype(np.int64)
    filled = np.arange(base["candidates"].shape[1]) < base["candidate_count"][:, None]
    entries = base["candidates"][filled].astype(np.int64)
    entry_row, entry_shift = rows[entries], shift[entries]
    places = np.stack(np.meshgrid(*[np.arange(k)] * 3, indexing="ij"), -1).reshape(-1, 3)
    reach = int(np.abs(shift).max(initial=0))
    width = k + 2 * reach  # cells along an axis with those of images
    keys_of_cells = []
    table = np.empty((len(places), len(entries)), np.int64)
    for number, place in enumerate(places):
        target = place + entry_shift
        inside = ((target >= 0) & (target < k)).all(axis=1)
        key = _number(target + reach, width) * atoms + entry_row
        table[number] = np.where(inside, _number(target, k) * atoms + entry_row, -1 - key)
        keys_of_cells.append(np.unique(key[~inside]))
    keys = np.unique(np.concatenate(keys_of_cells))
    outside = table < 0
    table[outside] = len(places) * atoms + np.searchsorted(keys, -1 - table[outside])
    image_row, image_cell = keys % atoms, keys // atoms
    image_place = np.stack([image_cell // width**2, image_cell // width % width, image_cell % width], -1) - reach
    owner = _number(image_place % k, k) * atoms + image_row
    own = positions[:atoms]
    lists = {
        "row_of_atom": np.concatenate([np.arange(len(places) * atoms), owner]).astype(np.int32),
        "atom_of_row": np.arange(len(places) * atoms, dtype=np.int32),
        "species": np.tile(base["species"], len(places)),
        "candidate_count": np.tile(base["candidate_count"], len(places)),
        "flat_candidates": table.astype(np.int32).ravel(),
    }
    all_positions = (places @ vectors)[:, None] + own
    return lists, np.concatenate([all_positions.reshape(-1, 3), image_place @ vectors + own[image_row]])


def open_bundle(context: Context, name: str, cache: str) -> Evaluator:
    """A bundle on the kit's device."""
    return Evaluator(library(context), context.bundle(name), context.device, context.plugin, cache, context.memory)


def cell(context: Context) -> Pieces:
    """Every bundle, several processes at a time, and two cold starts of the first one."""
    names = [path.stem for path in sorted((context.kit / "bundles" / context.platform).glob("*.so3k"))]
    first = context.networks()[0]
    names.sort(key=lambda name: not name.startswith(first))
    jobs = [(name, "warm") for name in names] + [(first, COLD), (first, COLD)]
    workers = max(1, min(6, context.cores // 2))
    digests = []
    with ThreadPoolExecutor(workers) as pool:
        for (name, mode), found in zip(jobs, pool.map(lambda job: _in_process(context, *job), jobs), strict=True):
            if "failures" in found and "errors" not in found:
                yield found
            elif mode == COLD:
                digests.append(found["digest"])
            else:
                yield {"bundles": {name: {k: v for k, v in found.items() if k != "failures"}}} | {
                    "failures": found["failures"]
                }
    if len(digests) == 2:
        # Where XLA chooses kernels by timing them, two starts may differ: said, and no failure.
        yield {"equal_after_two_cold_starts": digests[0] == digests[1]}


def _in_process(context: Context, name: str, mode: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "gpu_kit.cell", context.to_json(), name, mode]
    try:
        done = run_command(command, context.left, context.environment())
    except CommandError as error:
        return {"failures": [f"{name}: {error}"]}
    return json.loads(done.output.splitlines()[-1])


def evaluate(context: Context, name: str, mode: str) -> dict[str, Any]:
    """Errors of one bundle, in units of the largest value; whether a second evaluation is equal to the bit."""
    network = name.removesuffix("-xla").removesuffix("64")
    precision = "float64" if "64" in name else "float32"
    arrays, elements = read_cell(context, network), context.description()["networks"][network]["elements"]
    cache = "off" if mode == COLD else str(context.cache)
    evaluator = open_bundle(context, name, cache)
    evaluator.set_lists(lists_of(arrays, elements))
    found = evaluator.evaluate(arrays["positions"], ["atom_virials"])
    plain, again = (evaluator.evaluate(arrays["positions"]) for _ in range(2))
    digest = hashlib.sha256(plain["forces"].tobytes() + plain["energy"].tobytes()).hexdigest()
    if mode == COLD:
        return {"digest": digest, "errors": {}}
    atoms, largest = len(arrays["numbers"]), float(np.abs(arrays["expected_forces"]).max())
    gradient = 0.5 * (found["strain_gradient"] + found["strain_gradient"].T)
    errors = {
        "energy": abs(found["energy"] - arrays["expected_energy"]) / atoms,
        "forces": np.abs(plain["forces"] - arrays["expected_forces"]).max() / largest,
        "forces_with_virials": np.abs(found["forces"] - arrays["expected_forces"]).max() / largest,
        "strain_gradient": np.abs(gradient + arrays["expected_virial"]).max() / np.abs(arrays["expected_virial"]).max(),
        "atom_virials": np.abs(found["atom_virials"] - arrays["expected_atom_virials"]).max()
        / np.abs(arrays["expected_atom_virials"]).max(),
    }
    errors = {key: float(error) for key, error in errors.items()}
    tolerance = TOLERANCE[precision] * (PORTABLE if name.endswith("-xla") and precision == "float32" else 1.0)
    failures = [
        f"{name}: {key} differs by {error:.1e} of the largest value"
        for key, error in errors.items()
        if not error < tolerance * (VIRIAL if key == "atom_virials" else 1.0)
    ]
    if largest < SIGNAL:
        failures.append(f"{name}: the largest force is {largest:.1e} eV/A, too small to compare")
    same = all(np.array_equal(plain[key], again[key]) for key in plain)
    if not same:
        failures.append(f"{name}: two evaluations differ")
    report = evaluator.report()
    return {
        "errors": errors,
        "largest_force": largest,
        "equal_to_the_bit": same,
        "compile_seconds": round(float(report["compile_seconds"]), 2),
        "note": report["body_note"],
        "failures": failures,
    }


def copies(context: Context) -> Pieces:
    """Forces of many copies of the cell, all equal to those of the cell: arrays beyond 2^31 elements."""
    network = context.networks()[0]
    elements = context.description()["networks"][network]["elements"]
    arrays = read_cell(context, network)
    expected, atoms = arrays["expected_forces"], len(arrays["numbers"])
    for k in COPIES[context.platform]:
        lists, positions = copies_of(arrays, elements, k)
        evaluator = open_bundle(context, network, str(context.cache))
        evaluator.set_lists(lists)
        forces = evaluator.evaluate(positions)["forces"].reshape(-1, atoms, 3)
        error = float(np.abs(forces - expected).max() / np.abs(expected).max())
        wrong = int((np.abs(forces - expected).max(axis=(1, 2)) > TOLERANCE["float32"] * np.abs(expected).max()).sum())
        failures = [f"{wrong} of {k**3} copies of the cell have other forces, by up to {error:.1e}"] if wrong else []
        yield {"sizes": [{"atoms": k**3 * atoms, "error": error}], "failures": failures}
        del evaluator


if __name__ == "__main__":
    print(json.dumps(evaluate(Context.from_json(sys.argv[1]), *sys.argv[2:4])))
