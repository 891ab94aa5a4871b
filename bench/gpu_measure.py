"""What `bench/gpu` measures: correctness, ceilings, stages and LAMMPS on one device, within a time budget.

Each measurement is a process of its own. Writes build/gpu/gpu.json and prints tables.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase.build import bulk

import bench

OUT = Path("build/gpu")
DECK = Path(__file__).resolve().parent.parent / "examples/lammps/million/in.million"
SIZES = {"cuda": (1000, 10_000, 100_000, 1_000_000), "cpu": (1000, 4000)}  # atoms
LARGER = (2, 4, 6, 8, 12)  # million atoms, tried in turn until one does not fit
STAGE_ATOMS = {"cuda": 108_000, "cpu": 864}
CHECK_CELLS = (6, 6, 6)  # of 4 atoms
FORCE = 2e-5  # of the largest force: float32 against the CPU's float64, with the same tables
SIGNAL = 1e-4  # eV/A; the network's weights are random and its forces small
ATOM_STEPS = {"cuda": 2e6, "cpu": 2e4}  # expected per second, to choose the number of steps
RUN_SECONDS = {"cuda": 8.0, "cpu": 2.0}  # of stepping for one size
FLUX_SHARE = 0.25  # of these steps are done again with the heat flux in each
HEAT_FLUX = """
compute kinetic all ke/atom
compute potential all pe/atom
compute stress all centroid/stress/atom NULL virial
compute flux all heat/flux kinetic potential stress
fix flux all ave/time 1 1 1 c_flux[1] c_flux[2] c_flux[3]
run 1
"""


def rungs(platform: str) -> list[Any]:
    """A ladder of the sizes that are measured, so that the export is quick."""
    from so3krates_export.ladder import default_ladder, gpu_ladder

    if platform == "cpu":
        return [rung for rung in default_ladder() if rung.rows <= 16384 and rung.neighbours == 64]
    sizes = sorted({*SIZES[platform], STAGE_ATOMS[platform], *(n * 1_000_000 for n in LARGER)})
    ladder = [rung for rung in gpu_ladder() if rung.neighbours == 64]
    return sorted({next(rung for rung in ladder if rung.rows >= size) for size in sizes})


def export(platform: str) -> dict[str, Any]:
    from so3krates_export.export import export_model

    start = time.perf_counter()
    choice = export_model(bench.model(), OUT / f"{platform}.so3k", platform=platform, ladder=rungs(platform))
    seconds = time.perf_counter() - start
    export_model(bench.model(), OUT / "reference.so3k", precision="float64", ladder=rungs("cpu"), tables=2e-5)
    return {"choice": choice.describe(), "seconds": seconds}


def ceilings(platform: str) -> dict[str, float]:
    """Operations per second of a large matrix product, of float32 and TF32, and bytes per second of a copy."""
    import jax
    import jax.numpy as jnp

    device = jax.devices(platform)[0]
    n, count = (8192, 2**28) if platform == "cuda" else (1024, 2**24)
    found = {}
    with jax.default_device(device):
        a, b = jnp.ones((n, n), jnp.float32), jnp.ones(count, jnp.float32)
        for name, precision in {"flops": "highest", "tf32_flops": "tensorfloat32"}.items():
            product = jax.jit(lambda x, precision=precision: jnp.matmul(x, x, precision=precision))
            found[name] = 2 * n**3 / bench.timed(lambda run=product: jax.block_until_ready(run(a)))["fastest"]
        copy = jax.jit(lambda x: x + 1)
        found["bytes_per_second"] = 8 * count / bench.timed(lambda: jax.block_until_ready(copy(b)))["fastest"]
    return found


def check(platform: str, device: str) -> dict[str, float]:
    """Forces and per-atom virials of a disordered crystal, float32 on the device against float64 on the CPU."""
    from so3krates.runtime import Runtime

    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat(CHECK_CELLS)
    atoms.positions += np.random.default_rng(0).normal(0.0, 0.1, atoms.positions.shape)
    runtime = Runtime(OUT / f"{platform}.so3k", device=device)
    found = runtime.evaluate(atoms, with_virials=True)
    again = runtime.evaluate(atoms, with_virials=True)
    expected = Runtime(OUT / "reference.so3k").evaluate(atoms, with_virials=True)
    result = {
        "atoms": len(atoms),
        "force_error": float(np.abs(found["forces"] - expected["forces"]).max()),
        "largest_force": float(np.abs(expected["forces"]).max()),
        "virial_error": float(np.abs(found["atom_virials"] - expected["atom_virials"]).max()),
        "energy_error_per_atom": float(abs(found["energy"] - expected["energy"]) / len(atoms)),
        "equal_to_the_bit": bool(np.array_equal(found["forces"], again["forces"])),
        "note": runtime.report()["body_note"],
    }
    result["passed"] = result["largest_force"] > SIGNAL and result["force_error"] < FORCE * result["largest_force"]
    return result


def cells_for(atoms: int) -> tuple[int, int, int]:
    """Numbers of orthorhombic cells of 8 atoms, as cubic a box as comes near `atoms`."""
    edges = np.array([3.189, 3.189 * np.sqrt(3), 5.185])
    edge = (atoms / 8 * edges.prod()) ** (1 / 3)
    return tuple(max(1, int(n)) for n in np.rint(edge / edges))


def lammps(
    platform: str, device: str, atoms: int, timeout: float, memory: float, with_heat_flux: bool
) -> dict[str, Any]:
    """Molecular dynamics from LAMMPS' own lattice, if asked then with the heat flux; short runs before warm up."""
    from so3krates.lammps.environment import child_environment, lmp_path

    nx, ny, nz = cells_for(atoms)
    count = 8 * nx * ny * nz
    steps = max(5, min(200, int(ATOM_STEPS[platform] * RUN_SECONDS[platform] / count)))
    text = DECK.read_text().replace("verbose yes", f"verbose yes device {device} memory {memory}")
    text = text.replace("thermo          1\n", "thermo          1000\n")
    flux_steps = max(3, int(FLUX_SHARE * steps))
    text += f"\nrun 3\nrun {steps}\n"
    if with_heat_flux:
        text += f"{HEAT_FLUX}run {flux_steps}\n"
    folder = OUT / f"lammps-{atoms}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "in.deck").write_text(text)
    # Relative, as LAMMPS takes a space for the end of a name.
    variables = {"potential": f"../{platform}.so3k", "nx": nx, "ny": ny, "nz": nz}
    command = [str(lmp_path()), "-in", "in.deck", "-screen", "none", "-log", "log.lammps"]
    command += [word for name, value in variables.items() for word in ("-var", name, str(value))]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=child_environment(), capture_output=True, text=True, timeout=timeout)
    wall = time.perf_counter() - start
    log = (folder / "log.lammps").read_text()
    if done.returncode != 0:
        raise RuntimeError(" ".join((log[-600:] + done.stderr[-600:]).split()))
    loop = [float(t) for t in re.findall(r"Loop time of (\S+) on", log)]
    counted = 2  # of the runs, after those of no steps and of three
    plain = loop[counted] / steps
    spent = re.findall(
        r"programs (\S+) s, exchange of rows \S+ s \(\S+ MiB\), lists (\S+) s, results (\S+) s; "
        r"\d+ of (\d+) evaluations.*waited (\S+) s",
        log,
    )[counted]
    # One evaluation comes before the first step.
    programs, lists, results, waited = (1e3 * float(spent[k]) / int(spent[3]) for k in (0, 1, 2, 4))
    arrays, scratch = map(float, re.findall(r"(\S+) MiB of arrays, (\S+) MiB of scratch", log)[-1])
    step = 1e3 * plain
    return {
        "atoms": count,
        "steps": steps,
        "atom_steps_per_second": count / plain,
        "ms_per_step": step,
        "ms_device": waited,
        "ms_start_programs": programs - waited,
        "ms_lists": lists,
        "ms_results": results,
        "ms_lammps": step - programs - lists - results,
        "with_heat_flux": loop[-1] / flux_steps / plain if with_heat_flux else None,
        "bytes_per_atom": (arrays + scratch) * 1024**2 / count,
        "start_seconds": wall - sum(loop),
        "builds": re.findall(r"Neighbor list builds = (\d+)", log)[-1],
    }


def stages(platform: str, atoms: int) -> dict[str, Any]:
    """Milliseconds of each program of an evaluation in JAX's own runtime, and what the kernels reach."""
    import ctypes

    import jax
    import jax.numpy as jnp
    from so3krates import _harness
    from so3krates.kernels import register_kernels
    from so3krates.model.reductions import tabulated
    from so3krates_export.cuda import CALL, build_cuda_plan
    from so3krates_export.fused import build_fused_plan, fused_weights
    from so3krates_export.plan import Call

    if platform == "cuda":
        capsule = ctypes.pythonapi.PyCapsule_New
        capsule.restype, capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        handler = capsule(_harness.pjrt.cuda_kernel_handler(has_streams=True), None, None)
        jax.ffi.register_ffi_target(CALL, handler, platform="CUDA")
    else:
        register_kernels()
    edge = round((atoms / 4) ** (1 / 3))
    crystal = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat(edge)
    crystal.positions += np.random.default_rng(0).normal(0.0, 0.05, crystal.positions.shape)
    with jax.enable_x64(True), jax.default_device(jax.devices(platform)[0]), jax.default_matmul_precision("highest"):
        config, params = tabulated(bench.model().config, bench.model().params, 256)
        weights = {k: np.asarray(v, "float32") for k, v in fused_weights(config, params, [31, 7]).items()}
        plan = (build_cuda_plan if platform == "cuda" else build_fused_plan)(config, "float32", 2)
        inputs = bench.host_arrays(crystal, config.cutoff + 0.5)
        sizes = {
            "rows": len(crystal),
            "atoms": len(inputs["positions"]),
            "candidates": inputs["candidates"].shape[1],
            "neighbours": 64,
        }
        arrays = {name: jnp.zeros([sizes.get(d, d) for d in a.shape], a.dtype) for name, a in plan.arrays.items()}
        arrays |= {name: jnp.asarray(value) for name, value in (weights | inputs).items()}
        calls = [step for step in plan.steps if isinstance(step, Call)]
        programs = {
            c.program: jax.jit(plan.programs[c.program], donate_argnums=plan.donated(c), keep_unused=True)
            for c in calls
        }
        times: dict[str, list[float]] = {name: [] for name in programs}

        def step() -> None:
            spent = dict.fromkeys(programs, 0.0)
            for call in calls:
                start = time.perf_counter()
                results = jax.block_until_ready(programs[call.program](*[arrays[n] for n in call.inputs]))
                spent[call.program] += time.perf_counter() - start
                arrays.update(zip(call.outputs, results, strict=True))
            for name, seconds in spent.items():
                times[name].append(seconds)

        bench.timed(step)
    found = {name: 1e3 * statistics.median(seconds[2:]) for name, seconds in times.items()}
    edges = int(np.asarray(inputs["candidate_count"]).sum()) * (config.cutoff / (config.cutoff + 0.5)) ** 3
    hidden, out = config.spherical_filter_features
    product = 2 * edges * 2 * hidden * out * (config.layers - 1)  # operations of one pass over all edges
    row = 4 * (5 * config.features + config.orders) * edges * (config.layers - 1)  # bytes of neighbours' rows
    layer, adjoint = (
        next(name for name in found if name.endswith(end) and "first" not in name) for end in ("layer", "layer_adjoint")
    )
    return {
        "atoms": len(crystal),
        "ms": found,
        "messages_flops": product / found[layer] * 1e3,
        "adjoint_flops": 2 * product / found[adjoint] * 1e3,
        "messages_bytes_per_second": row / found[layer] * 1e3,
        "adjoint_bytes_per_second": row / found[adjoint] * 1e3,
    }


WORKERS = {"export": export, "ceilings": ceilings, "check": check, "lammps": lammps, "stages": stages}


def in_process(name: str, arguments: list[Any], timeout: float) -> dict[str, Any]:
    """A worker's result, or {"failed": why}."""
    command = [sys.executable, __file__, "--worker", json.dumps([name, *arguments])]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=max(timeout, 1.0))
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {timeout:.0f} s"}
    if done.returncode != 0:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


COLUMNS = {
    "atoms": ("{:>10}", "atoms"),
    "atom_steps_per_second": ("{:>13.0f}", "atom-steps/s"),
    "ms_per_step": ("{:>9.3f}", "ms/step"),
    "ms_device": ("{:>9.3f}", "device"),
    "ms_start_programs": ("{:>9.3f}", "starting"),
    "ms_results": ("{:>9.3f}", "results"),
    "ms_lists": ("{:>9.3f}", "lists"),
    "ms_lammps": ("{:>9.3f}", "lammps"),
    "with_heat_flux": ("{:>9.2f}", "flux, x"),
    "bytes_per_atom": ("{:>9.0f}", "bytes/atom"),
    "start_seconds": ("{:>8.1f}", "start, s"),
}


def row_of(result: dict[str, Any]) -> str:
    def cell(value: float | None, form: str) -> str:
        return form.format(value) if value is not None else f"{'-':>{len(form.format(0))}}"

    return " ".join(cell(result[key], form) for key, (form, _) in COLUMNS.items())


def header() -> str:
    return " ".join(f"{title:>{len(form.format(0))}}" for form, title in COLUMNS.values())


def measure(options: argparse.Namespace) -> dict[str, Any]:
    platform = options.device.split(":")[0]
    begin = time.perf_counter()

    def left() -> float:
        return options.budget - (time.perf_counter() - begin)

    report: dict[str, Any] = {"device": options.device, "lammps": []}
    for name, arguments in (
        ("export", [platform]),
        ("check", [platform, options.device]),
        ("ceilings", [platform]),
    ):
        report[name] = in_process(name, arguments, left())
        print(f"{name}: {report[name]}", flush=True)
        if name == "export" and "failed" in report[name]:
            return report
    print(header())
    larger = [n * 1_000_000 for n in LARGER] if platform == "cuda" and not options.atoms else []
    for atoms in options.atoms or SIZES[platform]:
        result = in_process("lammps", [platform, options.device, atoms, left(), options.memory, True], left())
        report["lammps"].append({"asked": atoms, **result})
        print(row_of(result) if "failed" not in result else f"{atoms:>10} failed: {result['failed']}", flush=True)
    report["stages"] = in_process("stages", [platform, STAGE_ATOMS[platform]], left())
    print(f"stages: {json.dumps(report['stages'], indent=1)}", flush=True)
    for atoms in larger:
        result = in_process("lammps", [platform, options.device, atoms, left(), options.memory, False], left())
        report["lammps"].append({"asked": atoms, **result})
        print(row_of(result) if "failed" not in result else f"{atoms:>10} failed: {result['failed']}", flush=True)
        if "failed" in result:
            break
    report["seconds"] = time.perf_counter() - begin
    return report


def summary(report: dict[str, Any]) -> str:
    """What was reached of what this machine offers."""
    ceiling, stage = report.get("ceilings", {}), report.get("stages", {})
    if "flops" not in ceiling or "messages_flops" not in stage:
        return "no ceilings or no stages: see above"
    lines = [
        f"ceilings: {ceiling['flops'] / 1e12:.3g} TFLOP/s float32, {ceiling['tf32_flops'] / 1e12:.3g} TFLOP/s TF32, "
        f"{ceiling['bytes_per_second'] / 1e9:.3g} GB/s"
    ]
    for name in ("messages", "adjoint"):
        flops, rate = stage[f"{name}_flops"], stage[f"{name}_bytes_per_second"]
        lines.append(
            f"{name}: {flops / 1e12:.3f} TFLOP/s in the filters' products ({flops / ceiling['flops']:.0%}), "
            f"{rate / 1e9:.1f} GB/s of neighbours' rows ({rate / ceiling['bytes_per_second']:.0%} of memory's)"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:INDEX or cpu")
    parser.add_argument("--atoms", type=int, nargs="*", help="sizes, in place of the usual ones")
    parser.add_argument("--memory", type=float, default=0.95, help="share of the GPU's memory that may be taken")
    parser.add_argument("--budget", type=float, default=570.0, help="seconds for everything")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, *arguments = json.loads(options.worker)
        print(json.dumps(WORKERS[name](*arguments)))
        return
    shutil.rmtree(OUT / "lammps", ignore_errors=True)
    OUT.mkdir(parents=True, exist_ok=True)
    report = measure(options)
    (OUT / "gpu.json").write_text(json.dumps(report, indent=1))
    print(summary(report))
    if not report.get("check", {}).get("passed"):
        sys.exit("the device's forces are not those of the CPU in float64: see the line 'check'")
    largest = max(options.atoms or SIZES[options.device.split(":")[0]])
    failed = [str(result["asked"]) for result in report["lammps"] if "failed" in result and result["asked"] <= largest]
    if failed:
        sys.exit(f"LAMMPS did not run {', '.join(failed)} atoms: see above")


if __name__ == "__main__":
    main()
