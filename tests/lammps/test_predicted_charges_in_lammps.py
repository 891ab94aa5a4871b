"""A network that predicts charges, as a training leaves it: from its folder to a bundle, on one rank and two."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from decks import Bench
from so3krates.lammps import run_deck
from so3krates.model.config import So3lrConfig
from so3krates.model.long_range import Dispersion, Electrostatics
from so3krates.model.so3lr import initial_params
from so3krates.predictions import ModelRuntime, predictions_of
from so3krates.runtime import Runtime
from so3krates.storage import Model
from so3krates_export.bundle import read_bundle
from so3krates_export.export import export_model
from so3krates_export.ladder import Rung
from so3krates_export.tables import TOLERANCE

CONFIG = So3lrConfig(
    cutoff=4.0, features=16, heads=2, layers=2, degrees=(1, 2), radial_functions=8, embeddings=18, mean_neighbours=4.0
)
ELEMENTS = ("Na", "Cl")
LADDER = [Rung(rows=256, atoms=17408, candidates=1536, neighbours=64)]
SAME = 1e-9  # eV, eV/A, e
RANKS = 1e-10  # eV, eV/A, e: of one rank and two


@pytest.fixture(scope="module")
def model() -> Model:
    params = jax.tree.map(lambda p: 1.5 * np.asarray(p, np.float64), initial_params(CONFIG, 1))
    return Model(CONFIG, params, ELEMENTS, {"Na": 0.5, "Cl": -0.5}, interactions=(Electrostatics(7.0, 2.0),))


@pytest.fixture
def bench(model: Model, program_cache: Path, tmp_path: Path) -> Bench:
    path = tmp_path / "xla.so3k"
    export_model(model, path, "float64", ladder=LADDER, body="xla")
    return Bench(path, program_cache, tmp_path)


def salt() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (2, 1, 1)
    skewed = np.tril(0.2 * np.random.default_rng(1).normal(size=(3, 3)))
    atoms.set_cell(atoms.cell.array + skewed, scale_atoms=True)
    atoms.rattle(0.1, seed=2)
    return atoms


def test_from_the_folder_to_lammps(bench: Bench, model: Model) -> None:
    """The same in the folder's calculator, the bundle's, and LAMMPS on one rank and two; kernels to their tables."""
    folder = model.save(bench.folder / "model")
    atoms, names = salt(), ["energy", "forces", "virial", "charges", "energy_electrostatics"]
    expected = ModelRuntime(model).evaluate(atoms, names)
    found = Runtime(bench.bundle, threads=1, cache=str(bench.cache)).evaluate(atoms, names)
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=SAME, err_msg=name)
        assert np.abs(expected[name]).max() > 1e-2, name
    # As of labelled frames, where a model and its bundle are held against charges and dipoles.
    alone = salt()
    alone.pbc = False
    with jax.enable_x64(True):
        by_folder, by_bundle = (predictions_of(path, [atoms, alone], float64=True) for path in (folder, bench.bundle))
    for own, other in zip(by_folder.charges or (), by_bundle.charges or (), strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=SAME)
    np.testing.assert_allclose(by_folder.dipoles, by_bundle.dipoles, rtol=0, atol=10 * SAME)
    assert np.isnan(by_bundle.dipoles[0]).all() and np.abs(by_bundle.dipoles[1]).max() > 1e-2
    assert "hirshfeld_ratios" not in read_bundle(bench.bundle).manifest["outputs"]  # nothing has trained them
    rows = []
    for count in (1, 2):
        dump, log = bench.folder / f"forces-{count}", bench.folder / f"log-{count}"
        run_deck(
            bench.deck(atoms, ELEMENTS) + "fix q all pair 1 so3krates charges 1\n"
            f'dump 1 all custom 1 "{dump}" id fx fy fz f_q\ndump_modify 1 sort id format float %.16g\n'
            f'log "{log}"\nthermo_style custom step pe\nthermo_modify format float %.16g\nrun 0\n',
            bench.folder,
            ranks=count,
        )
        line = next(line for line in log.read_text().splitlines() if re.fullmatch(r"\s*0\s+-?\d\S+\s*", line))
        rows.append((np.loadtxt(dump, skiprows=9), float(line.split()[1])))
    (one, energy), (two, other) = rows
    np.testing.assert_allclose(two, one, rtol=0, atol=RANKS)
    assert abs(energy - other) < RANKS and abs(energy - expected["energy"]) < SAME
    np.testing.assert_allclose(one[:, 1:4], expected["forces"], rtol=0, atol=SAME)
    np.testing.assert_allclose(one[:, 4], expected["charges"], rtol=0, atol=SAME)
    kernels = bench.folder / "fused.so3k"
    choice = export_model(model, kernels, "float64", ladder=LADDER)
    assert choice.body == "fused"
    by_kernels = Runtime(kernels, threads=1, cache=str(bench.cache)).evaluate(atoms, names)
    assert 0 < np.abs(by_kernels["forces"] - expected["forces"]).max() < TOLERANCE
    np.testing.assert_allclose(by_kernels["charges"], expected["charges"], rtol=0, atol=TOLERANCE)


def test_kernels_of_a_model_with_dispersion(model: Model, program_cache: Path, tmp_path: Path) -> None:
    """As a training with [terms.dispersion] leaves it: the kernels' bundle has ratios and dispersion."""
    elements = ("O", "H")
    interactions = (Electrostatics(7.0, 2.0), Dispersion.from_settings({"cutoff": 7.0}, elements))
    shifts = {"O": 0.5, "H": -0.5}
    own = Model(CONFIG, model.params, elements, shifts, interactions=interactions)
    water = molecule("H2O", cell=[4.5, 5.0, 5.5], pbc=True) * (2, 2, 1)
    water.rattle(0.1, seed=3)
    names = ["energy", "forces", "virial", "charges", "hirshfeld_ratios", "energy_dispersion"]
    expected = ModelRuntime(own).evaluate(water, names)
    assert export_model(own, tmp_path / "water.so3k", "float64", ladder=LADDER).body == "fused"
    found = Runtime(tmp_path / "water.so3k", threads=1, cache=str(program_cache)).evaluate(water, names)
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=TOLERANCE, err_msg=name)
        assert np.abs(expected[name]).max() > 1e-2, name
