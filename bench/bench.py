"""`make bench`: speed, memory and start-up of every body on this machine, against the plain formulation in JAX.

Each measurement is a process of its own, so that threads and memory are its own; they run one after the other. Writes
build/bench/bench.json and build/bench/bench.png and prints a table.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk

OUT = Path("build/bench")
SIZES = {864: (6, 6, 6), 4000: (10, 10, 10), 32000: (20, 20, 20), 256000: (40, 40, 40)}
BODIES = ("plain", "xla", "fused", "lammps")
LARGEST = {"plain": 4000, "xla": 4000}  # atoms: more do not fit or take minutes a step
SECONDS = 8.0  # of measuring
FEWEST, MOST = 5, 60  # steps


def structure(atoms: int) -> Atoms:
    """Wurtzite GaN with thermal displacements."""
    crystal = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat(SIZES[atoms])
    crystal.positions += np.random.default_rng(0).normal(0.0, 0.05, crystal.positions.shape)
    return crystal


def model():
    """The GaN preset with random parameters: speed does not depend on them."""
    import jax
    from so3krates.model import PRESETS, init_params
    from so3krates.storage import Model

    params = jax.tree.map(np.asarray, init_params(PRESETS["gan"], 0))
    return Model(PRESETS["gan"], params, ("Ga", "N"), {"Ga": 0.0, "N": 0.0})


def export_bundles() -> None:
    from so3krates_export.export import export_model

    for body in ("xla", "fused"):
        export_model(model(), OUT / f"{body}.so3k", body=body)


def timed(step) -> dict[str, float]:
    """Median and fastest time of a step, after warming up."""
    for _ in range(3):
        step()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < FEWEST or (len(times) < MOST and time.perf_counter() - begin < SECONDS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {"median": statistics.median(times), "fastest": min(times), "steps": len(times)}


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_plain(atoms: Atoms, threads: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    from matscipy.neighbours import neighbour_list
    from plain import Edges, energy_and_forces

    config, params = model().config, model().params
    i, j, shift = neighbour_list("ijS", atoms, config.cutoff)
    numbers = jnp.asarray(atoms.numbers, jnp.int32)
    edges = Edges(numbers, jnp.asarray(i), jnp.asarray(j), jnp.asarray(shift @ atoms.cell.array, jnp.float32))
    positions = jnp.asarray(atoms.positions, jnp.float32)
    start = time.perf_counter()
    compiled = jax.jit(lambda p, e, x: energy_and_forces(config, p, e, x)).lower(params, edges, positions).compile()
    startup = time.perf_counter() - start
    memory = compiled.memory_analysis().temp_size_in_bytes
    result = timed(lambda: jax.block_until_ready(compiled(params, edges, positions)))
    return result | {"startup_cold": startup, "bytes": memory}


def measure_bundle(atoms: Atoms, threads: int, body: str) -> dict[str, Any]:
    from so3krates.runtime import Runtime

    cache = OUT / "cache" / f"{body}-{threads}-{len(atoms)}"
    startups = []
    for _ in range(2):
        start = time.perf_counter()
        runtime = Runtime(OUT / f"{body}.so3k", threads=threads, cache=str(cache))
        runtime.evaluate(bulk("GaN", "wurtzite", a=3.19, c=5.19))
        startups.append(time.perf_counter() - start)
    before = resident_bytes()
    runtime.evaluate(atoms)
    memory = resident_bytes() - before
    result = timed(lambda: runtime.evaluate(atoms))
    return result | {"startup_cold": startups[0], "startup_cached": startups[1], "bytes": memory}


DECK = """
units metal
atom_style atomic
read_data data.lmp
mass 1 69.723
mass 2 14.007
pair_style so3krates threads {threads}
pair_coeff * * {bundle} Ga N
velocity all create 300 1
fix 1 all nve
thermo 1000
run 3
run {steps}
"""


def measure_lammps(atoms: Atoms, threads: int) -> dict[str, Any]:
    from so3krates.lammps.run import run_deck

    folder = OUT / "lammps"
    folder.mkdir(parents=True, exist_ok=True)
    atoms.write(folder / "data.lmp", format="lammps-data", specorder=["Ga", "N"])
    steps = max(10, min(200, int(20000 * SECONDS * threads / len(atoms) / 2)))
    start = time.perf_counter()
    log = run_deck(DECK.format(bundle=(OUT / "fused.so3k").resolve(), steps=steps, threads=threads), folder)
    total = time.perf_counter() - start
    loop = float(re.findall(r"Loop time of (\S+) on", log)[-1])
    memory = [float(m) for m in re.findall(r"Per MPI rank memory allocation .* = \S+ \| \S+ \| (\S+) Mbytes", log)]
    return {
        "median": loop / steps,
        "fastest": loop / steps,
        "steps": steps,
        "startup_cold": total - loop,
        "lammps_mb": memory[-1:],
    }


def measure_stages(atoms: Atoms, threads: int) -> dict[str, float]:
    """Share of each program of the fused body, from JAX's own runtime."""
    import jax
    import jax.numpy as jnp
    from so3krates.kernels import register_kernels
    from so3krates.model.reductions import tabulated
    from so3krates_export.fused import build_fused_plan, fused_weights
    from so3krates_export.plan import Call

    register_kernels()
    with jax.enable_x64(True):
        config, params = tabulated(model().config, model().params, 256)
        weights = {k: np.asarray(v, "float32") for k, v in fused_weights(config, params, [31, 7]).items()}
        plan = build_fused_plan(config, "float32", 2, threads=threads)
        inputs = host_arrays(atoms, config.cutoff + 0.5)
        sizes = {
            "rows": len(atoms),
            "atoms": len(inputs["positions"]),
            "candidates": inputs["candidates"].shape[1],
            "neighbours": 64,
        }
        arrays = {
            name: jnp.zeros([sizes.get(d, d) for d in array.shape], array.dtype) for name, array in plan.arrays.items()
        } | {name: jnp.asarray(value) for name, value in (weights | inputs).items()}
        programs = {
            c.program: jax.jit(plan.programs[c.program], donate_argnums=plan.donated(c))
            for c in plan.steps
            if isinstance(c, Call)
        }
        times: dict[str, list[float]] = {name: [] for name in programs}

        def step() -> None:
            spent = dict.fromkeys(programs, 0.0)
            for call in (c for c in plan.steps if isinstance(c, Call)):
                start = time.perf_counter()
                results = jax.block_until_ready(programs[call.program](*[arrays[n] for n in call.inputs]))
                spent[call.program] += time.perf_counter() - start
                arrays.update(zip(call.outputs, results, strict=True))
            for name, seconds in spent.items():
                times[name].append(seconds)

        timed(step)
    return {name: statistics.median(seconds[3:]) / len(atoms) for name, seconds in times.items()}


def host_arrays(atoms: Atoms, reach: float) -> dict[str, np.ndarray]:
    """The host's inputs of the stages, without padding."""
    from matscipy.neighbours import neighbour_list

    n = len(atoms)
    i, j, shift = neighbour_list("ijS", atoms, reach)
    is_image = shift.any(axis=1)
    images, entry = np.unique(np.column_stack([j[is_image], shift[is_image]]), axis=0, return_inverse=True)
    j[is_image] = n + entry.ravel()
    counts = np.bincount(i, minlength=n)
    candidates = np.zeros((n, counts.max()), np.int32)
    candidates[i, np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)] = j
    shifted = atoms.positions[images[:, 0]] + images[:, 1:] @ atoms.cell.array
    rows = np.arange(n, dtype=np.int32)
    return {
        "positions": np.concatenate([atoms.positions, shifted]),
        "row_of_atom": np.concatenate([rows, images[:, 0]]).astype(np.int32),
        "atom_of_row": rows,
        "species": (atoms.numbers == 7).astype(np.int32),
        "candidate_count": counts.astype(np.int32),
        "candidates": candidates,
        "owned_count": np.int32(n),
        "row_count": np.int32(n),
    }


def worker(body: str, atoms: int, threads: int) -> dict[str, Any]:
    crystal = structure(atoms)
    if body == "plain":
        return measure_plain(crystal, threads)
    if body == "lammps":
        return measure_lammps(crystal, threads)
    if body == "stages":
        return measure_stages(crystal, threads)
    return measure_bundle(crystal, threads, body)


def in_process(body: str, atoms: int, threads: int) -> dict[str, Any] | None:
    """One measurement; None where it fails, after its error has been shown."""
    environment = os.environ | {"NPROC": str(threads), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--worker", body, "--atoms", str(atoms), "--threads", str(threads)]
    if threads == 1:  # JAX has no setting for its threads
        command = ["taskset", "-c", "0", *command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{body}, {atoms} atoms, {threads} threads failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def table(results: list[dict[str, Any]]) -> str:
    """One line for each measurement; the ratio is to `plain` with the same threads at its largest common size."""
    titles = ("body", "atoms", "threads", "atom-steps/s", "us/atom", "vs plain", "kB/atom", "start, s")
    lines = ["{:8} {:>7} {:>7} {:>13} {:>8} {:>8} {:>8} {:>14}".format(*titles)]
    plain = {(r["atoms"], r["threads"]): r["atoms"] / r["median"] for r in results if r["body"] == "plain"}
    for r in results:
        speed = r["atoms"] / r["median"]
        known = [size for size, threads in plain if threads == r["threads"] and size <= r["atoms"]]
        ratio = f"{speed / plain[max(known), r['threads']]:.1f}" if known else ""
        memory = f"{r['bytes'] / r['atoms'] / 1000:.1f}" if "bytes" in r else ""
        start = f"{r['startup_cold']:.1f}" + (f" / {r['startup_cached']:.2f}" if "startup_cached" in r else "")
        lines.append(
            f"{r['body']:8} {r['atoms']:7} {r['threads']:7} {speed:13.0f} {1e6 / speed:8.2f} {ratio:>8} {memory:>8} "
            f"{start:>14}"
        )
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), constrained_layout=True)
    for body in BODIES:
        for threads in sorted({r["threads"] for r in results}):
            points = [
                (r["atoms"], 1e6 * r["median"] / r["atoms"])
                for r in results
                if (r["body"], r["threads"]) == (body, threads)
            ]
            if points:
                axes.loglog(*zip(*sorted(points), strict=True), "o-", label=f"{body}, {threads} threads")
    axes.set(xlabel="atoms", ylabel="time per atom and step (µs)")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atoms", type=int, nargs="*", default=[864, 4000, 32000])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--bodies", nargs="*", default=list(BODIES))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.worker, options.atoms[0], options.threads[0])))
        return
    OUT.mkdir(parents=True, exist_ok=True)
    export_bundles()
    results: list[dict[str, Any]] = []
    for threads in options.threads:
        for atoms in options.atoms:
            for body in options.bodies:
                if atoms <= LARGEST.get(body, max(SIZES)):
                    found = in_process(body, atoms, threads)
                    if found is not None:
                        results.append({"body": body, "atoms": atoms, "threads": threads, **found})
                        print(table(results[-1:]).splitlines()[1], flush=True)
    stages = in_process("stages", min(options.atoms), max(options.threads)) if "fused" in options.bodies else None
    (OUT / "bench.json").write_text(json.dumps({"results": results, "stages": stages}, indent=1))
    plot(results, OUT / "bench.png")
    print(table(results))
    for name, seconds in (stages or {}).items():
        print(f"  {name:20} {1e6 * seconds:7.3f} us/atom {seconds / sum(stages.values()):6.1%}")


if __name__ == "__main__":
    main()
