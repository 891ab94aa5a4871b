"""`so3krates phonons`: what lattice dynamics must obey, GaN beside its reference, what is kept, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from so3krates import cli
from so3krates.baselines import Baselines, baselines_from
from so3krates.checks import Answer, Potential, open_potential
from typer.testing import CliRunner

pytest.importorskip("phono3py", reason="the packages of so3krates[phonons] are not installed")
from so3krates.phonons import (
    ConductivitySettings,
    Phonons,
    PhononsError,
    conductivity,
    expansion,
    find_phonons,
    forces,
    harmonic,
    packages,
)
from so3krates.phonons.conductivity import conductivity_of, third_order
from so3krates.phonons.crystal import repeats_for, widths
from so3krates.phonons.forces import digest_of
from so3krates.phonons.harmonic import force_constants

SHIPPED = Path(__file__).parents[2] / "examples" / "models" / "gan-pbesol.so3k"
# Gamma of wurtzite in 1/cm, PBEsol without LO-TO splitting: the potential's own training data are of that functional.
PBESOL = {"A1": (524.5,), "B1": (323.1, 674.5), "E1": (551.0,), "E2": (134.6, 562.0)}
PER_CM = 33.35641


class Copper:
    """EMT, as ASE has it."""

    elements = ("Cu",)
    cutoff = 5.0
    precision = "float64"
    charges: Mapping[str, float] = MappingProxyType({})

    def __init__(self, broken: bool = False) -> None:
        self.calls, self.broken = 0, broken

    def __call__(self, atoms: Atoms) -> Answer:
        self.calls += 1
        atoms = atoms.copy()
        atoms.calc = EMT()
        forces = atoms.get_forces() + (np.nan if self.broken else 0.0)
        return Answer(atoms.get_potential_energy(), forces, atoms.get_stress(voigt=False))


def copper(folder: Path, potential: Potential | None = None, **options: Any) -> Phonons:
    repeats = options.pop("repeats", (3, 3, 3))
    crystal = options.pop("crystal", bulk("Cu", a=3.6))
    return find_phonons(SHIPPED, potential or Copper(), crystal, folder, repeats=repeats, **options)


@pytest.fixture(scope="module", autouse=True)
def coarse_densities_of_elements() -> Iterator[None]:
    """Of fewer points, which take most of a small crystal's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harmonic, "PARTS_MESH", 25.0)
        patch.setattr(expansion, "VOLUMES", np.linspace(0.98, 1.04, 5))
        yield


@pytest.fixture(scope="module")
def gan() -> Potential:
    return open_potential(SHIPPED)


@pytest.fixture(scope="module")
def wurtzite(gan: Potential, tmp_path_factory: pytest.TempPathFactory) -> tuple[Phonons, Path]:
    folder = tmp_path_factory.mktemp("phonons")
    crystal = bulk("GaN", "wurtzite", a=3.2, c=5.2)
    return find_phonons(SHIPPED, gan, crystal, folder, repeats=(3, 3, 2)), folder


def test_gan_has_the_modes_of_its_reference(wurtzite: tuple[Phonons, Path]) -> None:
    """Within 3 %, and with the degeneracies of C6v."""
    found = wurtzite[0].harmonic
    assert np.abs(found.gamma[:3]).max() < 0.01
    modes: dict[str, list[float]] = {}
    for label, frequency in zip(found.irreps[3:], found.gamma[3:], strict=True):
        modes.setdefault(label, []).append(PER_CM * frequency)
    for label, reference in PBESOL.items():
        copies = 2 if label.startswith("E") else 1
        assert modes[label] == pytest.approx(np.repeat(reference, copies), rel=0.03), label


def test_force_constants_obey_their_symmetries(wurtzite: tuple[Phonons, Path]) -> None:
    phonon = wurtzite[0].harmonic.phonopy
    constants = np.asarray(phonon.force_constants)
    largest = np.abs(constants).max()
    assert 5 < largest < 100  # eV/A^2
    assert np.abs(constants.sum(axis=1)).max() < 1e-6 * largest
    for q in ([0.1, 0.2, 0.3], [0.5, 0.0, 0.0]):
        (matrix,) = phonon.run_qpoints([q], with_dynamical_matrices=True).dynamical_matrices
        assert np.abs(matrix - matrix.conj().T).max() < 1e-12 * np.abs(matrix).max()
    turned = phonon.run_qpoints([[0.1, 0.2, 0.3], [0.2, -0.3, 0.3]]).frequencies  # by 60 degrees about c
    assert turned[0] == pytest.approx(turned[1], abs=1e-6)
    assert 0 < wurtzite[0].harmonic.asymmetry < 0.05  # of float32


def test_dos_and_thermal_functions_add_up(wurtzite: tuple[Phonons, Path]) -> None:
    found = wurtzite[0].harmonic
    frequencies, states = found.dos
    assert np.trapezoid(states, frequencies) == pytest.approx(12, rel=0.01)
    assert np.sum(list(found.parts.values()), axis=0).sum() == pytest.approx(states.sum(), rel=0.03)
    classical = 12 * 8.314463
    assert 0.9 * classical < found.heat_capacity[-1] < classical
    slope = np.gradient(1000 * found.free_energy, found.temperatures)
    assert found.entropy[5:-5] == pytest.approx(-slope[5:-5], rel=0.02, abs=0.2)
    # Transverse sound along c by the elastic constant C44 = 89 GPa, and 6.09 g/cm^3.
    assert found.sound[2, :2] == pytest.approx(3.82, rel=0.02)


def test_phonopy_reads_what_was_written(wurtzite: tuple[Phonons, Path]) -> None:
    import phonopy

    found, folder = wurtzite
    again = phonopy.load(folder / "phonopy_params.yaml", log_level=0)
    (frequencies,) = again.run_qpoints([[0.5, 0, 0]]).frequencies
    assert frequencies == pytest.approx(found.harmonic.phonopy.run_qpoints([[0.5, 0, 0]]).frequencies[0], abs=0.01)


def test_born_charges_split_modes(gan: Potential, wurtzite: tuple[Phonons, Path], tmp_path: Path) -> None:
    """A1 and E1 of wurtzite, 711.8 and 719.9 1/cm with charges and constants of PBEsol; forces are those of before."""
    born = tmp_path / "BORN"
    tensors = [[5.944, 5.944, 6.104], [2.63, 2.63, 2.77], [-2.63, -2.63, -2.77]]
    rows = [" ".join(f"{x:g}" for x in np.diag(tensor).ravel()) for tensor in tensors]
    born.write_text("\n".join(["14.399652", *rows]) + "\n")
    crystal, folder = wurtzite[0].rest.crystal, wurtzite[1]
    found = find_phonons(SHIPPED, gan, crystal, folder, repeats=(3, 3, 2), relax=False, born=born).harmonic
    assert set(found.split) == {"x", "y", "z"}
    labels, along = np.array(found.irreps), {axis: PER_CM * split for axis, split in found.split.items()}
    a1, e1, others = ([k for k in range(3, 12) if labels[k] in names] for names in (["A1"], ["E1"], ["B1", "E2"]))
    assert along["z"][a1] == pytest.approx([711.8], rel=0.03)
    still = PER_CM * found.gamma
    for axis in "xy":
        assert max(along[axis][e1]) == pytest.approx(719.9, rel=0.03)
        assert min(along[axis][e1]) == pytest.approx(still[e1][0], abs=0.1)
        assert along[axis][a1] == pytest.approx(still[a1], abs=0.1)
        assert along[axis][others] == pytest.approx(still[others], abs=0.1)
    assert along["z"][e1] == pytest.approx(still[e1], abs=0.1)
    born.write_text("1.0\n1 0 0\n")
    with pytest.raises(PhononsError, match="cannot be read as phonopy's file BORN"):
        find_phonons(SHIPPED, gan, crystal, folder, repeats=(3, 3, 2), relax=False, born=born)


class RigidIons:
    """Rock salt by the pair potential of Tosi and Fumi, with charges of 1 e."""

    elements, cutoff, precision = ("Na", "Cl"), 5.0, "float64"
    pairs = (
        "1 1 0.263704 0.317 2.340 1.04857 -0.499321",
        "1 2 0.210963 0.317 2.755 6.99049 -8.67570",
        "2 2 0.158222 0.317 3.170 72.4015 -145.427",
    )

    def __init__(self) -> None:
        given = {"pair_style": "born/coul/long 9.0", "pair_coeff": list(self.pairs), "elements": list(self.elements)}
        given |= {"kspace_style": "pppm 1e-7", "charges": {"Na": 1.0, "Cl": -1.0}}
        self._baselines = Baselines(baselines_from({}, given))
        self.charges = self._baselines.charges

    def __call__(self, atoms: Atoms) -> Answer:
        found = self._baselines.sums(atoms)
        return Answer(found.energy, found.forces, found.strain_gradient / atoms.get_volume())


def test_charges_of_a_potential_split_its_modes(tmp_path: Path) -> None:
    """Long waves are those that the potential itself gives in a cell that holds them; without a field they are not."""
    ions, crystal = RigidIons(), bulk("NaCl", "rocksalt", a=5.55)
    whole, _ = force_constants(ions, "ions", crystal, (6, 1, 1), tmp_path)
    small, _ = force_constants(ions, "ions", crystal, (3, 3, 3), tmp_path)
    assert ions.charges == {"Na": 1.0, "Cl": -1.0} and small.nac_params is not None
    wave = [[1 / 6, 0, 0]]
    expected, found = (np.array(phonon.run_qpoints(wave).frequencies[0]) for phonon in (whole, small))
    np.testing.assert_allclose(found[3:], expected[3:], rtol=0.02)
    split = np.array(small.run_qpoints([[0, 0, 0]], nac_q_direction=[1, 0, 0]).frequencies[0])
    assert split[5] - split[4] > 2.0  # THz
    assert split[5] == pytest.approx(expected[5], rel=0.05)
    small.nac_params = None
    assert np.array(small.run_qpoints(wave).frequencies[0])[5] < 0.9 * expected[5]


def test_born_charges_beside_those_of_the_potential(tmp_path: Path) -> None:
    born = tmp_path / "BORN"
    born.write_text("")
    with pytest.raises(PhononsError, match="the potential has charges of its own, which split modes already: leave"):
        force_constants(RigidIons(), "ions", bulk("NaCl", "rocksalt", a=5.55), (1, 1, 1), tmp_path, born)


def test_what_was_computed_is_not_computed_again(tmp_path: Path) -> None:
    cells = [bulk("Cu", a=3.6 + 0.01 * number) for number in range(6)]
    first = Copper()
    whole = forces.kept_forces(first, "this", cells, tmp_path, "forces")
    assert (first.calls, whole.shape) == (6, (6, 1, 3))
    for potential, structures, calls in (("this", cells, 0), ("another", cells, 6), ("this", cells[:5], 5)):
        again = Copper()
        found = forces.kept_forces(again, potential, structures, tmp_path, "forces")
        assert again.calls == calls
        assert found == pytest.approx(whole[: len(structures)], abs=1e-12)
    # A record that is half written, and one that a failing disc has changed.
    (file, *_) = sorted(tmp_path.glob("*.forces"), key=lambda path: path.stat().st_mtime)
    content = file.read_bytes()
    for damaged, calls in ((content[:-3], 1), (content[:60] + b"x" + content[61:], 4), (b"", 6)):
        file.write_bytes(damaged)
        again = Copper()
        assert forces.kept_forces(again, "this", cells, tmp_path, "forces") == pytest.approx(whole, abs=1e-12)
        assert again.calls == calls
        assert file.read_bytes() == content
    with pytest.raises(PhononsError, match="forces on displaced crystal 0 are not finite"):
        forces.kept_forces(Copper(broken=True), "broken", cells, tmp_path, "forces")


def test_a_killed_process_leaves_whole_records(tmp_path: Path) -> None:
    """Killed while it writes; the second process computes what is missing."""
    code = f"""
import os, signal, sys
from pathlib import Path
import numpy as np
from ase.build import bulk
from so3krates.checks import Answer
from so3krates.phonons.forces import kept_forces
calls = 0
def potential(atoms):
    global calls
    calls += 1
    if calls > int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return Answer(0.0, atoms.positions + 1.0, None)
cells = [bulk("Cu") for _ in range(6)]
for number, cell in enumerate(cells):
    cell.positions += number
found = kept_forces(potential, "", cells, Path({str(tmp_path)!r}), "forces")
print(calls, [float(one[0, 0]) for one in found])
"""

    def run(calls: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, str(calls)], capture_output=True, text=True, timeout=120)

    assert run(4).returncode == -signal.SIGKILL
    done = run(9)
    assert done.stdout.strip() == "2 [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]", done.stderr


def test_two_commands_do_not_write_one_file(tmp_path: Path) -> None:
    import fcntl

    cells = [bulk("Cu")]
    forces.kept_forces(Copper(), "", cells, tmp_path, "forces")
    (file,) = tmp_path.iterdir()
    with open(file, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(PhononsError, match="another command is at work on it"):
            forces.kept_forces(Copper(), "", cells, tmp_path, "forces")


def test_conductivity_adds_up_over_chunks_and_modes(gan: Potential, wurtzite: tuple[Phonons, Path]) -> None:
    """Chunks of points give what phono3py finds in one go; the direct way has the same relaxation times."""
    found, folder = wurtzite
    phonon, crystal = found.harmonic.phonopy, found.rest.crystal
    made, cells = third_order(gan, digest_of(SHIPPED), crystal, (2, 2, 1), 2.1, phonon, folder / "parts")
    assert cells > 30
    kelvin, size = [300.0, 600.0], (5, 5, 3)
    mesh = conductivity_of(made, size, kelvin, True, False, folder)
    assert mesh.points > conductivity.CHUNK
    made.run_thermal_conductivity(temperatures=kelvin, is_isotope=True)
    whole: Any = made.thermal_conductivity
    assert mesh.relaxation == pytest.approx(whole.kappa[0], rel=1e-6, abs=1e-6)
    assert 1 < mesh.relaxation[1, 0] < mesh.relaxation[0, 0]  # colder conducts better
    lengths, sums = mesh.cumulative(0)
    assert (np.diff(lengths) >= 0).all()
    assert sums[-1] == pytest.approx(mesh.relaxation[0, :3])
    among = lengths[len(lengths) // 2]
    carried = mesh.carried(0, np.array([lengths[0] / 2, among, lengths[-1]]))
    assert (carried[0] == 0).all() and (carried[1] > 0).all() and (carried[1] < carried[2]).all()
    assert carried[1] == pytest.approx(mesh.mode[0][mesh.free_path[0] <= among, :3].sum(axis=0))
    assert carried[2] == pytest.approx(sums[-1])
    direct = conductivity_of(made, size, kelvin, True, True, folder)
    assert direct.relaxation == pytest.approx(mesh.relaxation, rel=0.02, abs=0.1)
    assert direct.direct is not None
    assert (direct.direct[:, :3] > 0.9 * mesh.relaxation[:, :3]).all()
    assert np.abs(direct.direct[:, :3] / direct.relaxation[:, :3] - 1).max() > 1e-3
    assert conductivity_of(made, 12.0, kelvin, True, True, folder).mesh == size  # 4 x 4 x 2 made odd
    assert conductivity_of(made, 12.0, kelvin, True, False, folder).mesh == (4, 4, 2)
    pure = conductivity_of(made, size, kelvin, False, False, folder)
    unlike = conductivity.Conductivity((300.0, 600.0), True, cells, 16, 2.1, (pure, direct)).warnings()
    assert any(text.startswith("at 300 K the conductivity along") for text in unlike)
    endless = dataclasses.replace(mesh, free_path=np.full_like(mesh.free_path, 1e7))
    (*_, said) = conductivity.Conductivity((300.0, 600.0), True, cells, 16, 2.1, (mesh, endless)).warnings()
    assert "at 600 K 100 % of the conductivity is that of modes with free paths above 1 mm" in said
    assert conductivity.Conductivity((300.0, 600.0), True, cells, 16, 2.1, (mesh, mesh)).warnings() == []
    assert pure.relaxation[0, 0] > mesh.relaxation[0, 0]
    made.run_thermal_conductivity = None  # type: ignore[assignment, method-assign]
    again = conductivity_of(made, size, kelvin, True, False, folder)
    assert (again.relaxation == mesh.relaxation).all()


def test_expansion_follows_gruneisen(tmp_path: Path) -> None:
    """Copper by EMT; experiment has 50e-6/K at 300 K, and no expansion where there is no heat."""
    found = copper(tmp_path, expansion=True).expansion
    assert found is not None and found.lattice is not None and found.axial is not None
    warm = int(np.searchsorted(found.temperatures, 300))
    assert 30e-6 < found.expansion[warm] < 80e-6
    assert 3 * found.axial[warm, 0] == pytest.approx(found.expansion[warm], rel=0.01)
    assert found.lattice[0, 0] == pytest.approx(3.60 / 2**0.5, abs=0.02)  # of the primitive cell, as it was given
    assert found.expansion[1] < 0.05 * found.expansion[warm]
    assert np.diff(found.bulk_modulus)[5:].max() < 0
    assert found.heat_capacity[warm] == pytest.approx(3 * 8.314, rel=0.08)


def test_an_unstable_crystal_is_said_and_has_no_conductivity(tmp_path: Path) -> None:
    crystal = bulk("Cu", "bcc", a=2.85)
    found = copper(tmp_path, crystal=crystal)
    assert found.harmonic.imaginary is not None
    assert found.harmonic.imaginary.lowest < -0.1
    assert any("modes are imaginary, down to" in text for text in found.warnings)
    with pytest.raises(PhononsError, match=r"no conductivity of a crystal that is not stable: \d+ of \d+ modes"):
        copper(tmp_path, crystal=crystal, kappa=ConductivitySettings())


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    moved = bulk("Cu", cubic=True)
    moved.positions[0, 0] += 0.1
    with pytest.raises(PhononsError, match=r"force on atom \d \(Cu\) is 0\.\d+ eV/A, more than 0.01: leave out"):
        copper(tmp_path, crystal=moved, relax=False)
    with pytest.raises(ValueError, match="the crystal has Ag; the potential knows Cu"):
        copper(tmp_path, crystal=bulk("Ag"))
    with pytest.raises(ValueError, match="not periodic in three directions"):
        copper(tmp_path, crystal=Atoms("Cu", cell=[3, 3, 9], pbc=[True, True, False]))
    small = copper(tmp_path, repeats=(2, 2, 2))
    (warning,) = small.warnings
    assert "supercell of 8 atoms is 4.1" in warning
    assert "less than twice the cutoff of 5 A" in warning and "--supercell 5,5,5" in warning
    pressed = copper(tmp_path, crystal=bulk("Cu", a=3.5), relax=False)
    assert any("the crystal is under stress, up to 1" in text for text in pressed.warnings)


def test_the_default_supercell_is_wide_enough() -> None:
    for crystal in (bulk("Cu", a=3.6), bulk("GaN", "wurtzite", a=3.2, c=5.2), bulk("Cu", a=3.6, cubic=True)):
        repeats = repeats_for(crystal, 10.0)
        assert (widths(crystal.cell.array) * repeats).min() >= 10.0
        assert ((widths(crystal.cell.array) * (np.array(repeats) - 1)) < 10.0).all()
        few = repeats_for(crystal, 10.0, most=60)
        assert 60 / 3 < len(crystal) * np.prod(few) <= 60
        assert few[0] == few[1]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "PACKAGES", ("phonopy", "no_such_package"))
    result = CliRunner().invoke(cli.app, ["phonons", str(SHIPPED)])
    assert result.exit_code == 1
    assert "no_such_package is not installed" in result.output
    assert "-m pip install 'so3krates[phonons]'" in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--supercell", "3,3"], "--supercell 3,3: give three numbers from 1 on"),
        (["--kappa", "--meshes", "11x11"], "--meshes 11x11: give a length in A"),
        (["--direct"], "--direct is for thermal conductivities: give --kappa too"),
        (["--temperatures", "0"], "--temperatures 0: give numbers above 0"),
    ],
)
def test_options_that_mean_nothing(options: list[str], words: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["phonons", str(SHIPPED), "-o", str(tmp_path / "out"), *options])
    assert result.exit_code == 1
    assert words in result.output
    assert not os.path.exists(tmp_path / "out")


def test_the_command_writes_its_report(wurtzite: tuple[Phonons, Path], tmp_path: Path) -> None:
    crystal = tmp_path / "gan.extxyz"
    wurtzite[0].rest.crystal.write(crystal)
    arguments = ["phonons", str(SHIPPED), str(crystal), "-o", str(wurtzite[1]), "--supercell", "3,3,2"]
    arguments += ["--no-relax", "--kappa", "--meshes", "3x3x2", "--supercell-kappa", "2,2,1", "--pair-cutoff", "2.1"]
    arguments += ["--allow-imaginary"]  # so small a supercell has some
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "less than twice the cutoff" in result.output
    written = json.loads((wurtzite[1] / "phonons.json").read_text())
    assert written["crystal"]["space_group"].startswith("P6_3mc")
    (mesh,) = written["conductivity"]["meshes"]
    ((xx, yy, zz, *shears),) = mesh["relaxation_time_W_per_mK"]
    assert xx == pytest.approx(yy, rel=1e-3) and zz > 1
    assert np.abs(shears).max() < 1e-3 * xx
    page = (wurtzite[1] / "phonons.html").read_text()
    assert page.count("data:image/png") == 2
    assert "imaginary modes" in page
