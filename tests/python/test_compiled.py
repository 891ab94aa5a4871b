"""Programs that JAX compiles are kept, where the user wants it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from so3krates.compiled import JAX_VARIABLE, VARIABLE, keep_compiled

PROGRAM = """
from so3krates.compiled import keep_compiled
keep_compiled()
import jax, logging
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
logging.basicConfig()
logging.getLogger("jax._src.compiler").setLevel(logging.DEBUG)
print(jax.jit(lambda x: x * 3 + 1)(2.0))
"""


@pytest.fixture(autouse=True)
def _without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(JAX_VARIABLE, "")  # so that it is as before in the end
    monkeypatch.delenv(JAX_VARIABLE)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kept here"))


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    said = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
        assert float(done.stdout) == 7.0
        said.append("Persistent compilation cache hit" in done.stderr)
    assert said == [False, True]
    (folder,) = (tmp_path / "kept here").iterdir()
    assert folder.name.startswith("jax-") and folder.stat().st_mode & 0o077 == 0


def test_the_users_own_folder_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(JAX_VARIABLE, "/mine")
    keep_compiled()
    assert os.environ[JAX_VARIABLE] == "/mine" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["off", "file", ""])
def test_nothing_is_kept_where_nothing_can_be(place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file") if place == "file" else place)
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    keep_compiled()
    assert JAX_VARIABLE not in os.environ


def test_it_is_where_bundles_programs_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_compiled()
    assert Path(os.environ[JAX_VARIABLE]).parent == tmp_path / ".cache" / "so3krates"
