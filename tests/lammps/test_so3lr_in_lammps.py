"""SO3LR as a bundle: the original's numbers in Python and LAMMPS, outputs by name, what is refused."""

from __future__ import annotations

import dataclasses
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.io
import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from decks import Bench, lammps_instance, results_of
from moving_bundle import with_moves
from so3krates._harness import Error
from so3krates.calculator import So3kratesCalculator
from so3krates.lammps import LammpsError, run_deck
from so3krates.model.long_range import interactions_from
from so3krates.model.reductions import tabulated
from so3krates.runtime import Runtime
from so3krates.storage import Model
from so3krates.total_charge import ChargeError, State
from so3krates_export.bundle import read_bundle, write_bundle
from so3krates_export.export import export_model
from so3krates_export.fused import KERNEL_VERSION
from so3krates_export.ladder import Rung
from so3krates_export.so3lr_body import ExportError
from so3krates_export.tables import TOLERANCE
from toy_ranks import Ranks, divided

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "models" / "so3lr"
EXPECTED = ROOT / "tests" / "reference" / "so3lr"
SHARED = ROOT.parent / "shared" / "reference" / "so3lr"
LADDER = [Rung(rows=256, atoms=17408, candidates=1536, neighbours=64)]
ELEMENTS = ("O", "H")

ENERGY_TOLERANCE = 1e-10  # eV
FORCE_TOLERANCE = 1e-9  # eV/A
PROPERTY_TOLERANCE = 1e-11  # e and 1
SAME = 1e-9  # between LAMMPS and Python: positions go through a file, and are added up in another order
RANKS = 1e-10  # eV, eV/A, e: of one rank and several
FLOAT32_FORCE_TOLERANCE = 1e-5  # of the largest force
FLOAT32_ENERGY_TOLERANCE = 2e-6  # eV per atom
FLOAT32_TOLERANCE = 1e-4  # eV, e, e A and 1
SIGNAL = 1e-6  # least size of an output that is compared
CHUNK = 2  # rows that move at once
NODES = 256  # of splines, where only bodies are compared
OUTPUTS = {
    "charges": "charges",
    "hirshfeld_ratios": "hirshfeld",
    "dipole": "dipole",
    "energy_network": "nn",
    "energy_repulsion": "zbl",
    "energy_electrostatics": "electrostatic",
    "energy_dispersion": "dispersion",
}


needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs reference/so3lr of the folder 'shared' beside the project (published results)"
)


def exported(
    folder: Path, precision: str = "float64", body: str = "xla", model: Model | None = None, **options: Any
) -> Path:
    path = folder / f"so3lr-{body}-{precision}.so3k"
    export_model(model or Model.load(FOLDER), path, precision, ladder=LADDER, body=body, **options)
    return path


@pytest.fixture(scope="module")
def splines() -> Model:
    """The model with radial filters as splines, which every body computes as it stands."""
    model = Model.load(FOLDER)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: np.asarray(p, np.float64), model.params)
        config, params = tabulated(model.config, params, NODES)
    return dataclasses.replace(model, config=config, params=params)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, splines: Model) -> Path:
    return exported(tmp_path_factory.mktemp("so3lr"), body="fused", model=splines)


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("so3lr"))


@pytest.fixture
def bench(bundle: Path, program_cache: Path, tmp_path: Path) -> Bench:
    return Bench(bundle, program_cache, tmp_path)


def molecules(charge: int, multiplicity: int = 1) -> list[Atoms]:
    frames = ase.io.read(EXPECTED / "molecules.extxyz", ":")
    state = {"charge": charge, "multiplicity": multiplicity}
    return [atoms for atoms in frames if {key: atoms.info[key] for key in state} == state]


def assert_as_the_original(runtime: Runtime, frames: list[Atoms]) -> None:
    assert frames
    with np.load(EXPECTED / "expected.npz") as archive:
        for atoms in frames:
            expected = {key: archive[f"{atoms.info['name']}/{key}"] for key in ("energy", "forces", *OUTPUTS.values())}
            found = runtime.evaluate(atoms, ["energy", "forces", *OUTPUTS])
            assert abs(found["energy"] - expected["energy"]) < ENERGY_TOLERANCE
            np.testing.assert_allclose(found["forces"], expected["forces"], rtol=0, atol=FORCE_TOLERANCE)
            for name, original in OUTPUTS.items():
                value = expected[original].sum() if name.startswith("energy_") else expected[original]
                np.testing.assert_allclose(found[name], value, rtol=0, atol=PROPERTY_TOLERANCE, err_msg=name)
                assert np.abs(value).max() > 1e-3


def test_molecules_as_the_original(portable: Path, program_cache: Path) -> None:
    assert_as_the_original(Runtime(portable, threads=1, cache=str(program_cache)), molecules(0))


def test_charges_of_structures(portable: Path, program_cache: Path) -> None:
    """One runtime for ions and neutral molecules, in turn: `atoms.info` counts, then what the runtime was given."""
    runtime = Runtime(portable, threads=1, cache=str(program_cache))
    (formate,) = molecules(-1)
    neutral = molecules(0)[0]
    assert_as_the_original(runtime, [formate, neutral, formate])
    formate.info = {}
    anions = Runtime(portable, threads=1, cache=str(program_cache), charge=-1)
    for one in (anions, pickle.loads(pickle.dumps(anions))):
        assert abs(one.evaluate(formate, ["charges"])["charges"].sum() + 1) < PROPERTY_TOLERANCE
    for info, message in (
        ({"charge": 0}, "the calculator was given charge = -1"),
        ({"multiplicity": 2}, "give the multiplicity 1 or 3 instead of 2"),
        ({"multiplicity": 0}, "number of unpaired electrons plus 1"),
    ):
        formate.info = info
        with pytest.raises(ChargeError, match=message):
            anions.evaluate(formate)


def test_a_bundle_for_ions(program_cache: Path, tmp_path: Path) -> None:
    """Its own charge and multiplicity are those of structures that say none."""
    runtime = Runtime(exported(tmp_path, electrons=State(-1, 1)), threads=1, cache=str(program_cache))
    (formate,) = molecules(-1)
    formate.info = {}
    assert abs(runtime.evaluate(formate, ["charges"])["charges"].sum() + 1) < PROPERTY_TOLERANCE
    formate.info = {"charge": 1}
    assert abs(runtime.evaluate(formate, ["charges"])["charges"].sum() - 1) < PROPERTY_TOLERANCE


def assert_close_to_the_original(
    runtime: Runtime, atoms: Atoms, archive: Mapping[str, np.ndarray], place: str = ""
) -> None:
    """To the rounding of float32 and the error of tables; place: of the results in the archive behind the name."""
    found, name = runtime.evaluate(atoms, ["energy", "forces", *OUTPUTS]), atoms.info["name"]

    def expected(key: str) -> np.ndarray:
        return archive[f"{name}{place}/{key}"]

    error = np.abs(found["forces"] - expected("forces")).max() / np.abs(expected("forces")).max()
    assert 0 < error < FLOAT32_FORCE_TOLERANCE, name
    assert abs(found["energy"] - expected("energy")) < FLOAT32_ENERGY_TOLERANCE * len(atoms)
    for output, original in OUTPUTS.items():
        value = expected(original).sum() if output.startswith("energy_") else expected(original)
        np.testing.assert_allclose(found[output], value, rtol=0, atol=FLOAT32_TOLERANCE, err_msg=f"{name} {output}")
    assert abs(found["charges"].sum() - atoms.info["charge"]) < PROPERTY_TOLERANCE


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `so3krates export so3lr` makes it, but for the ladder."""
    path = exported(tmp_path_factory.mktemp("so3lr"), "float32", "auto")
    manifest = read_bundle(path).manifest
    assert (manifest["body"], manifest["kernels"]) == ("fused", KERNEL_VERSION)
    assert 0 < manifest["tables"]["force_error"] < TOLERANCE
    assert manifest["tables"]["largest_force"] > 1.0
    return path


def test_kernels_of_the_version_before_are_refused(narrow: Path, tmp_path: Path) -> None:
    bundle = read_bundle(narrow)
    write_bundle(tmp_path / "old.so3k", {**bundle.manifest, "kernels": KERNEL_VERSION - 1}, bundle.tensors)
    with pytest.raises(Error, match=f"calls version {KERNEL_VERSION - 1} of the CPU kernels, and this so3krates has"):
        Runtime(tmp_path / "old.so3k", cache="off")


def test_float32_with_kernels(narrow: Path, program_cache: Path) -> None:
    runtime = Runtime(narrow, threads=2, cache=str(program_cache))
    with np.load(EXPECTED / "expected.npz") as archive:
        for atoms in molecules(0):
            assert_close_to_the_original(runtime, atoms, archive)


@needs_shared
@pytest.mark.parametrize("electrons", [State(0, 1), State(-1, 1), State(1, 1), State(0, 2)])
def test_reference_structures_with_kernels(narrow: Path, program_cache: Path, electrons: State) -> None:
    runtime = Runtime(narrow, threads=2, cache=str(program_cache))
    states = {"charge": electrons.charge, "multiplicity": electrons.multiplicity}
    frames = [a for a in ase.io.read(SHARED / "structures.extxyz", ":") if a.info | states == a.info]
    assert len(frames) == {State(0, 1): 7}.get(electrons, 1)
    with np.load(SHARED / "ref_float64.npz") as archive:
        for atoms in frames:
            assert_close_to_the_original(runtime, atoms, archive, "/12")


def test_kernels_as_the_portable_programs(splines: Model, program_cache: Path, tmp_path: Path) -> None:
    """The same splines in float64: ions, molecules near and far, and a charged crystal smaller than the cutoff."""
    paths = [exported(tmp_path, body=body, model=splines, electrons=State(1, 2)) for body in ("fused", "xla")]
    fused, portable = (Runtime(path, threads=2, cache=str(program_cache)) for path in paths)
    names = ["energy", "forces", "energies", "virial", *OUTPUTS]
    for atoms in (water((2, 1, 1)), apart(11.5, 5000.0), *molecules(0)):
        atoms.info = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of charge in a periodic cell
            found, expected = (runtime.evaluate(atoms, names) for runtime in (fused, portable))
        for name in names:
            largest = np.abs(expected[name]).max()
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=SAME * max(1, largest), err_msg=name)
            assert largest > SIGNAL


@pytest.mark.torture
def test_models_without_an_interaction(splines: Model, program_cache: Path, tmp_path: Path) -> None:
    """Each of the two alone, of another reach, by kernels and by portable programs."""
    for interaction, names in zip(splines.interactions, (["charges"], ["hirshfeld_ratios"]), strict=True):
        (tmp_path / interaction.section).mkdir()
        settings = {interaction.section: interaction.settings() | {"cutoff": 9.0}}
        model = dataclasses.replace(splines, interactions=interactions_from(settings, splines.elements))
        paths = [exported(tmp_path / interaction.section, body=body, model=model) for body in ("fused", "xla")]
        names += ["energy", "forces", f"energy_{interaction.section}"]
        runtimes = [Runtime(path, threads=1, cache=str(program_cache)) for path in paths]
        found, expected = (runtime.evaluate(water(), names) for runtime in runtimes)
        for name in names:
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=SAME, err_msg=name)
            assert np.abs(expected[name]).max() > 1e-3


def water(repeats: tuple[int, int, int] = (1, 1, 1)) -> Atoms:
    """Molecules in cells smaller than the cutoffs, none of whose forces or stresses is zero."""
    cell = [[4.6, 0, 0], [0.8, 4.4, 0], [-0.5, 0.3, 4.5]]
    atoms = Atoms(molecule("H2O"), cell=cell, pbc=True).repeat(repeats)
    atoms.rattle(0.05, seed=2)
    return atoms


def apart(*distances: float) -> Atoms:
    """A molecule of water, and others so far from it (A), along directions of their own."""
    atoms = molecule("H2O")
    for k, distance in enumerate(distances):
        other = molecule("H2O")
        other.rotate(40.0 * (k + 1), "x")
        other.translate(distance * np.array([np.cos(k + 1), np.sin(k + 1), 0.3]) / np.hypot(1.0, 0.3))
        atoms += other
    return atoms


def test_crystal_in_lammps_as_in_python(bench: Bench) -> None:
    atoms = water((2, 1, 1))
    names = ["energy", "forces", "energies", "virial", *OUTPUTS]
    expected = Runtime(bench.bundle, threads=1, cache=str(bench.cache)).evaluate(atoms, names)
    with lammps_instance() as instance:
        instance.commands_string(
            bench.deck(atoms, ELEMENTS)
            + "compute parts all pair so3krates\n"
            + "fix q all pair 1 so3krates charges 1\nthermo_style custom step pe c_sum c_virial[1] c_parts[*]\n"
            + "run 0\n"
        )
        found = results_of(instance)
        charges = instance.numpy.extract_fix("q", 1, 1)[: len(atoms)].copy()
        order = np.argsort(instance.numpy.extract_atom("id")[: len(atoms)])
        parts = instance.numpy.extract_compute("parts", 0, 1).copy()
    assert abs(found.energy - expected["energy"]) < SAME
    np.testing.assert_allclose(found.forces, expected["forces"], rtol=0, atol=SAME)
    np.testing.assert_allclose(found.gradient, -expected["virial"], rtol=0, atol=1e-6)  # nktv2p has eight digits
    np.testing.assert_allclose(found.atom_energies, expected["energies"], rtol=0, atol=SAME)
    np.testing.assert_allclose(charges[order], expected["charges"], rtol=0, atol=SAME)
    assert np.abs(expected["forces"]).max() > 0.1 and np.abs(expected["virial"]).max() > 0.1
    # In alphabetical order, the dipole's three components first; it depends on where atoms are wrapped to.
    named = [expected[name] for name in sorted(OUTPUTS) if name.startswith("energy_")]
    np.testing.assert_allclose(parts[3:], named, rtol=0, atol=SAME)


def test_energy_is_conserved_in_lammps(bench: Bench) -> None:
    deck = bench.deck(water((2, 1, 1)), ELEMENTS).replace("timestep 0.001", "timestep 0.0002")
    log = bench.folder / "log"
    run_deck(
        deck + "velocity all create 300 7 loop geom\nfix 1 all nve\nthermo_style custom step pe ke etotal\n"
        f'log "{log}"\nthermo_modify format float %.12g\nrun 20\n',
        bench.folder,
    )
    rows = [line.split() for line in log.read_text().splitlines() if re.fullmatch(r"\s*\d+(\s+\S+){3}\s*", line)]
    energies = np.array([[float(word) for word in row[1:]] for row in rows[-21:]])
    assert np.ptp(energies[:, 0]) > 0.01
    assert np.ptp(energies[:, 2]) < 0.01 * np.ptp(energies[:, 0])


def test_refused_in_lammps(bench: Bench) -> None:
    radical = molecule("OH")
    radical.set_cell(np.diag([8.0, 8.0, 8.0]))
    radical.pbc = True
    with lammps_instance() as instance:
        instance.commands_string(bench.deck(radical, ELEMENTS))
        with pytest.raises(Exception, match=r"9 protons, so 9 electrons, of which 0 cannot.*multiplicity M"):
            instance.command("run 0")
    with lammps_instance() as instance:
        instance.commands_string(f"{bench.deck(water(), ELEMENTS)}compute w all centroid/stress/atom NULL virial\n")
        instance.command(f'dump 1 all custom 1 "{bench.folder}/dump" c_w[1]')
        with pytest.raises(Exception, match="per-atom virials"):
            instance.command("run 0")


@pytest.mark.parametrize(("charge", "multiplicity"), [(0, 2), (-1, 1), (1, 3)])
def test_charge_and_multiplicity_in_the_deck(bench: Bench, charge: int, multiplicity: int) -> None:
    hydroxyl = molecule("OH", info={"charge": charge, "multiplicity": multiplicity})
    hydroxyl.set_cell(np.diag([20.0, 20.0, 20.0]))
    hydroxyl.pbc = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of charge in a periodic cell
        expected = Runtime(bench.bundle, threads=1, cache=str(bench.cache)).evaluate(hydroxyl, ["energy", "forces"])
    style = next(line for line in bench.deck(hydroxyl, ELEMENTS).splitlines() if line.startswith("pair_style"))
    said = f"{style} charge {charge} multiplicity {multiplicity}"
    with lammps_instance() as instance:
        instance.commands_string(bench.deck(hydroxyl, ELEMENTS).replace(style, said))
        instance.command("run 0")
        found = results_of(instance)
        instance.command(style)
        with pytest.raises(Exception, match="a total charge of 0 e and the multiplicity 1, but the structure has 9"):
            instance.command("run 0")
    assert abs(found.energy - expected["energy"]) < SAME
    np.testing.assert_allclose(found.forces, expected["forces"], rtol=0, atol=SAME)
    assert np.abs(expected["forces"]).max() > 0.1


def test_electrons_that_cannot_be(bench: Bench, bench64: Bench, gan_cell: Atoms) -> None:
    """Multiplicities that are none, and charges of a network that reads none: in LAMMPS as in Python."""
    water_deck, gan_deck = bench.deck(water(), ELEMENTS), bench64.deck(gan_cell)
    for deck, words, message in (
        (water_deck, "multiplicity 0", "multiplicity 0: give the number of unpaired electrons plus 1"),
        (water_deck, "charge", "charge' has no value"),
        (water_deck, "charge 0.5", "charge"),
        (gan_deck, "charge 1", "reads no charge or multiplicity"),
        (gan_deck, "multiplicity 1", "reads no charge or multiplicity"),
    ):
        with lammps_instance() as instance, pytest.raises(Exception, match=message):
            instance.commands_string(re.sub(r"(pair_style so3krates.*)", rf"\1 {words}", deck) + "run 0\n")
    with pytest.raises(ValueError, match="knows no charge or multiplicity"):
        Runtime(bench64.bundle, threads=1, cache=str(bench64.cache), multiplicity=1)


@pytest.mark.parametrize("ranks", [2, 4])
def test_several_ranks_as_one(bench: Bench, ranks: int) -> None:
    """Forces, energy, parts of it and the virial."""
    atoms = water((2, 1, 1))
    found = []
    for count in (1, ranks):
        dump = bench.folder / f"forces-{count}"
        log = bench.folder / f"log-{count}"
        run_deck(
            bench.deck(atoms, ELEMENTS) + f"fix q all pair 1 so3krates charges 1\ncompute parts all pair so3krates\n"
            f'dump 1 all custom 1 "{dump}" id fx fy fz f_q\ndump_modify 1 sort id format float %.16g\n'
            f'log "{log}"\nthermo_style custom step pe c_virial[1] c_virial[4] c_parts[4] c_parts[5] c_parts[7]\n'
            "thermo_modify format float %.16g\nrun 0\n",
            bench.folder,
            ranks=count,
        )
        row = next(line for line in log.read_text().splitlines() if re.fullmatch(r"\s*0(\s+\S+){6}\s*", line))
        found.append((np.loadtxt(dump, skiprows=9), np.array([float(word) for word in row.split()])))
    (one, numbers), (many, others) = found
    assert np.abs(one[:, 1:4]).max() > 0.1 and np.abs(one[:, 4]).max() > 0.1
    np.testing.assert_allclose(many, one, rtol=0, atol=RANKS)
    np.testing.assert_allclose(others, numbers, rtol=1e-9, atol=RANKS)


def test_electrons_of_all_ranks_are_counted(bench: Bench) -> None:
    radical = molecule("OH")
    radical.set_cell(np.diag([8.0, 8.0, 8.0]))
    radical.pbc = True
    with pytest.raises(LammpsError, match=r"9 protons, so 9 electrons, of which 0 cannot.*multiplicity M"):
        run_deck(bench.deck(radical, ELEMENTS) + "run 0\n", bench.folder, ranks=2)


def test_ghosts_by_type_are_refused(bench: Bench) -> None:
    """They might end before the reach of long-range pairs."""
    with lammps_instance() as instance, pytest.raises(Exception, match=r"mode multi .* needs all within 12 A"):
        instance.commands_string(f"{bench.deck(water(), ELEMENTS)}neighbor 1.0 multi\ncomm_modify mode multi\nrun 0\n")


def test_ghosts_reach_beyond_lists(bench: Bench) -> None:
    """Few candidates, and ghosts as far as long-range pairs, even where the deck says less."""
    deck = bench.deck(water((2, 2, 2)), ELEMENTS) + "comm_modify cutoff 6.0\nrun 0\n"
    log = run_deck(deck.replace("threads 1", "threads 1 verbose yes"), bench.folder)
    assert "master list distance cutoff = 5.5" in log and "ghost atom cutoff = 13" in log
    assert "lists reach 4.5 A, pairs without lists 12 A" in log
    (candidates,) = re.findall(r"on average (\S+) candidates", log)
    assert 10 < float(candidates) < 60


def test_kspace_is_refused_beside_its_own(bench: Bench) -> None:
    water((2, 1, 1)).write(
        bench.folder / "water.data", format="lammps-data", specorder=list(ELEMENTS), atom_style="charge", masses=True
    )
    deck = (
        "units metal\natom_style charge\nbox tilt large\nread_data water.data\n"
        "set type 1 charge -0.8\nset type 2 charge 0.4\n"
        + bench.pair(ELEMENTS).replace("pair_style so3krates", "pair_style hybrid/overlay coul/long 5.0 so3krates")
        + "kspace_style ewald 1e-4\nrun 0\n"
    ).replace("pair_coeff * *", "pair_coeff * * coul/long\npair_coeff * * so3krates")
    with pytest.raises(LammpsError, match="kspace_style ewald adds electrostatics to a potential that has its own"):
        run_deck(deck, bench.folder)
    deck = deck.replace("coul/long", "coul/cut").replace("kspace_style ewald 1e-4\n", "")
    with pytest.raises(LammpsError, match=r"a part of hybrid/overlay \(coul\) adds electrostatics to a potential"):
        run_deck(deck, bench.folder)


def test_charges_of_atoms_that_are_another_system_are_said(bench: Bench) -> None:
    cell = water((2, 1, 1))
    cell.write(
        bench.folder / "water.data", format="lammps-data", specorder=list(ELEMENTS), atom_style="charge", masses=True
    )
    for charge, is_said in ((0.4, False), (0.1, True)):
        deck = (
            "units metal\natom_style charge\nbox tilt large\nread_data water.data\n"
            f"set type {1 + ELEMENTS.index('O')} charge -0.8\nset type {1 + ELEMENTS.index('H')} charge {charge}\n"
        )
        log = run_deck(f"{deck}{bench.pair(ELEMENTS)}run 0\n", bench.folder)
        total = len(cell) / 3 * (2 * charge - 0.8)
        words = f"the charges of the atoms add up to {total:.4g} e, and the potential computes 0 e"
        assert (words in " ".join(log.split())) == is_said
    unset = f"{deck.split('set type')[0]}{bench.pair(ELEMENTS, ' charge 2 multiplicity 1')}run 0\n"
    assert "add up to" not in run_deck(unset, bench.folder)  # charges that nobody has set


@pytest.mark.parametrize("moves", [False, True], ids=["in place", "as on GPUs"])
def test_ranks_that_add_up_as_one(bundle: Path, program_cache: Path, tmp_path: Path, moves: bool) -> None:
    """Several evaluators, one of them without atoms, that exchange rows and sums: the whole system's numbers."""
    if moves:
        bundle = with_moves(bundle, tmp_path / "moving.so3k", CHUNK)
    runtime = Runtime(bundle, threads=1, cache=str(program_cache))
    atoms = water((2, 1, 1))
    outputs = ["energy", "forces", "atom_energies", "strain_gradient", "charges", "dipole", "energy_electrostatics"]
    expected = runtime.evaluate(atoms, ["energy", "forces", "energies", "virial", *outputs[4:]])
    parts = [np.array([4, 0, 2]), np.array([], int), np.array([1, 5, 3])]
    hosts = divided(atoms, parts, 0.5, runtime.atoms_reach, runtime.elements)
    assert [host.arguments["rows"] for host in hosts] == [6, 0, 6]
    ranks = Ranks(bundle, program_cache, hosts, outputs=outputs, adds_up=True)
    found = ranks.evaluate()
    for part, own in zip(parts, found, strict=True):
        for name, whole in (("forces", "forces"), ("atom_energies", "energies"), ("charges", "charges")):
            np.testing.assert_allclose(own[name], expected[whole][part], rtol=0, atol=RANKS)
    for name in ("energy", "energy_electrostatics"):
        assert abs(sum(own[name] for own in found) - expected[name]) < RANKS
    np.testing.assert_allclose(sum(own["strain_gradient"] for own in found), -expected["virial"], rtol=0, atol=RANKS)
    assert min(np.abs(own["charges"]).max() for own in found if len(own["charges"])) > 0.1
    with pytest.raises(Error, match="on one rank alone"):
        Ranks(bundle, program_cache, hosts).evaluate()


def test_calculator(bundle: Path, program_cache: Path) -> None:
    calculator = So3kratesCalculator(bundle, threads=1, cache=str(program_cache), charge=0)
    atoms = molecule("H2O")
    atoms.calc = calculator
    assert abs(atoms.get_charges().sum()) < PROPERTY_TOLERANCE
    assert np.linalg.norm(atoms.get_dipole_moment()) > 0.1
    atoms.info["charge"] = 1
    with pytest.raises(ChargeError, match="the calculator was given charge = 0"):
        atoms.get_potential_energy()
    with pytest.raises(ChargeError, match=r"9 electrons .* of which 0 cannot be unpaired"):
        calculator.get_property("energy", molecule("OH"))
    atoms.calc = So3kratesCalculator(bundle, threads=1, cache=str(program_cache))
    atoms.info["multiplicity"] = 2
    cation = atoms.get_potential_energy(), atoms.get_charges().sum()
    atoms.info |= {"charge": 0, "multiplicity": 1}
    neutral = atoms.get_potential_energy(), atoms.get_charges().sum()
    assert abs(cation[1] - 1) < PROPERTY_TOLERANCE
    assert abs(neutral[1]) < PROPERTY_TOLERANCE
    assert abs(cation[0] - neutral[0]) > 1.0


def test_what_has_no_place_in_a_bundle(tmp_path: Path, small_model_folder: Path) -> None:
    model, path = Model.load(FOLDER), tmp_path / "x.so3k"
    for options, message in (
        ({"others": [model]}, "no committee yet"),
        ({"cutoff_long": -1.0}, r"terms\.electrostatics\.cutoff = -1\.0"),
    ):
        with pytest.raises(ValueError, match=message):
            export_model(model, path, **options)
    plain = Model.load(small_model_folder)
    with pytest.raises(ExportError, match="knows no charge or multiplicity"):
        export_model(plain, path, electrons=State(1, 1))
    with pytest.raises(ExportError, match="no interactions of long range"):
        export_model(plain, path, cutoff_long=12.0)
    assert not path.exists()
