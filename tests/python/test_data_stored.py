"""Frames that are stored once, and read from the store."""

from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path

import ase.io
import jax
import numpy as np
import pytest
from ase.build import molecule
from so3krates.data import (
    DataError,
    StoredFrames,
    frame_graphs,
    iter_frames,
    labels,
    sizes_of,
    store_frames,
    with_labels,
)
from test_data import CUTOFF, EXACT, STRESS, labelled

STREAM_PEAK = 1_200_000  # bytes


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_stored_frames_are_the_frames(tmp_path: Path, rng: np.random.Generator) -> None:
    frames = [labelled(rng, 2), labelled(rng, 1), molecule("H2O"), labelled(rng, 3)]
    frames[3].pbc = [True, True, False]
    frames[3] = with_labels(
        frames[3], labels(frames[1])._replace(forces=np.full((12, 3), np.nan), stress=STRESS * np.nan)
    )
    source = {"file": "a"}
    stored = store_frames(tmp_path, iter(frames), CUTOFF, source)
    shifts = {"H": 1.0, "O": 2.0, "Cu": 0.5}
    kept = stored.subset(np.array([3, 0, 2]))
    assert kept.composition()[0] == ["H", "O", "Cu"]
    np.testing.assert_array_equal(kept.composition()[1], [[0, 0, 12], [0, 0, 8], [2, 1, 0]])
    energies = [labels(frames[i]).energy for i in (3, 0, 2)]
    np.testing.assert_array_equal(kept.composition()[2], energies)
    graphs, plain = kept.graphs(CUTOFF, shifts), frame_graphs([frames[i] for i in (3, 0, 2)], CUTOFF, shifts)
    np.testing.assert_array_equal(sizes_of(graphs), sizes_of(plain))
    for one, two, parts in zip(graphs, plain, graphs.labels(), strict=True):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_allclose(a, b, atol=EXACT)
        for a, b in zip(parts, (two.energy, two.forces, two.virial), strict=True):
            np.testing.assert_allclose(a, b, atol=EXACT)
    (again,) = kept.to_atoms([1])
    np.testing.assert_allclose(labels(again).stress, STRESS, atol=EXACT)
    np.testing.assert_allclose(again.get_all_distances(mic=True), frames[0].get_all_distances(mic=True), atol=EXACT)
    # A store is written once for a source and a cutoff.
    assert len(store_frames(tmp_path, iter([]), CUTOFF, source)) == 4
    with pytest.raises(DataError, match=r"cutoff of 5\.0 A, not 4\.0 A"):
        stored.graphs(4.0, shifts)
    with pytest.raises(DataError, match="element O is unknown to the model; it knows H, Cu"):
        kept.graphs(CUTOFF, {"H": 1.0, "Cu": 0.5})
    assert graphs.digest != stored.subset(np.array([0, 3, 2])).graphs(CUTOFF, shifts).digest
    (tmp_path / "store.json").unlink()
    with pytest.raises(DataError, match="holds no whole stored frames"):
        StoredFrames(tmp_path)


def test_large_files_are_stored_frame_by_frame(tmp_path: Path, rng: np.random.Generator) -> None:
    ase.io.write(tmp_path / "a.extxyz", [labelled(rng) for _ in range(600)])
    store_frames(tmp_path / "warm", iter_frames(tmp_path / "a.extxyz"), CUTOFF)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pytest keeps every warning, which would be counted here
        tracemalloc.start()
        stored = store_frames(tmp_path / "s", iter_frames(tmp_path / "a.extxyz"), CUTOFF)
        graphs = stored.graphs(CUTOFF, {"Cu": 0.0})
        assert graphs[599].positions.shape == (4, 3)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # All frames at once would take 2.6 MB. Frames that wait for Python's collector of cycles take up to 0.7 MB.
    assert len(stored) == 600
    assert peak < STREAM_PEAK
