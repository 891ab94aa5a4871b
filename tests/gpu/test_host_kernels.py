"""The GPU kernels on the host: races, bounds and undefined operations by sanitizers; rows far beyond 2^32 numbers; both
languages."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from so3krates.model import PRESETS
from so3krates.model.long_range import Dispersion, Electrostatics
from so3krates.model.reductions import tabulated_config
from so3krates_export.cuda import kernel_sizes
from so3krates_export.so3lr_fused import long_numbers

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "csrc" / "kernels"
ROWS = 6  # that are computed: with none, few and many neighbours
FAR = 24_000_000  # first row, beyond the ladder's last: a row's candidates and vectors begin beyond 2^32 numbers
MEETINGS = 8  # runs in which two threads may meet without a barrier
LONG = (Electrostatics(), Dispersion.from_settings({}, ("N", "O")))
LANGUAGES = 1e-5  # relative, float32: sums of squares of results in CUDA's language and in HIP's
FOUND = 66  # exit code of a sanitizer that has found something

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """build(channels, flags, (file, old, new), ...) compiles all kernels for the GaN preset, perhaps with mistakes."""

    @functools.cache
    def compiled(channels: int, flags: tuple[str, ...], *mistakes: tuple[str, str, str]) -> Path:
        folder = tmp_path_factory.mktemp("kernels")
        for source in (*(KERNELS / "cuda").iterdir(), *(KERNELS / "shared").iterdir()):
            text = source.read_text()
            for file, old, new in mistakes:
                if source.name == file:
                    assert text.count(old) == 1
                    text = text.replace(old, new)
            (folder / source.name).write_text(text)
        sizes = folder / "sizes.h"
        config = tabulated_config(PRESETS["gan"], 256, 0.5)
        # Pairs of long range, which SO3LR has, go with the other kernels: one program for all.
        sizes.write_text(kernel_sizes(config, "float32", 2, channels, long_numbers(LONG)))
        program = folder / "run"
        names = [f'-DSIZES="{sizes}"', f'-DHOST_CUDA="{HERE / "host_cuda.h"}"', f"-I{folder}"]
        # Ubuntu's compiler checks by default that longjmp goes up one stack; threads of a warp have one each.
        command = [
            "c++",
            "-std=c++17",
            "-O1",
            "-w",
            "-U_FORTIFY_SOURCE",
            *names,
            *flags,
            str(HERE / "run_kernels.cpp"),
            "-o",
            str(program),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if "cannot find" in done.stderr and "san" in done.stderr:
            pytest.skip("the compiler has no such sanitizer: install libtsan, libasan and libubsan")
        assert done.returncode == 0, done.stderr[-3000:]
        return program

    return compiled


def run(program: Path, first: int = 0, rows: int = ROWS) -> subprocess.CompletedProcess[str]:
    options = {"TSAN_OPTIONS": f"exitcode={FOUND}", "ASAN_OPTIONS": f"detect_leaks=0:exitcode={FOUND}"}
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"} | options
    return subprocess.run(
        [program, str(first), str(rows)], env=environment, capture_output=True, text=True, check=False
    )


PLAIN = ("-O0",)  # compiled in half the time, for runs of a few rows
THREADS = ("-DHOST_THREADS", "-pthread")
RACES = (*THREADS, "-fsanitize=thread")
# By the kernel in which it shows, one barrier of a warp with what stands in front of it.
FORGOTTEN = {
    "messages": ("tile.h", "    e.invariants = totals;\n  }\n  sync_warp();", "    e.invariants = totals;\n  }"),
    "messages_adjoint": (
        "messages_adjoint.h",
        "[k / TILE / 4][k / TILE % 4] = 0;\n  sync_warp();",
        "[k / TILE / 4][k / TILE % 4] = 0;",
    ),
    "long_pairs": ("long_pairs.h", "sums);\n      sync_warp();", "sums);"),
}


def test_no_races(build: Build) -> None:
    done = run(build(1, RACES))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "messages_adjoint forces" in done.stdout


@pytest.mark.parametrize(
    "kernels",
    [("messages", "long_pairs"), pytest.param(("messages_adjoint",), marks=pytest.mark.torture)],
    ids=" and ".join,
)
def test_a_forgotten_barrier_is_a_race(build: Build, kernels: tuple[str, ...]) -> None:
    program = build(1, RACES, *(FORGOTTEN[kernel] for kernel in kernels))
    # Whether two threads meet there is the scheduler's choice.
    seen: set[str] = set()
    for _ in range(MEETINGS):
        done = run(program)
        if done.returncode == FOUND and "data race" in done.stderr:
            seen |= {kernel for kernel in kernels if re.search(rf"\b{kernel}\b", done.stderr)}
        if len(seen) == len(kernels):
            break
    assert seen == set(kernels), done.stderr[-3000:]


def test_bounds_and_defined_operations(build: Build) -> None:
    """Arrays and shared memory have the sizes that the kernels may touch, and no byte more."""
    program = build(1, (*THREADS, "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
    for rows in (0, 1, ROWS):
        done = run(program, rows=rows)
        assert done.returncode == 0, done.stderr[-3000:]
    beyond = build(
        1,
        (*THREADS, "-O0", "-fsanitize=address"),
        ("kernels.cu", "vectors[3 * place + 2] =", "vectors[3 * place + 3 * (slots + 1) * 7] ="),
    )
    assert run(beyond).returncode == FOUND


def test_rows_beyond_32_bits(build: Build) -> None:
    """Every index is computed in 64 bits: rows far away give what near ones give, and do not with 32."""
    program = build(4, PLAIN)
    near = run(program, rows=2).stdout.splitlines()
    assert len(near) > 10 and run(program, FAR, 2).stdout.splitlines() == near
    wrong = run(build(4, PLAIN, ("edge.h", "using Size = unsigned long long;", "using Size = unsigned;")), FAR, 2)
    different = [line.split()[0] for line in near if line not in wrong.stdout.splitlines()]
    kernels = {"vectors", "first_messages", "first_messages_adjoint", "messages", "messages_adjoint"}
    assert kernels <= set(different)


def test_halves_of_a_wavefront_compute_what_warps_do(build: Build) -> None:
    """In HIP's language, two rows to a wavefront of 64 lanes: one half never reads what the other says."""
    cuda, hip = (run(build(4, flags)).stdout.splitlines() for flags in (PLAIN, (*PLAIN, "-D__HIP__")))
    assert len(cuda) == len(hip) > 15
    for ours, theirs in zip(cuda, hip, strict=True):
        name, expected = ours.rsplit(maxsplit=2)[0], float(ours.split()[-1])
        assert expected > 0.0 and theirs.startswith(name)
        assert float(theirs.split()[-1]) == pytest.approx(expected, rel=LANGUAGES), name


@pytest.mark.torture
def test_a_ballot_has_the_other_halfs_bits(build: Build) -> None:
    """Who takes it for that of 32 lanes counts them: rows differ, or there is no room for them."""
    mistake = ("language.h", " >> (__lane_id() / kWarp * kWarp)", "")
    wrong, right = (run(build(4, (*PLAIN, "-D__HIP__"), *mistakes)) for mistakes in ((mistake,), ()))
    assert right.returncode == 0 and wrong.stdout != right.stdout


def test_no_rows_and_one(build: Build) -> None:
    program = build(4, PLAIN)
    none, one = (run(program, rows=rows).stdout.splitlines() for rows in (0, 1))
    assert len(none) == len(one) > 10
    assert all(float(line.split()[-1]) == 0.0 for line in none if "virials" not in line)
    assert all(float(line.split()[-1]) > 0.0 for line in one if "virials" not in line)
