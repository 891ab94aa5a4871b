"""Model folders: what is saved is read back to the bit, and damage is refused with a reason."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from so3krates.model.config import ModelConfig
from so3krates.model.network import init_params
from so3krates.storage import Model, ModelError, flat_params, parameter_shapes

CONFIG = ModelConfig(features=8, heads=2, layers=2, degrees=(1, 2), radial_functions=4, cutoff=4.5)


@pytest.fixture(scope="module")
def model() -> Model:
    # Shifts of all-electron energies: more digits than float32 has.
    shifts = {"Ga": -52860.123456789012, "N": -1487.9876543210123}
    return Model(CONFIG, init_params(CONFIG, 3), ("Ga", "N"), shifts, {"data": {"frames": 5}, "rmse": [0.1, 2.5]})


def test_round_trip(model: Model, tmp_path: Path) -> None:
    read = Model.load(model.save(tmp_path / "new" / "folder"))
    assert (read.config, read.elements, read.training) == (model.config, model.elements, model.training)
    assert read.energy_shifts == model.energy_shifts
    weights, original = flat_params(read.params), flat_params(model.params)
    assert weights.keys() == original.keys()
    for name, array in original.items():
        assert weights[name].dtype == array.dtype
        assert np.array_equal(weights[name], array), name
    assert np.abs(original["embedding/embedding"]).max() > 0.1


def test_unknown_training_and_numpy_values(tmp_path: Path, model: Model) -> None:
    training = {"rmse": np.float64(1.5), "steps": np.arange(2), "absent": None, "file": Path("a.xyz")}
    Model(CONFIG, model.params, model.elements, model.energy_shifts, training).save(tmp_path)
    assert Model.load(tmp_path).training == {"rmse": 1.5, "steps": [0, 1], "file": "a.xyz"}
    Model(CONFIG, model.params, model.elements, model.energy_shifts).save(tmp_path)
    assert Model.load(tmp_path).training is None


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        ('format = "so3krates-model"', 'format = "recipe"', "does not describe a model"),
        ("version = 1", "version = 5", "version 5, this so3krates reads 1 to 4"),
        ("radial_functions = 4", "radial_functions = 5", "has shape"),
        ("layers = 2", "layers = 1", "has unknown layers_1"),
        ("layers = 2", "layers = 3", "lacks layers_2"),
        ("heads = 2", "heads = 3", "not divisible by heads"),
        ("cutoff = 4.5", "cutof = 4.5", "unknown model setting 'cutof'"),
        ("Ga = -52860.", "In = -52860.", "one shift for each element"),
        ('elements = \\[\n    "Ga"', 'elements = [\n    "Gax"', "'Gax'"),
        ("\\[model\\]", "[model", "damaged"),
    ],
)
def test_damaged_configuration(model: Model, tmp_path: Path, pattern: str, replacement: str, message: str) -> None:
    path = model.save(tmp_path) / "config.toml"
    text = path.read_text()
    altered = re.sub(pattern, replacement, text, count=1)
    assert altered != text
    path.write_text(altered)
    with pytest.raises(ModelError, match=message):
        Model.load(tmp_path)


def test_weights_that_are_no_numbers(model: Model, tmp_path: Path) -> None:
    path = model.save(tmp_path) / "weights.safetensors"
    weights = load_file(path)
    name = min(weights)
    for bad in (np.nan, np.inf):
        save_file(weights | {name: np.full_like(weights[name], bad)}, path)
        size = weights[name].size
        with pytest.raises(
            ModelError, match=rf"weights\.safetensors: {size} of {size} numbers in {name} are not finite"
        ):
            Model.load(tmp_path)


def test_damaged_weights(model: Model, tmp_path: Path) -> None:
    path = model.save(tmp_path) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"weights\.safetensors is damaged"):
        Model.load(tmp_path)
    path.unlink()
    with pytest.raises(ModelError, match=r"weights\.safetensors is missing"):
        Model.load(tmp_path)
    (tmp_path / "config.toml").unlink()
    with pytest.raises(ModelError, match="not a model folder"):
        Model.load(tmp_path)


def test_impossible_models(model: Model) -> None:
    with pytest.raises(ModelError, match="each element once"):
        Model(CONFIG, model.params, ("Ga", "Ga"), {"Ga": 0.0})
    with pytest.raises(ModelError, match="at least one"):
        Model(CONFIG, model.params, (), {})
    with pytest.raises(ModelError, match="one shift for each"):
        Model(CONFIG, model.params, ("Ga",), {})


def test_number_of_parameters() -> None:
    for layers, count in ((3, 319_213), (2, 223_105), (1, 126_997)):
        shapes = parameter_shapes(ModelConfig(layers=layers))
        assert sum(int(np.prod(shape)) for shape in shapes.values()) == count
