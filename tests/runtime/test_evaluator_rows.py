"""Rows of other ranks in the evaluator: exchanged in place, and moved by chunks in host and in device memory."""

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from moving_bundle import with_moves
from so3krates._harness import Evaluator
from stand_ins import other_plugin
from toy_bundle import LADDER, write_toy_bundle
from toy_ranks import Ranks, divided
from toy_systems import assert_same, evaluate, gan, lists

ENERGY = 1e-12  # eV per atom, relative to the shift of 27314 eV: 1e-12 * 27314
WAIT = 60  # seconds for a message


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "toy.so3k")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def slabs(atoms: Atoms, count: int) -> list[np.ndarray]:
    """Atoms of each of so many ranks along z, in no order."""
    order = np.argsort(atoms.get_scaled_positions()[:, 2])
    return [np.random.default_rng(k).permutation(part) for k, part in enumerate(np.array_split(order, count))]


@pytest.fixture(scope="module")
def paths(path: Path) -> dict[int, Path]:
    """The bundle with rows in host memory (0), and with moves of so many rows."""
    return {0: path} | {n: with_moves(path, path.parent / f"moving-{n}.so3k", n) for n in (3, 16)}


MEMORY = {
    (0, False): "",
    (3, False): "host memory",
    (16, False): "host memory",
    (3, True): "device memory",
    (16, True): "device memory",
}


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(("moved", "device_memory"), MEMORY)
def test_rows_of_other_ranks(paths, cache, moved, device_memory, ranks):
    """Ranks of a system, each with the rows of others that it reads, give the whole system's numbers, step after step;
    rows are in host memory, or are moved 3 or 16 at a time, by host memory or from device to device."""
    atoms = gan((3, 2, 3))
    host, parts = lists(atoms, skin=0.6), slabs(atoms, ranks)
    whole = Evaluator(str(paths[0]), cache=str(cache), threads=2)
    whole.set_neighbourhood(**host.arguments)
    divided_lists = divided(atoms, parts, skin=0.6)
    assert any(sum(len(peer[1]) for peer in d.arguments["peers"]) != d.arguments["owned"] for d in divided_lists)
    there = Ranks(paths[moved], cache, divided_lists, device_memory)
    for seed in range(3):
        move = np.random.default_rng(seed).uniform(-0.15, 0.15, atoms.positions.shape)
        expected = whole.evaluate(host.positions + move[host.arguments["row_of_atom"]])
        found = there.evaluate(move)
        for part, results in zip(parts, found, strict=True):
            assert_same(results, expected, part)
        assert sum(r["energy"] for r in found) == pytest.approx(expected["energy"], rel=ENERGY)
        gradient = sum(r["strain_gradient"] for r in found)
        np.testing.assert_allclose(gradient, expected["strain_gradient"], atol=1e-11)
    received = 8 * sum(d.arguments["rows"] - d.arguments["owned"] for d in divided_lists)
    assert sum(there.sizes) == 3 * received == sum(e.report()["halo_bytes"] for e in there.evaluators)
    assert max(there.sizes) <= (8 * moved or received)
    assert all(e.report()["halo_memory"] == MEMORY[moved, device_memory] for e in there.evaluators)
    assert all("DmaMap not supported on platform cpu" in e.report()["pin_problem"] for e in there.evaluators)


@pytest.mark.parametrize(("moved", "device_memory"), MEMORY)
def test_rows_of_other_ranks_count(paths, cache, moved, device_memory):
    """Without them forces are wrong."""
    atoms = gan((3, 2, 3))
    expected = evaluate(Evaluator(str(paths[0]), cache=str(cache), threads=2), atoms)
    part = np.arange(0, 72, 2)
    host = lists(atoms, part)
    alone = Evaluator(str(paths[moved]), cache=str(cache), threads=2)
    alone.set_neighbourhood(**host.arguments)

    def nothing(sent: list[tuple[int, np.ndarray]], received: list[tuple[int, np.ndarray]]) -> None:
        assert not sent and sum(len(data) for _, data in received) == 36 * 8
        for _, data in received:
            data[:] = 0

    wrong = alone.evaluate(host.positions, nothing, device_memory=device_memory)
    assert np.abs(wrong["forces"] - expected["forces"][part]).max() > 1e-3


@pytest.mark.parametrize(("moved", "device_memory"), MEMORY)
def test_ranks_climb(path, cache, tmp_path, moved, device_memory):
    """A rank that outgrows its rung keeps what it knows of the others."""
    rung = LADDER[2]
    ladder = [{**rung, "neighbours": 32}, rung]
    narrow = write_toy_bundle(tmp_path / "narrow.so3k", ladder)
    if moved:
        narrow = with_moves(narrow, tmp_path / "moving.so3k", moved)
    atoms = gan((3, 2, 2))
    atoms.set_cell(atoms.cell.array * 0.85, scale_atoms=True)
    parts = slabs(atoms, 2)
    expected = evaluate(Evaluator(str(path), cache=str(cache), threads=2), atoms)
    there = Ranks(narrow, cache, divided(atoms, parts), device_memory)
    for part, results in zip(parts, there.evaluate(), strict=True):
        assert_same(results, expected, part)
    assert max(evaluator.report()["climbs"] for evaluator in there.evaluators) == 1


def test_host_memory_is_pinned(paths, cache, pinning_plugin):
    """Where the plugin can, and no longer than it is there."""
    counts = ctypes.CDLL(str(pinning_plugin))
    atoms = gan((3, 2, 3))
    expected = evaluate(Evaluator(str(paths[0]), cache=str(cache), threads=2), atoms)
    parts = slabs(atoms, 2)
    there = Ranks(paths[3], cache, divided(atoms, parts), plugin=str(pinning_plugin))
    for part, results in zip(parts, there.evaluate(), strict=True):
        assert_same(results, expected, part)
    assert [e.report()["halo_memory"] for e in there.evaluators] == 2 * ["pinned host memory"]
    assert not any(e.report()["pin_problem"] for e in there.evaluators)
    assert (counts.pinned(), counts.mistakes()) == (2 * 3, 0)  # positions, rows sent, rows received
    del there
    assert (counts.pinned(), counts.mistakes()) == (0, 0)


@pytest.fixture(scope="module")
def pinning_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CPU plugin with the entries that pin memory."""
    return other_plugin(tmp_path_factory.mktemp("pinning"))


def test_entry_that_a_plugin_lacks_is_named(paths, cache, tmp_path):
    plugin = other_plugin(tmp_path, "nullptr", "nullptr")
    (part,) = slabs(gan((2, 2, 2)), 1)
    there = Ranks(paths[3], cache, divided(gan((2, 2, 2)), [part]), plugin=str(plugin))
    (evaluator,) = there.evaluators
    problem = evaluator.report()["pin_problem"]
    assert re.fullmatch(
        r"pinning \d+ bytes .* failed: the plugin does not offer this \(its PJRT API is \d.*\)", problem
    )
