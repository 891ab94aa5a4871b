"""Every stage of a bundle, compiled for an H200 without one: memory per atom, and what the programs must not hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jaxlib import xla_client
from packaging.version import Version
from so3krates import _harness
from so3krates.model import PRESETS, init_params
from so3krates.model.long_range import Dispersion, Electrostatics
from so3krates.model.reductions import tabulated_config
from so3krates.model.terms import terms_from
from so3krates.storage import Model
from so3krates_export.bundle import read_bundle
from so3krates_export.cuda import kernel_sizes
from so3krates_export.export import export_model
from so3krates_export.ladder import gpu_ladder
from so3krates_export.so3lr_fused import long_numbers

ATOMS = (1_000_000,)
LARGEST_PER_ATOM = 20e3  # bytes
LARGEST_MILLION = 24e9  # bytes
SIGNAL = 3e3  # bytes per atom: what three layers' features alone take
SMALLEST_CODE = 50_000  # bytes
SMALLEST_API = 25  # structs that a plugin is handed
OF_HOST = ("scatter", "infeed", "outfeed", "send", "recv")  # operations that no program may have


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GaN preset with random weights and a repulsion, for a GPU, with the rungs that hold `ATOMS`."""
    params = jax.tree.map(np.asarray, init_params(PRESETS["gan"], 0))
    rungs = [next(rung for rung in gpu_ladder() if rung.rows >= atoms) for atoms in ATOMS]
    path = tmp_path_factory.mktemp("hopper") / "gan.so3k"
    elements = ("Ga", "N")
    terms = terms_from({"repulsion": {}}, elements)
    model = Model(PRESETS["gan"], params, elements, {"Ga": 0.0, "N": 0.0}, terms=terms)
    export_model(model, path, platform="cuda", ladder=rungs)
    return path


@pytest.fixture(scope="module")
def compiled(bundle: Path, cuda_plugin: Path) -> dict[str, Any]:
    command = [sys.executable, Path(__file__).with_name("compile_bundle.py"), bundle, cuda_plugin]
    command += range(len(ATOMS))
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_the_plugin_reads_the_bundles_stablehlo(bundle: Path, compiled: dict[str, Any]) -> None:
    ours = Version(read_bundle(bundle).manifest["stablehlo_version"])
    attributes = compiled["attributes"]
    assert Version(attributes["stablehlo_minimum_version"]) <= ours <= Version(attributes["stablehlo_current_version"])


def test_the_plugin_takes_our_structs(compiled: dict[str, Any]) -> None:
    """Each is at least as large as the plugin wants; it says how large when it is given nothing."""
    assert len(compiled["structs"]) > SMALLEST_API
    for name, (ours, refusal) in compiled["structs"].items():
        assert int(refusal.split("size: expected ")[1].split(",")[0]) <= ours, refusal
        assert name.removesuffix("_Args").lower() in refusal.lower()


def test_compile_options() -> None:
    """No device by its number, since 0 may be one that a rank does not see; on a GPU nothing that is timed first."""
    for deterministic, folder in ((True, ""), (False, ""), (False, "/" + 20 * "cuda-home/")):
        options = xla_client.CompileOptions.ParseFromString(_harness.pjrt.compile_options(deterministic, folder))
        assert "device_ordinal=-1" in repr(options.executable_build_options)
        assert options.executable_build_options.num_replicas == options.executable_build_options.num_partitions == 1
        assert options.compile_portable_executable
        flags = {"xla_gpu_exclude_nondeterministic_ops": True, "xla_gpu_enable_triton_gemm": False}
        places = {"xla_gpu_cuda_data_dir": folder} if folder else {}
        assert dict(options.env_option_overrides) == (flags if deterministic else {}) | places


def test_products_are_those_of_a_library(compiled: dict[str, Any]) -> None:
    """The options of deterministic programs are understood: cuBLAS multiplies, not a kernel chosen by timing."""
    with_products = [p for p in compiled["programs"].values() if any("cublas" in t for t in p["targets"])]
    assert len(with_products) > len(compiled["programs"]) // 3
    assert not [p for p in compiled["programs"].values() if any("triton" in t for t in p["targets"])]


def test_programs_compile_without_scatters_and_host_callbacks(bundle: Path, compiled: dict[str, Any]) -> None:
    expected = {f"{name}/{rung}" for name in read_bundle(bundle).manifest["programs"] for rung in range(len(ATOMS))}
    assert set(compiled["programs"]) == expected
    for name, program in compiled["programs"].items():
        assert len(program["operations"]) > 2, name  # the text was understood
        assert not [o for o in program["operations"] if o.startswith(OF_HOST)], name
        assert not [t for t in program["targets"] if "callback" in t], name


@pytest.mark.parametrize("schedule", ["forces", "virials", "portable_forces", "portable_virials"])
@pytest.mark.parametrize("rung", range(len(ATOMS)), ids=[f"{atoms} atoms" for atoms in ATOMS])
def test_memory_per_atom(bundle: Path, compiled: dict[str, Any], rung: int, schedule: str) -> None:
    found = read_bundle(bundle)
    manifest, steps = found.manifest, found.manifest["schedules"][schedule]
    sizes = manifest["ladder"][rung]
    names = {name for step in steps for name in (*step.get("inputs", ()), *step.get("outputs", ()))}
    total = sum(
        np.prod([sizes.get(d, d) for d in array["shape"]]) * np.dtype(array["dtype"]).itemsize
        if (array := manifest["buffers"].get(name))
        else found.tensors[name].nbytes
        for name in names
    )
    programs = [compiled["programs"][f"{step['run']}/{rung}"] for step in steps if "run" in step]
    total += max(program["temporary"] + program["new_results"] for program in programs)
    per_atom = total / ATOMS[rung]
    print(f"{schedule}, {ATOMS[rung]} atoms: {per_atom / 1e3:.1f} kB/atom, {total / 1e9:.2f} GB")
    assert SIGNAL < per_atom < LARGEST_PER_ATOM
    assert ATOMS[rung] < 1_000_000 or total < LARGEST_MILLION


@pytest.mark.parametrize(
    ("precision", "channels", "architecture"),
    [
        ("float32", 1, "sm_80"),
        ("float64", 4, "sm_90"),
        pytest.param("float32", 4, "sm_90", marks=pytest.mark.torture),
        pytest.param("float32", 4, "sm_80", marks=pytest.mark.torture),
    ],
)
def test_nvrtc_compiles_the_kernels(
    precision: str, channels: int, architecture: str, driver: Path, nvrtc: Path
) -> None:
    """In a process of its own, whose driver stands in for NVIDIA's."""
    config = tabulated_config(PRESETS["gan"], 256, 0.5)
    interactions = (Electrostatics(), Dispersion.from_settings({}, ("N", "O")))
    sizes = kernel_sizes(config, precision, 2, channels, long_numbers(interactions))
    program = f"from so3krates._harness import pjrt; print(len(pjrt.compile_cuda_kernels({sizes!r}, {architecture!r})))"
    environment = os.environ | {"SO3KRATES_CUDA_DRIVER": str(driver), "SO3KRATES_NVRTC": str(nvrtc)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > SMALLEST_CODE


def test_nvrtcs_complaint_is_passed_on(driver: Path, nvrtc: Path) -> None:
    program = "from so3krates._harness import pjrt; pjrt.compile_cuda_kernels('#error no sizes\\n')"
    environment = os.environ | {"SO3KRATES_CUDA_DRIVER": str(driver), "SO3KRATES_NVRTC": str(nvrtc)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "failed: NVRTC_ERROR_COMPILATION" in done.stderr and "no sizes" in done.stderr
