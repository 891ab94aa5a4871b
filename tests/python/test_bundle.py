"""The bundle in Python: what is written is read; what is wrong is refused in one line that says so."""

import copy
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from bad_bundles import BAD_FILES, BAD_MANIFESTS, Manifest, step
from so3krates_export import BundleError, read_bundle, write_bundle
from so3krates_export.bundle import parse_bundle
from toy_bundle import LADDER, toy_bundle


@pytest.fixture(scope="module")
def content() -> tuple[Manifest, dict[str, np.ndarray]]:
    return toy_bundle(LADDER[:1])


@pytest.fixture
def path(content: tuple[Manifest, dict[str, np.ndarray]], tmp_path: Path) -> Path:
    write_bundle(tmp_path / "toy.so3k", *content)
    return tmp_path / "toy.so3k"


def test_what_is_written_is_read(content, path):
    manifest, tensors = content
    bundle = read_bundle(path)
    assert {key: bundle.manifest[key] for key in manifest} == manifest
    assert (bundle.manifest["format"], bundle.manifest["version"]) == ("so3krates-bundle", 5)
    assert bundle.tensors.keys() == tensors.keys()
    for name, array in tensors.items():
        assert bundle.tensors[name].dtype == array.dtype and np.array_equal(bundle.tensors[name], array)
    assert len(bundle.sha256) == 64


def test_is_a_plain_safetensors_file(path):
    assert np.array_equal(
        safetensors.numpy.load_file(path)["weights/depth"], read_bundle(path).tensors["weights/depth"]
    )


def test_writing_twice_gives_the_same_bytes(content, path, tmp_path):
    write_bundle(tmp_path / "again.so3k", *content)
    assert (tmp_path / "again.so3k").read_bytes() == path.read_bytes()


def test_scalars_strides_and_tuples(content, tmp_path):
    manifest, tensors = copy.deepcopy(content[0]), dict(content[1])
    tensors["weights/scalar"] = np.array(1.5, np.float32)
    tensors["weights/strided"] = np.arange(12, dtype=np.int32).reshape(3, 4).T
    manifest["model"] = {"degrees": (1, 2, 3), "name": "Gä"}
    write_bundle(tmp_path / "b.so3k", manifest, tensors)
    bundle = read_bundle(tmp_path / "b.so3k")
    assert bundle.tensors["weights/scalar"].shape == () and bundle.tensors["weights/scalar"] == 1.5
    assert np.array_equal(bundle.tensors["weights/strided"], tensors["weights/strided"])
    assert bundle.manifest["model"] == {"degrees": [1, 2, 3], "name": "Gä"}


NOT_JSON = {
    "array": (lambda m: m.update(model={"a": np.float32(1)}), "not JSON serializable"),
    "not finite": (lambda m: m.update(training={"error": float("nan")}), "not JSON compliant"),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS | NOT_JSON)
def test_a_bad_manifest_is_not_written(case, content, tmp_path):
    manifest = copy.deepcopy(content[0])
    change, message = (BAD_MANIFESTS | NOT_JSON)[case]
    change(manifest)
    with pytest.raises(BundleError, match=message) as error:
        write_bundle(tmp_path / "bad.so3k", manifest, content[1])
    assert str(error.value).startswith(f"{tmp_path / 'bad.so3k'}: ") and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


BAD_TENSORS = {
    "weight of bytes": ({"weights/x": np.zeros(2, np.uint8)}, 'weight "weights/x" is of the type uint8'),
    "half precision": ({"weights/x": np.zeros(2, np.float16)}, "holds a tensor of the unknown type F16"),
    "other name": ({"x": np.zeros(2)}, 'tensor "x" is neither a weight nor a program'),
    "empty program": ({"programs/x": np.zeros(0, np.uint8)}, 'tensor "programs/x" does not hold a program'),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_a_bad_tensor_is_not_written(case, content, tmp_path):
    extra, message = BAD_TENSORS[case]
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "bad.so3k", content[0], {**content[1], **extra})


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused(case, path):
    change, message = BAD_FILES[case]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BundleError, match=message) as error:
        read_bundle(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_unknown_keys_are_tolerated(content, tmp_path):
    manifest = copy.deepcopy(content[0])
    manifest["later"] = {"a": 1}
    manifest["ladder"][0]["halo"] = 3
    step(manifest)["comment"] = "x"
    write_bundle(tmp_path / "b.so3k", manifest, content[1])
    assert read_bundle(tmp_path / "b.so3k").manifest["later"] == {"a": 1}


def test_a_missing_file(tmp_path):
    with pytest.raises(BundleError, match=r"none\.so3k: cannot be read: No such file"):
        read_bundle(tmp_path / "none.so3k")
    with pytest.raises(BundleError, match="cannot be read: Is a directory"):
        read_bundle(tmp_path)


def test_a_failed_write_keeps_the_old_file(content, path):
    before = path.read_bytes()
    with pytest.raises(BundleError, match="cutoff"):
        write_bundle(path, {**content[0], "cutoff": -1.0}, content[1])
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_parse_names_its_source():
    with pytest.raises(BundleError, match=r"^here: is cut short"):
        parse_bundle(b"123", "here")
