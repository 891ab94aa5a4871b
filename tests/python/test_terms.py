"""Terms of the energy: formula, derivatives, radii, training on the difference, every body."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_numbers
from helpers import cluster, host_inputs, rattled_wurtzite, tiny
from so3krates.data import (
    FrameGraph,
    StoredFrames,
    frame_graph,
    frame_graphs,
    shortest_distances,
    store_frames,
    terms_of_atoms,
    with_labels,
)
from so3krates.data.frames import Labels
from so3krates.model.config import ConfigError
from so3krates.model.radial_basis import floored, radial_basis
from so3krates.model.term_stages import Lists, TermArrays, add_term
from so3krates.model.terms import Term, check_terms, energies_and_slopes, settings_of, terms_from
from so3krates.model.zbl import COEFFICIENTS, COULOMB, DECAYS, Zbl
from so3krates.outputs import STANDARD
from so3krates.predictions import ModelRuntime
from so3krates.runtime import Runtime
from so3krates.storage import Model, ModelError, with_term
from so3krates.training import evaluate, train
from so3krates.training.preparation import differences
from so3krates_export.bundle import read_bundle
from so3krates_export.export import export_model
from so3krates_export.ladder import Rung
from training_runs import make_frames, quiet, settings

PARITY = 1e-10  # relative, float64
SIGNAL = 1e-1  # eV, eV/A
SLOPES = 1e-6  # relative, finite differences
ELEMENTS = ("Ga", "N")
WIDE = {"repulsion": {"inner": 1.0, "outer": {"Ga-N": 2.5, "Ga-Ga": 3.4, "N-N": 3.2}}}  # sees every structure here
RUNG = Rung(rows=64, atoms=2048, candidates=128, neighbours=64)
LADDER = [Rung(rows=64, atoms=4096, candidates=384, neighbours=64)]
SMALL_MODEL = Path(__file__).parents[1] / "models" / "gan-small"


def wide(elements: tuple[str, ...] = ELEMENTS) -> Zbl:
    (term,) = terms_from(WIDE, elements)
    assert isinstance(term, Zbl)
    return term


def crystal() -> Atoms:
    return rattled_wurtzite((2, 2, 2))


def values(term: Zbl, pair: tuple[int, int], distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kinds = [np.full(len(distances), k) for k in pair]
    with jax.enable_x64(True):
        energies, slopes = energies_and_slopes(term, *kinds, distances)
    return np.asarray(energies), np.asarray(slopes)


def test_below_the_inner_radius_it_is_the_screened_repulsion() -> None:
    term, d = wide(), np.linspace(0.1, 0.99, 40)
    for pair in ((0, 0), (0, 1), (1, 0), (1, 1)):
        z = [atomic_numbers[ELEMENTS[k]] for k in pair]
        x = d * (z[0] ** 0.23 + z[1] ** 0.23) / 0.4685
        plain = COULOMB * z[0] * z[1] / d * sum(c * np.exp(-s * x) for c, s in zip(COEFFICIENTS, DECAYS, strict=True))
        energies, _ = values(term, pair, d)
        np.testing.assert_allclose(np.diff(energies), np.diff(plain), rtol=1e-10)  # up to a constant
        assert 0 < plain[-1] - energies[-1] < 0.5 * plain[-1]
    assert sum(COEFFICIENTS) == pytest.approx(1.0, abs=1e-4)


def test_it_ends_with_two_derivatives() -> None:
    term, step = wide(), 1e-3
    for pair, outer in (((0, 0), 3.4), ((0, 1), 2.5), ((1, 1), 3.2)):
        for at, is_end in ((1.0, False), (outer, True)):
            energies, slopes = values(term, pair, at + step * np.array([-1, -0.5, -1e-9, 1e-9, 0.5, 1]))
            jumps = energies[3] - energies[2], slopes[3] - slopes[2]
            assert max(map(abs, jumps)) < 1e-5
            curvatures = (slopes[2] - slopes[1]) / (step / 2), (slopes[4] - slopes[3]) / (step / 2)
            scale = abs(values(term, pair, np.array([1.0 - step, 1.0 + step]))[1]).max()
            assert abs(curvatures[1] - curvatures[0]) < 0.02 * scale
            assert not is_end or (energies[3:] == 0).all()


@pytest.mark.parametrize("elements", [("H", "O"), ("Ga", "N"), ("Mo", "U"), ("He",)])
def test_it_repels_at_every_distance(elements: tuple[str, ...]) -> None:
    """For radii by default, whatever the data: each energy is above the next."""
    for seen in ({}, {f"{a}-{b}": 1.0 for a in elements for b in elements}):
        (term,) = terms_from({"repulsion": {}}, elements, seen)
        assert isinstance(term, Zbl)
        for a in range(len(elements)):
            for b in range(len(elements)):
                energies, slopes = values(term, (a, b), np.linspace(0.05, term.outer[a][b], 400)[:-1])
                assert (np.diff(energies) < 0).all() and (slopes < 0).all() and (energies > 0).all()


@pytest.mark.parametrize("make", [crystal, tiny, cluster])
def test_derivatives(make) -> None:
    term, atoms, step = wide(), make(), 1e-4
    found = terms_of_atoms((term,), atoms)
    assert np.abs(found.forces).max() > SIGNAL and found.energy > SIGNAL
    assert found.atom_energies.sum() == pytest.approx(found.energy, rel=1e-12)
    assert np.abs(found.forces.sum(0)).max() < PARITY * np.abs(found.forces).max()
    scale = max(np.abs(found.forces).max(), np.abs(found.strain_gradient).max())
    for atom, axis in ((0, 0), (len(atoms) - 1, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(terms_of_atoms((term,), moved).energy)
        assert -(energies[0] - energies[1]) / (2 * step) == pytest.approx(found.forces[atom, axis], abs=SLOPES * scale)
    for a, b in ((0, 0), (1, 2)):
        energies = []
        for sign in (1, -1):
            deform = np.eye(3)
            deform[a, b] += sign * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ deform.T)
            strained.positions = atoms.positions @ deform.T
            energies.append(terms_of_atoms((term,), strained).energy)
        slope = (energies[0] - energies[1]) / (2 * step)
        assert slope == pytest.approx(found.strain_gradient[a, b], abs=SLOPES * scale)


def staged(term: Zbl, atoms: Atoms, channels: int) -> TermArrays:
    """What the portable stage adds to ones."""
    inputs = host_inputs(atoms, list(ELEMENTS), term.cutoff + 0.7, RUNG)
    lists = Lists._make(inputs[name] for name in Lists._fields)
    into = TermArrays(
        np.ones(()), np.ones((3, 3)), np.ones(RUNG.rows), np.ones((RUNG.rows, 3)),
        np.ones((RUNG.rows, 3, 3)) if channels == 4 else None,
    )  # fmt: skip
    with jax.enable_x64(True):
        found = jax.jit(add_term, static_argnums=0)(term, lists, into)
    return jax.tree.map(lambda array: np.asarray(array) - 1.0, found)


@pytest.mark.parametrize("make", [crystal, tiny, cluster])
@pytest.mark.parametrize("channels", [1, 4])
def test_the_stage_adds_the_same(make, channels: int) -> None:
    term, atoms = wide(), make()
    n, expected, found = len(atoms), terms_of_atoms((term,), atoms), staged(term, atoms, channels)
    scale = np.abs(expected.forces).max() + expected.energy
    assert found.energy == pytest.approx(expected.energy, abs=PARITY * scale)
    np.testing.assert_allclose(found.forces[:n], expected.forces, atol=PARITY * scale)
    np.testing.assert_allclose(found.atom_energies[:n], expected.atom_energies, atol=PARITY * scale)
    np.testing.assert_allclose(found.strain_gradient, expected.strain_gradient, atol=PARITY * scale)
    if channels == 4:
        assert found.atom_virials is not None
        np.testing.assert_allclose(found.atom_virials[:n].sum(0), -expected.strain_gradient, atol=PARITY * scale)


def virials_of_definition(term: Zbl, atoms: Atoms) -> np.ndarray:
    """W_i[a, b] = sum_k (r_k - r_i)_a dU_k/dr_i,b from the full Jacobian of an open cluster."""
    kinds = np.array([term.elements.index(symbol) for symbol in atoms.symbols])
    n = len(atoms)
    i, k = np.nonzero(~np.eye(n, dtype=bool))

    def energies(positions: jax.Array) -> jax.Array:
        d = jax.numpy.sqrt(jax.numpy.sum((positions[k] - positions[i]) ** 2, axis=1))
        return jax.numpy.zeros(n).at[i].add(0.5 * term.pair_energy(kinds[i], kinds[k], d))

    with jax.enable_x64(True):
        jacobian = np.asarray(jax.jit(jax.jacrev(energies))(atoms.positions))  # dU_k / dr_i
    offsets = atoms.positions[:, None] - atoms.positions[None]
    return np.einsum("kia,kib->iab", offsets, jacobian)


def test_virials_are_those_of_the_definition() -> None:
    term, atoms = wide(), cluster()
    expected, found = virials_of_definition(term, atoms), staged(term, atoms, 4).atom_virials
    assert found is not None and np.abs(expected).max() > SIGNAL
    np.testing.assert_allclose(found[: len(atoms)], expected, atol=PARITY * np.abs(expected).max())


def test_radii_come_from_the_data() -> None:
    atoms = crystal()
    seen = shortest_distances(frame_graphs([atoms], 5.0, {"Ga": 0.0, "N": 0.0}, read_labels=False))
    distances = atoms.get_all_distances(mic=True)
    assert set(seen) == {"Ga-Ga", "Ga-N", "N-N"}
    gallium = atoms.numbers == 31
    assert seen["Ga-N"] == pytest.approx(distances[gallium][:, ~gallium].min())
    for elements in (ELEMENTS, ELEMENTS[::-1]):  # names of pairs in either order
        (term,) = terms_from({"repulsion": {}}, elements, seen)
        assert isinstance(term, Zbl)
        radii = {frozenset(pair.split("-")): radius for pair, radius in term.outer_radii.items()}
        assert radii[frozenset(ELEMENTS)] == pytest.approx(0.9 * seen["Ga-N"], abs=1e-4)
        assert radii[frozenset(("N",))] == pytest.approx(1.42)  # a bond's length, below all that was seen
        assert terms_from(settings_of((term,)), elements) == (term,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attraction": {}}, r"unknown term 'attraction': known are \[terms.repulsion\]"),
        ({"repulsion": {"form": "buck"}}, r"terms.repulsion.form = 'buck': known are zbl"),
        ({"repulsion": {"iner": 1.0}}, r"unknown key terms.repulsion.iner: known are form, inner, outer"),
        ({"repulsion": 1.5}, r"must be a section of keys, got 1.5"),
        ([1], r"\[terms\] must be a section of sections"),
        ({"repulsion": {"inner": 2.0, "outer": 1.5}}, r"inner radius of \S+ is 2 A, the outer one 1.5 A: give inner"),
        ({"repulsion": {"inner": 1.9}}, r"inner radius of Ga-N is 1.9 A, the outer one 1.93 A|N-N is 1.9 A, .* 1.42 A"),
        (
            {"repulsion": {"outer": 15.1}},
            r"outer radius of \S+ is 15.1 A, and lists of neighbours hold .* up to 15 A",
        ),
        ({"repulsion": {"outer": -1}}, r"terms.repulsion.outer: -1 for Ga-Ga: give a length in A above 0"),
        ({"repulsion": {"outer": "wide"}}, r"terms.repulsion.outer: 'wide' for Ga-Ga: give a length"),
        ({"repulsion": {"outer": float("nan")}}, r"terms.repulsion.outer: nan for Ga-Ga: give a length"),
        ({"repulsion": {"outer": {"Ga-O": 1.0}}}, r"'Ga-O' is no pair of elements here: known are Ga-Ga, Ga-N, N-N"),
        ({"repulsion": {"outer": {"Ga-N": 1.0, "N-Ga": 1.1}}}, r"Ga-N has 1 and 1.1 A: give it once"),
    ],
)
def test_settings_that_cannot_work(given, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        terms_from(given, ELEMENTS)


def small(*outer: float) -> Model:
    """The small GaN potential with a term that sees the structures here, or ends elsewhere, or without one (0)."""
    model = Model.load(SMALL_MODEL)
    if outer == (0,):
        return model
    terms = terms_from({"repulsion": {"inner": 1.0, "outer": outer[0]}}, model.elements) if outer else ()
    return dataclasses.replace(model, terms=terms or (wide(model.elements),))


def test_a_model_keeps_its_terms(tmp_path: Path) -> None:
    model = small()
    loaded = Model.load(model.save(tmp_path / "with"))
    assert loaded.terms == model.terms
    assert "version = 1" in (small(0).save(tmp_path / "without") / "config.toml").read_text()
    path = tmp_path / "with" / "config.toml"
    path.write_text(path.read_text().replace('form = "zbl"', 'form = "other"'))
    with pytest.raises(ModelError, match=r"terms.repulsion.form = 'other': known are zbl"):
        Model.load(tmp_path / "with")


def test_every_way_to_a_model_folder_adds_the_term(x64: None) -> None:
    atoms = crystal()
    expected = terms_of_atoms(small().terms, atoms)
    found, plain = (ModelRuntime(model).evaluate(atoms) for model in (small(), small(0)))
    batch, plain_batch = (evaluate(model, [atoms], float64=True) for model in (small(), small(0)))
    assert expected.energy > SIGNAL
    for energy in (found["energy"] - plain["energy"], batch.energies[0] - plain_batch.energies[0]):
        assert energy == pytest.approx(expected.energy, rel=PARITY)
    for forces in (found["forces"] - plain["forces"], batch.forces[0] - plain_batch.forces[0]):
        np.testing.assert_allclose(forces, expected.forces, atol=PARITY * np.abs(expected.forces).max())
    stress = expected.strain_gradient / atoms.get_volume()
    for own in (found["stress"] - plain["stress"], batch.stresses[0] - plain_batch.stresses[0]):
        np.testing.assert_allclose(own, stress, atol=PARITY * np.abs(stress).max())
    np.testing.assert_allclose(found["energies"] - plain["energies"], expected.atom_energies, atol=1e-9)


OUTER = {"fused": (0.0, 3.4, 6.5), "xla": (0.0, 6.5)}  # A; within the network's cutoff of 4 A, beyond it; 0: no term


@pytest.fixture(scope="module", params=list(OUTER))
def runtimes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[float, Runtime]:
    """Float64 bundles by outer radius of the term."""
    folder = tmp_path_factory.mktemp("bundles")
    found = {}
    for outer in OUTER[request.param]:
        path = folder / f"{outer}.so3k"
        export_model(small(outer), path, "float64", body=request.param, ladder=LADDER)
        found[outer] = Runtime(path, threads=2)
    return found


@pytest.mark.parametrize("make", [crystal, tiny, cluster])
def test_bundles_add_the_same(runtimes: dict[float, Runtime], make: Callable[[], Atoms]) -> None:
    """Energy, forces, strain, per-atom energies and virials; images where the cell is smaller than the reach."""
    atoms = make()
    for outer in list(runtimes)[1:]:
        term = small(outer).terms
        expected = terms_of_atoms(term, atoms)
        scale, bound = np.abs(expected.forces).max(), PARITY * np.abs(expected.strain_gradient).max()
        assert scale > SIGNAL
        assert [runtimes[key].reach for key in (outer, 0.0)] == [max(outer, 4.0), 4.0]
        for more in ((), ("atom_virials",)):
            found, plain = (runtimes[key].evaluate(atoms, [*STANDARD, *more]) for key in (outer, 0.0))
            assert found["energy"] - plain["energy"] == pytest.approx(expected.energy, rel=PARITY)
            np.testing.assert_allclose(found["forces"] - plain["forces"], expected.forces, atol=PARITY * scale)
            energies = found["energies"] - plain["energies"]
            np.testing.assert_allclose(energies, expected.atom_energies, atol=PARITY * scale)
            np.testing.assert_allclose(plain["virial"] - found["virial"], expected.strain_gradient, atol=bound)
        virials = found["atom_virials"] - plain["atom_virials"]
        np.testing.assert_allclose(virials.sum(0), -expected.strain_gradient, atol=bound)
        if make is cluster:
            np.testing.assert_allclose(virials, virials_of_definition(wide_of(term), atoms), atol=bound)


def wide_of(terms: Sequence[Term]) -> Zbl:
    (term,) = terms
    assert isinstance(term, Zbl)
    return term


def test_without_terms_a_bundle_is_as_before(runtimes: dict[float, Runtime]) -> None:
    plain, found = (read_bundle(runtimes[outer].path).manifest for outer in (0.0, 6.5))
    assert "terms" not in plain and "reach" not in plain
    assert found.keys() - plain.keys() == {"terms", "reach"} and found["reach"] == 6.5
    assert found["programs"].keys() - plain["programs"].keys() == {"term_zbl", "term_zbl_4"}
    assert [entry["name"] for entry in found["terms"]] == ["zbl"]


DISTANCES = {"Ga-N": 1.7, "Ga-Ga": 2.7, "N-N": 2.7}  # A, about those of the small potential's data
TABLES = 1e-2  # eV/A, of forces at close range


def test_a_dimer_is_repelled_down_to_a_third_of_an_angstrom(tmp_path: Path) -> None:
    """With radii as an export chooses them, by the model and by its fused bundle: no hole, no step."""
    model = with_term(dataclasses.replace(small(0), training={"distances": DISTANCES}), "repulsion", {})
    (term,) = model.terms
    assert model.config.radial_floor == pytest.approx(0.97 * 1.7, abs=1e-4)
    export_model(model, tmp_path / "dimer.so3k", "float64", body="fused", tables=TABLES, ladder=LADDER)
    potentials = ModelRuntime(model), Runtime(tmp_path / "dimer.so3k", threads=1)
    for pair, outer in term.outer_radii.items():
        found = []
        for d in np.linspace(0.3, 0.9 * outer, 25):
            dimer = Atoms(pair.replace("-", ""), positions=[[0, 0, 0], [0, 0, d]])
            ours, bundled = (potential.evaluate(dimer) for potential in potentials)
            np.testing.assert_allclose(bundled["forces"], ours["forces"], rtol=1e-6, atol=TABLES)
            found.append((ours["energy"], ours["forces"][1, 2]))
        energies, forces = np.array(found).T
        assert (np.diff(energies) < 0).all() and (forces > 0).all(), pair
        assert energies[0] - energies[-1] > 400 and forces[-1] > SIGNAL


def test_filters_end_where_the_data_do() -> None:
    """Constant below, untouched above, three derivatives between; a floor that is set is kept."""
    config = dataclasses.replace(small(0).config, radial_floor=1.6)
    with jax.enable_x64(True):
        d = np.linspace(0.2, 3.0, 28001)
        basis, plain = (np.asarray(radial_basis(d, c)) for c in (config, small(0).config))
        below, above = d < 0.9 * 1.6, d >= 1.6
        assert np.ptp(basis[below], axis=0).max() < 1e-14 and np.ptp(plain[below], axis=0).max() > 0.1
        np.testing.assert_array_equal(basis[above], plain[above])
        lengths = np.asarray(floored(d, 1.6))
    step = d[1] - d[0]
    for order, most in ((1, 1.0), (2, 12.0), (3, 400.0)):  # what a jump would exceed by 1/step
        assert np.abs(np.diff(lengths, order)).max() < 1.01 * most * step**order, order
    kept = with_term(dataclasses.replace(small(0), config=config, training={"distances": DISTANCES}), "repulsion", {})
    assert kept.config.radial_floor == 1.6


@pytest.mark.parametrize(
    ("training", "had", "given", "message"),
    [
        (None, False, {}, r"does not say the shortest distances .* give its outer radius \(--repulsion-outer\)"),
        ({"Ga-N": 1.9}, False, {"outer": 1.95}, r"of N-Ga would reach to 1.95 A, but .* at 1.9 A, whose labels hold"),
        ({"Ga-N": 1.9}, True, {}, r"has a repulsion already, which it was trained with: ZBL repulsion"),
        ({"Ga-N": 1.9}, False, {"form": "buck"}, r"terms.repulsion.form = 'buck': known are zbl"),
    ],
)
def test_terms_that_no_model_takes_at_export(training, had: bool, given: dict[str, object], message: str) -> None:
    model = dataclasses.replace(small() if had else small(0), training=training and {"distances": training})
    with pytest.raises((ModelError, ConfigError), match=message):
        with_term(model, "repulsion", {"form": "zbl"} | given)


def test_terms_at_export_take_radii_below_the_data() -> None:
    model = dataclasses.replace(small(0), training={"distances": {"Ga-N": 1.9, "N-N": 1.2}})
    (term,) = with_term(model, "repulsion", {"form": "zbl"}).terms
    assert term.outer_radii == pytest.approx({"N-N": 0.9 * 1.2, "N-Ga": 0.9 * 1.9, "Ga-Ga": 2.44})
    (term,) = with_term(dataclasses.replace(model, training=None), "repulsion", {"form": "zbl", "outer": 1.1}).terms
    assert term.cutoff == 1.1


def test_training_is_on_the_difference(tmp_path: Path) -> None:
    """A term that reaches into the data: the network learns the rest, the model gives the whole."""
    frames = make_frames(8)
    run = dataclasses.replace(settings(epochs=20), terms={"repulsion": {"inner": 1.5, "outer": 3.0}})
    result = train(run, frames[:6], frames[6:], tmp_path / "run", quiet)
    model = Model.load(tmp_path / "run")
    assert model.terms == result.model.terms and model.terms[0].cutoff == 3.0
    assert model.training is not None and 1.5 < model.training["distances"]["Cu-Cu"] < 2.6
    assert model.config.radial_floor == pytest.approx(0.97 * model.training["distances"]["Cu-Cu"], abs=1e-4)
    without = dataclasses.replace(model, terms=())
    graphs = frame_graphs(frames, model.config.cutoff, model.energy_shifts)
    learned = differences(graphs, model.terms)

    def error(found: Model, targets: Sequence[FrameGraph]) -> float:
        pairs = zip(evaluate(found, frames).forces, targets, strict=True)
        return float(np.sqrt(np.mean(np.concatenate([forces - graph.forces for forces, graph in pairs]) ** 2)))

    # The same errors on either side of the term, far below those where it is missing.
    assert error(model, graphs) == pytest.approx(error(without, learned), rel=1e-3)
    assert error(model, graphs) < 0.7 * error(without, graphs)
    assert max(abs(a.energy - b.energy) for a, b in zip(graphs, learned, strict=True)) > SIGNAL


def test_by_default_the_training_data_see_nothing_of_it(tmp_path: Path) -> None:
    frames = make_frames(4)
    graphs = frame_graphs(frames, 4.0, {"Cu": 0.0})
    terms = terms_from({"repulsion": {}}, ("Cu",), shortest_distances(graphs))
    for graph, left in zip(graphs, differences(graphs, terms), strict=True):
        assert left.energy == graph.energy
        np.testing.assert_array_equal(left.forces, graph.forces)


def test_frames_on_disk_give_the_same(tmp_path: Path) -> None:
    frames = make_frames(4)
    graphs = frame_graphs(frames, 4.0, {"Cu": 0.5})
    stored = store_frames(tmp_path / "store", frames, 4.0).graphs(4.0, {"Cu": 0.5})
    assert stored.distances == pytest.approx(shortest_distances(graphs))
    some = StoredFrames(tmp_path / "store").subset(np.array([2, 0])).graphs(4.0, {"Cu": 0.5})
    assert some.distances == pytest.approx(shortest_distances([graphs[0], graphs[2]]))
    assert len({g.distances["Cu-Cu"] for g in (stored, some)}) == 2
    terms = terms_from({"repulsion": {"outer": 3.0, "inner": 1.5}}, ("Cu",))
    left, labels = differences(stored, terms), list(differences(stored, terms).labels())  # type: ignore[attr-defined]
    for graph, found, label in zip(differences(graphs, terms), left, labels, strict=True):
        assert found.energy == pytest.approx(graph.energy) and label[0] == pytest.approx(graph.energy)
        np.testing.assert_allclose(found.forces, graph.forces, atol=1e-9)
        np.testing.assert_allclose(label[1], graph.forces, atol=1e-9)
        np.testing.assert_allclose(found.virial, graph.virial, atol=1e-9)
        np.testing.assert_allclose(label[2], graph.virial, atol=1e-9)


def test_a_run_says_what_cannot_work_before_it_begins(tmp_path: Path) -> None:
    frames = make_frames(4)
    with pytest.raises(ConfigError, match="unknown term 'attraction'"):
        dataclasses.replace(settings(), terms={"attraction": {}})
    run = dataclasses.replace(settings(), terms={"repulsion": {"inner": 3.0, "outer": 2.0}})
    with pytest.raises(ConfigError, match="the inner radius of Cu-Cu is 3 A, the outer one 2 A"):
        train(run, frames[:3], frames[3:], tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_one_atom_alone_has_no_neighbours() -> None:
    atoms = with_labels(Atoms("Ga", positions=[[0, 0, 0]]), Labels(0.0, np.zeros((1, 3)), np.full((3, 3), np.nan)))
    assert shortest_distances([frame_graph(atoms, 5.0, {"Ga": 0.0})]) == {}
    assert terms_of_atoms((wide(),), atoms).energy == 0.0


def test_sections_are_checked_when_settings_are_read() -> None:
    check_terms({})
    check_terms({"repulsion": {"form": "zbl", "outer": 1.5}})
