"""What is installed beside this package: bounds and lock, XLA's plugin for the CPU, Pythons that cannot serve."""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import so3krates
import yaml
from concerns import CONCERNS, LONG, concerns
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from so3krates import cpu_runtime, exporting
from so3krates.lammps.environment import mpi_file

ROOT = Path(__file__).parents[2]
PLUGIN_SHA256 = "0a0fe56ca17be9efc7b942e89e534e5e0ad4a0f1e369b66d27b62184509015b9"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def requirements(*extras: str) -> list[Requirement]:
    """Those of the build, of the program, and of some extras."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = content["project"]["optional-dependencies"]
    groups = [content["build-system"]["requires"], content["project"]["dependencies"], *(optional[e] for e in extras)]
    return [Requirement(line) for group in groups for line in group]


def lock(python: str) -> dict[str, str]:
    """Version of every package that the lock gives a Python on Linux."""
    environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.1"}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    entries = [r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate(environment)]
    versions = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in entries}
    assert len(versions) == len(entries) > 50
    return versions


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_holds_what_is_required(python: str) -> None:
    versions = lock(python)
    assert not [name for name in versions if name.startswith("tensorflow")]  # 1.3 GB that nothing needs
    for requirement in requirements("test", "lint"):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_bounds_name_a_lowest_version() -> None:
    assert [str(r) for r in requirements("test", "lint") if not {"==", ">="} & {s.operator for s in r.specifier}] == []


def test_installed_versions_are_within_the_bounds() -> None:
    for requirement in requirements("test"):
        assert requirement.specifier.contains(metadata.version(requirement.name)), requirement


def test_every_test_file_is_in_a_group(request: pytest.FixtureRequest) -> None:
    """And every group is one that `-m` takes."""
    groups = {file: concerns(file) for file in (ROOT / "tests").glob("*/test_*.py")}
    assert [file for file, found in groups.items() if not found] == []
    listed = {line.split(":")[0] for line in request.config.getini("markers")}
    assert all((ROOT / "tests" / f"{name}.py").is_file() for name in LONG)
    assert {*CONCERNS, "long"} == {group for found in groups.values() for group in found} <= listed


# ---- XLA's plugin for the CPU


def run(code: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != cpu_runtime.VARIABLE} | variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_one_door_leads_to_the_exporter() -> None:
    package = ROOT / "python" / "so3krates"
    doors = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            # A module that is imported by a name in a string, whole or in part.
            names += [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
            if any(name == "so3krates_export" or name.startswith("so3krates_export.") for name in names):
                doors.add(file.relative_to(package).as_posix())
    assert doors == {"exporting.py", "cli_errors.py"}  # the latter names the package as one of ours
    for name in exporting.__all__:
        assert getattr(exporting, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = exporting.unknown


def test_plugin_is_found_in_another_site_folder(tmp_path: Path) -> None:
    """As `pip install --user` leaves it over a plugin that the system has."""
    shutil.copytree(Path(so3krates.__file__).parent, tmp_path / "so3krates")
    found = "h.__file__, h.pjrt.Client().platform, h.pjrt.find_plugin('cpu')[0]"
    code = f"import so3krates._harness as h; print({found}, sep='\\n')"
    harness, platform, plugin = run(code, PYTHONPATH=str(tmp_path)).splitlines()
    assert Path(harness).parent == tmp_path / "so3krates"
    assert platform == "cpu"
    assert Path(plugin) == Path(str(metadata.distribution(cpu_runtime.DISTRIBUTION).locate_file(""))) / (
        f"{cpu_runtime.PACKAGE}/{cpu_runtime.LIBRARY}"
    )


def test_plugin_beside_the_package_needs_no_variable() -> None:
    assert run(f"import os, so3krates; print(os.environ.get({cpu_runtime.VARIABLE!r}))") == "None"


def test_users_plugin_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_runtime, "__file__", str(tmp_path / "so3krates" / "cpu_runtime.py"))
    monkeypatch.setenv(cpu_runtime.VARIABLE, "/my/plugin.so")
    cpu_runtime.point_to_library()
    assert os.environ[cpu_runtime.VARIABLE] == "/my/plugin.so"


def test_plugin_is_the_one_that_was_tested() -> None:
    library = metadata.distribution(cpu_runtime.DISTRIBUTION).locate_file(
        f"{cpu_runtime.PACKAGE}/{cpu_runtime.LIBRARY}"
    )
    with open(str(library), "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == PLUGIN_SHA256


# ---- Pythons that cannot serve


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [
        ("sys.version_info", (3, 15, 0), "Python "),
        ("platform.machine", lambda: "aarch64", "Linux on aarch64"),
        ("platform.libc_ver", lambda: ("", ""), "a system without glibc"),
    ],
)
def test_unserved_machine_is_named(attribute: str, value: object, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import make_venv

    assert make_venv.unserved() == ""
    monkeypatch.setattr(attribute, value)
    assert make_venv.unserved().startswith(reason)


def test_the_workflow_calls_what_is_there() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    made = {line.split()[1] for line in lines if line.startswith("make ")}
    targets = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ":" in line}
    assert made == {"lint", "site", "test", "test-long", "wheel"} and made <= targets
    assert set(jobs["wheels"]["strategy"]["matrix"]["python"]) <= set(PYTHONS)
    for job in jobs.values():
        assert set(job.get("needs", [])) <= set(jobs)


def test_an_mpi_is_known_by_its_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make matrix`: its kind by its header, its mpiexec by the compiler's name."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import matrix

    # MPICH's compilers fail in a folder with a space in its name.
    (tmp_path / "mpich").symlink_to(mpi_file("mpicxx").parents[1])
    assert matrix.kind_of(str(tmp_path / "mpich" / "bin" / "mpicxx")) == "MPICH"
    for name in ("mpicxx", "mpicxx.mpich", "mpicxx.openmpi", "mpiexec", "mpiexec.mpich"):
        (tmp_path / name).write_text('#!/bin/sh\necho "#define OPEN_MPI 1"\n')
        (tmp_path / name).chmod(0o755)
    assert matrix.kind_of(str(tmp_path / "mpicxx.openmpi")) == "Open MPI"
    started = {name: matrix.mpiexec_of(str(tmp_path / name)).name for name in ("mpicxx", "mpicxx.mpich")}
    assert started == {"mpicxx": "mpiexec", "mpicxx.mpich": "mpiexec.mpich"}
    assert matrix.mpiexec_of(str(tmp_path / "mpicxx.openmpi")).name == "mpiexec"
    with pytest.raises(RuntimeError, match=r"there is no mpicxx\.none: name the compiler of an MPI"):
        matrix.mpiexec_of("mpicxx.none")
