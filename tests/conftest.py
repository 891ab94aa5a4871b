"""Fixtures shared by all tests: a small trained potential, its bundles, structures."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from concerns import TESTS, concerns
from long_tables import Many, many, summary
from once import made_once
from quick import kept_programs, quick_exports, quick_generator, quick_programs
from stand_ins import cuda_driver, other_plugin, waiting_ranks

ROOT = Path(__file__).resolve().parent.parent
# Most of a test's time would be compilation of programs that run a few times.
QUICK_COMPILATION = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
MOST_MEMORY = 3e9  # bytes of a process, from where programs are forgotten
SELDOM = 1_000, 20, 100  # Python looks for circles of references, of which traces of programs make few
# What is compiled serves all tests of this run and of the next, and the programs that they start: set before anybody
# imports JAX.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = kept_programs(ROOT / ".pytest_cache")
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": f"{_compiled}/jax", **QUICK_COMPILATION}
    os.environ["SO3KRATES_CACHE"] = f"{_compiled}/so3krates"
# Where Python is not to write beside sources, each of the hundreds of programs would compile JAX's modules again.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    _modules = Path(sys.prefix) / "modules"  # of the environment: the next run finds them there
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(_modules)
    os.environ["PYTHONPYCACHEPREFIX"] = str(_modules)
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of small matrices: further threads only wait, and take a core to do so
# Files of more than twenty seconds of a processor, the longest first.
LONGEST = (
    "docs/test_blocks",
    "gpu/test_kit",
    "python/test_sampling",
    "python/test_training",
    "python/test_comparison",
    "gpu/test_compile",
    "python/test_cuda_kernels",
    "python/test_fused",
    "lammps/test_so3lr_in_lammps",
    "docs/test_notebooks",
    "python/test_predicted_charges",
    "python/test_tables",
    "python/test_export",
    "lammps/test_ranks",
    "runtime/test_kernels",
    "python/test_learning",
    "lammps/test_outputs_in_lammps",
    "python/test_finetuning_so3lr",
    "python/test_training_processes",
    "python/test_so3lr",
    "python/test_terms",
    "python/test_pair_potential",
    "python/test_baselines",
    "python/test_phonons",
    "python/test_stages",
    "gpu/test_host_kernels",
    "python/test_cli",
    "lammps/test_predicted_charges_in_lammps",
    "python/test_finetuning",
    "lammps/test_memory",
    "python/test_training_loss",
    "python/test_evaluate",
    "python/test_run_folder",
)
SMALL_MODEL = ROOT / "tests" / "models" / "gan-small"  # trained by `so3krates demo`


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the first process, whose environment all others have
        folder = tempfile.TemporaryDirectory(prefix="so3krates-tests-")
        config.add_cleanup(folder.cleanup)
        library = waiting_ranks(Path(folder.name))
        os.environ["LD_PRELOAD"] = f"{os.environ.get('LD_PRELOAD', '')} {library}".strip()
    if not config.getoption("numprocesses", None):  # a process that runs tests
        gc.set_threshold(*SELDOM)
        _start_jax()
        _start_runtime()
        quick_exports()


def _start_jax() -> None:
    """With two devices, XLA's quick code generator, and no further threads, which wait more than they work.

    XLA reads its flags and variables once, when JAX opens its devices. The runtime's plugin has an XLA of its own.
    """
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {quick_generator()}".strip())
        patch.setenv("NPROC", "1")
        jax.devices()


def _start_runtime() -> None:
    """With XLA's quick code: the plugin's XLA reads its flags once, too. Programs that tests start do not see them."""
    import numpy as np
    from so3krates._harness import pjrt
    from so3krates_export.lowering import lower

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {quick_programs()}".strip())
        pjrt.Client("cpu", threads=1).compile(lower(lambda x: (x + 1,), [np.zeros(8, np.float32)]))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="run the long tables, and nothing else (make torture)")
    parser.addoption("--scale", type=float, default=1.0, help="so many times the cases of these tables")


def pytest_itemcollected(item: pytest.Item) -> None:
    for concern in concerns(item.path):
        item.add_marker(concern)


@pytest.hookimpl(trylast=True)  # after -m and -k have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--torture")
    left_out = [item for item in items if (item.get_closest_marker("torture") is not None) != wanted]
    config.hook.pytest_deselected(items=left_out)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = for_workers([item for item in items if item not in left_out], workers)


def for_workers(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """The tests in as many parts, of which each worker has one at first, with an even share of the longest files in
    front: in the end there are short ones to be taken over by who is done."""
    place = {TESTS / f"{name}.py": k for k, name in enumerate(LONGEST)}
    long = sorted((item for item in items if item.path in place), key=lambda item: place[item.path])
    short = [item for item in items if item.path not in place]
    # There and back again, so that the sums of the parts are alike.
    turns = [*range(workers), *reversed(range(workers))]
    parts = [[item for item in long if turns[place[item.path] % len(turns)] == k] for k in range(workers)]
    for k, part in enumerate(parts):
        missing = max(0, len(items) // workers - len(part)) if k < workers - 1 else len(short)
        part += short[:missing]
        short = short[missing:]
    return [item for part in parts for item in part]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--torture"):
        reports = [r for some in terminalreporter.stats.values() for r in some if isinstance(r, pytest.TestReport)]
        terminalreporter.section("tables")
        for line in summary(reports):
            terminalreporter.write_line(line)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """JAX keeps every program that a process has run: gigabytes, over all modules. The next may need the same ones."""
    yield
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if "jax" in sys.modules and resident > MOST_MEMORY:
        sys.modules["jax"].clear_caches()


@pytest.fixture(name="many")
def many_cases(request: pytest.FixtureRequest) -> Many:
    """How many cases a table has that has so many by default; the summary counts them."""

    def number_of(default: int) -> int:
        number = many(request.config, default)
        request.node.user_properties.append(("cases", number))
        return number

    return number_of


@pytest.fixture(scope="session")
def small_model_folder() -> Path:
    """A model folder: Ga and N, cutoff 5 A, trained on GaN.tersoff labels."""
    return SMALL_MODEL


def _bundle(factory: pytest.TempPathFactory, precision: str, body: str) -> Path:
    from so3krates.storage import Model
    from so3krates_export.export import export_model

    def export(path: Path) -> None:
        export_model(Model.load(SMALL_MODEL), path, precision=precision, body=body)

    return made_once(factory, f"gan-{precision}-{body}.so3k", export)


@pytest.fixture(scope="session")
def gan_bundle32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small potential as a float32 bundle as users export it."""
    return _bundle(tmp_path_factory, "float32", "auto")


@pytest.fixture(scope="session", params=["fused", "xla"])
def gan_bundle64(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small potential as a float64 bundle, with either body."""
    return _bundle(tmp_path_factory, "float64", request.param)


@pytest.fixture
def gan_cell() -> Atoms:
    """Primitive cell of wurtzite GaN, 4 atoms."""
    return bulk("GaN", "wurtzite", a=3.19, c=5.19)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of the GPU driver's functions that answers as the environment says."""
    return cuda_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="session")
def cuda_by_name(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CPU plugin, which says that it is CUDA's, and pins memory."""
    return other_plugin(tmp_path_factory.mktemp("named"), platform="cuda")
