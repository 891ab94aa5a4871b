"""Build the C++ parts with sanitizers and run their tests: `make sanitize`, or `tools/sanitize.py address` or `thread`.

`address` is AddressSanitizer with UndefinedBehaviorSanitizer, `thread` is ThreadSanitizer; both are GCC's. XLA's plugin
is a finished library without them: what happens inside it is not looked at.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    # (compiler's flags, library to load first, options)
    "address": (
        "address,undefined",
        "libasan.so",
        # Python and JAX free nothing at their end.
        {
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        },
    ),
    "thread": (
        "thread",
        "libtsan.so",
        # Without their own instrumentation XLA and Python look like races.
        {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1:halt_on_error=1:exitcode=66"},
    ),
}
# Of SO3LR's kernels, without LAMMPS.
SO3LR = tuple(
    f"tests/lammps/test_so3lr_in_lammps.py::{name}"
    for name in ("test_kernels_as_the_portable_programs", "test_float32_with_kernels", "test_ranks_that_add_up_as_one")
)
TESTS = {
    "address": (
        "tests/runtime",
        "tests/python/test_fused.py",
        "tests/python/test_calculator.py",
        *SO3LR,
        # A library that it loads first itself, and a plugin beside the package: here both are this script's.
        "--deselect=tests/runtime/test_host.py::test_a_machine_with_thousands_of_cores",
        "--deselect=tests/runtime/test_pjrt.py::test_plugin_of_a_device",
    ),
    "thread": (
        "tests/runtime/test_kernels.py",
        "tests/runtime/test_evaluator.py",
        "tests/python/test_fused.py",
        *SO3LR,
    ),
}


def build(kind: str) -> Path:
    """Install the package, instrumented, into a folder of its own; the folder."""
    flags, _, _ = KINDS[kind]
    site = ROOT / "build" / f"sanitize-{kind}" / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--upgrade"]
    command += ["--target", site, "-C", f"build-dir={site.parent / 'build'}", "-C", "cmake.build-type=Debug"]
    command += [
        "-C",
        f"cmake.define.SO3KRATES_SANITIZE={flags}",
        "-C",
        "cmake.define.CMAKE_CXX_FLAGS_DEBUG=-O1 -g",
        ROOT,
    ]
    subprocess.run(list(map(str, command)), check=True)
    return site


def preloaded(library: str) -> str:
    """The sanitizer's library, which has to come before all others in a program that was built without it."""
    compiler = os.environ.get("CXX", "g++")
    path = subprocess.run([compiler, f"-print-file-name={library}"], capture_output=True, text=True, check=True).stdout
    if not Path(path.strip()).is_absolute():
        sys.exit(f"{compiler} has no {library}: on Debian it comes with g++")
    return path.strip()


def run(kind: str, arguments: list[str]) -> int:
    """Test the instrumented package; pytest's exit code."""
    site = build(kind)
    _, library, options = KINDS[kind]
    plugin = subprocess.run(
        [sys.executable, "-c", "from so3krates._harness import pjrt; print(pjrt.find_plugin('cpu')[0])"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    environment = {
        **os.environ,
        **options,
        "PYTHONPATH": str(site),
        # It looks for what throws exceptions in the C++ library as it starts, which Python alone does not load.
        "LD_PRELOAD": f"{preloaded(library)} {preloaded('libstdc++.so.6')}",
        "SO3KRATES_PJRT_CPU": plugin,
        "SO3KRATES_CACHE": str(site.parent / "cache"),
    }
    print(f"{kind}: {' '.join(arguments or TESTS[kind])}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(arguments or TESTS[kind])]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def main() -> None:
    kinds = [argument for argument in sys.argv[1:] if argument in KINDS] or list(KINDS)
    rest = [argument for argument in sys.argv[1:] if argument not in KINDS]
    sys.exit(max(run(kind, rest) for kind in kinds))


if __name__ == "__main__":
    main()
