"""What runs on a GPU need besides: XLA's plugin, the maker's libraries, a driver. All of it is optional."""

import os
from importlib import metadata

from packaging.requirements import Requirement

from so3krates.hints import pip_install

from .checkup import Check

RELEASES = ("12", "13")  # of CUDA
OTHERS = {"rocm": "ROCm", "oneapi": "oneAPI"}  # platforms of GPUs of AMD and Intel


def gpu_checks() -> list[Check]:
    """Each platform's plugin; where it is installed also the libraries that it loads, and the driver."""
    try:
        from so3krates import _harness  # noqa: F401
    except ImportError:  # the doctor has said so already
        return []
    return [*_cuda(), *(check for platform, name in OTHERS.items() for check in _other(platform, name))]


def _other(platform: str, name: str) -> list[Check]:
    """Nothing where there is no plugin, as on most machines."""
    from so3krates import _harness

    try:
        path = _harness.pjrt.find_plugin(platform)[0]
    except _harness.Error as error:
        absent = "no PJRT plugin for" in str(error)
        return [] if absent else [Check(f"{name} plugin", False, str(error), needed=False)]
    try:
        plugin = Check(f"{name} plugin", True, f"PJRT {_harness.pjrt.api_version(path)}, {path}")
    except _harness.Error as error:
        return [Check(f"{name} plugin", False, str(error), needed=False)]
    return [plugin, _gpu(platform, path)]


def _gpu(platform: str, plugin: str) -> Check:
    from so3krates import _harness

    try:
        _harness.pjrt.check_gpu(platform, 0, plugin)
        return Check("GPU", True, f"{_harness.pjrt.gpu_count(platform)} for device {platform}")
    except _harness.Error as error:  # as on the node of a cluster where one logs in
        return Check("GPU", False, str(error), needed=False)


def _cuda() -> list[Check]:
    from so3krates import _harness

    try:
        path = _harness.pjrt.find_plugin("cuda")[0]
    except _harness.Error as error:
        extra = pip_install("so3krates[cuda12]")
        found = "not installed" if "no PJRT plugin for" in str(error) else str(error)
        return [Check("CUDA plugin", True, f"{found}; for device cuda: {extra}, or [cuda13]")]
    checks = [Check("CUDA plugin", True, path), _assembler(path)]
    for release in RELEASES:
        if _version(f"jax-cuda{release}-pjrt") is not None:
            checks += _libraries(release)
    return [*checks, _gpu("cuda", path)]


def _assembler(plugin: str) -> Check:
    """What XLA makes machine code with: ptxas and NVIDIA's device library."""
    from so3krates import _harness

    name = "CUDA assembler"
    if "xla_gpu_cuda_data_dir" in os.environ.get("XLA_FLAGS", ""):
        return Check(name, True, "where XLA_FLAGS say")
    if folder := _harness.pjrt.cuda_folder(plugin):
        return Check(name, True, f"{folder} (bin/ptxas, nvvm/libdevice)")
    found = f"bin/ptxas and nvvm/libdevice are in none of {', '.join(_harness.pjrt.cuda_folders(plugin))}"
    fix = f"{pip_install('so3krates[cuda12]')}, or [cuda13]; or set CUDA_HOME to the folder of a CUDA"
    return Check(name, False, found, fix, needed=False)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _libraries(release: str) -> list[Check]:
    """The packages that JAX's plugin of a CUDA release asks for: NVRTC, ptxas, nvJitLink and so on."""
    name = f"jax-cuda{release}-plugin"
    everything = pip_install(f"so3krates[cuda{release}]")
    plugin, pjrt = _version(name), _version(f"jax-cuda{release}-pjrt")
    if plugin is None:
        found = f"{name} is not installed, which names the libraries that the plugin loads"
        return [Check(f"CUDA {release} libraries", False, found, everything, needed=False)]
    checks = []
    jax = _version("jax")
    if len({plugin, pjrt, jax}) > 1:
        found = f"jax {jax}, {name} {plugin}, jax-cuda{release}-pjrt {pjrt}: not of one release"
        checks.append(Check(f"CUDA {release} plugin and JAX", False, found, everything, needed=False))
    missing: list[str] = []
    present: list[str] = []
    for requirement in map(Requirement, metadata.requires(name) or []):
        marker = requirement.marker
        if not requirement.name.startswith("nvidia-") or (marker and not marker.evaluate({"extra": "with-cuda"})):
            continue
        version = _version(requirement.name)
        good = version is not None and requirement.specifier.contains(version, prereleases=True)
        (present if good else missing).append(f"{requirement.name}{requirement.specifier}")
    if missing:
        found = f"missing or too old: {', '.join(missing)}"
        checks.append(Check(f"CUDA {release} libraries", False, found, pip_install(*missing), needed=False))
    else:
        checks.append(Check(f"CUDA {release} libraries", True, f"{len(present)} packages, as {name} {plugin} asks for"))
    return checks
