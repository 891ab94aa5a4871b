"""A model folder and its bundle are the same to every command, and what they print is what the user wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from so3krates import cli
from so3krates._harness import StructureError
from so3krates.calculator import So3kratesCalculator
from so3krates.data import labels
from so3krates.predictions import ModelRuntime, data_settings
from so3krates.runtime import Runtime
from so3krates.storage import Model, ModelError
from so3krates_export.export import export_model
from so3krates_export.ladder import Rung
from training_runs import make_frames
from typer.testing import CliRunner

SAME = 1e-4  # of an error, between float32 by two ways
FLOAT32 = 2e-6  # eV/A, between float32 and float64
LADDER = [Rung(64, 2048, 192, 96)]
KBAR = 10 / units.GPa  # of 1 eV/A^3
SETTINGS = {"energy_key": "E", "forces_key": "F", "stress_key": "S", "stress_unit": "kbar", "stress_sign": -1}


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, output and error output of a command, words separated by single blanks."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    return result.exit_code, " ".join(result.stdout.split()), " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames as VASP's users have them, in a folder and with tags that look like markup."""
    frames = make_frames(10)
    for n, atoms in enumerate(frames):
        energy, forces, stress = labels(atoms)
        atoms.calc = None
        atoms.info = {"E": energy, "S": -KBAR * stress, "config_type": ("[bulk]", "[/bulk] :smile:")[n % 2]}
        atoms.info["temperature"] = np.nan if n % 2 else 300.0
        atoms.arrays["F"] = forces
    path = tmp_path_factory.mktemp("evaluate") / "br[old]" / "[" / "t].extxyz"
    path.parent.mkdir(parents=True)
    ase.io.write(path, frames)
    return path


@pytest.fixture(scope="module")
def potentials(data_file: Path) -> tuple[Path, Path, str]:
    """A trained model, its bundle, and what the training printed."""
    settings = data_file.parent / "s.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in SETTINGS.items()]
    settings.write_text(
        "[model]\ncutoff = 4.0\nfeatures = 8\nheads = 2\nlayers = 1\ndegrees = [1, 2]\nradial_functions = 8\n"
        f"[data]\nfile = {json.dumps(data_file.name)}\nn_train = 6\nn_valid = 2\n" + "\n".join(lines) + "\n"
        '[training]\nepochs = 1\nbatch_size = 3\noptimiser = "adam"\n'
    )
    model = data_file.parent / "g[v2]"
    code, output, error = run("train", settings, "-o", model, "--test", data_file, "--no-physics")
    assert code == 0, error
    bundle = data_file.parent / "b].so3k"
    export_model(Model.load(model), bundle, body="xla", ladder=LADDER)
    return model, bundle, output


def test_a_bundle_reads_data_as_its_model_does(potentials: tuple[Path, Path, str], data_file: Path) -> None:
    model, bundle, _ = potentials
    assert data_settings("so3lr").items() >= {"charges_key": "charges", "dipole_key": "dipole"}.items()
    assert data_settings(model) == data_settings(bundle) and data_settings(bundle).items() >= SETTINGS.items()
    found = []
    for path in (model, bundle):
        code, output, error = run("evaluate", path, data_file, "--json", data_file.parent / "e.json")
        assert code == 0, error
        assert "labels are read as in the training: energy_key = 'E'" in output and "stress_unit = 'kbar'" in output
        found.append(json.loads((data_file.parent / "e.json").read_text())[data_file.stem])
    for row in ("energy", "forces", "stress"):
        assert found[0][row]["count"] == found[1][row]["count"] > 0
        assert found[0][row]["rmse"] == pytest.approx(found[1][row]["rmse"], rel=SAME)
    trained = json.loads((model / "report" / "errors.json").read_text())["test"]
    assert found[1]["stress"]["rmse"] == pytest.approx(trained["stress"]["rmse"], rel=SAME)
    assert found[1]["by_tag"].keys() == {"[bulk]", "[/bulk] :smile:"}
    assert found[1]["by_temperature"].keys() == {"300"}
    # What is said on the command line goes first; what cannot be read then is named.
    keys = ("--energy-key", "energy", "--forces-key", "F", "--stress-key", "stress")
    for path in (model, bundle):
        code, output, error = run("evaluate", path, data_file, *keys)
        assert code == 0, error
        assert "10 of 10 frames have no energy under 'energy'" in output and 'set energy_key = "E"' in output


def test_a_bundle_without_settings_reads_by_default(potentials: tuple[Path, Path, str], data_file: Path) -> None:
    model, _, _ = potentials
    bare = Model(**{**vars(Model.load(model)), "training": None})
    folder = bare.save(data_file.parent / "bare")
    bundle = data_file.parent / "bare.so3k"
    export_model(bare, bundle, body="xla", ladder=LADDER)
    for path in (folder, bundle):
        code, _, error = run("evaluate", path, data_file)
        assert code == 1 and "none of 10 frames has a label" in error and 'set energy_key = "E"' in error
        assert str(data_file) in error


def test_committees_that_read_differently_are_refused(potentials: tuple[Path, Path, str], data_file: Path) -> None:
    model, bundle, _ = potentials
    loaded = Model.load(model)
    training = json.loads(json.dumps(loaded.training))
    training["settings"]["data"]["stress_unit"] = "GPa"
    other = Model(**{**vars(loaded), "training": training}).save(data_file.parent / "other")
    code, _, error = run("evaluate", bundle, other, data_file)
    assert code == 1 and "data.stress_unit = 'GPa'" in error and "'kbar'" in error
    code, output, error = run("evaluate", bundle, other, data_file, "--set", "data.stress_unit=kbar")
    assert code == 0, error
    assert "disagreement" in output


def test_info_shows_the_errors_of_the_test(potentials: tuple[Path, Path, str], data_file: Path) -> None:
    model, bundle, _ = potentials
    errors = json.loads((model / "report" / "errors.json").read_text())["test"]
    for path in (model, bundle):
        code, output, _ = run("info", path)
        assert code == 0 and "test errors, 10 structures" in output
        assert f"forces {errors['forces']['rmse']:.4g} meV/A" in output.replace(" │ │ ", " ")


def test_what_the_user_wrote_is_printed_as_written(potentials: tuple[Path, Path, str], data_file: Path) -> None:
    model, bundle, output = potentials
    assert "[bulk]" in output and "[/bulk] :smile:" in output and "nan" not in output
    assert "g[v2]" in output
    text = (model / "report" / "errors.txt").read_text()
    assert "[/bulk] :smile:" in text
    _, output, _ = run("info", bundle)
    assert "[/b].so3k" in output
    _, output, error = run("data", data_file, "--energy-key", "[/nokey]")
    assert "under '[/nokey]'" in error
    _, _, error = run("evaluate", model, data_file.parent / "none].xyz")
    assert "[/none].xyz: no such file" in error
    for swapped in (bundle, model, "gan-pbesol"):
        code, _, error = run("evaluate", data_file, swapped)
        assert code == 1 and f"{swapped} is a potential: give potentials first" in error
    frames = ase.io.read(data_file, ":")
    frames[3].info["E"] += 50.0
    ase.io.write(data_file.parent / "high.extxyz", frames)
    _, output, _ = run("evaluate", bundle, data_file.parent / "high.extxyz")
    assert "high.extxyz: frame 3: energies more than 20 median deviations from the median" in output
    _, output, _ = run("evaluate", bundle, data_file)
    assert "median deviations" not in output
    assert "t]" in output and "[/bulk] :smile:" in output


def test_a_frame_that_gives_no_number_is_named(
    potentials: tuple[Path, Path, str], data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = ase.io.read(data_file, ":")
    frames[4].positions[1] = frames[4].positions[0]
    path = data_file.parent / "touching.xyz"
    ase.io.write(path, frames)
    for potential in potentials[:2]:
        code, _, error = run("evaluate", potential, path)
        assert code == 1 and "frame 4: atoms 0 and 1 are 0 A apart" in error
    from so3krates import predictions

    whole = predictions.predictions_of(potentials[0], [frames[0]])
    broken = whole._replace(energies=np.array([np.nan]))
    monkeypatch.setattr(predictions, "predictions_of", lambda *_: broken)
    single = data_file.parent / "single.xyz"
    ase.io.write(single, frames[0])
    code, _, error = run("evaluate", potentials[0], single)
    assert code == 1 and "not finite for 1 frame (0)" in error


def test_the_calculator_takes_a_model_folder(potentials: tuple[Path, Path, str], tmp_path: Path) -> None:
    model, bundle, _ = potentials
    (atoms,) = make_frames(1, seed=5)
    double, single = ModelRuntime(model).evaluate(atoms), Runtime(bundle).evaluate(atoms)
    for name, tolerance in (("forces", FLOAT32), ("stress", FLOAT32), ("energies", 1e-4)):
        np.testing.assert_allclose(single[name], double[name], atol=tolerance)
    assert double["forces"].dtype == np.float64 and np.abs(double["forces"]).max() > 50 * FLOAT32
    atoms.calc = So3kratesCalculator(model)
    np.testing.assert_array_equal(atoms.get_forces(), double["forces"])
    np.testing.assert_allclose(atoms.get_potential_energies().sum(), atoms.get_potential_energy(), rtol=1e-14)
    assert atoms.get_stress().shape == (6,)
    step, energies = 1e-4, []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[0, 1] += sign * step
        energies.append(ModelRuntime(model, shifts=False).evaluate(moved)["energy"])
    assert (energies[1] - energies[0]) / (2 * step) == pytest.approx(double["forces"][0, 1], abs=1e-6)
    refused = atoms.copy()
    refused.calc = So3kratesCalculator(model)
    refused.positions[2, 1] = np.nan
    with pytest.raises(StructureError, match=r"the position of atom 2 \(Cu\) is not finite: \(.*nan"):
        refused.get_potential_energy()
    # What is near but not at the same place is computed, as by the bundle.
    for distance, is_refused in ((0.05, False), (9e-4, True)):
        refused.positions[2] = refused.positions[1] + refused.cell.array[0] + [0, distance, 0]
        said = []
        for door in (refused.calc.runtime, Runtime(bundle)):
            if is_refused:
                with pytest.raises(StructureError, match=r"at the same place: 0\.0009 A apart, at \(") as error:
                    door.evaluate(refused)
                said.append(sorted(re.findall(r"atom \d+ \(\w+\)", str(error.value))))
            else:
                assert np.isfinite(door.evaluate(refused)["energy"])
        assert not is_refused or said[0] == said[1] == ["atom 1 (Cu)", "atom 2 (Cu)"]
    with pytest.raises(ValueError, match="knows the elements Cu, but the structure has Ag"):
        ModelRuntime(model).evaluate(Atoms("Ag"))
    with pytest.raises(ModelError, match="is not a model folder"):
        So3kratesCalculator(tmp_path)
    with pytest.raises(ValueError, match=r"so3krates export .* --platform cuda"):
        So3kratesCalculator(model, device="cuda")
