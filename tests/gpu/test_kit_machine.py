"""What the kit finds on a machine, and what it says of what is missing; a driver made for the test stands in."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpu_kit import machine
from gpu_kit.machine import MissingError

PLUGIN = "jax_plugins/xla_cuda{}/xla_cuda_plugin.so"
VARIABLES = ("SO3KRATES_PJRT_CUDA", "SO3KRATES_NVRTC", "LD_LIBRARY_PATH", "CONDA_PREFIX", "CUDA_HOME", "CUDA_PATH")


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def put(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def test_without_a_driver(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"NVIDIA's driver is not here .*--device cpu"):
        machine.open_driver(str(tmp_path / "absent.so"))


def test_the_driver_is_described(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CUDA_VERSION", "13000")
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "2")
    found, library = machine.open_driver(str(driver))
    assert found.release == 13000
    gpu = machine.describe_gpu(library, 1)
    assert (gpu["gpus"], gpu["processors"], gpu["major"]) == (2, 2, 9)
    with pytest.raises(MissingError, match=r"cuda:2 was asked for, and the driver shows 2 GPUs"):
        machine.describe_gpu(library, 2)


def test_a_driver_that_does_not_start(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CUDA_ERROR", "999")
    with pytest.raises(MissingError, match=r"starting the driver failed with error 999: see nvidia-smi"):
        machine.open_driver(str(driver))


@pytest.mark.parametrize(
    ("there", "release", "taken"), [((12, 13), 13000, 13), ((12, 13), 12080, 12), ((12,), 13000, 12)]
)
def test_the_newest_plugin_that_the_driver_takes(
    tmp_path: Path, there: tuple[int, ...], release: int, taken: int
) -> None:
    put(tmp_path, *(PLUGIN.format(cuda) for cuda in there))
    assert machine.find_plugin([tmp_path / "none", tmp_path], release) == str(tmp_path / PLUGIN.format(taken))


def test_an_old_driver_and_a_plugin_of_the_wrong_release(tmp_path: Path) -> None:
    put(tmp_path, PLUGIN.format(13))
    message = r"driver is made for CUDA 12.8, and the only plugin here is for CUDA 13 .*jax\[cuda12\].*newer driver"
    with pytest.raises(MissingError, match=message):
        machine.find_plugin([tmp_path], 12080)


def test_without_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingError, match=r"XLA's plugin for CUDA is not here: .*pip install 'jax\[cuda13\]'"):
        machine.find_plugin([tmp_path], 13010)
    with pytest.raises(MissingError, match=r"there is no plugin absent.so: give --plugin"):
        machine.find_plugin([put(tmp_path, PLUGIN.format(13))], 13010, "absent.so")
    monkeypatch.setenv("SO3KRATES_PJRT_CUDA", str(put(tmp_path, "own.so") / "own.so"))
    assert machine.find_plugin([tmp_path], 13010) == str(tmp_path / "own.so")
    with pytest.raises(MissingError, match=r"no PJRT plugin for the CPU is here.*--packages"):
        machine.find_cpu_plugin([tmp_path])


@pytest.mark.parametrize(
    ("file", "release", "variable"),
    [
        ("nvidia/cu13/lib/libnvrtc.so.13", 13000, ""),
        ("nvidia/cuda_nvrtc/lib/libnvrtc.so.12", 12080, ""),
        ("nvidia/cuda_nvrtc/lib/libnvrtc.so.12", 13000, ""),
        ("libnvrtc.so.13", 13000, "LD_LIBRARY_PATH"),
        ("lib/libnvrtc.so.12", 12040, "CONDA_PREFIX"),
        ("lib64/libnvrtc.so.13", 13000, "CUDA_HOME"),
        ("targets/x86_64-linux/lib/libnvrtc.so.12", 12040, "--cuda"),
    ],
)
def test_nvrtc_in_every_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, release: int, variable: str
) -> None:
    put(tmp_path, file)
    if variable and variable != "--cuda":
        monkeypatch.setenv(variable, str(tmp_path))
    packages = [] if variable else [tmp_path]
    given = [tmp_path] if variable == "--cuda" else []
    assert machine.find_nvrtc(packages, release, given) == str(tmp_path / file)


def test_nvrtc_that_the_driver_is_too_old_for(tmp_path: Path) -> None:
    put(tmp_path, "nvidia/cu13/lib/libnvrtc.so.13")
    with pytest.raises(
        MissingError, match=r"NVRTC.* is not here \(libnvrtc.so.12\): .*nvidia-cuda-nvrtc-cu12, or give --cuda"
    ):
        machine.find_nvrtc([tmp_path], 12080)


def test_packages_of_conda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "lib/python3.12/site-packages/" + PLUGIN.format(12))
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path))
    folders = machine.package_folders([])
    assert machine.find_plugin(folders, 12080).startswith(str(tmp_path))
