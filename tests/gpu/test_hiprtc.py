"""AMD's compiler takes the kernels' source, where there is one; what they need of a processor is within its limits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from so3krates.model import PRESETS
from so3krates.model.long_range import Dispersion, Electrostatics
from so3krates.model.reductions import tabulated_config
from so3krates_export.cuda import AMD, kernel_sizes, launch_of
from so3krates_export.so3lr_fused import long_numbers

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import hip_static

KERNELS = {
    "neighbours", "first_messages", "first_messages_adjoint", "messages", "messages_adjoint", "cell_begins",
    "long_pairs",
}  # fmt: skip
LANES = {"gfx90a": 64, "gfx942": 64, "gfx1100": 32}  # of a wavefront
MOST_SCRATCH = 700  # bytes of a lane in memory, of the kernels that multiply
CONFIG = tabulated_config(PRESETS["gan"], 256, 0.5)


def code_object(sizes: str, architecture: str) -> bytes:
    try:
        return hip_static.code_object(sizes, architecture)
    except hip_static.NoHiprtcError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "architecture",
    ["gfx942", pytest.param("gfx90a", marks=pytest.mark.torture), pytest.param("gfx1100", marks=pytest.mark.torture)],
)
def test_hiprtc_compiles_the_kernels(architecture: str) -> None:
    long = long_numbers((Electrostatics(), Dispersion.from_settings({}, ("N", "O"))))
    found = hip_static.resources(code_object(kernel_sizes(CONFIG, "float32", 2, 1, long, AMD), architecture))
    assert set(found) == KERNELS
    for kernel in found.values():
        assert kernel.lanes == LANES[architecture]
        assert 8 <= kernel.registers <= 512 and kernel.scratch_bytes < MOST_SCRATCH


def test_hiprtcs_complaint_is_passed_on() -> None:
    with pytest.raises(RuntimeError, match=r"HIPRTC_ERROR_COMPILATION\n.*no sizes"):
        code_object("#error no sizes\n", "gfx942")


def test_a_block_fits_amds_memory() -> None:
    launch = launch_of(CONFIG, "float32", 4, AMD)
    assert 0 < launch.least_bytes <= AMD.shared_bytes == 64 * 1024
    assert launch.warps * launch.tile_bytes + launch.matrix_bytes <= AMD.shared_bytes
