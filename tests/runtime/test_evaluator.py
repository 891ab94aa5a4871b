"""The evaluator on a small many-body potential: numbers, capacities, ghosts, cache and refusals."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from bad_bundles import forge
from so3krates._harness import Error, Evaluator
from so3krates_export.lowering import lower
from toy_bundle import (
    ENERGY_SHIFTS,
    LADDER,
    reference_energies,
    reference_forces,
    reference_strain_gradient,
    toy_bundle,
    write_toy_bundle,
)
from toy_systems import SIGNAL, assert_same, compressed, evaluate, gan, lists

ENERGY = 1e-12  # eV per atom, relative to the shift of 27314 eV: 1e-12 * 27314
DIFFERENCE = 2e-7  # eV/A and eV, error of the reference's finite differences


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "toy.so3k")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def evaluator(path: Path, cache: Path) -> Evaluator:
    return Evaluator(str(path), cache=str(cache), threads=2)


STRUCTURES: dict[str, Callable[[], Atoms]] = {
    "triclinic crystal": gan,
    "cell smaller than the cutoff": lambda: bulk("Ga", "fcc", a=3.9),
    "slab": lambda: Atoms("GaNGaN", rattled_square(), cell=[3.1, 3.3, 0], pbc=[True, True, False]),
    "cluster": lambda: Atoms("Ga2N2", rattled_square()),
}


def rattled_square() -> np.ndarray:
    square = np.array([[0, 0, 0], [1.9, 0, 0.4], [0, 2.1, 0], [1.8, 2.0, 1.7]])
    return square + np.random.default_rng(3).normal(0, 0.1, square.shape)


@pytest.mark.parametrize("name", STRUCTURES)
def test_energy_forces_and_strain_gradient(name, evaluator):
    atoms = STRUCTURES[name]()
    found = evaluate(evaluator, atoms)
    energies = reference_energies(atoms)
    assert found["energy"] == pytest.approx(energies.sum(), rel=ENERGY)
    np.testing.assert_allclose(found["atom_energies"], energies, rtol=ENERGY)
    np.testing.assert_allclose(found["forces"], reference_forces(atoms), atol=DIFFERENCE)
    gradient = reference_strain_gradient(atoms)
    np.testing.assert_allclose(found["strain_gradient"], gradient, atol=10 * DIFFERENCE)
    assert np.abs(gradient).max() > SIGNAL
    assert len(atoms) == 1 or np.abs(found["forces"]).max() > SIGNAL


def another_total(tensors: dict[str, np.ndarray], total: Callable[..., Any]) -> None:
    """A program with the arguments of `total`, and other results."""
    with jax.enable_x64(True):
        arguments = jax.ShapeDtypeStruct((LADDER[0]["rows"],), float), jax.ShapeDtypeStruct((), np.int32)
        tensors["programs/total/0"] = np.frombuffer(lower(total, arguments, []), np.uint8)


FORGERIES: dict[str, tuple[Callable[[dict[str, Any], dict[str, np.ndarray]], Any], str]] = {
    "two steps": (
        lambda p, _: p.update(density=p["pair"], pair=p["density"]),
        "running program 'density' failed: .*",
    ),
    "two steps of one number of arguments": (
        lambda p, _: p.update(neighbours=p["pair"], pair=p["neighbours"]),
        "running program 'neighbours' failed: .*",
    ),
    "rungs": (lambda p, _: p["pair"].reverse(), "running program 'pair' failed: .*"),
    "size": (
        lambda _, tensors: another_total(tensors, lambda e, n: e),
        "program 'total' gives another type or size of array than its step needs for \"energy\"",
    ),
    "type": (
        lambda _, tensors: another_total(tensors, lambda e, n: e.sum().astype(np.float32)),
        "program 'total' gives another type or size of array than its step needs for \"energy\"",
    ),
    "number": (
        lambda _, tensors: another_total(tensors, lambda e, n: (e.sum(), n)),
        "program 'total' gives 2 results, but its step names 1",
    ),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_programs_in_the_places_of_others(case, cache, tmp_path):
    change, problem = FORGERIES[case]
    manifest, tensors = toy_bundle(LADDER)
    change(manifest["programs"], tensors)
    forge(tmp_path / "forged.so3k", manifest, tensors)
    words = (
        rf"forged.so3k: the file has the programs of other steps or rungs in the places of its own \({problem}\): exp"
    )
    for _ in range(2):  # compiled, and from the cache
        with pytest.raises(Error, match=words):
            evaluate(Evaluator(str(tmp_path / "forged.so3k"), cache=str(cache), threads=1), STRUCTURES["cluster"]())


def test_positions_may_move_within_the_lists(evaluator):
    atoms = gan()
    host = lists(atoms, skin=0.6)
    evaluator.set_neighbourhood(**host.arguments)
    for seed in range(3):
        move = np.random.default_rng(seed).uniform(-0.15, 0.15, atoms.positions.shape)
        moved = atoms.copy()
        moved.positions += move
        found = evaluator.evaluate(host.positions + move[host.arguments["row_of_atom"]])
        np.testing.assert_allclose(found["forces"], reference_forces(moved), atol=DIFFERENCE)


def test_the_result_does_not_depend_on_what_was_computed_before(evaluator):
    small, large = gan(), gan((3, 3, 2))
    first = [evaluate(evaluator, atoms) for atoms in (small, large)]
    again = [evaluate(evaluator, atoms) for atoms in (small, large)]
    for a, b in zip(first, again, strict=True):
        assert a["energy"] == b["energy"] and np.array_equal(a["forces"], b["forces"])
    assert np.abs(first[1]["forces"]).max() > SIGNAL


# ---- capacities


def test_more_neighbours_than_the_rung_holds(path, cache, evaluator):
    """A dense structure climbs from 32 to 96 neighbours and gives the numbers of a ladder with room from the start."""
    dense = compressed()
    roomy = write_toy_bundle(path.parent / "roomy.so3k", LADDER[1:])
    expected = evaluate(Evaluator(str(roomy), cache=str(cache), threads=2), dense)
    found = evaluate(evaluator, dense)
    assert_same(found, expected)
    report = evaluator.report()
    assert (report["climbs"], report["rung_rows"], report["rung_neighbours"]) == (1, 8, 96)
    # The need is remembered: the next lists start on the higher rung.
    assert_same(evaluate(evaluator, dense), expected)
    assert evaluator.report()["climbs"] == 1


def test_more_rows_than_the_rung_holds(evaluator):
    atoms = gan()
    small = evaluate(evaluator, atoms)
    assert evaluator.report()["rung_rows"] == 8
    large = evaluate(evaluator, atoms.repeat((3, 2, 2)))
    assert evaluator.report()["rung_rows"] == 128 and evaluator.report()["climbs"] == 1
    assert_same(small, large, slice(0, 4))
    assert large["energy"] == pytest.approx(12 * small["energy"], rel=ENERGY)
    np.testing.assert_allclose(large["strain_gradient"], 12 * small["strain_gradient"], atol=1e-10)


def test_lists_that_grow_and_shrink(tmp_path, cache):
    """The longest is remembered, so that lists about as long as a rung's do not change it at every rebuild; it is
    forgotten where it is in the way."""
    rungs = [{**LADDER[2], "candidates": candidates, "neighbours": 96} for candidates in (40, 128)]
    low = {**LADDER[0], "candidates": 40, "neighbours": 96, "rows": 256, "atoms": 4096}
    evaluator = Evaluator(str(write_toy_bundle(tmp_path / "a.so3k", [*rungs, low])), cache=str(cache), threads=2)
    atoms, seen = gan((3, 2, 2)), []
    for skin in (0.2, 1.0, 0.2):
        seen.append((evaluate(evaluator, atoms, skin), evaluator.report()["rung_candidates"]))
    assert [candidates for _, candidates in seen] == [40, 128, 128]
    for results, _ in seen[1:]:
        assert_same(results, seen[0][0])
    evaluate(evaluator, gan((4, 4, 3)), 0.2)  # 192 rows, which the rung for long lists has not
    assert (evaluator.report()["rung_rows"], evaluator.report()["rung_candidates"]) == (256, 40)


def test_a_need_for_neighbours_does_not_keep_out_another_system(tmp_path, cache):
    ladder = [LADDER[0], LADDER[1], {**LADDER[2], "neighbours": 40}]
    evaluator = Evaluator(str(write_toy_bundle(tmp_path / "odd.so3k", ladder)), cache=str(cache), threads=2)
    evaluate(evaluator, compressed())
    assert evaluator.report()["rung_neighbours"] == 96
    evaluate(evaluator, gan((3, 3, 2)))
    assert evaluator.report()["rung_neighbours"] == 40


TOO_LARGE: dict[str, tuple[Callable[[], Atoms], float, str]] = {
    "rows": (lambda: gan((4, 4, 3)), 0.4, r"192 rows, \d+ atoms and \d+ candidates per atom"),
    "candidates": (lambda: compressed(0.6), 0.4, r"4 rows, \d+ atoms and 1\d\d candidates per atom"),
    "neighbours": (lambda: compressed(0.6), 0.0, r"4 rows, \d+ atoms and 108 candidates or 108 neighbours per atom"),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_a_system_that_no_rung_holds(case, evaluator):
    make, skin, message = TOO_LARGE[case]
    holds = "128 rows, 2048 atoms and 128 candidates or 96 neighbours per atom"
    with pytest.raises(Error, match=f"the system needs {message}, but the last rung .* holds {holds}: .*larger ladder"):
        evaluate(evaluator, make(), skin)
    assert np.abs(evaluate(evaluator, gan())["forces"]).max() > SIGNAL


def test_a_halo_that_fails(evaluator):
    def fail(sent: list[Any], received: list[Any]) -> None:
        raise KeyError("the other rank is gone")

    host = lists(gan(), np.array([1, 2]))
    evaluator.set_neighbourhood(**host.arguments)
    with pytest.raises(KeyError, match="the other rank is gone"):
        evaluator.evaluate(host.positions, fail)
    assert evaluator.evaluate(host.positions, lambda sent, received: None)["forces"].shape == (2, 3)


def test_ghosts_without_a_halo(evaluator):
    host = lists(gan(), np.array([1, 2]))
    evaluator.set_neighbourhood(**host.arguments)
    with pytest.raises(Error, match="2 rows belong to other ranks, but evaluate was given no halo"):
        evaluator.evaluate(host.positions)


@pytest.mark.parametrize("rows", [0, 4])
def test_no_owned_rows(rows, evaluator):
    """A rank without atoms computes nothing, but takes its part in the exchange."""
    evaluate(evaluator, gan())
    compiled = evaluator.report()["programs_compiled"] + evaluator.report()["programs_loaded"]
    host = lists(gan() if rows else Atoms(), np.zeros(0, int))
    calls: list[list[int]] = []
    evaluator.set_neighbourhood(**host.arguments)
    found = evaluator.evaluate(
        host.positions.reshape(-1, 3), lambda _, received: calls.append([len(r[1]) for r in received])
    )
    assert calls == [[8 * rows] if rows else []]
    assert found["energy"] == 0.0 and found["forces"].shape == (0, 3) and found["atom_energies"].shape == (0,)
    assert not found["strain_gradient"].any()
    assert evaluator.report()["programs_compiled"] + evaluator.report()["programs_loaded"] == compiled


def test_an_isolated_atom(evaluator):
    found = evaluate(evaluator, Atoms("N", [[1.0, 2.0, 3.0]]))
    assert found["energy"] == pytest.approx(ENERGY_SHIFTS[1] - 1.0, rel=ENERGY)
    assert not found["forces"].any() and not found["strain_gradient"].any()


# ---- more than one


def test_two_evaluators_in_turn(path, cache):
    one, two = (Evaluator(str(path), cache=str(cache), threads=n) for n in (1, 2))
    a, b = lists(gan(seed=1)), lists(gan(seed=2))
    one.set_neighbourhood(**a.arguments)
    two.set_neighbourhood(**b.arguments)
    first, second = one.evaluate(a.positions), two.evaluate(b.positions)
    del two
    assert_same(one.evaluate(a.positions), first)
    np.testing.assert_allclose(second["forces"], reference_forces(gan(seed=2)), atol=DIFFERENCE)


# ---- compiled programs


def counts(evaluator: Evaluator) -> tuple[int, int]:
    report = evaluator.report()
    return report["programs_compiled"], report["programs_loaded"]


def test_the_cache(path, tmp_path):
    cold = Evaluator(str(path), cache=str(tmp_path))
    assert counts(cold) == (0, 0)
    expected = evaluate(cold, gan())
    assert counts(cold) == (4, 0) and cold.report()["compile_seconds"] > 0
    warm = Evaluator(str(path), cache=str(tmp_path))
    assert_same(evaluate(warm, gan()), expected)
    assert counts(warm) == (0, 4)
    off = Evaluator(str(path), cache="off")
    assert_same(evaluate(off, gan()), expected)
    assert counts(off) == (4, 0)


def test_only_programs_of_the_rung_are_compiled(evaluator):
    evaluate(evaluator, gan())
    assert sum(counts(evaluator)) == 4
    evaluate(evaluator, gan((2, 2, 2)))
    assert sum(counts(evaluator)) == 8
    evaluate(evaluator, gan())
    assert sum(counts(evaluator)) == 8


@pytest.fixture
def warm_cache(cache: Path, evaluator: Evaluator, tmp_path: Path) -> Path:
    """A cache of its own that holds the programs of the first rung."""
    evaluate(evaluator, gan())
    return shutil.copytree(cache, tmp_path / "cache")


def test_damaged_cache_entries_are_compiled_again(path, warm_cache, evaluator):
    expected = evaluate(evaluator, gan())
    damage: list[Callable[[bytes], bytes]] = [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data + b"x",
    ]
    entries = sorted(entry for entry in warm_cache.rglob("*") if entry.is_file())
    assert len(entries) >= 4
    for k, entry in enumerate(entries):
        entry.write_bytes(damage[k % len(damage)](entry.read_bytes()))
    for compiled, loaded in ((4, 0), (0, 4)):
        again = Evaluator(str(path), cache=str(warm_cache), threads=2)
        assert_same(evaluate(again, gan()), expected)
        assert counts(again) == (compiled, loaded)


def test_a_cache_entry_under_another_name_is_not_used(path, warm_cache, evaluator):
    expected = evaluate(evaluator, gan())
    entries = sorted(entry for entry in warm_cache.rglob("*") if entry.is_file())
    contents = [entry.read_bytes() for entry in entries]
    for entry, content in zip(entries, contents[1:] + contents[:1], strict=True):
        entry.write_bytes(content)
    again = Evaluator(str(path), cache=str(warm_cache), threads=2)
    assert_same(evaluate(again, gan()), expected)
    assert counts(again) == (4, 0)


def test_programs_of_another_size_are_not_taken_from_the_cache(warm_cache, tmp_path):
    ladder = [{**LADDER[0], "candidates": 100, "neighbours": 40}]
    other = Evaluator(str(write_toy_bundle(tmp_path / "other.so3k", ladder)), cache=str(warm_cache), threads=2)
    found = evaluate(other, gan())
    assert counts(other) == (3, 1)  # "total" does not depend on these sizes
    np.testing.assert_allclose(found["forces"], reference_forces(gan()), atol=DIFFERENCE)


def test_a_cache_folder_that_cannot_be_written(path, tmp_path):
    (tmp_path / "file").write_text("in the way")
    evaluator = Evaluator(str(path), cache=str(tmp_path / "file" / "cache"))
    evaluate(evaluator, gan())
    assert "compiled programs are not kept" in evaluator.report()["cache_warning"]


def test_misspelt_variables_are_said(path, monkeypatch):
    assert Evaluator(str(path), cache="off").report()["unread_variables"] == ""
    monkeypatch.setenv("SO3KRATES_KERNEL", "avx2")
    warning = Evaluator(str(path), cache="off").report()["unread_variables"]
    assert warning.startswith("nothing reads SO3KRATES_KERNEL of the environment; known are SO3KRATES_CACHE, ")


def test_the_report(path, cache, evaluator):
    evaluate(evaluator, gan())
    report = evaluator.report()
    assert report["platform"].startswith("cpu: ") and report["platform"].endswith(", 2 threads")
    rung = {key.removeprefix("rung_"): value for key, value in report.items() if key.startswith("rung_")}
    assert rung == LADDER[0]
    rows, neighbours = 8, 32
    assert report["buffer_bytes"] > rows * neighbours * (3 * 8 + 4) + 1024 * 28
    assert report["temporary_bytes"] > 0


# ---- refusals


def test_evaluate_before_a_neighbourhood(evaluator):
    with pytest.raises(Error, match="without a neighbourhood: call set_neighbourhood first"):
        evaluator.evaluate(np.zeros((0, 3)))


def spoil(name: str, index: int, value: int) -> Callable[[dict[str, Any]], None]:
    def change(arguments: dict[str, Any]) -> None:
        arguments[name] = arguments[name].copy()
        arguments[name][index] = value

    return change


BAD_NEIGHBOURHOODS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "row of atom": (spoil("row_of_atom", 5, 4), "row_of_atom holds 4 at 5, which is not within -1 and 3"),
    "atom without a row": (lambda a: a["row_of_atom"].fill(-1), "a candidate list holds an atom without a row"),
    "atom of row": (spoil("atom_of_row", 2, -1), "atom_of_row holds -1 at 2, which is not within 0 and "),
    "species": (spoil("species", 3, 2), "species holds 2 at 3, which is not within 0 and 1"),
    "candidate": (spoil("candidates", 0, 100000), "a candidate list holds 100000 at 0"),
    "rank": (lambda a: a.update(peers=[(-1, [], 0, 0, 0)]), "a peer is rank -1"),
    "sent row": (lambda a: a.update(peers=[(1, [0, 4], 0, 0, 0)]), "a peer's list of sent rows holds 4 at 1"),
    "received": (lambda a: a.update(peers=[(1, [], 2, 0, 0)]), "peers give 2 rows, but 0 belong to other ranks"),
    "none received": (lambda a: a.update(peers=[(1, [], -1, 0, 0)]), "rank 1 reads 0 rows and gives -1"),
    "place": (lambda a: a.update(peers=[(1, [], 0, 0, -5)]), "the rows of rank 1 begin at 0 and -5"),
    "owned": (
        lambda a: a.update(rows=3, atom_of_row=a["atom_of_row"][:3], species=a["species"][:3]),
        "4 owned of 3 rows",
    ),
}


@pytest.mark.parametrize("case", BAD_NEIGHBOURHOODS)
def test_a_bad_neighbourhood(case, evaluator):
    evaluate(evaluator, gan())
    change, message = BAD_NEIGHBOURHOODS[case]
    host = lists(gan())
    change(host.arguments)
    with pytest.raises(Error, match="the neighbourhood is not valid: .*" + message):
        evaluator.set_neighbourhood(**host.arguments)
    with pytest.raises(Error, match="call set_neighbourhood first"):
        evaluator.evaluate(lists(gan()).positions)
    assert np.abs(evaluate(evaluator, gan())["forces"]).max() > SIGNAL


BAD_DEVICES = {
    "for another device": ({"device": "cuda"}, {}, "exported for cpu.* cuda.*so3krates export .*--platform cuda"),
    "bundle of another device": (
        {},
        {"platform": "cuda"},
        "exported for cuda.* cpu.*so3krates export .*--platform cpu",
    ),
    "unknown device": ({"device": "tpu"}, {}, "tpu"),
    "bad index": ({"device": "cpu:x"}, {}, "cpu:x"),
    "missing plugin": ({"plugin": "/no/such/plugin.so"}, {}, "/no/such/plugin.so"),
    "threads": ({"threads": -1}, {}, "-1"),
}


@pytest.mark.parametrize("case", BAD_DEVICES)
def test_a_device_that_cannot_be_used(case, tmp_path):
    options, changes, message = BAD_DEVICES[case]
    path = write_toy_bundle(tmp_path / "toy.so3k", LADDER[:1], **changes)
    with pytest.raises(Error, match=message):
        Evaluator(str(path), **options)


def test_threads_that_share_an_evaluator(evaluator):
    """Without the global lock, XLA's arrays would be used by two at once."""
    host = lists(gan())
    evaluator.set_neighbourhood(**host.arguments)
    expected = evaluator.evaluate(host.positions)["forces"]
    assert np.abs(expected).max() > SIGNAL

    def work(_: int) -> float:
        evaluator.set_neighbourhood(**host.arguments)
        return np.abs(evaluator.evaluate(host.positions)["forces"] - expected).max()

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(work, range(100))) == 0.0
