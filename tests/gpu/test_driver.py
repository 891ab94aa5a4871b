"""What the runtime says where a GPU, its driver or its plugin is missing; a driver made for the test stands in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from so3krates._harness import Error
from so3krates.runtime import Runtime
from so3krates_export.bundle import write_bundle
from so3krates_export.cuda import KERNEL_VERSION
from toy_bundle import LADDER, reference_forces, toy_bundle, write_toy_bundle

FORCE = 1e-6  # eV/A, of central differences
SIGNAL = 1e-2  # eV/A

PLUGIN = "/site-packages/jax_plugins/xla_cuda13/xla_cuda_plugin.so"


def ask(call: str, driver: Path | None = None, **variables: object) -> str:
    """What `call` prints, in a process of its own."""
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    if driver is not None:
        environment["SO3KRATES_CUDA_DRIVER"] = str(driver)
    program = f"from so3krates._harness import Error, pjrt\ntry: print({call})\nexcept Error as error: print(error)"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_a_driver(tmp_path: Path) -> None:
    message = ask("pjrt.gpu_count('cuda')", tmp_path / "absent.so")
    assert "needs NVIDIA's driver, and its library was not found" in message
    assert "install the driver" in message and "device cpu" in message
    assert "\n" not in message


def test_devices_are_counted(driver: Path) -> None:
    assert ask("pjrt.gpu_count('cuda')", driver, FAKE_CUDA_DEVICES=3) == "3"
    call = f"pjrt.check_gpu('cuda', 2, '{PLUGIN}')"
    assert ask(call, driver, FAKE_CUDA_DEVICES=3, FAKE_CUDA_VERSION=13000) == "None"


@pytest.mark.parametrize(
    ("variables", "pieces"),
    [
        ({"FAKE_CUDA_ERROR": 100}, ["the driver sees no GPU", "CUDA_VISIBLE_DEVICES"]),
        ({"FAKE_CUDA_DEVICES": 0}, ["the driver sees no GPU", "nvidia-smi"]),
        ({"FAKE_CUDA_ERROR": 999}, ["starting the driver failed: CUDA_ERROR_UNKNOWN"]),
        ({"FAKE_CUDA_ERROR": 7}, ["starting the driver failed: 7"]),
        ({"FAKE_CUDA_DEVICES": 1}, ["cuda:1 was asked for", "sees 1 GPU, counted from 0"]),
        (
            {"FAKE_CUDA_DEVICES": 2, "FAKE_CUDA_VERSION": 12080},
            ["driver is made for CUDA 12.8", "for CUDA 13", "pip install 'so3krates[cuda12]'"],
        ),
    ],
)
def test_one_message_says_what_is_wrong(driver: Path, variables: dict[str, int], pieces: list[str]) -> None:
    message = ask(f"pjrt.check_gpu('cuda', 1, '{PLUGIN}')", driver, **variables)
    assert all(piece in message for piece in pieces), message
    assert "\n" not in message


def test_gpus_that_cannot_run_the_kernels(driver: Path) -> None:
    variables = {"SO3KRATES_NVRTC": driver, "FAKE_CUDA_SHARED": 101376}
    assert ask(f"repr(pjrt.cuda_kernel_problem({KERNEL_VERSION}, 101376))", driver, **variables) == "''"
    message = ask(f"pjrt.cuda_kernel_problem({KERNEL_VERSION}, 101377)", driver, **variables)
    assert "take at least 101377 bytes of shared memory, and this GPU has 101376 for a block" in message
    message = ask(f"pjrt.cuda_kernel_problem({KERNEL_VERSION})", driver, **variables, FAKE_CUDA_MAJOR=7)
    assert "need a GPU of compute capability 8.0 or newer, and this one has 7.0" in message


def test_a_thread_keeps_its_context(driver: Path) -> None:
    """And gets the one of its device where it has none."""
    device = f"__import__('ctypes').CDLL('{driver}').current_device()"
    one, other = (f"pjrt.make_cuda_current({index})" for index in (2, 1))
    assert (
        ask(f"({device}, {one}, {device}, {other}, {device})", driver, FAKE_CUDA_DEVICES=3) == "(-1, None, 2, None, 2)"
    )
    assert "asking for device 2 failed: 101" in ask(one, driver, FAKE_CUDA_DEVICES=2)


def test_without_nvrtc(driver: Path) -> None:
    message = ask(f"pjrt.cuda_kernel_problem({KERNEL_VERSION})", driver, SO3KRATES_NVRTC="absent.so")
    assert "NVRTC, which compiles the kernels, was not found (looked for absent.so)" in message
    assert "pip install 'so3krates[cuda12]'" in message


def test_kernels_that_do_not_compile(driver: Path) -> None:
    """By a compiler that refuses their source, or that does not know the GPU."""
    call = f"pjrt.cuda_kernel_problem({KERNEL_VERSION}, 0, ['#error no sizes'])"
    variables = {"SO3KRATES_NVRTC": driver, "SO3KRATES_CACHE": "off"}
    message = ask(call, driver, **variables)
    assert message.startswith("compiling the GPU kernels for sm_90 with NVRTC 12.8 failed: NVRTC_ERROR_COMPILATION: ")
    assert ask(call, driver, **variables, FAKE_CUDA_MAJOR=30).startswith("compiling the GPU kernels for sm_300 with ")


def test_where_nvrtc_is_looked_for(driver: Path) -> None:
    """pip's packages of both releases, those of the plugin's environment, the linker's folders, conda, the system."""
    roots = {"CONDA_PREFIX": "/conda", "CUDA_HOME": "/cuda", "SO3KRATES_NVRTC": ""}
    paths = ask(f"'\\n'.join(pjrt.nvrtc_paths(13, '{PLUGIN}'))", driver, **roots).splitlines()
    own = next(path for path in paths if path.endswith("/nvidia/cu13/lib/libnvrtc.so.13"))
    expected = [
        own,
        "/site-packages/nvidia/cu13/lib/libnvrtc.so.13",
        "libnvrtc.so.13",
        "/conda/lib/libnvrtc.so.13",
        "/cuda/lib64/libnvrtc.so.13",
        "/usr/local/cuda/lib64/libnvrtc.so.13",
        "/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        "libnvrtc.so.12",
        "/usr/local/cuda-12/lib64/libnvrtc.so.12",
    ]
    assert [path for path in paths if path in expected] == expected
    assert not any(".so.13" in path for path in ask("pjrt.nvrtc_paths(12)", driver, **roots).split(","))


def test_where_ptxas_is_looked_for(tmp_path: Path) -> None:
    """Beside the plugin and this package as pip puts it, conda, the system; a folder counts that has all."""
    roots = {"CUDA_HOME": "/home", "CUDA_PATH": "/path", "CONDA_PREFIX": "/conda", "XLA_FLAGS": ""}
    places = {"12": "nvidia/cuda_nvcc", "13": "nvidia/cu13"}
    for release, package in places.items():
        plugin = tmp_path / "jax_plugins" / f"xla_cuda{release}" / "xla_cuda_plugin.so"
        folders = ask(f"'\\n'.join(pjrt.cuda_folders('{plugin}'))", **roots).splitlines()
        system = [f"/usr/local/cuda-{release}", "/usr/local/cuda"]
        assert folders[0] == str(tmp_path / package) and folders[1].endswith(f"site-packages/{package}")
        assert folders[2:] == ["/home", "/path", "/conda", *system]
    ptxas, library = (tmp_path / package / file for file in ("bin/ptxas", "nvvm/libdevice/libdevice.10.bc"))
    for file in (ptxas, library):
        assert ask(f"pjrt.cuda_folder('{plugin}')", **roots) != str(tmp_path / package)
        file.parent.mkdir(parents=True)
        file.touch()
    assert ask(f"pjrt.cuda_folder('{plugin}')", **roots) == str(tmp_path / package)
    roots["XLA_FLAGS"] = "--xla_gpu_cuda_data_dir=/mine"
    assert ask(f"repr(pjrt.cuda_folder('{plugin}'))", **roots) == "''"


def test_memory_that_other_processes_can_open(driver: Path) -> None:
    assert ask("pjrt.cuda_is_shareable(4096)", driver) == "True"
    assert ask("pjrt.cuda_is_shareable(4096)", driver, FAKE_CUDA_IPC=0) == "False"


@pytest.mark.parametrize(
    ("version", "pieces"),
    [
        ("1.999.0", ["StableHLO 1.999.0", "reads 0.9.0 to ", "install a newer plugin"]),
        ("0.8.9", ["StableHLO 0.8.9", "export the model again"]),
    ],
)
def test_a_plugin_that_cannot_read_the_bundle(
    version: str, pieces: list[str], cuda_plugin: Path, driver: Path, tmp_path: Path
) -> None:
    """In one line, before a device is started."""
    path = write_toy_bundle(tmp_path / "toy.so3k", platform="cuda", stablehlo_version=version)
    call = f"__import__('so3krates.runtime').runtime.Runtime({str(path)!r}, 'cuda', plugin={str(cuda_plugin)!r})"
    message = ask(call, driver, FAKE_CUDA_ERROR=100)
    assert all(piece in message for piece in pieces) and "\n" not in message, message
    path = write_toy_bundle(tmp_path / "good.so3k", platform="cuda")
    assert "the driver sees no GPU" in ask(call.replace("toy.so3k", "good.so3k"), driver, FAKE_CUDA_ERROR=100)


@pytest.mark.parametrize("value", ["0", "1.5", "nan"])
def test_the_share_of_memory_is_checked(value: str, tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "toy.so3k")
    with pytest.raises(Error, match=r"memory is .*: give the share of the GPU's memory .*, above 0 and at most 1"):
        Runtime(bundle, memory=float(value))


def test_where_kernels_are_missing_portable_programs_run(tmp_path: Path, cuda_by_name: Path) -> None:
    manifest, _ = toy_bundle(LADDER)
    schedules = manifest["schedules"] | {"portable_forces": manifest["schedules"]["forces"]}
    results = manifest["results"] | {"portable_forces": manifest["results"]["forces"]}
    changes = {"kernels": 999, "schedules": schedules, "results": results, "platform": "cuda"}
    path = write_toy_bundle(tmp_path / "toy.so3k", **changes)
    runtime = Runtime(path, "cuda", plugin=str(cuda_by_name), cache="off")
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19)
    atoms.rattle(0.1, seed=0)
    expected = reference_forces(atoms)
    assert np.abs(expected).max() > SIGNAL
    np.testing.assert_allclose(runtime.evaluate(atoms)["forces"], expected, atol=FORCE)
    note = runtime.report()["body_note"]
    assert note.startswith("the portable programs run in place of the GPU kernels, and more slowly: ")
    assert "calls version 999 of the GPU kernels" in note
    path = write_toy_bundle(path, platform="cuda")
    assert Runtime(path, "cuda", plugin=str(cuda_by_name), cache="off").report()["body_note"] == ""
    # Bundles of SO3LR have none.
    manifest, tensors = toy_bundle(LADDER)
    electrons = {"charge": 0, "multiplicity": 1, "protons": [31, 7]}
    weights = {f"weights/system/{name}": np.zeros(()) for name in ("charge", "unpaired")}
    write_bundle(path, manifest | {"platform": "cuda", "kernels": 999, "electrons": electrons}, tensors | weights)
    with pytest.raises(Error, match=r"calls GPU kernels, which cannot run here, and lacks portable .* version 999"):
        Runtime(path, "cuda", plugin=str(cuda_by_name), cache="off")


def test_a_gpu_plugin_without_a_gpu(cuda_plugin: Path) -> None:
    """With the real plugin: our message comes, and XLA writes nothing."""
    call = f"pjrt.Client('cuda', '{cuda_plugin}')"
    message = ask(call)
    if "Client object" in message:
        pytest.skip("there is a GPU")
    assert "NVIDIA's driver" in message or "sees no GPU" in message
