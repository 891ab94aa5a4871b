"""Bundles with the body "fused" in the C++ evaluator: equal to "xla", on every instruction set of this processor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from so3krates._harness import Error
from so3krates.model import ModelConfig, init_params
from so3krates.runtime import Runtime
from so3krates.storage import Model
from so3krates_export.bundle import Bundle, read_bundle, write_bundle
from so3krates_export.export import export_model
from so3krates_export.fused import KERNEL_VERSION
from so3krates_export.ladder import Rung

PARITY = 1e-10  # relative, float64, same tables
TABLES = 2e-5  # eV/A
SIGNAL = 1e-2  # eV/A
KEYS = ("energy", "energies", "forces", "virial")
LADDER = [Rung(64, 2048, 96, 32), Rung(64, 2048, 192, 64), Rung(256, 4096, 192, 64)]

RUN = """
import sys
sys.path[:0] = {path!r}
import numpy as np
from ase.io import read
from so3krates.runtime import Runtime
for bundle, result in {runs!r}:
    found = Runtime(bundle, threads={threads}).evaluate(read({structure!r}))
    np.savez(result, **found)
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Path]:
    config = ModelConfig(features=24, heads=4, layers=3)
    params = init_params(config, 0)
    params = {k: _scaled(v) for k, v in params.items()}
    model = Model(config, params, ("Ga", "N"), {"Ga": -10.0, "N": -2.0})
    folder = tmp_path_factory.mktemp("kernels")
    options = {
        "plain": {"body": "xla"},
        "xla": {"body": "xla", "tables": TABLES},
        "fused": {"body": "fused"},
    }
    paths = {name: folder / f"{name}.so3k" for name in options}
    for name, path in paths.items():
        export_model(model, path, precision="float64", ladder=LADDER, **options[name])
    export_model(model, folder / "single.so3k", precision="float32", ladder=LADDER, body="fused")
    return paths | {"single": folder / "single.so3k"}


def _scaled(tree):
    return {k: _scaled(v) for k, v in tree.items()} if isinstance(tree, dict) else 1.15 * np.asarray(tree)


@pytest.fixture(scope="module")
def crystal() -> Atoms:
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat((3, 3, 3))
    atoms.positions += np.random.default_rng(0).normal(0.0, 0.1, atoms.positions.shape)
    return atoms


@pytest.fixture(scope="module")
def expected(bundles, crystal) -> dict[str, np.ndarray]:
    return Runtime(bundles["xla"]).evaluate(crystal)


def close(found, expected, tolerance: float) -> None:
    assert np.abs(expected["forces"]).max() > SIGNAL
    for key in KEYS:
        scale = np.abs(expected[key]).max()
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=tolerance * scale, err_msg=key)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_fused_equals_xla(bundles, crystal, expected, threads):
    runtime = Runtime(bundles["fused"], threads=threads)
    close(runtime.evaluate(crystal), expected, PARITY)
    assert runtime.report()["climbs"] == 0 and runtime.report()["rung_rows"] == 256
    first = runtime.evaluate(crystal)
    np.testing.assert_array_equal(first["forces"], runtime.evaluate(crystal)["forces"])


def test_xla_gives_the_same_as_users_compile_it(bundles, crystal, expected, tmp_path, monkeypatch):
    """With XLA's optimisations, which programs in the tests' own process do without."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    structure, result = tmp_path / "atoms.traj", tmp_path / "result.npz"
    crystal.write(structure)
    script = RUN.format(path=sys.path, runs=[(str(bundles["xla"]), str(result))], structure=str(structure), threads=2)
    monkeypatch.setenv("SO3KRATES_CACHE", "off")
    subprocess.run([sys.executable, "-c", script], check=True)
    close(np.load(result), expected, PARITY)


def test_a_rung_is_outgrown(bundles):
    atoms = bulk("GaN", "wurtzite", a=2.9, c=4.7)
    atoms.positions += np.random.default_rng(1).normal(0.0, 0.1, atoms.positions.shape)
    fused, xla = Runtime(bundles["fused"]), Runtime(bundles["xla"])
    close(fused.evaluate(atoms), xla.evaluate(atoms), PARITY)
    # The first rung has too few neighbours: the step was done again on a higher one.
    assert fused.report()["rung_neighbours"] > 32 and fused.report()["climbs"] > 0


@pytest.mark.parametrize("kernels", ["generic", "avx2", "avx512"])
def test_instruction_sets(bundles, crystal, expected, kernels, tmp_path, monkeypatch):
    """In float64 and float32, by one process."""
    flags = Path("/proc/cpuinfo").read_text()
    if kernels != "generic" and f"{kernels}f" not in flags and kernels not in flags.split():
        pytest.skip(f"this processor has no {kernels}")
    structure = tmp_path / "atoms.extxyz"
    crystal.write(structure, format="extxyz")
    monkeypatch.setenv("SO3KRATES_KERNELS", kernels)
    # The file holds eight decimals of positions.
    tolerances = {"fused": 1e-6, "single": 2e-5}
    runs = [(str(bundles[body]), str(tmp_path / f"{body}.npz")) for body in tolerances]
    script = RUN.format(path=sys.path, runs=runs, structure=str(structure), threads=2)
    subprocess.run([sys.executable, "-c", script], check=True)
    for (_, result), tolerance in zip(runs, tolerances.values(), strict=True):
        close(np.load(result), expected, tolerance)


def test_an_unknown_instruction_set_is_refused(bundles, crystal, tmp_path, monkeypatch):
    structure = tmp_path / "atoms.extxyz"
    crystal.write(structure, format="extxyz")
    monkeypatch.setenv("SO3KRATES_KERNELS", "avx3")
    script = RUN.format(path=sys.path, runs=[(str(bundles["fused"]), "")], structure=str(structure), threads=2)
    script = script.replace(".evaluate(", '; print("made"); found = found.evaluate(', 1)
    failed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stdout == ""
    assert "Error: SO3KRATES_KERNELS is 'avx3': known are generic, avx2 and avx512; unset it" in failed.stderr


def test_an_empty_choice_of_instructions_is_none(bundles, crystal, expected, tmp_path, monkeypatch):
    structure, result = tmp_path / "atoms.extxyz", tmp_path / "result.npz"
    crystal.write(structure, format="extxyz")
    monkeypatch.setenv("SO3KRATES_KERNELS", "")
    runs = [(str(bundles["fused"]), str(result))]
    script = RUN.format(path=sys.path, runs=runs, structure=str(structure), threads=2)
    subprocess.run([sys.executable, "-c", script], check=True)
    close(np.load(result), expected, 1e-6)


def with_version(bundle: Bundle, path: Path, version: int | None) -> Path:
    manifest = {**bundle.manifest, "kernels": version}
    if version is None:
        del manifest["kernels"]
    write_bundle(path, manifest, bundle.tensors)
    return path


@pytest.mark.parametrize("version", [None, KERNEL_VERSION - 2, KERNEL_VERSION + 1])
def test_kernels_of_another_version_are_refused(bundles, tmp_path, version):
    """A bundle whose arrays may lie otherwise than the kernels read them."""
    bundle = read_bundle(bundles["fused"])
    assert bundle.manifest["kernels"] == KERNEL_VERSION and bundle.manifest["version"] == 5
    path = with_version(bundle, tmp_path / "other.so3k", version)
    found = "CPU kernels that had no version yet" if version is None else f"version {version} of the CPU kernels"
    message = f"other.so3k: calls {found}, and this so3krates has version {KERNEL_VERSION}: .*so3krates export"
    with pytest.raises(Error, match=message):
        Runtime(path)


def test_kernels_of_the_version_before_run(bundles, crystal, expected, tmp_path):
    path = with_version(read_bundle(bundles["fused"]), tmp_path / "before.so3k", KERNEL_VERSION - 1)
    close(Runtime(path, threads=1).evaluate(crystal), expected, 1e-6)


def test_tables_change_forces_by_less_than_the_tolerance(bundles, crystal, expected):
    plain = Runtime(bundles["plain"]).evaluate(crystal)
    change = np.abs(plain["forces"] - expected["forces"]).max()
    assert 0 < change < TABLES
    manifest = read_bundle(bundles["fused"]).manifest
    assert manifest["body"] == "fused" and 0 < manifest["tables"]["force_error"] < TABLES
    assert read_bundle(bundles["plain"]).manifest["tables"] is None


def test_scratch_memory_of_the_programs_is_small(bundles, crystal):
    runtime = Runtime(bundles["fused"])
    runtime.evaluate(crystal)
    assert runtime.report()["temporary_bytes"] < 4096
