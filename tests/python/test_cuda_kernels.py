"""The GPU kernels' own source, compiled for the host by a stand-in of NVRTC: equal to the `xla` stages."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from helpers import cluster, rattled_wurtzite, tiny
from so3krates import _harness
from so3krates_export import cuda_body
from so3krates_export.cuda import AMD, KERNEL_VERSION, check_cuda, kernel_shared_bytes, kernel_sizes, launch_of
from so3krates_export.fused import FusedError
from test_fused import PARITY, RUNG, SINGLE, close, network, run_one

pytestmark = pytest.mark.usefixtures("x64", "stand_in")

WIDE_SINGLE = 2e-5  # relative, float32: of larger energies than `SINGLE`


def crystal() -> Atoms:
    return rattled_wurtzite((2, 2, 1))


@pytest.mark.parametrize(
    ("name", "channels", "make"),
    [
        ("two heads", 1, crystal),
        pytest.param("two heads", 4, cluster, marks=pytest.mark.torture),
        ("four degrees", 4, cluster),
        pytest.param("three heads", 1, cluster, marks=pytest.mark.torture),
        pytest.param("one head", 1, tiny, marks=pytest.mark.torture),
        pytest.param("one layer", 4, tiny, marks=pytest.mark.torture),
        ("wide", 4, tiny),
    ],
)
def test_kernels_equal_xla(name, channels, make):
    atoms = make()
    expected = run_one(atoms, name, "xla", channels)
    found = run_one(atoms, name, "cuda", channels)
    assert ("atom_virials" in expected) == (channels == 4)
    close(found, expected, len(atoms), PARITY)


def test_single_precision():
    atoms = crystal()
    expected = run_one(atoms, "two heads", "xla", 1)
    close(run_one(atoms, "two heads", "cuda", 1, precision="float32"), expected, len(atoms), SINGLE)


def test_single_precision_with_more_quads_than_lanes():
    expected = run_one(cluster(), "wide", "xla", 4)
    del expected["atom_virials"]  # the kernels here are those of one channel
    close(run_one(cluster(), "wide", "cuda", 1, precision="float32"), expected, len(cluster()), WIDE_SINGLE)


def test_blocks_have_as_many_warps_as_the_gpu_has_shared_memory_for(monkeypatch: pytest.MonkeyPatch):
    least = kernel_shared_bytes(network("three heads")[0], "float64")
    monkeypatch.setenv("FAKE_CUDA_SHARED", str(least))  # the stand-in refuses blocks that take more
    assert _harness.pjrt.cuda_kernel_problem(KERNEL_VERSION, least) == ""
    assert "bytes of shared memory" in _harness.pjrt.cuda_kernel_problem(KERNEL_VERSION, least + 1)
    expected = run_one(tiny(), "three heads", "xla", 4)
    close(run_one(tiny(), "three heads", "cuda", 4), expected, len(tiny()), PARITY)


@pytest.mark.parametrize(
    ("name", "channels", "precision", "make", "tolerance"),
    [
        ("two heads", 4, "float64", cluster, PARITY),
        ("two heads", 1, "float32", crystal, SINGLE),
    ],
)
def test_kernels_in_hips_language(name, channels, precision, make, tolerance, monkeypatch: pytest.MonkeyPatch):
    """With the sizes for AMD's processors, on wavefronts of 64 lanes, halves of which compute a row each."""
    atoms = make()
    expected = run_one(atoms, name, "xla", channels)
    sizes: list[str] = []

    def in_hip(*arguments) -> str:
        sizes.append("#define __HIP__ 1\n" + kernel_sizes(*arguments, processor=AMD))
        return sizes[-1]

    monkeypatch.setattr(cuda_body, "kernel_sizes", in_hip)
    monkeypatch.setattr(cuda_body, "launch_of", lambda *arguments: launch_of(*arguments, AMD))
    monkeypatch.setenv("FAKE_CUDA_SHARED", str(AMD.shared_bytes))
    # Programs are kept by their arguments: by this rung they are others than those of the other tests.
    found = run_one(
        atoms, name, "cuda", channels, precision=precision, rung=RUNG._replace(candidates=RUNG.candidates + 8)
    )
    assert sizes
    close(found, expected, len(atoms), tolerance)


def test_more_neighbours_than_slots_are_reported():
    found = run_one(tiny(), "one layer", "cuda", 4, rung=RUNG._replace(neighbours=8))
    assert found["neighbours_needed"] == found["counts"][:2].max() > 8


def test_results_are_equal_to_the_bit():
    found, again = (run_one(tiny(), "one layer", "cuda", 4) for _ in range(2))
    assert np.array_equal(found["energy"], again["energy"])
    assert np.array_equal(found["strain_gradient"], again["strain_gradient"])
    for key in ("atom_energies", "forces", "atom_virials"):
        np.testing.assert_array_equal(found[key][: len(tiny())], again[key][: len(tiny())])


def test_kernels_of_another_version_are_refused():
    assert _harness.pjrt.cuda_kernel_problem(KERNEL_VERSION) == ""
    message = _harness.pjrt.cuda_kernel_problem(KERNEL_VERSION + 1)
    assert f"calls version {KERNEL_VERSION + 1} of the GPU kernels" in message and "export the model again" in message


def test_networks_without_room_in_shared_memory_are_refused():
    config, _ = network("two heads")
    check_cuda(config, "float64")
    wide = dataclasses.replace(
        config, features=1032, radial_filter_features=(1032,), spherical_filter_features=(256, 1032)
    )
    with pytest.raises(FusedError, match=r"leave no shared memory.*export with body 'xla'"):
        check_cuda(wide, "float32")
