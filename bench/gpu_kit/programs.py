"""Programs without LAMMPS: compiled ahead, timed one by one, and the ceilings that they are held against."""

from __future__ import annotations

import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .cell import copies_of, read_cell
from .first import Pieces, device
from .harness import Buffer, BundleFile, Device, Program, seconds_of
from .process import CommandError, run_command
from .sizes import COPIES, GROWTH, MATRIX, PORTABLE, PROFILE, SPEED, VECTOR, Context

TRANSFER = {"cuda": 2**28, "cpu": 2**20}  # bytes
REPEATS = 7  # of a schedule, of which the first two are not counted


def wanted(context: Context) -> list[tuple[str, int]]:
    """Bundles and rungs that later phases run, small ones first."""
    first = context.networks()[0]
    atoms = len(read_cell(context, first)["numbers"])
    sizes = {first: {*SPEED[context.platform], *(k**3 * atoms for k in COPIES[context.platform])}}
    if context.platform == "cuda":
        sizes[first] |= set(GROWTH)
    sizes[f"{first}-xla"] = set(PORTABLE[context.platform])
    found: set[tuple[int, str, int]] = set()
    for name, counts in sizes.items():
        bundle = BundleFile(context.bundle(name))
        for count in counts:
            rung = bundle.rung_for(count)
            found.add((bundle.manifest["ladder"][rung]["rows"], name, rung))
    return [(name, rung) for _, name, rung in sorted(found)]


def compile(context: Context) -> Pieces:
    """Seconds that each rung's programs take, several rungs at a time; what fails here fails again where it is used."""
    workers = max(1, min(8, context.cores // 2))
    jobs = wanted(context)

    def job(name: str, rung: int) -> dict[str, Any]:
        command = [sys.executable, "-m", "gpu_kit.programs", context.to_json(), name, str(rung)]
        try:
            done = run_command(command, context.left, context.environment())
        except CommandError as error:
            return {"bundle": name, "rung": rung, "problem": str(error)}
        return json.loads(done.output.splitlines()[-1])

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        for found in pool.map(lambda pair: job(*pair), jobs):
            problem = [f"{found['bundle']}, rung {found['rung']}: {found['problem']}"] if "problem" in found else []
            yield {"rungs": [found], "failures": problem}
    yield {"workers": workers, "wall_seconds": round(time.perf_counter() - start, 1)}


def compile_rung(context: Context, name: str, rung: int) -> dict[str, Any]:
    """Every program of the schedules that a run takes, compiled into the cache."""
    bundle, opened = BundleFile(context.bundle(name)), device(context)
    schedules = [bundle.manifest["schedules"][key] for key in ("forces", "virials")]
    names = list(dict.fromkeys(step["run"] for schedule in schedules for step in schedule if "run" in step))
    seconds, scratch = {}, {}
    for program in names:
        start = time.perf_counter()
        made = opened.compile(bundle.artifact(program, rung), program, str(context.cache))
        seconds[program] = round(time.perf_counter() - start, 2)
        scratch[program] = made.scratch_bytes
    rows = bundle.manifest["ladder"][rung]["rows"]
    return {"bundle": name, "rung": rung, "rows": rows, "seconds": seconds, "scratch_bytes": max(scratch.values())}


def ceilings(context: Context) -> Pieces:
    """Bytes/s of a copy and of transfers, operations/s of matrix products on random numbers."""
    opened, random = device(context), np.random.default_rng(0)

    def artifact(name: str) -> Program:
        path = context.kit / f"references/{name}-{context.platform}.artifact"
        return opened.compile(path.read_bytes(), name, str(context.cache))

    def fastest(program: Program, arguments: list[Buffer]) -> float:
        return seconds_of(lambda: program.run(arguments)[0].wait())[0]

    count, n = VECTOR[context.platform], MATRIX[context.platform]
    vector = opened.upload(random.random(count, np.float32))
    yield {"copy_bytes_per_second": 8 * count / fastest(artifact("copy"), [vector])}
    del vector
    factors = [opened.upload(random.random((n, n), np.float32) - 0.5) for _ in range(2)]
    yield {"float32_flops": 2 * n**3 / fastest(artifact("product"), factors)}
    yield {"tf32_flops": 2 * n**3 / fastest(artifact("product_tf32"), factors)}
    bytes_sent = random.integers(0, 255, TRANSFER[context.platform], np.uint8)
    yield {"upload_bytes_per_second": bytes_sent.nbytes / seconds_of(lambda: opened.upload(bytes_sent).wait())[0]}
    sent = opened.upload(bytes_sent)
    down = seconds_of(lambda: sent.download("uint8", bytes_sent.shape))[0]
    yield {"download_bytes_per_second": bytes_sent.nbytes / down}


def profile(context: Context) -> Pieces:
    """Milliseconds of each program of a schedule, awaited one by one, and the rates that its bytes make."""
    network = context.networks()[0]
    arrays, k = read_cell(context, network), PROFILE[context.platform]
    elements = context.description()["networks"][network]["elements"]
    lists, positions = copies_of(arrays, elements, k)
    for bundle_name, name in ((network, "forces"), (network, "virials"), (f"{network}-xla", "forces")):
        bundle, opened = BundleFile(context.bundle(bundle_name)), device(context)
        found = run_schedule(context, opened, bundle, name, lists, positions)
        yield {"schedules": {f"{bundle_name} {name}": found}}


def run_schedule(
    context: Context,
    opened: Device,
    bundle: BundleFile,
    name: str,
    lists: dict[str, np.ndarray],
    positions: np.ndarray,
) -> dict[str, Any]:
    """Median times of a schedule's programs, and the bytes of their arguments and results at actual rows."""
    manifest, rows = bundle.manifest, len(lists["candidate_count"])
    rung = bundle.rung_for(rows)
    sizes = manifest["ladder"][rung]
    inputs = host_inputs(lists, positions, sizes)
    held: dict[str, Buffer] = {}

    def shape(array: str) -> list[int]:
        return [int(sizes.get(d, d)) for d in manifest["buffers"][array]["shape"]]

    def held_array(array: str) -> Buffer:
        if array not in held:
            if array.startswith("weights/"):
                held[array] = opened.upload(bundle.tensor(array))
            elif array in inputs:
                held[array] = opened.upload(inputs[array])
            else:
                held[array] = opened.allocate(manifest["buffers"][array]["dtype"], shape(array))
        return held[array]

    steps = [step for step in manifest["schedules"][name] if "run" in step]
    names = dict.fromkeys(step["run"] for step in steps)
    programs = {n: opened.compile(bundle.artifact(n, rung), n, str(context.cache)) for n in names}
    times: list[dict[str, float]] = []
    for _ in range(REPEATS if context.platform == "cuda" else 3):
        spent = dict.fromkeys(programs, 0.0)
        for step in steps:
            arguments = [held_array(array) for array in step["inputs"]]
            for buffer in arguments:
                buffer.wait()
            start = time.perf_counter()
            results = programs[step["run"]].run(arguments)
            for buffer in results:
                buffer.wait()
            spent[step["run"]] += time.perf_counter() - start
            held.update(zip(step["outputs"], results, strict=True))
        times.append(spent)

    def nbytes(array: str) -> float:
        if array.startswith("weights/"):
            return 0.0
        spec = manifest["buffers"][array]
        actual = [rows if d == "rows" else int(sizes.get(d, d)) for d in spec["shape"]]
        return float(np.prod(actual, dtype=float)) * np.dtype(spec["dtype"]).itemsize

    found: dict[str, Any] = {"rows": rows, "capacity": sizes["rows"], "ms": {}, "calls": {}, "least_bytes": {}}
    for program in programs:
        calls = [step for step in steps if step["run"] == program]
        found["ms"][program] = 1e3 * statistics.median(spent[program] for spent in times[2:] or times)
        found["calls"][program] = len(calls)
        found["least_bytes"][program] = sum(nbytes(a) for s in calls for a in {*s["inputs"], *s["outputs"]})
    return found


def host_inputs(lists: dict[str, np.ndarray], positions: np.ndarray, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """The evaluator's inputs at a rung's capacities."""
    rows, counts = len(lists["candidate_count"]), lists["candidate_count"]
    candidates = np.zeros((sizes["rows"], sizes["candidates"]), np.int32)
    candidates[:rows][np.arange(sizes["candidates"]) < counts[:, None]] = lists["flat_candidates"]

    def padded(array: np.ndarray, size: str) -> np.ndarray:
        room = np.zeros((sizes[size], *array.shape[1:]), array.dtype)
        room[: len(array)] = array
        return room

    return {
        "positions": padded(positions, "atoms"),
        "row_of_atom": padded(lists["row_of_atom"], "atoms"),
        "atom_of_row": padded(lists["atom_of_row"], "rows"),
        "species": padded(lists["species"], "rows"),
        "candidate_count": padded(counts.astype(np.int32), "rows"),
        "candidates": candidates,
        "owned_count": np.array(rows, np.int32),
        "row_count": np.array(rows, np.int32),
        "atom_count": np.array(len(positions), np.int32),
    }


if __name__ == "__main__":
    print(json.dumps(compile_rung(Context.from_json(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
