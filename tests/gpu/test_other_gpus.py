"""GPUs of AMD and Intel, where none is: plugins and drivers that stand in; programs are those of other GPUs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from so3krates import _harness
from so3krates.lammps import gpu_checkup
from so3krates.runtime import Runtime
from so3krates.storage import Model
from so3krates_export import export
from so3krates_export.fused import FusedError
from so3krates_export.ladder import gpu_ladder
from so3krates_export.lowering import lower_text
from stand_ins import SHARED, TESTS, other_plugin
from test_driver import FORCE, SIGNAL, ask
from toy_bundle import reference_forces, write_toy_bundle

MAKERS = {"rocm": "AMD's HIP runtime", "oneapi": "Intel's Level Zero"}
NAMES = {"rocm": "ROCM", "oneapi": "SYCL"}  # by which XLA calls them
platforms = pytest.mark.parametrize("platform", MAKERS)


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment with drivers that answer as it says."""
    library = tmp_path_factory.mktemp("drivers") / "gpus.so"
    subprocess.run([*SHARED, str(Path(__file__).with_name("fake_gpus.cpp")), "-o", str(library)], check=True)
    return {f"SO3KRATES_{platform.upper()}_DRIVER": str(library) for platform in MAKERS}


@platforms
def test_gpus_are_counted(platform: str, gpus: dict[str, str]) -> None:
    assert ask(f"pjrt.gpu_count({platform!r})", FAKE_GPUS=3, **gpus) == "3"
    assert ask(f"pjrt.check_gpu({platform!r}, 2, '/plugin.so')", FAKE_GPUS=3, **gpus) == "None"


@platforms
@pytest.mark.parametrize(
    ("variables", "pieces"),
    [
        ({"FAKE_GPUS": 0}, ["sees no GPU: check ", "device cpu"]),
        ({"FAKE_GPU_ERROR": 100}, ["sees no GPU (error 100): check ", "device cpu"]),
        ({"FAKE_GPUS": 1}, [":1 was asked for", "sees 1 GPU, counted from 0"]),
    ],
)
def test_one_line_says_what_is_wrong(
    platform: str, variables: dict[str, int], pieces: list[str], gpus: dict[str, str]
) -> None:
    message = ask(f"pjrt.check_gpu({platform!r}, 1, '/plugin.so')", **variables, **gpus)
    assert message.startswith(f"device {platform}") and "\n" not in message
    assert all(piece in message for piece in pieces), message


def test_a_plugin_of_gpus_serves_no_processor() -> None:
    message = ask("pjrt.check_gpu('cpu', 0, '/plugin.so')")
    assert message == "device cpu: /plugin.so is a plugin for GPUs: choose device cuda, rocm or oneapi, or leave it out"


@platforms
def test_without_a_driver(platform: str) -> None:
    message = ask(f"pjrt.gpu_count({platform!r})", **{f"SO3KRATES_{platform.upper()}_DRIVER": "/absent.so"})
    assert f"device {platform} needs {MAKERS[platform]}, and its library was not found (/absent.so: " in message
    assert "install " in message and "device cpu" in message and "\n" not in message


@pytest.mark.parametrize("platform", ["cuda", *MAKERS])
def test_a_driver_without_a_function(platform: str, tmp_path: Path) -> None:
    """The file that a link leads to has the version in its name."""
    library, link = tmp_path / "libdriver.so.4.70", tmp_path / "libdriver.so.1"
    subprocess.run([*SHARED, "-x", "c++", os.devnull, "-o", str(library)], check=True)
    link.symlink_to(library)
    variable = f"SO3KRATES_{platform.upper()}_DRIVER"
    message = ask(f"pjrt.gpu_count({platform!r})", **{variable: link})
    function = {"cuda": "cuInit", "rocm": "hipGetDeviceCount", "oneapi": "zeInit"}[platform]
    maker = MAKERS.get(platform, "NVIDIA's driver")
    expected = (
        f"device {platform}: {maker} ({library}) has no function {function}, so it is too old or another library: "
    )
    assert message.startswith(expected) and "\n" not in message
    assert f"unset {variable}, or " in message and "device cpu" in message


@platforms
def test_plugins_that_are_missing_or_lack_libraries(platform: str, tmp_path: Path) -> None:
    variable = f"SO3KRATES_PJRT_{platform.upper()}"
    try:
        _harness.pjrt.find_plugin(platform)
    except _harness.Error as error:
        assert f"no PJRT plugin for device '{platform}'" in str(error) and variable in str(error)
        assert "pip install 'so3krates[" in str(error)
    plugin = tmp_path / f"xla_{platform}_plugin.so"
    command = [*SHARED, "-x", "c++", os.devnull, "-o", str(tmp_path / "libabsent.so")]
    subprocess.run(command, check=True)
    command = [*SHARED, "-x", "c++", os.devnull, f"-L{tmp_path}", "-Wl,--no-as-needed", "-labsent", "-o", str(plugin)]
    subprocess.run(command, check=True)
    (tmp_path / "libabsent.so").unlink()
    message = ask(f"pjrt.api_version(pjrt.find_plugin('{platform}:1')[0])", **{variable: plugin})
    assert "libabsent.so: cannot open shared object file" in message and "\n" not in message
    assert {"rocm": "/opt/rocm", "oneapi": "setvars.sh"}[platform] in message


@platforms
def test_bundles_are_for_one_platform(platform: str, tmp_path: Path) -> None:
    plugin = other_plugin(tmp_path, platform=NAMES[platform])
    assert _harness.pjrt.Client(platform, str(plugin)).platform == platform
    path = write_toy_bundle(tmp_path / "toy.so3k", platform=platform)
    with pytest.raises(_harness.Error, match=f"exported for {platform}, but the device is cuda: .*--platform cuda"):
        Runtime(path, "cuda")
    path = write_toy_bundle(path, platform="cuda")
    with pytest.raises(_harness.Error, match=f"exported for cuda, but the device is {platform}: .* {platform}`"):
        Runtime(path, f"{platform}:1")


def test_a_bundle_runs(tmp_path: Path) -> None:
    """On a plugin that has XLA's name of the platform, which is not JAX's."""
    path = write_toy_bundle(tmp_path / "toy.so3k", platform="oneapi")
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19)
    atoms.rattle(0.1, seed=0)
    expected = reference_forces(atoms)
    runtime = Runtime(path, "oneapi", plugin=str(other_plugin(tmp_path, platform="SYCL")), cache="off")
    assert np.abs(expected).max() > SIGNAL
    np.testing.assert_allclose(runtime.evaluate(atoms)["forces"], expected, atol=FORCE)


def test_programs_are_those_of_other_gpus() -> None:
    """Also what is written in place of an argument."""
    arguments = [jax.ShapeDtypeStruct((16, 3), "float32"), jax.ShapeDtypeStruct((16,), "int32")]
    texts = {
        name: lower_text(lambda x, i: x + jnp.exp(x[i] @ x.T) @ x, arguments, (0,), name) for name in ("cuda", *MAKERS)
    }
    assert texts["cuda"] == texts["rocm"] == texts["oneapi"]
    assert "tf.aliasing_output" in texts["cuda"]


def test_what_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Portable programs: there are no kernels, which is said where they are asked for and where they were hoped for."""
    model = Model.load(TESTS / "models" / "gan-small")
    with pytest.raises(FusedError, match="no kernels for platform rocm, only for cpu and cuda: export with body 'xla'"):
        export.export_model(model, tmp_path / "si.so3k", platform="rocm", body="fused")
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(export, "_lower", lambda plans, weights, ladder, platform, products: ({}, {platform: []}))
    monkeypatch.setattr(export, "write_bundle", lambda path, manifest, tensors: written.append(manifest))
    choice = export.export_model(model, tmp_path / "si.so3k", platform="oneapi")
    assert choice.describe() == "Body xla, because there are no kernels for platform oneapi, only for cpu and cuda"
    (manifest,) = written
    assert manifest["platform"] == "oneapi" and list(manifest["programs"]) == ["oneapi"]
    assert manifest["moves"]["rows"] > 0  # between ranks
    assert manifest["ladder"][0]["rows"] == gpu_ladder()[0].rows


@platforms
def test_the_doctor_looks_at_them(
    platform: str, gpus: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, name = f"SO3KRATES_PJRT_{platform.upper()}", gpu_checkup.OTHERS[platform]
    for key, value in gpus.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv(variable, str(tmp_path / "absent.so"))
    (plugin,) = (check for check in gpu_checkup.gpu_checks() if check.name == f"{name} plugin")
    assert not plugin.ok and not plugin.needed and variable in plugin.found
    path = other_plugin(tmp_path, platform=NAMES[platform])
    monkeypatch.setenv(variable, str(path))
    checks = gpu_checkup.gpu_checks()
    (plugin,) = (check for check in checks if check.name == f"{name} plugin")
    assert plugin.ok and plugin.found.startswith("PJRT 0.") and plugin.found.endswith(str(path))
    assert checks[-1].ok and checks[-1].found == f"1 for device {platform}"
