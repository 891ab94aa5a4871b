"""How many threads a process may have: affinity mask, CPU quotas of control groups, what a machine can bear."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from so3krates._harness import Error, Evaluator, pjrt
from toy_bundle import LADDER, write_toy_bundle

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
V1_OF_A_CONTAINER = V1.replace(" / /sys", " /docker/a1 /sys")
SPACE = V2.replace("/sys/fs/cgroup", "/sys/fs/c\\040group")
PIDS = "32 24 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"

# mountinfo, /proc/self/cgroup, files of the groups, cores and the group that are found.
QUOTAS: dict[str, tuple[str, str, dict[str, str], float, str]] = {
    "no control groups": ("", "", {}, 0.0, ""),
    "no limit": (V2, "0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 0.0, ""),
    "own group": (V2, "0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "200000 100000\n"}, 2.0, "/sys/fs/cgroup/a/b"),
    "fraction": (V2, "0::/a\n", {"sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5, "/sys/fs/cgroup/a"),
    "a group above": (
        V2,
        "0::/a/b/c\n",
        {"sys/fs/cgroup/a/b/c/cpu.max": "800000 100000\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n"},
        3.0,
        "/sys/fs/cgroup/a",
    ),
    "the top, seen from inside": (V2, "0::/\n", {"sys/fs/cgroup/cpu.max": "50000 25000\n"}, 2.0, "/sys/fs/cgroup"),
    "outside of what is mounted": (V2, "0::/../x\n", {"sys/fs/cgroup/cpu.max": "50000 25000\n"}, 2.0, "/sys/fs/cgroup"),
    "a space in the path": (
        SPACE,
        "0::/a\n",
        {"sys/fs/c group/a/cpu.max": "400000 100000\n"},
        4.0,
        "/sys/fs/c group/a",
    ),
    "version 1": (
        PIDS + V1,
        "5:pids:/x\n4:cpu,cpuacct:/a/b\n0::/y\n",
        {
            "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "50000\n",
        },
        5.0,
        "/sys/fs/cgroup/cpu,cpuacct/a",
    ),
    "version 1 in a container": (
        V1_OF_A_CONTAINER,
        "4:cpu,cpuacct:/docker/a1/job\n",
        {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        4.0,
        "/sys/fs/cgroup/cpu,cpuacct",
    ),
    "both versions": (
        V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified") + V1,
        "4:cpu,cpuacct:/a\n0::/a\n",
        {
            "sys/fs/cgroup/unified/a/cpu.max": "700000 100000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "600000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
        },
        6.0,
        "/sys/fs/cgroup/cpu,cpuacct/a",
    ),
    "a name that only begins alike": (
        V1_OF_A_CONTAINER,
        "4:cpu,cpuacct:/docker/a12/job\n",
        {
            "sys/fs/cgroup/cpu,cpuacct/2/job/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/2/job/cpu.cfs_period_us": "100000\n",
        },
        0.0,
        "",
    ),
    "nonsense": (V2 + "x\n - \n", "x\n0::/a\n", {"sys/fs/cgroup/a/cpu.max": "many\n"}, 0.0, ""),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_quota_of_control_groups(case: str, tmp_path: Path) -> None:
    mounts, groups, files, cores, group = QUOTAS[case]
    for name, text in {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert pjrt.cpu_quota(str(tmp_path)) == (cores, group)


def test_the_affinity_mask_counts() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        machine, allowed, usable, limits = pjrt.cores_of_process()
    finally:
        os.sched_setaffinity(0, before)
    assert (machine, allowed, usable) == (os.cpu_count(), 1, 1)
    assert limits == ("" if machine == 1 else f"affinity mask allows 1 of {machine} cores")


def test_threads_follow_the_mask_and_the_report_says_so(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    path = write_toy_bundle(tmp_path / "toy.so3k", LADDER[:1])
    try:
        os.sched_setaffinity(0, {min(before)})
        platform = Evaluator(str(path), cache="off").report()["platform"]
        asked = Evaluator(str(path), cache="off", threads=1).report()["platform"]
    finally:
        os.sched_setaffinity(0, before)
    limits = f" (affinity mask allows 1 of {os.cpu_count()} cores)" if os.cpu_count() != 1 else ""
    assert platform.endswith(", 1 thread" + limits)
    assert asked.endswith(", 1 thread")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_machine_with_thousands_of_cores(tmp_path: Path) -> None:
    library = tmp_path / "wide.so"
    source = Path(__file__).with_name("wide_machine.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    script = "from so3krates._harness import pjrt; print(pjrt.cores_of_process()[1])"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "LD_PRELOAD": str(library)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "8", done.stderr


@pytest.mark.parametrize("threads", [2**31 - 1, 10**9, 20000])
def test_absurd_numbers_of_threads_are_refused(threads: int, tmp_path: Path) -> None:
    path = write_toy_bundle(tmp_path / "toy.so3k", LADDER[:1])
    cores = os.cpu_count() or 1
    most = max(64, 4 * cores)
    with pytest.raises(
        Error, match=f"threads is {threads}, but this machine has {cores} cores?: give at most {most}, or 0"
    ):
        Evaluator(str(path), threads=threads)


def test_threads_that_cannot_be_started(tmp_path: Path) -> None:
    path = write_toy_bundle(tmp_path / "toy.so3k", LADDER[:1])
    script = (
        "import resource, sys\n"
        "from so3krates._harness import Error, Evaluator\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    Evaluator(sys.argv[1], threads=60)\n"
        "except Error as error:\n"
        "    print(error)\n"
    )
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    if stack < 2**22:
        pytest.skip(f"stacks of {stack} bytes: 60 threads fit into the limit of this test")
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert "threads is 60, but this process cannot start thread " in done.stdout, done.stderr


def test_an_unknown_flag_of_xla_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_toy_bundle(tmp_path / "toy.so3k", LADDER[:1])
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_hlo_as_text --xla_nonsense=1")
    with pytest.raises(Error, match=r"XLA_FLAGS has --xla_nonsense=1, a flag that .* does not know: mend or unset"):
        Evaluator(str(path), cache="off")
    (tmp_path / "flags").write_text("--xla_no_such_thing\n")
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "flags"))
    with pytest.raises(Error, match="XLA_FLAGS has --xla_no_such_thing"):
        Evaluator(str(path), cache="off")
    for nothing in ("  ", str(tmp_path / "absent"), "xla_dump_hlo_as_text"):
        monkeypatch.setenv("XLA_FLAGS", nothing)
        with pytest.raises(Error, match=f"XLA_FLAGS is '{nothing}', neither flags"):
            Evaluator(str(path), cache="off")
    monkeypatch.setenv("XLA_FLAGS", "--")
    with pytest.raises(Error, match="XLA_FLAGS has --, a flag"):
        Evaluator(str(path), cache="off")
    # The last two are words of the plugin, but keys of other options or parts of names.
    others = ("--xla_cpu_disable_tiled_emitter=true", "--xla_gpu")
    for unknown in ("-xla_dump_hlo_as_text", "--dump_hlo_as_text", *others):
        monkeypatch.setenv("XLA_FLAGS", unknown)
        with pytest.raises(Error, match=f"XLA_FLAGS has {unknown}, a flag"):
            Evaluator(str(path), cache="off")
    for sound in (
        "",
        "--xla_dump_hlo_as_text=false --xla_cpu_multi_thread_eigen=true",
        "--xla_dump_hlo_as_text='FALSE' --xla_cpu_multi_thread_eigen --xla_backend_optimization_level=+2",
        "--xla_cpu_use_thunk_runtime=true --xla_gpu_executable_terminate_timeout=3s",  # of the past; of GPUs
    ):
        monkeypatch.setenv("XLA_FLAGS", sound)
        Evaluator(str(path), cache="off")


@pytest.mark.parametrize(
    ("flag", "kind"),
    [
        ("--xla_cpu_multi_thread_eigen=banana", "true or false"),
        ("--xla_cpu_multi_thread_eigen=", "true or false"),
        ('--xla_cpu_multi_thread_eigen="no"', "true or false"),
        ("--xla_backend_optimization_level", "a whole number"),
        ("--xla_backend_optimization_level=1.5", "a whole number"),
        ("--xla_backend_optimization_level=99999999999", "a whole number"),
        ("--xla_gpu_auto_spmd_partitioning_memory_budget_ratio=much", "a number"),
    ],
)
def test_a_value_that_xla_does_not_take_is_refused(
    flag: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_toy_bundle(tmp_path / "toy.so3k", LADDER[:1])
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_hlo_as_text=false {flag}")
    with pytest.raises(Error, match=f"XLA_FLAGS has {flag}, but the value of this flag is {kind}: mend or unset"):
        Evaluator(str(path), cache="off")


@pytest.mark.parametrize("name", ["gän.so3k", "b\udce9.so3k", "a b.so3k"])
def test_paths_of_any_letters(name: str, tmp_path: Path) -> None:
    write_toy_bundle(tmp_path / "toy.so3k", LADDER[:1])
    path = tmp_path / name
    (tmp_path / "toy.so3k").rename(path)
    assert Evaluator(path, cache=tmp_path / "cäche").bundle.path == str(path)
    with pytest.raises(Error, match=r"none.*: cannot be read: No such file"):
        Evaluator(tmp_path / f"none{name}")
    with pytest.raises(Error, match=r"the path .*none\\x00.* holds a NUL"):
        Evaluator("none\0.so3k")
