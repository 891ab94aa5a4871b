"""`bench/gpu` rehearsed: packed, carried to an empty folder, run there by a Python that has numpy and nothing else."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gpu_kit import record, run
from gpu_kit.page import QUANTITIES, compared
from gpu_kit.sizes import Context
from so3krates import _harness

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "gpu"
DOCUMENT = SCRIPT.parents[1] / "docs" / "gpu.md"
PATIENCE = "20"  # times each limit: the machine may be busy
BUDGET = "3000"  # s
NOT_RUN = {"growth", "tools", "so3lr"}  # which need a GPU, or what the little archive has not


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a Python with numpy alone: neither this package nor JAX nor TensorFlow."""
    folder = tmp_path_factory.mktemp("bare")
    packages = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        if (packages / name).exists():
            (folder / name).symlink_to(packages / name)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SO3KRATES", "PYTHON"))}
    return environment | {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="session")
def python(bare: dict[str, str]) -> str:
    """The interpreter outside every environment."""
    interpreter = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
    program = "import importlib.util as u; print([n for n in ('jax', 'tensorflow', 'so3krates') if u.find_spec(n)])"
    said = subprocess.run([interpreter, "-c", program], env=bare, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
    return interpreter


@pytest.fixture(scope="session")
def kit(little_archive: Path, script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive."""
    folder: Path = script.unpack(little_archive, tmp_path_factory.mktemp("unpacked"))
    return folder


@pytest.fixture(scope="session")
def script() -> Iterator[ModuleType]:
    """The file `bench/gpu` as a module."""
    loader = SourceFileLoader("bench_gpu", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_gpu", loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    yield module


def command(python: str, kit: Path, out: Path, *more: str) -> list[str]:
    plugin, _ = _harness.pjrt.find_plugin("cpu")
    given = ["--device", "cpu", "--plugin", plugin, "--out", str(out), "--budget", BUDGET, "--patience", PATIENCE]
    return [python, str(SCRIPT), "--kit", str(kit), *given, *more]


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "gpu.json").read_text())


def test_every_phase(little_archive: Path, python: str, bare: dict[str, str], tmp_path: Path) -> None:
    """From the archive, in an empty folder; then recorded as if a GPU had done it."""
    out, peer = tmp_path / "results", "--peer=other=echo atom-steps/s 1000"
    done = subprocess.run(
        command(python, little_archive, out, peer), env=bare, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    known = results(out)
    states = {name: entry["state"] for name, entry in known["phases"].items()}
    assert states == {p.name: "not run" if p.name in NOT_RUN else "passed" for p in run.PHASES}
    phases = {name: entry["results"] for name, entry in known["phases"].items()}
    assert {kernel for case in phases["kernels"]["errors"].values() for kernel in case} == {
        "neighbours", "first_messages", "messages", "messages_adjoint", "first_messages_adjoint",
    }  # fmt: skip
    assert set(phases["cell"]["bundles"]) == {"student", "student64", "student-xla"}
    assert all(0 <= b["errors"]["forces"] < 2e-5 for b in phases["cell"]["bundles"].values())
    assert phases["peers"]["peers"]["other"]["ours_over_theirs"] > 0
    assert phases["speed"]["sizes"][0]["atom_steps_per_second"] > 0
    assert "on a CPU" in phases["speed"]["choices_note"]
    assert {path.name for path in out.iterdir()} == {"gpu.json", "page.md", "log.txt"}
    assert "| student64 |" not in (out / "page.md").read_text() and "| kernels |" in (out / "page.md").read_text()
    recorded(known, tmp_path)


def recorded(known: dict[str, Any], folder: Path) -> None:
    """A run goes into the document beside the predictions, twice the same; a rehearsal does not."""
    document, kept = folder / "gpu.md", folder / "kept"
    document.write_text(DOCUMENT.read_text())
    out = folder / "returned"
    out.mkdir()
    (out / "gpu.json").write_text(json.dumps(known))
    with pytest.raises(SystemExit, match="is of a rehearsal"):
        record.record(out, kept, document)
    known = known | {"device": "cuda:0"}
    known["machine"] |= {"gpu": {"name": "NVIDIA Something 99"}, "cuda_of_driver": 13000}
    (out / "gpu.json").write_text(json.dumps(known))
    assert record.record(out, kept, document).name == "nvidia-something-99.json"
    text = document.read_text()
    record.record(out, kept, document)
    assert document.read_text() == text
    assert "| predicted for an H200 | NVIDIA Something 99 |" in text and "driver for CUDA 13.0" in text
    assert text.startswith(DOCUMENT.read_text().partition(record.BEGIN)[0])


def test_the_documents_table_is_that_of_the_recorded_runs() -> None:
    text = DOCUMENT.read_text()
    assert record.rewrite(text, record.runs_in(record.RESULTS)) == text
    assert len(compared([])) == len(QUANTITIES) + 2


def test_what_is_learnt_outlives_a_kill(kit: Path, python: str, bare: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = subprocess.Popen(command(python, kit, out), env=bare, stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout is not None
    try:
        for line in child.stdout:
            if line.startswith(b"program"):
                break
        while results(out)["phases"].get("kernels", {}).get("state") != "running":
            time.sleep(0.05)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    known = results(out)
    assert known["phases"]["contact"]["state"] == known["phases"]["program"]["state"] == "passed"
    assert known["phases"]["contact"]["results"]["device_kind"]
    deadline = time.time() + 60
    while processes_of(tmp_path) and time.time() < deadline:
        time.sleep(0.1)
    assert processes_of(tmp_path) == []  # phases die with the run


def processes_of(folder: Path) -> list[str]:
    """Command lines that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and "gpu_kit" in line:
            found.append(line)
    return found


def test_phases_that_fail_or_take_too_long(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their pieces and the end of their logs are kept; a program that dies is told from one that says why."""
    (tmp_path / "trials.py").write_text(
        "import os, time\n"
        "def slow(c):\n    yield {'rows': [1]}\n    yield {'rows': [2]}\n    time.sleep(600)\n"
        "def wrong(c):\n    print('before it')\n    yield {'part': 1}\n    raise ValueError('two lines\\nof it')\n"
        "def dead(c):\n    yield {'part': 1}\n    os.abort()\n"
        "def checked(c):\n    yield {'failures': ['one']}\n    yield {'failures': ['other'], 'part': 2}\n"
        "def absent(c):\n    yield {'skipped': 'there is none'}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    context = Context(kit=kit, work=tmp_path, device="cpu", cache=tmp_path / "cache")
    kept = run.Results(tmp_path / "out", {"phases": {}})

    def entry(name: str, limit: float = 60.0, left: float = 60.0) -> dict[str, Any]:
        return run.run_phase(run.Phase(name, "trial", "trials", limit), context, kept, left, 1.0)

    slow = entry("slow", 6.0)
    assert slow["state"] == "over its limit" and slow["results"] == {"rows": [1, 2]} and "6 s" in slow["problem"]
    wrong = entry("wrong")
    assert wrong["state"] == "failed" and wrong["problem"] == "two lines of it" and wrong["results"]["part"] == 1
    assert wrong["log"].startswith("before it") and "ValueError" in wrong["log"]
    dead = entry("dead")
    assert dead["state"] == "failed" and dead["problem"] == "ended with code -6" and dead["results"] == {"part": 1}
    checked = entry("checked")
    assert checked["problem"] == "one; other" and checked["results"] == {"failures": ["one", "other"], "part": 2}
    absent = entry("absent")
    assert absent["state"] == "not run" and absent["problem"] == "there is none"
    assert entry("absent", left=1.0)["state"] == "skipped"
    assert set(results(tmp_path / "out")["phases"]) == {"slow", "wrong", "dead", "checked", "absent"}


def test_a_full_disk_is_said_and_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = run.Results(tmp_path, {"phases": {}, "part": 1})
    kept.write()
    (tmp_path / "gpu.json.part").symlink_to("/dev/full")
    kept.known["part"] = 2
    kept.write()
    said = capsys.readouterr().out
    assert "gpu.json failed: No space left on device" in said and "--out" in said
    assert results(tmp_path)["part"] == 1 and kept.problem  # the old one is whole
    kept.write()
    assert results(tmp_path)["part"] == 2 and not kept.problem


def test_no_room_to_unpack(
    little_archive: Path, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.shutil, "disk_usage", lambda _: argparse.Namespace(free=2**20))
    with pytest.raises(SystemExit, match=r"unpacks to \d+ MiB, and .* has 1 left: set TMPDIR"):
        script.unpack(little_archive, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_archives(little_archive: Path, kit: Path, script: ModuleType, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(little_archive.read_bytes()[: 2**20])
    for archive in (cut, tmp_path / "absent.tar", SCRIPT):
        with pytest.raises(SystemExit, match=r"unpacking .* failed: .*: copy the archive again"):
            script.unpack(archive, tmp_path)
    changed = tmp_path / "changed"
    (changed / "decks").mkdir(parents=True)
    digests = {name: d for name, d in json.loads((kit / "kit.json").read_text())["sha256"].items() if "decks/" in name}
    (changed / "kit.json").write_text(json.dumps({"sha256": digests}))
    shutil.copy(kit / "decks/in.million", changed / "decks")
    script.check(changed)
    with open(changed / "decks/in.million", "a") as deck:
        deck.write("run 1\n")
    with pytest.raises(SystemExit, match=r"1 files of .* not as they were packed, the first is decks/in.million"):
        script.check(changed)
    with pytest.raises(SystemExit, match=r"is no kit of bench/gpu --pack"):
        script.check(tmp_path)


def test_a_missing_plugin_is_said_and_kept(kit: Path, python: str, bare: dict[str, str], tmp_path: Path) -> None:
    words = command(python, kit, tmp_path / "out")
    words[words.index("--plugin") + 1] = str(tmp_path / "absent.so")
    done = subprocess.run(words, env=bare, capture_output=True, text=True)
    assert done.returncode == 1 and f"there is no plugin {tmp_path / 'absent.so'}" in done.stdout
    assert "absent.so" in results(tmp_path / "out")["problem"]
    assert "Nothing was measured" in (tmp_path / "out" / "page.md").read_text()
