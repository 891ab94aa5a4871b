"""Files are whole or the old ones: replaced in one step, temporary names of their own, failures in one line."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from matplotlib.figure import Figure
from safetensors.numpy import load_file, save_file
from so3krates import files
from so3krates._harness import Error, Evaluator
from so3krates.files import (
    WriteError,
    append_line,
    looked_for,
    make_folder,
    only_user,
    replacing,
    write_bytes,
    write_frames,
    write_text,
)

LIMIT = 4096  # bytes that a file may have in `small_files`
OLD = "what was there before"


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """A disc that takes LIMIT bytes of each file and then fails in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def big_frames(path: Path) -> None:
    write_frames(path, [bulk("Cu").repeat((10, 5, 4))])


def big_arrays(path: Path) -> None:
    with replacing(path) as part:
        np.savez(part, a=np.zeros(LIMIT))


def big_figure(path: Path) -> None:
    figure = Figure(figsize=(5, 5))
    figure.subplots().plot(np.random.default_rng(0).random(500))
    files.write_figure(path, figure)


WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda path: write_bytes(path, b"x" * (LIMIT + 1)),
    "text": lambda path: write_text(path, "x" * (LIMIT + 1)),
    "frames": big_frames,
    "arrays": big_arrays,
    "figure": big_figure,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("is_there", [True, False])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, writer: str, is_there: bool) -> None:
    path = tmp_path / ("file.npz" if writer == "arrays" else "file.png")
    if is_there:
        path.write_text(OLD)
    with small_files(), pytest.raises(WriteError, match=r"file.\w+ could not be written: File too large") as error:
        WRITERS[writer](path)
    assert ("what was there is unchanged" if is_there else "nothing of it is left") in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ([path.name] if is_there else [])
    if is_there:
        assert path.read_text() == OLD
    WRITERS[writer](path)
    assert path.stat().st_size > LIMIT
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_an_added_line_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    append_line(path, "a" * (LIMIT - 10))
    with small_files(), pytest.raises(WriteError, match="what was there is unchanged"):
        append_line(path, "b" * 20)
    append_line(path, "å")
    assert path.read_text(encoding="utf-8") == "a" * (LIMIT - 10) + "\nå\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_reasons_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(WriteError, match=os.strerror(number)) as error:
        write_text(tmp_path / "a", "text")
    assert ("free some space" in str(error.value)) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert not list(tmp_path.iterdir())


def test_an_error_of_another_file_is_not_called_one_of_writing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pool\.xyz"), replacing(tmp_path / "out"):
        (tmp_path / "pool.xyz").read_text()
    with pytest.raises(KeyError), replacing(tmp_path / "out"):
        {}["absent"]
    assert not list(tmp_path.iterdir())


def test_permissions_links_and_names(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    kept = tmp_path / "kept"
    kept.write_text(OLD)
    kept.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to("kept")
    write_text(link, "through the link")
    assert link.is_symlink()
    assert kept.read_text() == "through the link"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    dangling = tmp_path / "dangling"
    dangling.symlink_to("target")
    write_text(dangling, "x")
    assert (tmp_path / "target").read_text() == "x"
    for name in ("é" * 100 + ".txt", "[b] r.xyz", os.fsdecode(b"d\xe5ta.txt")):
        write_text(tmp_path / name, name)
        assert (tmp_path / name).read_bytes() == os.fsencode(name)
    write_text("/dev/null", "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(WriteError, match=r"/dev/full could not be written: No space left on device \(free some space"):
        write_text("/dev/full", "x")


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(OLD)
    cases = {
        tmp_path: "is a folder: give the name of a file",
        tmp_path / "absent" / "x": r"there is no folder .*absent, make it first",
        tmp_path / "file" / "x": "is a file, not a folder",
        tmp_path / ("n" * 300): "could not be written: File name too long",
    }
    for path, message in cases.items():
        with pytest.raises(WriteError, match=message):
            write_text(path, "x")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(WriteError, match=r"a file|Not a directory"):
            make_folder(path)
        with pytest.raises(WriteError, match="is a file, not a folder"):
            files.require_folder(path)
    files.require_folder(tmp_path / "a" / "b")
    with pytest.raises(ValueError, match=r"figures are written as .*png"):
        files.require_figure_name(tmp_path / "plot.extxyz")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_folder_has_one_user(tmp_path: Path) -> None:
    code = f"from so3krates.files import only_user\nwith only_user({str(tmp_path)!r}):\n    print('has it')"

    def other() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    with only_user(tmp_path):
        refused = other()
        assert (
            refused.returncode == 1 and f"{tmp_path}: another command is at work in it: wait for it" in refused.stderr
        )
    assert other().stdout == "has it\n"
    assert not list(tmp_path.iterdir())


def test_where_a_file_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "there").touch()
    assert looked_for("there") == "" and looked_for(tmp_path / "none") == ""  # which the path says itself
    assert looked_for("none") == f"; looked for in {tmp_path}"
    assert looked_for("runs/../none") == f"; looked for in {tmp_path}"
    assert looked_for("absent/none") == f"; there is no folder {tmp_path / 'absent'}"
    assert looked_for("link") == f": a link to {tmp_path / 'gone'}, which is not there"
    for name, place in (
        ("none.so3k", f"looked for in {tmp_path}, and among the potentials of the package"),
        ("runs/none.so3k", f"looked for in {tmp_path / 'runs'}"),
        ("absent/none.so3k", f"there is no folder {tmp_path / 'absent'}"),
    ):
        with pytest.raises(Error) as refused:
            Evaluator(name)
        assert str(refused.value) == f"{name}: cannot be read: No such file or directory; {place}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_write_protected_places(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(OLD)
    path.chmod(0o400)
    with pytest.raises(WriteError, match="write-protected"):
        write_text(path, "x")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(WriteError, match="no permission to write in"):
            write_text(tmp_path / "new", "x")
    finally:
        tmp_path.chmod(0o700)
    assert path.read_text() == OLD


def _write_often(path: Path, value: int) -> None:
    for _ in range(100):
        with replacing(path) as part:
            save_file({"a": np.full(3000 + value, value)}, part)


def test_files_that_two_processes_write_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "gan.so3k"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write_often, args=(path, value)) for value in (1, 2)]
    for process in processes:
        process.start()
    seen = set()
    while any(process.is_alive() for process in processes):
        if path.exists():
            array = load_file(path)["a"]
            seen.add(int(array[0]))
            assert len(array) == 3000 + array[0]
            assert (array == array[0]).all()
    assert [process.exitcode for process in processes] == [0, 0]
    assert seen <= {1, 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["gan.so3k"]
