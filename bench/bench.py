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
import resource
import shutil
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
SHIPPED = Path(__file__).parent.parent / "examples" / "models" / "gan-pbesol.so3k"  # of the same network settings
SIZES = {864: (6, 6, 6), 4000: (10, 10, 10), 32000: (20, 20, 20), 256000: (40, 40, 40)}
BODIES = ("plain", "xla", "fused", "lammps")
LARGEST = {"plain": 4000, "xla": 864}  # atoms: more do not fit or take minutes
LARGEST_ONE_THREAD = 32000  # atoms
SECONDS = 8.0  # of measuring
WARM_UP = 1.0  # s
FEWEST, MOST = 3, 60  # steps


def structure(atoms: int) -> Atoms:
    """Wurtzite GaN with thermal displacements."""
    crystal = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat(SIZES[atoms])
    crystal.positions += np.random.default_rng(0).normal(0.0, 0.05, crystal.positions.shape)
    return crystal


def model():
    """The GaN preset with random parameters."""
    import jax
    from so3krates.model import PRESETS, init_params
    from so3krates.storage import Model

    params = jax.tree.map(np.asarray, init_params(PRESETS["gan"], 0))
    return Model(PRESETS["gan"], params, ("Ga", "N"), {"Ga": 0.0, "N": 0.0})


def make_bundles() -> None:
    """The shipped potential for the fused kernels: they are faster where filters have a low rank, as random ones do."""
    from so3krates_export.export import export_model

    export_model(model(), OUT / "xla.so3k", body="xla")
    shutil.copy(SHIPPED, OUT / "fused.so3k")


def timed(step) -> dict[str, float]:
    """Median and fastest time of a step, after warming up."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < WARM_UP:
        step()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < FEWEST or (len(times) < MOST and time.perf_counter() - begin < SECONDS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {"median": statistics.median(times), "fastest": min(times), "steps": len(times)}


def filter_flops(atoms: Atoms) -> float:
    """Floating-point operations per atom and step in the products with the degree filters' matrices.

    A pair has three of them in every layer but the first: forward, again in the adjoint, and transposed.
    """
    from matscipy.neighbours import neighbour_list

    config = model().config
    pairs = len(neighbour_list("i", atoms, config.cutoff)) / 2 / len(atoms)
    hidden, out = config.spherical_filter_features
    return (config.layers - 1) * pairs * 3 * 2 * (2 * hidden * out)


def measure_peak(threads: int) -> dict[str, float]:
    """Floating-point operations per second of a large float32 matrix product."""
    import jax
    import jax.numpy as jnp

    n = 2048
    a = jnp.ones((n, n), jnp.float32)
    product = jax.jit(jnp.matmul)
    seconds = timed(lambda: jax.block_until_ready(product(a, a)))["median"]
    return {"flops": 2 * n**3 / seconds}


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


def measure_training(threads: int) -> dict[str, Any]:
    """A step of the trainer on one frame of 360 atoms, and the gradient of the plain formulation for the same frame."""
    import jax
    import jax.numpy as jnp
    from matscipy.neighbours import neighbour_list
    from plain import Edges, loss_gradient
    from so3krates.data import Buckets, Labels, collate, frame_graphs, with_labels
    from so3krates.training import TrainingConfig
    from so3krates.training.loss import variance_scales
    from so3krates.training.pair_potential import radial_points
    from so3krates.training.step import initial_state, make_step

    config, params = model().config, model().params
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat((6, 5, 3))
    random = np.random.default_rng(0)
    atoms.positions += random.normal(0.0, 0.05, atoms.positions.shape)
    labels = Labels(random.normal(), random.normal(size=(len(atoms), 3)), np.eye(3))
    graphs = frame_graphs([with_labels(atoms, labels)], config.cutoff, {"Ga": 0.0, "N": 0.0})
    batch = jax.tree.map(jnp.asarray, collate(graphs, Buckets(graphs, 1).shape([0])))
    scales = jax.tree.map(jnp.asarray, variance_scales(graphs))
    i, j, shift = neighbour_list("ijS", atoms, config.cutoff)
    edges = Edges(batch[0].species, jnp.asarray(i), jnp.asarray(j), jnp.asarray(shift @ atoms.cell.array, jnp.float32))
    targets = tuple(jnp.asarray(x, jnp.float32) for x in labels)
    plain = jax.jit(lambda p, e, x, y: loss_gradient(config, p, e, x, y))
    state = initial_state(TrainingConfig(), params)
    step = make_step(config, TrainingConfig(), radial_points(config, 1.6))

    def train() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(step(state, *batch, scales, 1000))

    found = {"median": timed(train)["median"]}
    positions = jnp.asarray(atoms.positions, jnp.float32)
    found["plain"] = timed(lambda: jax.block_until_ready(plain(params, edges, positions, targets)))["median"]
    return found | {"atoms": len(atoms)}


def measure_bundle(atoms: Atoms, threads: int, body: str) -> dict[str, Any]:
    from so3krates.outputs import STANDARD
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
    if body == "fused":
        result["with_virials"] = timed(lambda: runtime.evaluate(atoms, [*STANDARD, "atom_virials"]))["median"]
    return result | {"startup_cold": startups[0], "startup_cached": startups[1], "bytes": memory}


DECK = """
units metal
atom_style atomic
read_data data.lmp
mass 1 69.723
mass 2 14.007
pair_style so3krates threads {threads} cache off verbose yes
pair_coeff * * "{bundle}" Ga N
neighbor 0.5 bin
velocity all create 300 1
fix 1 all nve
thermo 1000
run 3
run {steps}
run {steps}
run {steps}
neigh_modify every 1 delay 0 check no
run {steps}
"""


def measure_lammps(atoms: Atoms, threads: int, ranks: int = 1) -> dict[str, Any]:
    """Molecular dynamics with `threads` per rank; the last run makes neighbour lists anew at every step."""
    from so3krates.lammps.run import run_deck

    folder = OUT / "lammps"
    folder.mkdir(parents=True, exist_ok=True)
    atoms.write(folder / "data.lmp", format="lammps-data", specorder=["Ga", "N"])
    steps = max(3, min(100, int(10000 * SECONDS * threads * ranks / len(atoms) / 3)))
    start = time.perf_counter()
    deck = DECK.format(bundle=(OUT / "fused.so3k").resolve(), steps=steps, threads=threads)
    log = run_deck(deck, folder, ranks=ranks)
    total = time.perf_counter() - start
    _, *loops, rebuilding = [float(t) / steps for t in re.findall(r"Loop time of (\S+) on", log)]
    halo = re.findall(r"programs (\S+) s, exchange of rows (\S+) s \((\S+) MiB\)", log)[-1]
    evaluations = steps + 1  # one comes before the first step
    others = sum(int(n) for n in re.findall(r"atoms, (\d+) rows of other ranks", log)[-1:])
    return {
        "median": statistics.median(loops),
        "fastest": min(loops),
        "steps": 3 * steps,
        "startup_cold": total - steps * (sum(loops) + rebuilding),
        "rebuild": rebuilding / statistics.median(loops) - 1.0,
        "bytes": 1024.0 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * ranks,
        "halo_rows": others,
        "halo_bytes_per_row": float(halo[2]) * 1024**2 / (evaluations * others) if others else 0.0,
        "halo_share": float(halo[1]) / (float(halo[0]) + float(halo[1])),
    }


def measure_stages(atoms: Atoms, threads: int) -> dict[str, float]:
    """Share of each program of the fused body, from JAX's own runtime."""
    import jax
    import jax.numpy as jnp
    from so3krates.kernels import register_kernels
    from so3krates.model.reductions import tabulated
    from so3krates_export.fused import fused_weights
    from so3krates_export.fused_body import FusedBody
    from so3krates_export.plan import Call, build_plan

    register_kernels()
    with jax.enable_x64(True):
        config, params = tabulated(model().config, model().params, 256)
        full_rank = config.spherical_filter_features[0]
        weights = {k: np.asarray(v, "float32") for k, v in fused_weights(config, params, [31, 7], full_rank).items()}
        plan = build_plan(FusedBody(config, "float32", 2, threads=threads), config.layers)
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
    return {name: statistics.median(seconds[2:]) / len(atoms) for name, seconds in times.items()}


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
        "atom_count": np.int32(n + len(images)),
    }


def measure_scaling(stages: dict[str, float]) -> str:
    """A table of what threads could gain at most, on any machine."""
    import jax
    import scaling
    from so3krates.kernels import register_kernels
    from so3krates.model.reductions import tabulated_config

    register_kernels()
    times = {name: seconds for name, seconds in stages.items() if name != "filter_flops"}
    bounds = {}
    with jax.enable_x64(True):
        config = tabulated_config(model().config, 256, 0.5)
        for atoms in scaling.ATOMS:
            inputs = host_arrays(scaling.crystal(atoms), config.cutoff + 0.5)
            for threads in scaling.THREADS:
                bounds[atoms, threads] = scaling.pair_bound(config, inputs, threads)
    parts = scaling.parts(OUT / "fused.so3k", times, structure(32000))
    return scaling.table(parts, bounds)


def worker(body: str, atoms: int, threads: int) -> dict[str, Any]:
    crystal = structure(atoms)
    if body == "plain":
        return measure_plain(crystal, threads)
    if body == "lammps":
        return measure_lammps(crystal, threads)
    if body == "ranks":
        return measure_lammps(crystal, 1, ranks=threads)
    if body == "stages":
        return measure_stages(crystal, threads) | {"filter_flops": filter_flops(crystal)}
    if body == "peak":
        return measure_peak(threads)
    if body == "training":
        return measure_training(threads)
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


def details(results: list[dict[str, Any]]) -> str:
    """Costs of lists, of the exchange between ranks and of per-atom virials."""
    speeds = {(r["body"], r["atoms"], r["threads"]): r["atoms"] / r["median"] for r in results}
    lines = []
    for r in results:
        key = (r["atoms"], r["threads"])
        name = f"{r['atoms']} atoms, {r['threads']} " + ("ranks" if r["body"] == "ranks" else "threads")
        if r["body"] == "lammps":
            lines.append(f"{name}: new lists at every step cost {r['rebuild']:.1%} of a step")
        if r["body"] == "fused":
            lines.append(f"{name}: per-atom virials cost {r['with_virials'] / r['median']:.2f} times a step without")
        if r["body"] == "ranks" and ("lammps", *key) in speeds:
            ratio = speeds["ranks", *key] / speeds["lammps", *key]
            lines.append(
                f"{name} run at {ratio:.2f} times the speed of one rank with as many threads: rank 0 has "
                f"{r['halo_rows']} rows of others, {r['halo_bytes_per_row']:.0f} bytes for each and step, "
                f"{r['halo_share']:.1%} of its time"
            )
    largest = sorted((r["atoms"], r["bytes"]) for r in results if r["body"] == "lammps")
    if largest and largest[-1][0] > largest[0][0]:
        (few, small), (many, large) = largest[0], largest[-1]
        lines.append(f"LAMMPS takes {(large - small) / (many - few) / 1000:.1f} kB for each further atom, all told")
    return "\n".join(lines)


def profile(stages: dict[str, float], peak: float) -> str:
    """Where a step's time goes, on one thread."""
    times = {name: seconds for name, seconds in stages.items() if name != "filter_flops"}
    total, rate = sum(times.values()), stages["filter_flops"] / sum(times.values())
    lines = [f"  {name:20} {1e6 * t:7.3f} us/atom {t / total:6.1%}" for name, t in times.items()]
    lines.append(
        f"  {total * 1e6:.1f} us/atom; the filters' products, {stages['filter_flops'] / 1e6:.2f} MFLOP/atom, "
        f"alone make {rate / 1e9:.1f} GFLOP/s; a large float32 matrix product reaches {peak / 1e9:.1f}"
    )
    return "\n".join(lines)


def machine() -> str:
    """Processor and number of cores."""
    model_name = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[:1]
    return f"{model_name[0] if model_name else 'unknown processor'}, {os.cpu_count()} cores"


def plot(results: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), constrained_layout=True)
    for body in (*BODIES, "ranks"):
        for threads in sorted({r["threads"] for r in results}):
            points = [
                (r["atoms"], 1e6 * r["median"] / r["atoms"])
                for r in results
                if (r["body"], r["threads"]) == (body, threads)
            ]
            if points:
                axes.loglog(
                    *zip(*sorted(points), strict=True),
                    "o-",
                    label=f"lammps, {threads} ranks" if body == "ranks" else f"{body}, {threads} threads",
                )
    axes.set(xlabel="atoms", ylabel="time per atom and step (µs)")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atoms", type=int, nargs="*", default=list(SIZES), choices=SIZES)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--bodies", nargs="*", default=list(BODIES))
    parser.add_argument("--ranks", type=int, default=2, help="MPI ranks of one thread each, beside one rank")
    parser.add_argument("--scaling", action="store_true", help="what many threads could gain at most, and nothing else")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.worker, options.atoms[0], options.threads[0])))
        return
    shutil.rmtree(OUT, ignore_errors=True)  # compiled programs of another time too
    OUT.mkdir(parents=True)
    make_bundles()
    if options.scaling:
        found = in_process("stages", min(options.atoms), 1)
        if found is not None:
            print(measure_scaling(found))
        return
    results: list[dict[str, Any]] = []
    for threads in options.threads:
        for atoms in options.atoms:
            for body in options.bodies:
                if atoms <= min(LARGEST.get(body, max(SIZES)), LARGEST_ONE_THREAD if threads == 1 else max(SIZES)):
                    found = in_process(body, atoms, threads)
                    if found is not None:
                        results.append({"body": body, "atoms": atoms, "threads": threads, **found})
                        print(table(results[-1:]).splitlines()[1], flush=True)
    for atoms in options.atoms if options.ranks > 1 else ():
        found = in_process("ranks", atoms, options.ranks)
        if found is not None:
            results.append({"body": "ranks", "atoms": atoms, "threads": options.ranks, **found})
            print(table(results[-1:]).splitlines()[1], flush=True)
    stages = in_process("stages", min(options.atoms), 1) if "fused" in options.bodies else None
    peak = in_process("peak", min(options.atoms), 1)
    training = {threads: in_process("training", min(options.atoms), threads) for threads in options.threads}
    report = {"results": results, "stages": stages, "peak": peak, "training": training, "machine": machine()}
    (OUT / "bench.json").write_text(json.dumps(report, indent=1))
    plot(results, OUT / "bench.png")
    print(f"{report['machine']}\n{table(results)}\n{details(results)}")
    if stages and peak:
        print(profile(stages, peak["flops"]))
    for threads, found in training.items():
        if found:
            print(
                f"training, {found['atoms']} atoms, {threads} threads: {found['median']:.3f} s a step, "
                f"{found['plain'] / found['median']:.1f} times the speed of the plain formulation"
            )


if __name__ == "__main__":
    main()
