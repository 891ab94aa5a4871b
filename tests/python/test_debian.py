"""What Debian leaves out of its python3 is fetched without root; apt-get is played by a script."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")

APT_GET = """#!/bin/sh
# As apt-get in a container: without lists of packages, until `update` has fetched some into a folder of one's own.
for word; do case $word in Dir::State::lists=*) lists=${word#*=};; esac; done
for word; do case $word in
  update) touch "$lists/fetched"; exit 0;;
  download) [ -n "$lists" ] && [ -f "$lists/fetched" ] || { echo "E: Unable to locate package" >&2; exit 100; };;
esac; done
cp ARCHIVES/"$word"_*.deb . || { echo "E: Unable to locate package $word" >&2; exit 100; }
"""


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where packages of the fake archive are; the modules of tools/ can be imported."""
    folder, programs = tmp_path / "archives", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    (programs / "apt-get").write_text(APT_GET.replace("ARCHIVES", str(folder)))
    (programs / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.chdir(tmp_path)
    return folder


def build(archives: Path, package: str, files: dict[str, bytes]) -> None:
    root = archives / package
    for name, content in ({"DEBIAN/control": control(package)} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    subprocess.run(["dpkg-deb", "--build", root, archives / f"{package}_1_all.deb"], check=True, capture_output=True)


def control(package: str) -> bytes:
    lines = [f"Package: {package}", "Version: 1", "Architecture: all", "Maintainer: nobody", "Description: a test", ""]
    return "\n".join(lines).encode()


def test_headers_are_fetched_once(archives: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import python_headers

    package = f"lib{PYTHON}-dev"
    headers = {f"usr/include/{PYTHON}/Python.h": b"header", f"usr/include/{PYTHON}/pyconfig.h": b"by a path"}
    build(archives, package, headers | {f"usr/include/x86_64-linux-gnu/{PYTHON}/pyconfig.h": b"itself"})
    monkeypatch.setattr(python_headers.sysconfig, "get_path", lambda name: str(tmp_path / "nowhere"))
    for _ in range(2):
        found = python_headers.main(Path("build"))
        assert found == tmp_path / "build" / f"{PYTHON}-headers"
        assert (found / "Python.h").read_bytes() == b"header"
        assert (found / "pyconfig.h").read_bytes() == b"itself"
        assert [file.name for file in (tmp_path / "build").iterdir()] == [found.name]  # nothing is left over
        (archives / f"{package}_1_all.deb").unlink(missing_ok=True)


def test_what_cannot_be_fetched_is_one_line(archives: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import make_venv
    import python_headers

    monkeypatch.setattr(make_venv.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"neither ensurepip nor pip.*Unable to locate.*apt install python3-venv"):
        make_venv.make(Path("environment"))
    monkeypatch.setattr(python_headers.sysconfig, "get_path", lambda name: str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match=rf"Unable to locate package lib{PYTHON}-dev\): apt install {PYTHON}-dev"):
        python_headers.main(Path("build"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemExit, match=r"No such file or directory: 'apt-get'"):
        python_headers.main(Path("build"))


def test_environment_without_ensurepip_and_pip(archives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel of pip runs itself in the new environment; here it is one that only says how it was called."""
    import make_venv

    program = "import sys; open('called', 'w').write(' '.join([sys.executable, *sys.argv]))"
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as pip:
        pip.writestr("pip/__main__.py", program)
    build(archives, make_venv.PIP_PACKAGE, {"usr/share/python-wheels/pip-9-py3-none-any.whl": wheel.getvalue()})
    monkeypatch.setattr(make_venv.importlib.util, "find_spec", lambda name: None)
    make_venv.make(Path("environment"))
    python, file, *words = Path("called").read_text().split()
    assert Path(python) == Path.cwd() / "environment" / "bin" / "python"
    assert file.endswith("pip-9-py3-none-any.whl/pip")
    assert words == ["install", "--quiet", "--no-index", file.removesuffix("/pip")]
    assert not list(Path("environment").glob("tmp*"))
