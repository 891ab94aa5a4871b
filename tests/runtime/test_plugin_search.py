"""Where PJRT plugins are found, and SHA-256, by which programs and bundles are known."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from so3krates._harness import Error, pjrt

# ---- plugins


def test_plugin_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SO3KRATES_PJRT_CPU", raising=False)
    installed, index = pjrt.find_plugin("cpu")
    assert Path(installed).is_file()
    assert index == 0
    assert pjrt.find_plugin("cuda:3", installed) == (installed, 3)
    monkeypatch.setenv("SO3KRATES_PJRT_CUDA", installed)
    assert pjrt.find_plugin("cuda") == (installed, 0)
    assert pjrt.find_plugin("cuda:1") == (installed, 1)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "unknown device 'gpu': choose cpu, cuda, rocm or oneapi, of GPUs also one by its index"),
        ("cpu:0", "unknown device 'cpu:0'"),
        ("cuda:x", "device 'cuda:x': what follows the colon is no device index"),
        ("cuda:-1", "device 'cuda:-1': what follows the colon is no device index"),
        ("cuda", "there is no PJRT plugin '/absent.so', which the variable SO3KRATES_PJRT_CUDA names"),
    ],
)
def test_refused_devices(monkeypatch: pytest.MonkeyPatch, device: str, message: str) -> None:
    monkeypatch.setenv("SO3KRATES_PJRT_CUDA", "/absent.so")
    with pytest.raises(Error, match=message):
        pjrt.find_plugin(device)


def test_a_plugin_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The linker would look for a bare name in its own folders only."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugin.so").symlink_to(pjrt.find_plugin("cpu")[0])
    monkeypatch.setenv("SO3KRATES_PJRT_CPU", "plugin.so")
    assert pjrt.find_plugin("cpu")[0] == str(tmp_path / "plugin.so")


def test_missing_cuda_plugin_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SO3KRATES_PJRT_CUDA", raising=False)
    try:
        path, _ = pjrt.find_plugin("cuda")
    except Error as error:
        assert "xla_cuda_plugin.so" in str(error)
        assert "pip install 'so3krates[cuda12]'" in str(error)
    else:
        pytest.skip(f"a CUDA plugin is installed: {path}")


# ---- SHA-256


def test_sha256_of_known_messages() -> None:
    """FIPS 180-4 examples."""
    for message, digest in [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ]:
        assert pjrt.sha256([message]) == digest


def test_sha256_in_pieces() -> None:
    data = np.random.default_rng(0).bytes(300)
    for length in range(301):  # every position of the end in its block
        pieces = [data[: length // 3], data[length // 3 : length // 2], data[length // 2 : length]]
        assert pjrt.sha256(pieces) == hashlib.sha256(data[:length]).hexdigest()
